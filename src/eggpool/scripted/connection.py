"""One connection of the scripted provider: requests read off a socket, scripts played onto it.

What may live here: HTTP/1.1 on the server's side, as far as clients of providers use it, and the ways to break a
connection. What may not: what is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol, assert_never, cast

from eggpool.errors import WireError
from eggpool.scripted.received import End, ReceivedRequest
from eggpool.scripted.steps import Drop, Hang, Pause, Reply, Reset, Send, SendChunk, Steps, WaitFor

MAX_HEAD_BYTES = 256 * 1024
MAX_BODY_BYTES = 80 * 1024 * 1024
WRITE_BYTES = 64 * 1024  # handed to the socket at a time, so that what was written is known this exactly


class Owner(Protocol):
    """What a connection tells the provider, and asks it."""

    def opened(self, connection: Connection) -> int | None:
        """A connection came; its number, or None to refuse it."""

    def received(self, request: ReceivedRequest) -> Steps:
        """A request came; what is to be played."""

    def changed(self) -> None:
        """Something that others may wait for has happened."""

    def closed(self, connection: Connection, failure: BaseException | None) -> None:
        """The connection is gone and its task has ended; `failure` is a fault of ours."""


class Connection(asyncio.Protocol):
    """Serves one client, one request after another; one task reads and plays, the loop's callbacks feed it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._left = False
        self._playing: ReceivedRequest | None = None
        self._number = 0
        self._count = 0
        self._transport: asyncio.Transport
        self.task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which nothing has come yet."""
        return self._playing is None and not self._buffer

    def close(self) -> None:
        """Close after what was sent."""
        self._transport.close()

    def abort(self) -> None:
        """Stop playing and close at once."""
        if self.task is not None:
            self.task.cancel()
        self._transport.abort()

    # Callbacks of the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._transport.set_write_buffer_limits(high=0)  # a write is done when the kernel has it
        number = self._owner.opened(self)
        if number is None:
            self._transport.abort()
            return
        self._number = number
        self.task = asyncio.get_running_loop().create_task(self._serve(), name=f"scripted connection {number}")
        self.task.add_done_callback(self._ended)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_HEAD_BYTES + 2 * MAX_BODY_BYTES:
            self.abort()
        self._arrived.set()

    def eof_received(self) -> None:
        self._client_left()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_left()
        self._lost.set()
        if self.task is None:
            self._owner.closed(self, None)

    def _client_left(self) -> None:
        if self._left:
            return
        self._left = True
        self._arrived.set()
        if self._playing is not None and self.task is not None:
            self.task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._owner.closed(self, None if task.cancelled() else task.exception())

    # The task.

    async def _serve(self) -> None:
        try:
            while (request := await self._read_request()) is not None:
                end = await self._play(request, self._owner.received(request))
                if end != "complete" or not _keeps_alive(request):
                    break
        except WireError as error:
            with contextlib.suppress(asyncio.CancelledError):
                refusal = Reply(400, (("connection", "close"),), f"{error}\n".encode())
                await self._write(refusal.head(("content-length", str(len(refusal.body)))) + refusal.body, _ignore)
        finally:
            self._transport.close()
        await self._lost.wait()

    async def _play(self, request: ReceivedRequest, steps: Steps) -> End:
        self._playing = request
        end: End = "complete"
        try:
            if self._left:
                end = "client_left"
            else:
                end = await self._play_steps(request, steps)
        except asyncio.CancelledError:
            end = "client_left" if self._left else "stopped"
            if end == "stopped":
                raise
        finally:
            self._playing = None
            request.end = end
            request.ended_at_s = asyncio.get_running_loop().time()
            self._owner.changed()
        return end

    async def _play_steps(self, request: ReceivedRequest, steps: Steps) -> End:
        def count(written: int) -> None:
            request.bytes_written += written
            self._owner.changed()

        for step in steps:
            match step:
                case Send(data):
                    await self._write(data, count)
                case SendChunk(data):
                    await self._write(b"%x\r\n%b\r\n" % (len(data), data), count)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case WaitFor(event):
                    await event.wait()
                case Drop():
                    self._transport.close()
                    return "dropped"
                case Reset():
                    self._reset()
                    return "reset"
                case Hang():
                    await asyncio.Event().wait()
                case _:
                    assert_never(step)
        return "complete"

    async def _write(self, data: bytes, count: Callable[[int], None]) -> None:
        view = memoryview(data)
        for start in range(0, len(view), WRITE_BYTES):
            piece = view[start : start + WRITE_BYTES]
            self._transport.write(piece)
            count(len(piece))
            await self._writable.wait()
            if start + WRITE_BYTES < len(view):
                await asyncio.sleep(0)  # lets the loop see that the client has left

    def _reset(self) -> None:
        # SO_LINGER with no time to linger makes close() send RST. A duplicate is asked, as some loops lend no socket.
        lent = self._transport.get_extra_info("socket")
        with socket.fromfd(lent.fileno(), socket.AF_INET, socket.SOCK_STREAM) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # Reading.

    async def _read_request(self) -> ReceivedRequest | None:
        """The next request, whole; None when the client has closed before it was. Raises WireError."""
        head = await self._take_until(b"\r\n\r\n", MAX_HEAD_BYTES)
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3:
            raise WireError("The request line needs a method, a target and a version.")
        method, target, version = parts
        path, _, query = target.partition("?")
        headers = tuple(_header(line) for line in lines[1:])
        request = ReceivedRequest(
            method=method,
            path=path,
            query=query,
            headers=headers,
            body=b"",
            http_version=version,
            connection=self._number,
            place_on_connection=self._count + 1,
            received_at_s=0.0,
        )
        body = await self._read_body(request)
        if body is None:
            return None
        self._count += 1
        request.body = body
        request.received_at_s = asyncio.get_running_loop().time()
        return request

    async def _read_body(self, request: ReceivedRequest) -> bytes | None:
        if (request.header("expect") or "").lower() == "100-continue":
            await self._write(b"HTTP/1.1 100 Continue\r\n\r\n", _ignore)
        if (request.header("transfer-encoding") or "").lower() == "chunked":
            return await self._read_chunks()
        length = request.header("content-length") or "0"
        if not length.isdecimal():
            raise WireError("The content-length is not a number.")
        return await self._take(int(length))

    async def _read_chunks(self) -> bytes | None:
        body = bytearray()
        while True:
            line = await self._take_until(b"\r\n", MAX_HEAD_BYTES)
            if line is None:
                return None
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError as error:
                raise WireError("The size of a chunk is not a number.") from error
            if size == 0:
                break
            if len(body) + size > MAX_BODY_BYTES:
                raise WireError("The body is too large.")
            data = await self._take(size + 2)
            if data is None:
                return None
            body += data[:-2]
        while (trailer := await self._take_until(b"\r\n", MAX_HEAD_BYTES)) is not None:
            if not trailer:
                return bytes(body)
        return None

    async def _take(self, size: int) -> bytes | None:
        if size > MAX_BODY_BYTES:
            raise WireError("The body is too large.")
        while len(self._buffer) < size:
            if not await self._more():
                return None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _take_until(self, mark: bytes, limit: int) -> bytes | None:
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > limit:
                raise WireError("The head of the request is too large.")
            if not await self._more():
                return None
        taken = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return taken

    async def _more(self) -> bool:
        """Wait for more bytes; False when there will be none."""
        if self._left:
            return False
        self._arrived.clear()
        await self._arrived.wait()
        return True


def _ignore(_written: int) -> None:
    """Bytes that belong to no reply are not counted."""


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise WireError("A header line is malformed.")
    return name, value.strip(" \t")


def _keeps_alive(request: ReceivedRequest) -> bool:
    wish = (request.header("connection") or "").lower()
    return wish != "close" and (request.http_version == "HTTP/1.1" or wish == "keep-alive")
