"""A transport that sends what is written within one turn of the event loop together.

An answer is written in parts: its head, its body, its end. Each write would be a system call, which costs more than
everything else that is done with those bytes.
"""

from __future__ import annotations

import asyncio


class Corked:
    """What a response writes to: holds the parts until the loop comes round, then writes them as one."""

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn, after what was written before it."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """Send what is held now; nothing when the client has gone meanwhile."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def is_closing(self) -> bool:
        """Whether the connection is gone or going."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Send what is held, then close."""
        self.flush()
        self._transport.close()
