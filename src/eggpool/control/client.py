"""The command line's end of the control socket: one question, one answer, bounded in time. Blocks, and loads little."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from eggpool.control import place
from eggpool.control.protocol import MAX_ANSWER_BYTES, Answer, Request, read_answer, write_request
from eggpool.errors import CommandRefused, NotRunning, ServerUnreachable

T = TypeVar("T")

LIMIT_S = 10.0

_BLOCK = 256 * 1024
_UNREACHABLE = frozenset({"busy", "not_allowed", "not_understood", "internal_error"})


def ask(database: Path, request: Request, expected: type[T], *, limit_s: float = LIMIT_S) -> T:
    """What the server with this database answers, as a value of the expected type.

    Raises NotRunning when there is no server, ServerUnreachable when it does not answer within `limit_s` or not as it
    should, and CommandRefused with its reason when it will not do what is asked.
    """
    answer = _converse(database, write_request(request), limit_s)
    if answer.error is not None:
        if answer.error.code in _UNREACHABLE:
            raise ServerUnreachable(answer.error.message)
        raise CommandRefused(answer.error.message, reason=answer.error.code)
    try:
        return msgspec.json.decode(answer.result, type=expected)
    except msgspec.DecodeError:
        raise ServerUnreachable("The server's answer is not understood; is it of the same version?") from None


def _converse(database: Path, line: bytes, limit_s: float) -> Answer:
    path = place.socket_path(database)
    deadline = time.monotonic() + limit_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(limit_s)
            _connect(connection, path)
            with contextlib.suppress(BrokenPipeError):  # it does not want to hear: its reason is there to be read
                connection.sendall(line)
            return read_answer(_line(connection, deadline))
    except TimeoutError:
        raise ServerUnreachable(f"The server does not answer at {path} within {limit_s:g} seconds.") from None
    except msgspec.DecodeError:
        raise ServerUnreachable(f"What answers at {path} is not an eggpool server.") from None
    except OSError as error:
        raise ServerUnreachable(f"The server cannot be asked at {path}: {error.strerror or error}.") from None


def _connect(connection: socket.socket, path: Path) -> None:
    try:
        connection.connect(place.address_of(path))
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning(
            f"No server runs with this configuration (nobody listens at {path}); `eggpool serve` starts one."
        ) from None
    except PermissionError:
        raise ServerUnreachable(
            f"The server at {path} belongs to another user; run this command as that user or as root."
        ) from None


def _line(connection: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size <= MAX_ANSWER_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        part = connection.recv(_BLOCK)
        parts.append(part)
        size += len(part)
        if not part:
            raise ServerUnreachable("The server ended the connection before its answer was whole.")
        if part.endswith(b"\n"):
            return b"".join(parts)
    raise ServerUnreachable("The server's answer is too long.")
