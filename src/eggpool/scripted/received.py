"""What the scripted provider has received, and how each reply ended.

What may live here: the record of a request. What may not: reading it from a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from eggpool.domain import Dialect

End = Literal[
    "complete",  # every step was played; the connection stays open
    "dropped",  # the script closed the connection
    "reset",  # the script reset the connection
    "client_left",  # the client closed before the last step was played
    "stopped",  # the provider stopped
]


@dataclass(slots=True)
class ReceivedRequest:
    """One request, as it came; the last three fields are filled in while and after it is answered."""

    method: str
    path: str  # without the query
    query: str  # as it came, without the question mark
    headers: tuple[tuple[str, str], ...] = field(repr=False)  # in order, names as they were written
    body: bytes = field(repr=False)
    http_version: str
    connection: int  # from 1
    place_on_connection: int  # from 1; above that the connection was reused
    received_at_s: float  # the loop's clock
    end: End | None = None
    ended_at_s: float | None = None
    bytes_written: int = 0  # handed to the socket, framing included

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case; None when there is none."""
        wanted = name.lower()
        return next((value for known, value in self.headers if known.lower() == wanted), None)

    @property
    def api_key(self) -> str | None:
        """The key presented: `x-api-key`, or Authorization with or without `Bearer`."""
        key = self.header("x-api-key")
        if key is not None:
            return key
        authorization = self.header("authorization")
        if authorization is None:
            return None
        scheme, _, rest = authorization.partition(" ")
        return rest.strip() if scheme.lower() == "bearer" else authorization

    @property
    def dialect(self) -> Dialect:
        """The dialect in which the sender expects to be answered."""
        if self.path.startswith("/v1/messages"):
            return Dialect.MESSAGES
        if self.path.startswith("/v1/responses"):
            return Dialect.RESPONSES
        if self.path.startswith("/v1/models") and self.header("anthropic-version") is not None:
            return Dialect.MESSAGES
        return Dialect.CHAT

    @property
    def is_model_list(self) -> bool:
        """Whether it asks what models there are, rather than for work."""
        return self.path == "/v1/models" or self.path.startswith("/v1/models/")

    @property
    def payload(self) -> Any:
        """The body as JSON; raises msgspec.DecodeError when it is none."""
        return msgspec.json.decode(self.body)
