"""`/v1/*`: read a request, hand it to the engine, stream the answer back, shape errors for the caller.

Plain ASGI: no framework stands between the socket and a stream.
"""

from __future__ import annotations

import asyncio

import msgspec

from eggpool.config.schema import Config
from eggpool.domain import Dialect
from eggpool.engine.dispatch import Dispatcher, Exchange
from eggpool.engine.inbound import Inbound, Surface
from eggpool.engine.server import Receive, Scope, Send, connection_of
from eggpool.engine.translating import TRANSLATION, in_chat
from eggpool.errors import (
    EggPoolError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    UpgradeRequired,
)
from eggpool.logs import AccessLog
from eggpool.web import decision, surfaces
from eggpool.web.access import Access
from eggpool.web.delivery import Delivery
from eggpool.web.replies import Headers, dialect_of, send_error
from eggpool.web.surfaces import Route
from eggpool.wire import envelope as envelopes
from eggpool.wire import forms, responses
from eggpool.wire.conversation import conversation_key
from eggpool.wire.dialects import CODECS

CHAT = Surface(Dialect.CHAT)  # where some agents (Cursor) send Responses requests, to be answered in Chat

ACCESS_LOG_DELAY_S = 0.1  # lines wait so long for others
LONGEST_PATH = 200  # characters of a path that the books keep
DISCARD_TIMEOUT_S = 10.0  # for the rest of a body that is not wanted


class ClientLeft(Exception):
    """The client closed its connection before its request was whole."""


class DataPlane:
    """The endpoints that agents call for answers."""

    def __init__(self, config: Config, dispatcher: Dispatcher, access: Access, access_log: AccessLog | None) -> None:
        self._max_body_bytes = config.server.max_body_bytes
        self._affinity = config.routing.affinity
        self._quiet_s = config.upstream.keepalive_after_ms / 1000
        self._access_log = access_log
        self._dispatcher = dispatcher
        self._pool = dispatcher.pool
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        clock = self._dispatcher.clock
        arrived, arrived_ms = clock.now(), clock.wall_ms()
        number = self._dispatcher.ledger.new_id(arrived_ms)
        path, headers = scope["path"], scope["headers"]
        named = connection_of(scope).named
        request_id = f"{number:016x}"
        own: Headers = [(b"x-proxy-request-id", request_id.encode())]
        status = 499
        upload = _Upload(named, receive)
        exchange: Exchange | None = None
        inbound: Inbound | None = None
        try:
            self._access.check_host(headers)
            known = surfaces.find(path)
            inbound = Inbound(
                id=number,
                client=self._access.client(named),
                client_address=self._access.address(_peer(scope), headers),
                surface=known.surface if known else Surface(dialect_of(path, headers)),
                method=scope["method"],
                path=path[:LONGEST_PATH],
                query=scope["query_string"].decode("latin-1"),
                headers=headers,
                named=named,
                body=None,
                envelope=None,
                model=None,
                only=None,
                arrived=arrived,
                arrived_ms=arrived_ms,
            )
            route = _allowed(known, scope)
            inbound.body = await upload.read(self._max_body_bytes)
            own += self._understand(inbound, route, scope)
            exchange = self._dispatcher.exchange(inbound)
            await Delivery(exchange, scope, send, own, CODECS[route.surface.dialect], self._quiet_s).run()
        except ClientLeft:
            pass
        except EggPoolError as error:
            status = error.status
            if inbound is not None and exchange is None:
                self._dispatcher.refused(inbound, error)
            tries = exchange.attempts if exchange else 0
            own.append((b"x-proxy-attempt-count", b"%d" % tries))
            if exchange is not None:
                own += decision.header(exchange)
            if not await upload.discard(self._max_body_bytes):
                own.append((b"connection", b"close"))
            await send_error(send, dialect_of(path, headers), error, request_id=request_id, headers=own)
        finally:
            log = self._access_log
            if log is not None:
                account = (exchange.account if exchange else None) or "-"
                took_us = round((clock.now() - arrived) * 1_000_000)
                shown = exchange.status if exchange else status
                if log.add(clock.wall_ms(), scope["method"], path, account, shown, request_id, took_us):
                    asyncio.get_running_loop().call_later(ACCESS_LOG_DELAY_S, log.flush)

    def _understand(self, inbound: Inbound, route: Route, scope: Scope) -> Headers:
        """Find out what a request is for: a model, or a reply that one account has made.

        Gives the headers that tell of what had to be done to it.
        """
        told: Headers = []
        body = inbound.body or b""
        if route.reply_id is not None:
            inbound.only = self._pool.account_of_reply(route.reply_id)
            if inbound.only is None:
                raise NotFound(
                    "This pool does not know which account made that reply; it remembers those since its last start.",
                    code="reply_not_found",
                )
            inbound.body = body or None
            return told
        content_type = inbound.named.get(b"content-type", b"") if inbound.surface.beside else b""
        if content_type and forms.is_form(content_type):
            inbound.form = forms.read(content_type, body)
            inbound.model = inbound.form.model
            return told
        envelope = envelopes.read(body)
        if inbound.surface == CHAT and responses.looks_like_responses(envelope.places):
            inbound.body, translated = in_chat(body)
            envelope = envelopes.read(inbound.body)
            told.append((TRANSLATION, translated))
        inbound.envelope = envelope
        inbound.model = envelope.model
        if self._affinity and inbound.surface.answers:
            inbound.conversation = conversation_key(inbound.client, inbound.named, envelope)
        if envelope.stream and scope["http_version"] == "1.0":
            raise UpgradeRequired("A stream cannot be sent over HTTP/1.0; use HTTP/1.1, or ask without stream.")
        previous = envelope.raw("previous_response_id") if inbound.surface.dialect is Dialect.RESPONSES else None
        if previous is not None and previous.startswith(b'"'):
            inbound.only = self._pool.account_of_reply(previous.strip(b'"').decode("utf-8", "replace"))
        return told


class _Upload(msgspec.Struct):
    """The body of one request on its way in."""

    named: dict[bytes, bytes]  # its headers
    receive: Receive
    whole: bool = False

    async def read(self, limit: int) -> bytes:
        """All of it. Raises TooLarge, ClientLeft."""
        announced = self.named.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > limit:
            raise TooLarge(_too_large(limit))
        parts: list[bytes] = []
        size = 0
        while not self.whole:
            part = await self._next()
            size += len(part)
            if size > limit:
                raise TooLarge(_too_large(limit))
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def discard(self, limit: int) -> bool:
        """Read what is left of the body of a refused request; whether its end was reached.

        Closing while the client still sends would take the refusal away from it: it would see a broken connection.
        """
        if not self.whole and b"expect" in self.named:
            return False  # to ask for the body would be to promise that it is wanted
        size = 0
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                while not self.whole and size <= limit:
                    size += len(await self._next())
        except (TimeoutError, ClientLeft):
            return False
        return self.whole

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] != "http.request":
            raise ClientLeft
        self.whole = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


def _allowed(route: Route | None, scope: Scope) -> Route:
    """The route of a request, when there is one and it takes the method. Raises NotFound, MethodNotAllowed."""
    if route is None:
        raise NotFound(f"There is nothing at {scope['path'][:200]}; the README lists the paths of this pool.")
    if scope["method"] not in route.methods:
        raise MethodNotAllowed(scope["path"], route.methods)
    return route


def _peer(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _too_large(limit: int) -> str:
    return f"The request body is larger than the {limit} bytes that [server] max_body_bytes allows."
