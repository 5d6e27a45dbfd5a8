"""Small answers that are there at once: JSON, and errors in the dialect of the path they are for."""

from __future__ import annotations

import math

import msgspec

from eggpool.domain import Dialect
from eggpool.engine.server import Send
from eggpool.errors import CannotServe, EggPoolError, MethodNotAllowed, RequestRefused
from eggpool.wire.dialects import CODECS

JSON = (b"content-type", b"application/json")

Headers = list[tuple[bytes, bytes]]


async def send_json(send: Send, status: int, payload: object, headers: Headers | None = None) -> None:
    """A JSON answer."""
    await send_body(send, status, msgspec.json.encode(payload), [JSON, *(headers or [])])


async def send_body(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """A whole answer."""
    head = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send, dialect: Dialect, error: EggPoolError, *, request_id: str, headers: Headers | None = None
) -> None:
    """An error of ours, worded and shaped for the clients of that dialect."""
    codec = CODECS[dialect]
    code, param = type(error).code, None
    head = [JSON, *(headers or [])]
    if isinstance(error, RequestRefused):
        code, param = error.machine_code, error.param
    if isinstance(error, CannotServe) and error.retry_after_s is not None:
        head.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, MethodNotAllowed):
        head.append((b"allow", error.allowed.encode()))
    if error.status == 401:
        head.append((b"www-authenticate", b"Bearer"))
    body = codec.write_error(error.status, str(error), code, param=param, request_id=request_id)
    await send_body(send, error.status, body, head)


def dialect_of(path: str, headers: list[tuple[bytes, bytes]]) -> Dialect:
    """The dialect in which a caller of that path wants its errors."""
    if path.startswith("/v1/messages"):
        return Dialect.MESSAGES
    if path.startswith("/v1/responses"):
        return Dialect.RESPONSES
    if path.startswith("/v1/models") and any(name == b"anthropic-version" for name, _ in headers):
        return Dialect.MESSAGES
    return Dialect.CHAT
