"""What a script is made of: the primitive steps, and a whole reply as the steps that send it.

What may live here: values, and HTTP framing of bytes that are already decided. What may not: sockets, and what a reply
says.
"""

from __future__ import annotations

import asyncio

import msgspec

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    529: "Overloaded",
}


class Send(msgspec.Struct, frozen=True):
    """Bytes as they are, with no framing."""

    data: bytes


class SendChunk(msgspec.Struct, frozen=True):
    """One chunk of a chunked body (RFC 9112, 7.1); an empty one ends the body."""

    data: bytes


class Pause(msgspec.Struct, frozen=True):
    """Nothing for some seconds; 0 lets the bytes before it leave as a segment of their own."""

    seconds: float


class WaitFor(msgspec.Struct, frozen=True):
    """Nothing until the event is set."""

    event: asyncio.Event


class Drop(msgspec.Struct, frozen=True):
    """Close the connection after what was sent."""


class Reset(msgspec.Struct, frozen=True):
    """Close the connection with a TCP reset; what the client has not read yet may be lost."""


class Hang(msgspec.Struct, frozen=True):
    """Nothing until the client closes or the provider stops."""


Step = Send | SendChunk | Pause | WaitFor | Drop | Reset | Hang
Steps = tuple[Step, ...]
Headers = tuple[tuple[str, str], ...]

END_OF_CHUNKS = SendChunk(b"")


class Reply(msgspec.Struct, frozen=True):
    """A whole reply: plain with `body`, or a stream when `events` (whole Server-Sent Events) is not None."""

    status: int = 200
    headers: Headers = ()
    body: bytes = b""
    events: tuple[bytes, ...] | None = None

    def head(self, *extra: tuple[str, str]) -> bytes:
        """Status line and headers, with `extra` ones behind, and the empty line."""
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in self.headers + extra]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def stream_head(self) -> Send:
        """The head of a chunked reply."""
        return Send(self.head(("transfer-encoding", "chunked")))

    def steps(self) -> Steps:
        """What sends it: in one piece, or one chunk for each event. `connection: close` is kept as a promise."""
        steps: Steps
        if self.events is None:
            steps = (Send(self.head(("content-length", str(len(self.body)))) + self.body),)
        else:
            steps = (self.stream_head(), *map(SendChunk, self.events), END_OF_CHUNKS)
        return (*steps, Drop()) if ("connection", "close") in self.headers else steps

    def with_headers(self, *headers: tuple[str, str]) -> Reply:
        """The same with these headers set; one of the same name is replaced."""
        names = {name for name, _ in headers}
        kept = tuple(header for header in self.headers if header[0] not in names)
        return msgspec.structs.replace(self, headers=kept + headers)

    def with_events(self, events: tuple[bytes, ...]) -> Reply:
        """The same stream with other events."""
        return msgspec.structs.replace(self, events=events)
