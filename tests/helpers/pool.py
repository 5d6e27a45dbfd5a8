"""A real pool in this process: real sockets, real database, any configuration.

`running_pool` also watches: what a scenario leaves behind (tasks, sockets, leases, errors in the log) fails the test.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from msgspec.structs import replace

from eggpool.config.load import load
from eggpool.config.schema import Config
from eggpool.engine.clock import Clock
from eggpool.engine.runtime import Runtime, new_event_loop, open_runtime
from eggpool.engine.server import Connection
from eggpool.scripted import Behaviour, Script, ScriptedProvider
from eggpool.store.stats import RequestRow, recent_requests
from eggpool.web.app import make_app

CLIENT_KEY = "ep_test-client-key-0000"
BEARER = {"authorization": f"Bearer {CLIENT_KEY}"}
LIMIT_S = 30.0
TURNS = 2000  # of the loop, for connections to be seen closed
ALL_DIALECTS = 'protocols = ["openai", "anthropic", "responses"]'


def run(scenario: Callable[[], Coroutine[Any, Any, None]], limit_s: float = LIMIT_S, *, debug: bool = True) -> None:
    """Run one scenario to its end, bounded in time, in a loop in debug mode.

    Without `debug` it is the loop that the program itself uses; uvloop's debug mode cannot be used (it crashes).
    """

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await scenario()

    with asyncio.Runner(debug=debug, loop_factory=None if debug else new_event_loop) as runner:
        runner.run(bounded())


def settings(folder: Path, providers: str, extra: str = "", server: str = "", commit_interval_ms: int = 5) -> Config:
    """A configuration on a free port of loopback, with its database in `folder`."""
    text = f"""
[server]
host = "127.0.0.1"
port = 0
api_key = "{CLIENT_KEY}"
shutdown_grace_s = 5
{server}

[database]
path = "{folder}/usage.sqlite3"
commit_interval_ms = {commit_interval_ms}

{extra}

{providers}
"""
    return load(text, {}, folder=str(folder)).config


def provider(name: str, at: ScriptedProvider, *keys: str, extra: str = "") -> str:
    """A provider table with one account for each key, named after it."""
    accounts = "".join(f'[[providers.{name}.accounts]]\nname = "{key}"\napi_key = "{key_of(key)}"\n\n' for key in keys)
    return f'[providers.{name}]\nid = "{name}"\nbase_url = "{at.base_url}"\n{extra}\n\n{accounts}'


def key_of(account: str) -> str:
    """The key that `provider` gave an account."""
    return f"test-{account}-key-0000"


def after_a_crash(config: Config, folder: Path) -> Config:
    """The same pool with the books that stand on disk now, in a new folder: as if its process had died."""
    folder.mkdir()
    path = Path(str(config.database.path))
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copy(file, folder / file.name)
    return replace(config, database=replace(config.database, path=str(folder / path.name)))


class RunningPool:
    """A pool that listens, and a client for it."""

    def __init__(self, runtime: Runtime, http: aiohttp.ClientSession) -> None:
        self.runtime = runtime
        self.http = http

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return self.runtime.url

    @property
    def port(self) -> int:
        """The port of loopback on which it listens."""
        return self.runtime.server.port

    @property
    def in_flight(self) -> int:
        """Leases that are not settled."""
        return self.runtime.pool.in_flight

    @property
    def client_connections(self) -> list[Connection]:
        """The connections that clients have to it."""
        return [one for one in self.runtime.server._state.connections if isinstance(one, Connection)]

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """A POST with the client's key; `body` is bytes or becomes JSON."""
        given: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self.http.post(self.url + path, headers=BEARER | headers, **given)

    def get(self, path: str, **headers: str) -> Any:
        """A GET with the client's key."""
        return self.http.get(self.url + path, headers=BEARER | headers)

    async def answer(self, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
        """Status and body of a POST."""
        async with self.post(path, body, **headers) as reply:
            return reply.status, await reply.read()

    async def raw(self, sent: bytes) -> bytes:
        """Send bytes on a connection of its own and give all that comes until the pool closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def booked(self, count: int) -> tuple[RequestRow, ...]:
        """The requests in the books, newest first, once there are at least `count` of them."""
        while True:
            await self.runtime.database.settle(1.0)
            rows = await self.runtime.database.read(lambda conn: recent_requests(conn, 1000))
            if len(rows) >= count:
                return rows

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query finds in the books once everything is written."""

        def ask(conn: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return conn.execute(sql).fetchall()

        while not await self.runtime.database.settle(1.0):
            pass
        return await self.runtime.database.read(ask)

    async def until(self, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        """Wait, a turn of the loop at a time, until a condition holds; the scenario's own time limit bounds it."""
        while True:
            result = condition()
            if await result if isinstance(result, Awaitable) else result:
                return
            await asyncio.sleep(0)

    async def models_known(self) -> None:
        """Wait until the model lists have come."""
        await self.until(lambda: bool(self.runtime.pool.catalog.offers))


@asynccontextmanager
async def running_pool(
    config: Config, clock: Clock | None = None, *, lists: bool = True, loud: str | None = None
) -> AsyncIterator[RunningPool]:
    """Start a pool, wait for its model lists (unless `lists` is False), and stop it at the end.

    Afterwards no lease is held, no task and no socket is left that was not there before, and no defect was logged;
    with `loud`, errors with these words were, and no others.
    """
    before, sockets = asyncio.all_tasks(), _sockets()
    with _no_defects_logged(loud):
        async with open_runtime(config, make_app, clock=clock) as runtime, aiohttp.ClientSession() as http:
            pool = RunningPool(runtime, http)
            if config.models.startup_refresh and lists:
                await pool.models_known()
            yield pool
            await pool.until(lambda: pool.in_flight == 0)
        # The other side of a connection (a scripted provider's) needs some turns of the loop to see its end.
        turns = 0
        while left := [*(asyncio.all_tasks() - before), *(_sockets() - sockets)]:
            assert turns < TURNS, f"left behind: {left}"
            turns += 1
            await asyncio.sleep(0)


@asynccontextmanager
async def pool_of(
    folder: Path,
    accounts: Mapping[str, Behaviour | Script],
    *,
    extra: str = "",
    more: str = ALL_DIALECTS,
    server: str = "",
    clock: Clock | None = None,
) -> AsyncIterator[tuple[RunningPool, ScriptedProvider]]:
    """A pool of accounts at one provider named alpha that speaks every dialect, each doing what it is told.

    `more` are further lines of the provider's table, `extra` further tables, `server` further lines of `[server]`.
    """
    keys = {key_of(name): behaviour for name, behaviour in accounts.items()}
    async with ScriptedProvider(keys) as upstream:
        config = settings(folder, provider("alpha", upstream, *accounts, extra=more), extra, server)
        async with running_pool(config, clock) as pool:
            yield pool, upstream


class _Defects(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {self.format(record)}")


@contextmanager
def _no_defects_logged(loud: str | None) -> Iterator[None]:
    handler = _Defects()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    expected = [line for line in handler.lines if loud is not None and loud in line]
    assert handler.lines == expected, "\n".join(handler.lines)
    assert expected or loud is None


def _sockets() -> set[str]:
    """The sockets that this process has open; nothing where the system does not tell."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return set()
    found = set()
    for entry in os.listdir(folder):  # noqa: PTH208 - a pathlib walk would hold the folder itself open
        try:
            name = os.readlink(folder / entry)  # noqa: PTH115 - the same
        except OSError:
            continue
        if name.startswith("socket:"):
            found.add(name)
    return found
