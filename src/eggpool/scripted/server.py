"""The scripted provider itself: it listens on loopback, knows accounts, and remembers what it received."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from eggpool.domain import ListedModel
from eggpool.errors import RequestRefused, StartError
from eggpool.scripted.behaviours import Behaviour, Script, good, play
from eggpool.scripted.connection import Connection
from eggpool.scripted.good import CODECS, DEFAULT_MODELS, GoodProvider
from eggpool.scripted.received import ReceivedRequest
from eggpool.scripted.steps import Steps

BACKLOG = 1024


class ScriptedProvider:
    """An LLM provider on 127.0.0.1 that does exactly what it is told. Use it with `async with`.

    `keys` are the accounts: API key -> what it does, a `Behaviour` or one script for every request. `default` is
    for everybody else, with another key or none; without it they get 401, unless no keys are given either: then
    anybody is served well. The last `remember` requests are kept, with their bodies. A script that is broken itself
    raises when the provider closes.
    """

    def __init__(
        self,
        keys: Mapping[str, Behaviour | Script] | None = None,
        *,
        default: Behaviour | Script | None = None,
        models: tuple[ListedModel, ...] = DEFAULT_MODELS,
        remember: int = 10_000,
    ) -> None:
        self.models = models
        self.refusing = False  # True closes each new connection at once, before a byte is read
        self.requests: list[ReceivedRequest] = []
        self.received_requests = 0  # all that ever came, kept or not
        self.accepted_connections = 0
        self.refused_connections = 0
        self.port = 0
        self._keys = {key: _behaviour(given) for key, given in (keys or {}).items()}
        if default is None and keys is None:
            default = good
        self._default = None if default is None else _behaviour(default)
        self._remember = remember
        self._good = GoodProvider()
        self._connections: set[Connection] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._failures: list[BaseException] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.plug_in()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None and self._failures:
            raise self._failures[0]

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`: what the anthropic SDK takes."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`: what a configuration and the openai SDK take."""
        return f"{self.origin}/v1"

    @property
    def open_connections(self) -> int:
        """Connections that stand now."""
        return len(self._connections)

    @property
    def closed_early(self) -> int:
        """Replies before whose end the client closed, of the requests that are kept."""
        return sum(request.end == "client_left" for request in self.requests)

    @property
    def work(self) -> list[ReceivedRequest]:
        """What was received but questions for models."""
        return [request for request in self.requests if not request.is_model_list]

    def behave(self, key: str, behaviour: Behaviour | Script) -> None:
        """From now on the account of this key, known or new, does that."""
        self._keys[key] = _behaviour(behaviour)

    def forget(self, key: str) -> None:
        """From now on this key is unknown."""
        self._keys.pop(key, None)

    def close_idle_connections(self) -> None:
        """Close the connections that wait for a next request, as providers do after a while."""
        for connection in tuple(self._connections):
            if connection.idle:
                connection.close()

    async def plug_in(self) -> None:
        """Listen: on a free port the first time, on the same one again after `unplug`. Raises StartError."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            raise StartError(f"Cannot listen on 127.0.0.1:{self.port}; choose another port.") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        """Stop listening and break every connection; the port refuses from now on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self._until(lambda: not self._connections)
        if server is not None:
            await server.wait_closed()

    async def aclose(self) -> None:
        """Stop, whatever is going on; may be called again."""
        await self.unplug()

    async def wait_for(self, predicate: Callable[[ScriptedProvider], bool], timeout_s: float = 5.0) -> None:
        """Wait until the predicate is true; it is asked whenever something happens here. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._until(lambda: predicate(self))

    async def _until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    # What connections tell and ask (connection.Owner).

    def opened(self, connection: Connection) -> int | None:
        """Count a new connection, or refuse it."""
        self._connections.add(connection)
        if self.refusing:
            self.refused_connections += 1
            return None
        self.accepted_connections += 1
        self.changed()
        return self.accepted_connections

    def received(self, request: ReceivedRequest) -> Steps:
        """Remember a request and choose what is played."""
        self.received_requests += 1
        self.requests.append(request)
        del self.requests[: -self._remember]
        self.changed()
        behaviour = self._keys.get(request.api_key or "", self._default)
        models = self.models if behaviour is None or behaviour.models is None else behaviour.models
        good_reply = self._good.reply_to(request, models, authorised=behaviour is not None)
        named = (CODECS[request.dialect].request_id_header, f"req_{self.received_requests:06}")
        good_reply = good_reply.with_headers(named)
        if behaviour is None:
            return good_reply.steps()
        try:
            return play(behaviour.next_script(request), request, good_reply)
        except RequestRefused:  # the script needs a question and this is none; the good reply says why
            return good_reply.steps()

    def changed(self) -> None:
        """Wake those who wait."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            with contextlib.suppress(asyncio.InvalidStateError):
                future.set_result(None)

    def closed(self, connection: Connection, failure: BaseException | None) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if failure is not None:
            self._failures.append(failure)
        self.changed()


def _behaviour(given: Behaviour | Script) -> Behaviour:
    return given if isinstance(given, Behaviour) else Behaviour(then=given)
