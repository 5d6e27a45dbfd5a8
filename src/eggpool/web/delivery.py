"""One answer on its way to the client: its head, its pieces, and a sign of life while it waits for either.

A client that waits for a stream too long gets the head and then comments or pings, which carry no content: another
account can still be tried behind them. Only the last failure of all has then to be told inside the stream.
"""

from __future__ import annotations

import asyncio

from eggpool.engine.dispatch import Exchange
from eggpool.engine.inbound import Head
from eggpool.engine.server import Message, Scope, Send, connection_of
from eggpool.errors import CannotServe, RequestRefused, StreamCut
from eggpool.web import decision
from eggpool.web.replies import Headers
from eggpool.wire.dialects import Codec

EARLY_HEAD: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Delivery:
    """Opens an exchange and passes its answer on; whatever happens, the exchange is closed, and so settled and booked.

    `own` are the headers that every answer gets. `quiet_s` is how long a stream may be silent.
    """

    __slots__ = (
        "_codec",
        "_connection",
        "_early",
        "_ended",
        "_exchange",
        "_gone",
        "_last",
        "_loop",
        "_own",
        "_quiet_s",
        "_send",
        "_task",
        "_timer",
    )

    def __init__(
        self, exchange: Exchange, scope: Scope, send: Send, own: Headers, codec: Codec, quiet_s: float
    ) -> None:
        self._exchange = exchange
        self._connection = connection_of(scope)
        self._send = send
        self._own = own
        self._codec = codec
        self._quiet_s = quiet_s
        self._loop = self._connection.loop
        self._task = self._connection.task
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._early = False  # the client has the head of a stream, but no account has answered yet
        self._ended = False  # the client has the end of the answer too
        self._gone = False

    async def run(self) -> None:
        """Deliver. Raises RequestRefused or CannotServe when there is nothing to deliver and no head was sent yet."""
        exchange = self._exchange
        if exchange.streams:
            self._last = self._loop.time()
            self._timer = self._loop.call_later(self._quiet_s, self._look)
        try:
            self._connection.watch(self._left)
            head = await exchange.open(self._task)
            if self._early and not _is_stream(head):
                await self._tell_error(head)
            else:
                await self._pass_on(head)
            if not self._ended:
                await self._send({"type": "http.response.body", "body": b""})
        except (RequestRefused, CannotServe) as error:
            if not self._early:
                raise
            code = error.machine_code if isinstance(error, RequestRefused) else error.code
            event = self._codec.write_error_event(error.status, str(error), code)
            await self._send({"type": "http.response.body", "body": event})
        except StreamCut:
            self._connection.abort()
        except asyncio.CancelledError:
            if not self._gone:
                raise
            self._task.uncancel()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._connection.watch(None)
            exchange.close(client_left=self._gone)

    async def _pass_on(self, head: Head) -> None:
        exchange, send = self._exchange, self._send
        if not self._early:
            self._own.append((b"x-proxy-attempt-count", b"%d" % exchange.attempts))
            if exchange.account is not None:
                self._own.append((b"x-eggpool-account", exchange.account.encode("utf-8", "replace")))
            self._own += decision.header(exchange)
            await send({"type": "http.response.start", "status": head.status, "headers": head.headers + self._own})
        while not self._ended and (piece := await exchange.read()):
            self._last = self._loop.time()
            self._ended = exchange.handed_over
            await send({"type": "http.response.body", "body": piece, "more_body": not self._ended})

    async def _tell_error(self, head: Head) -> None:
        """A provider's error, for a client that has had the head of a stream."""
        body = b""
        while piece := await self._exchange.read():
            body += piece
        told = self._codec.read_error(body)
        message = told.message or f"The provider answered with status {head.status}."
        event = self._codec.write_error_event(head.status, message, told.code or told.type)
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    def _left(self) -> None:
        self._gone = True
        self._task.cancel()

    def _look(self) -> None:
        """The timer: has the stream been silent for too long? One timer for a whole answer, moved on when it fires."""
        left_s = self._last + self._quiet_s - self._loop.time()
        if left_s <= 0.001:
            self._show_life()
            self._last = self._loop.time()
            left_s = self._quiet_s
        self._timer = self._loop.call_later(left_s, self._look)

    def _show_life(self) -> None:
        if not self._exchange.between_events:
            return
        if not self._connection.responding:
            head: Message = {"type": "http.response.start", "status": 200, "headers": EARLY_HEAD + self._own}
            if not self._connection.send_now(self._send, head):
                return
            self._early = True
            self._exchange.answered_early()
        sign: Message = {"type": "http.response.body", "body": self._codec.KEEPALIVE, "more_body": True}
        self._connection.send_now(self._send, sign)


def _is_stream(head: Head) -> bool:
    return head.status == 200 and any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in head.headers
    )
