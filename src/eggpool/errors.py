"""The one exception tree.

    EggPoolError
    ├── ConfigError              the user's configuration; carries every problem found
    ├── StartError               the process cannot start (port in use, folder not writable ...)
    ├── StoreError               the database (locked for good, corrupt, newer than the program ...)
    ├── ServerUnreachable        a command needs the running server, which does not answer
    │   └── NotRunning           there is none
    ├── CommandRefused           the running server will not do what a command asks
    ├── RequestRefused           the caller's request; never the pool's or a provider's fault
    │   ├── BadRequest           400  malformed or missing
    │   ├── Unauthorized         401  no valid client key
    │   ├── HostNotAllowed       403  Host header outside `[security] allowed_hosts`
    │   ├── NotFound             404  unknown path, or a model that nobody serves
    │   ├── MethodNotAllowed     405
    │   ├── TooLarge             413  body over `[server] max_body_bytes`
    │   └── UpgradeRequired      426  a stream asked for over HTTP/1.0
    ├── CannotServe              the pool: the request is fine, no account can take it now
    │   ├── AllLimited           429  every candidate rests on its provider's word
    │   ├── NoAccount            503  no enabled account exists
    │   ├── AllFailed            502  candidates were tried, none gave an answer
    │   └── DeadlinePassed       504  `[routing] deadline_s` is over
    ├── UpstreamError            one attempt at one provider
    │   ├── ConnectFailed        no connection (name, refused, TLS, outbound proxy)
    │   ├── UpstreamTimeout      connected, but headers, first event or next bytes did not come in time
    │   └── UpstreamBroken       the connection broke after the request was sent
    ├── StreamCut                an answer broke off where the client can only be told by closing its connection
    └── WireError                bytes that are not what their format says

Each class knows whose fault it is, its HTTP status and a machine-readable code. `str(error)` is always safe to show:
no keys, no bodies, no URLs with credentials.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

Fault = Literal["client", "pool", "upstream", "operator"]


class EggPoolError(Exception):
    """Anything that EggPool raises on purpose."""

    fault: ClassVar[Fault] = "pool"
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class ConfigError(EggPoolError):
    """The configuration cannot be used; `problems` has one line for each thing to mend, `source` names the file."""

    fault = "operator"
    code = "config_error"

    def __init__(self, problems: tuple[str, ...], *, source: str | None = None) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.source = source


class StartError(EggPoolError):
    """The process cannot start or do what a command asks; the message says what to do."""

    fault = "operator"
    code = "start_error"


class StoreError(EggPoolError):
    """The database cannot be used."""

    code = "store_error"


class ServerUnreachable(EggPoolError):
    """The running server cannot be asked, or does not answer as it should."""

    fault = "operator"
    code = "server_unreachable"


class NotRunning(ServerUnreachable):
    """No server runs with this configuration."""

    code = "not_running"


class CommandRefused(EggPoolError):
    """The running server understood a command and will not do it; `reason` is its machine-readable code."""

    fault = "client"
    code = "command_refused"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestRefused(EggPoolError):
    """The caller's request cannot be served as it is; `param` names the field at fault."""

    fault = "client"
    status = 400
    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.machine_code = code or type(self).code


class BadRequest(RequestRefused):
    """Malformed, incomplete or contradictory."""


class Unauthorized(RequestRefused):
    """No client key, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class HostNotAllowed(RequestRefused):
    """The Host header is not in the allow-list."""

    status = 403
    code = "host_not_allowed"


class NotFound(RequestRefused):
    """Nothing is there under that path or model name."""

    status = 404
    code = "not_found"


class MethodNotAllowed(RequestRefused):
    """The path exists, the method does not; `allowed` are those that it has."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, path: str, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"{path[:200]} takes {self.allowed} only.")


class TooLarge(RequestRefused):
    """The body is over the configured bound."""

    status = 413
    code = "request_too_large"


class UpgradeRequired(RequestRefused):
    """A stream needs HTTP/1.1."""

    status = 426
    code = "upgrade_required"


class CannotServe(EggPoolError):
    """The request is fine, but no account can take it now; `retry_after_s` when a time is known."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AllLimited(CannotServe):
    """Every candidate rests on its provider's word."""

    status = 429
    code = "rate_limited"


class NoAccount(CannotServe):
    """No enabled account exists."""

    code = "no_account"


class AllFailed(CannotServe):
    """Candidates were tried and none gave an answer."""

    status = 502
    code = "upstream_failed"


class DeadlinePassed(CannotServe):
    """The time that a request may take to find an answer is over."""

    status = 504
    code = "deadline_passed"


class UpstreamError(EggPoolError):
    """One attempt at one provider failed without an HTTP answer, or after one had begun."""

    fault = "upstream"
    status = 502
    code = "upstream_failed"


class ConnectFailed(UpstreamError):
    """No connection could be made, so nothing of the request was sent."""

    code = "connect_failed"


class UpstreamTimeout(UpstreamError):
    """Connected, but what was waited for (`phase`: headers, first event or the next bytes) did not come."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, message: str, *, phase: Literal["headers", "first_event", "idle"]) -> None:
        super().__init__(message)
        self.phase = phase


class UpstreamBroken(UpstreamError):
    """The connection broke after the request was sent; `stale` when it was a reused one and not a byte came back."""

    code = "upstream_broken"

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


class StreamCut(EggPoolError):
    """The provider broke off inside an event that was passed on in part: only closing the connection is honest."""

    fault = "upstream"
    status = 502
    code = "stream_cut"


class WireError(EggPoolError):
    """Bytes that are not what their format says; the message names the fault, never quotes content."""

    status = 400
    code = "malformed"
