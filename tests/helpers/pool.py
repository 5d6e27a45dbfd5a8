"""A real pool in this process: real sockets, real database, any configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from eggpool.config.load import load
from eggpool.config.schema import Config
from eggpool.engine.runtime import Runtime, new_event_loop, open_runtime
from eggpool.scripted import ScriptedProvider
from eggpool.store.stats import RequestRow, recent_requests
from eggpool.web.app import make_app

CLIENT_KEY = "ep_test-client-key-0000"
BEARER = {"authorization": f"Bearer {CLIENT_KEY}"}
LIMIT_S = 30.0


def run(scenario: Callable[[], Coroutine[Any, Any, None]], limit_s: float = LIMIT_S) -> None:
    """Run one scenario to its end, bounded in time, on the loop that the program itself uses."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await scenario()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(bounded())


def settings(folder: Path, providers: str, extra: str = "") -> Config:
    """A configuration on a free port of loopback, with its database in `folder`."""
    text = f"""
[server]
host = "127.0.0.1"
port = 0
api_key = "{CLIENT_KEY}"
shutdown_grace_s = 5

[database]
path = "{folder}/usage.sqlite3"
commit_interval_ms = 5

{extra}

{providers}
"""
    return load(text, {}, folder=str(folder)).config


def provider(name: str, at: ScriptedProvider, *keys: str, extra: str = "") -> str:
    """A provider table with one account for each key, named after it."""
    accounts = "".join(
        f'[[providers.{name}.accounts]]\nname = "{key}"\napi_key = "test-{key}-key-0000"\n\n' for key in keys
    )
    return f'[providers.{name}]\nid = "{name}"\nbase_url = "{at.base_url}"\n{extra}\n\n{accounts}'


def key_of(account: str) -> str:
    """The key that `provider` gave an account."""
    return f"test-{account}-key-0000"


class RunningPool:
    """A pool that listens, and a client for it."""

    def __init__(self, runtime: Runtime, http: aiohttp.ClientSession) -> None:
        self.runtime = runtime
        self.http = http

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return self.runtime.url

    def post(self, path: str, body: Any, **headers: str) -> Any:
        """A POST with the client's key; `body` is bytes or becomes JSON."""
        given: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self.http.post(self.url + path, headers=BEARER | headers, **given)

    def get(self, path: str, **headers: str) -> Any:
        """A GET with the client's key."""
        return self.http.get(self.url + path, headers=BEARER | headers)

    async def booked(self, count: int) -> tuple[RequestRow, ...]:
        """The requests in the books, newest first, once there are at least `count` of them."""
        while True:
            await self.runtime.database.settle(1.0)
            rows = await self.runtime.database.read(lambda conn: recent_requests(conn, 1000))
            if len(rows) >= count:
                return rows

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
async def running_pool(config: Config) -> AsyncIterator[RunningPool]:
    """Start a pool, wait for its model lists, and stop it at the end."""
    async with open_runtime(config, make_app) as runtime, aiohttp.ClientSession() as http:
        pool = RunningPool(runtime, http)
        if config.models.startup_refresh:
            await pool.models_known()
        yield pool
