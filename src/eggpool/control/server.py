"""The server's end of the control socket: many clients, each bounded in time and in size, none of them trusted.

Nothing that a client does or does not do reaches further than its own connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from eggpool.control import place
from eggpool.control.commands import perform
from eggpool.control.protocol import MAX_REQUEST_BYTES, read_request, write_fault, write_result
from eggpool.engine.runtime import Runtime
from eggpool.errors import CommandRefused, EggPoolError, RequestRefused

MAX_CLIENTS = 32
SILENCE_S = 10.0  # how long a client may take for a line, or for reading an answer

_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_control(runtime: Runtime) -> AsyncIterator[None]:
    """Listen on the control socket beside the runtime's database, and take it away at the end.

    Where there can be no socket, the pool serves without one and its log says so. Raises StartError when another
    server answers there.
    """
    try:
        found = await asyncio.to_thread(place.bind, runtime.database.path)
    except OSError as error:
        why = error.strerror or str(error)
        _log.warning("there is no control socket (%s): commands such as `eggpool status` cannot reach this server", why)
        yield
        return
    try:
        clients = Clients(runtime)
        listening = await asyncio.start_unix_server(
            clients.attend, sock=found.socket, limit=MAX_REQUEST_BYTES, backlog=place.BACKLOG
        )
        try:
            yield
        finally:
            listening.close()
            await clients.aclose()
    finally:
        found.remove()


class Clients:
    """Those who are connected; each has a task, and all of them end with this."""

    def __init__(self, runtime: Runtime, *, silence_s: float = SILENCE_S) -> None:
        self._runtime = runtime
        self._silence_s = silence_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves or does something wrong."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        writer.transport.set_write_buffer_limits(0)  # an answer counts as sent when the system has taken all of it
        try:
            refusal = self._refusal(writer)
            if refusal is not None:
                await self._say(writer, refusal)
            else:
                await self._converse(reader, writer)
        except (OSError, TimeoutError):
            pass  # it left, or it does nothing
        except asyncio.CancelledError:
            pass  # the server ends, and so does this
        finally:
            if task is not None:
                self._tasks.discard(task)
            writer.transport.abort()

    async def aclose(self) -> None:
        """Part from everybody."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _refusal(self, writer: asyncio.StreamWriter) -> bytes | None:
        """What is said to a client that is not attended to."""
        if not place.may_speak(place.user_of(writer.get_extra_info("socket")), os.geteuid()):
            _log.warning("a process of another user was refused on the control socket")
            return write_fault("not_allowed", "Only the user that runs the server, and root, may command it.")
        if len(self._tasks) > MAX_CLIENTS:
            return write_fault("busy", "The server talks to too many commands already; try again in a moment.")
        return None

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    line = await reader.readline()
            except ValueError:  # it is longer than the reader's limit
                await self._say(writer, write_fault("too_long", f"A line has at most {MAX_REQUEST_BYTES} bytes."))
                return
            if not line.endswith(b"\n"):
                return
            answer, understood = self._answer(line)
            await self._say(writer, answer)
            if not understood:
                return

    async def _say(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        async with asyncio.timeout(self._silence_s):
            writer.write(line)
            await writer.drain()

    def _answer(self, line: bytes) -> tuple[bytes, bool]:
        """What to say to a line, and whether it was a request at all."""
        try:
            request = read_request(line)
        except (msgspec.DecodeError, RecursionError):
            message = "The server does not understand that command; is it of the same version?"
            return write_fault("not_understood", message), False
        try:
            return write_result(perform(self._runtime, request)), True
        except EggPoolError as error:
            return write_fault(_code(error), str(error)), True
        except Exception as error:  # noqa: BLE001 - the boundary of a command, as that of a request
            _log.error("a command failed with an error that is a defect: %s", type(error).__name__, exc_info=error)
            return write_fault("internal_error", "The server failed on this command; its log says why."), True


def _code(error: EggPoolError) -> str:
    if isinstance(error, CommandRefused):
        return error.reason
    return error.machine_code if isinstance(error, RequestRefused) else error.code
