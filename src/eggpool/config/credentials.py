"""Where keys, header values and proxy URLs come from, and which of them are refused by name.

The environment and the way to run a command are arguments. No sentence that is made here holds a value, nor a
variable's name that could be a pasted key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from eggpool.config.findings import Findings
from eggpool.config.schema import KEY_PATTERN, Account, OutboundProxy, Secret, Server, StaticHeader
from eggpool.errors import EggPoolError

RunCommand = Callable[[str], str]
"""Runs a command line and returns what it printed; raises an EggPoolError with one safe sentence."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CONVENTIONAL = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
_PLACEHOLDER = re.compile(
    r"(your[-_ ].*|sk-(or-|ant-)?(your[-_].*|\.{3}|x+)|<.*>|\$\{.*\}|change[-_]?me.*|replace[-_]?me.*|placeholder"
    r"|todo|x{3,}|\.{3})\Z",
    re.IGNORECASE | re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def key_fault(key: str) -> str | None:
    """What is wrong with a key, as the end of a sentence that begins with "the key"; None when nothing is."""
    if not key:
        return "is empty"
    if any(character in key for character in "\r\n\0"):
        return "contains a line end or NUL"
    if key.strip().lower().startswith("bearer "):
        return "begins with 'Bearer'; give the key alone"
    if _PLACEHOLDER.match(key.strip()):
        return "is a placeholder; put the real one in its place"
    if any(character.isspace() for character in key):
        return "contains white space"
    if not key.isascii() or _CONTROL.search(key):
        return "contains characters that a header cannot carry"
    return None


def header_fault(value: str) -> str | None:
    """What is wrong with the value of a static header, as the end of a sentence; None when nothing is."""
    if any(character in value for character in "\r\n\0"):
        return "contains a line end or NUL"
    if not value.isascii() or _CONTROL.search(value):
        return "contains characters that a header cannot carry"
    if not value or value != value.strip():
        return "is empty, or begins or ends with white space"
    return "is a placeholder; put the real one in its place" if _PLACEHOLDER.match(value) else None


class Credentials:
    """Looks up what the configuration only names, and records what is missing or refused.

    `upstream` false leaves what belongs to providers alone: for commands that need none of their keys.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        run_command: RunCommand | None,
        findings: Findings,
        *,
        upstream: bool,
    ) -> None:
        self._environ = environ
        self._run_command = run_command
        self._findings = findings
        self.upstream = upstream

    def server_key(self, server: Server, place: str) -> Secret | None:
        """The server's own key, from the file or the environment; None when there is none yet."""
        if server.api_key is not None:
            return self._server_key(server.api_key.reveal(), f"{place}.api_key", "the key")
        here = f"{place}.api_key_env"
        if not self._is_variable(here, server.api_key_env, "api_key"):
            return None
        value = self._environ.get(server.api_key_env)
        return self._server_key(value, here, f"the key in {_variable(server.api_key_env)}") if value else None

    def account_key(self, account: Account, place: str, *, needed: bool) -> Secret | None:
        """The key of an account, from the file, the environment or a command; a fault is grave when `needed`."""
        sources = [source for source in (account.api_key, account.api_key_env, account.api_key_command) if source]
        if len(sources) > 1:
            self._findings.warning(
                place, "has more than one of api_key, api_key_env and api_key_command; the first of them is used"
            )
        if account.api_key is not None:
            return self._checked(account.api_key.reveal(), f"{place}.api_key", "the key", grave=needed)
        if account.api_key_env:
            here = f"{place}.api_key_env"
            value = self._named(here, account.api_key_env, "api_key", grave=needed)
            if value is None:
                return None
            return self._checked(value, here, f"the key in {_variable(account.api_key_env)}", grave=needed)
        if account.api_key_command:
            return self._from_command(account.api_key_command, f"{place}.api_key_command") if needed else None
        self._findings.report(place, "has no key; set api_key_env, api_key_command or api_key", grave=needed)
        return None

    def header_value(self, header: StaticHeader, place: str, *, needed: bool) -> Secret | None:
        """The value of a static header, from the file or the environment."""
        if (header.value is None) == (not header.value_env):
            self._findings.problem(place, "needs exactly one of value and value_env")
            return None
        if header.value is not None:
            here, value, what = f"{place}.value", header.value.reveal(), "the value"
        else:
            here, what = f"{place}.value_env", f"the value in {_variable(header.value_env or '')}"
            found = self._named(here, header.value_env or "", "value", grave=needed)
            if found is None:
                return None
            value = found
        fault = header_fault(value)
        if fault:
            self._findings.report(here, f"{what} {fault}", grave=needed)
        return Secret(value)

    def proxy_url(self, proxy: OutboundProxy, place: str, *, needed: bool) -> tuple[str, Secret] | None:
        """The place and the URL of a proxy under [proxies]."""
        if (proxy.url is None) == (not proxy.url_env):
            self._findings.problem(place, "needs exactly one of url and url_env")
            return None
        if proxy.url is not None:
            return f"{place}.url", proxy.url
        value = self._named(f"{place}.url_env", proxy.url_env or "", "url", grave=needed)
        return None if value is None else (f"{place}.url_env", Secret(value))

    def account_proxy_url(self, account: Account, place: str, *, needed: bool) -> tuple[str, Secret] | None:
        """The place and the URL of the proxy that an account itself names."""
        if account.proxy_url is not None:
            return f"{place}.proxy_url", account.proxy_url
        value = self._named(f"{place}.proxy_url_env", account.proxy_url_env or "", "proxy_url", grave=needed)
        return None if value is None else (f"{place}.proxy_url_env", Secret(value))

    def _named(self, place: str, name: str, direct: str, *, grave: bool) -> str | None:
        """The value of the variable that a key names."""
        if not self._is_variable(place, name, direct) or not self.upstream:
            return None
        value = self._environ.get(name)
        if value is None:
            self._findings.report(place, f"{_variable(name)} is not set", grave=grave)
        return value

    def _is_variable(self, place: str, name: str, direct: str) -> bool:
        if _VARIABLE.match(name):
            return True
        self._findings.problem(
            place, f"expected the name of an environment variable; the value itself would belong in {direct}"
        )
        return False

    def _from_command(self, command: str, place: str) -> Secret | None:
        if not self.upstream:
            return None
        if self._run_command is None:
            self._findings.problem(place, "commands are not run here")
            return None
        try:
            printed = self._run_command(command)
        except EggPoolError as error:
            self._findings.problem(place, str(error))
            return None
        return self._checked(printed, place, "the key that the command printed", grave=True)

    def _checked(self, key: str, place: str, what: str, *, grave: bool) -> Secret:
        fault = key_fault(key)
        if fault:
            self._findings.report(place, f"{what} {fault}", grave=grave)
        return Secret(key)

    def _server_key(self, key: str, place: str, what: str) -> Secret:
        fault = key_fault(key)
        if fault is None and not re.match(KEY_PATTERN, key):
            fault = "must have 8 to 512 letters, digits, '-' and '_'"
        if fault:
            self._findings.problem(place, f"{what} {fault}")
        return Secret(key)


def _variable(name: str) -> str:
    # A key pasted where a variable's name belongs must not be shown; what is written like a variable is one.
    return f"the environment variable {name}" if _CONVENTIONAL.match(name) else "the environment variable that it names"
