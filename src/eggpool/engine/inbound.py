"""What comes into an exchange and what comes out at its head: the values that the web and the engine share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from eggpool.domain import AccountLabel, Dialect
from eggpool.wire import envelope as envelopes
from eggpool.wire.envelope import Envelope
from eggpool.wire.forms import Form

# The endpoint before Chat Completions: the same envelope, `text` instead of `delta`, and the same end of a stream.
LEGACY_COMPLETIONS = "/completions"


class Surface(msgspec.Struct, frozen=True, dict=True):
    """Which of a provider's endpoints a request is for.

    `below` is what follows the dialect's own endpoint; `beside` is a path of its own below the base URL, and then
    `below` is not used.
    """

    dialect: Dialect
    below: str = ""
    beside: str = ""

    @cached_property
    def answers(self) -> bool:
        """Whether replies have the dialect's own shape, so that they can be judged; others are passed as they are."""
        return not self.below and self.beside in ("", LEGACY_COMPLETIONS)

    @cached_property
    def translates(self) -> bool:
        """Whether it is the dialect's main endpoint, which other dialects have too."""
        return not self.below and not self.beside

    @cached_property
    def counts(self) -> bool:
        """Whether this asks how many tokens a request has."""
        return self.below in ("/count_tokens", "/input_tokens")


class Inbound(msgspec.Struct):
    """A request as it came in. `envelope` is its JSON body, `form` its multipart form; `model` is what it asks for.

    `body`, `envelope` and `form` are let go once an account has answered.
    """

    id: int
    client: str
    client_address: str
    surface: Surface
    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    named: dict[bytes, bytes]  # the same by name, the last of those with one name
    body: bytes | None
    envelope: Envelope | None
    model: str | None
    only: AccountLabel | None  # the one account that knows what the request refers to
    arrived: float  # monotonic seconds
    arrived_ms: int
    form: Form | None = None
    conversation: bytes | None = None  # the key of the conversation that the request belongs to

    @property
    def gives_up_at_429(self) -> bool:
        """Whether the client is known to end its turn at the first 429 (Codex, which names itself)."""
        return self.named.get(b"originator", b"").startswith(b"codex")

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.envelope is not None and self.envelope.stream

    @property
    def lacks_usage(self) -> bool:
        """Whether usage has to be asked for on the client's behalf: chat streams report none unless asked."""
        return (
            self.surface.dialect is Dialect.CHAT
            and not self.surface.below
            and not self.surface.beside
            and self.envelope is not None
            and self.envelope.stream
            and not envelopes.says_include_usage(self.envelope)
        )


class Head(msgspec.Struct, frozen=True):
    """The beginning of an answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
