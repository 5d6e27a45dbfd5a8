"""The composition root: what a running pool consists of, opened in order and closed in reverse.

Knows the web only as the function that it is given, which makes the ASGI application out of what has been opened; the
control socket likewise, as the function that opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from eggpool.config.schema import Config
from eggpool.engine import jobs, keeping
from eggpool.engine.clock import Clock
from eggpool.engine.dispatch import Dispatcher
from eggpool.engine.pool import Pool
from eggpool.engine.server import App, HttpServer
from eggpool.errors import StartError
from eggpool.logs import AccessLog
from eggpool.routing.catalog import AccountModels
from eggpool.store.db import Database
from eggpool.store.ledger import Ledger

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):  # there is no uvloop for some platforms
    from uvloop import new_event_loop

_log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long another thread may hold the interpreter: the writer must not delay a stream by its usual 5 ms."""

COLLECT_AFTER = (10_000, 20, 50)
"""When the collector looks for cycles. A request makes many short-lived objects and hardly a cycle, so the usual 700
would have it look at every second request."""


KEPT_FREE_BYTES = 8 * 1024 * 1024
"""What the allocator keeps of freed memory. It gives everything back by default, and then each large request body costs
its pages anew: a third of all the time that such a request takes."""

OWN_PAGES_FROM_BYTES = 4 * 1024 * 1024
"""From here on an allocation gets pages of its own, which go back to the system as soon as it is freed."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library


class Runtime:
    """Everything that is open while the pool runs."""

    def __init__(self, config: Config, database: Database, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.started = clock.now()
        self.database = database
        self.ledger = Ledger(database)
        self.pool = Pool(config, self.ledger, clock)
        self.dispatcher = Dispatcher(config, self.pool, self.ledger, clock)
        self.access_log = access_log(config)
        self._server: HttpServer | None = None

    @property
    def server(self) -> HttpServer:
        """The listening server."""
        if self._server is None:
            raise RuntimeError("the server is not started yet")
        return self._server

    @property
    def url(self) -> str:
        """Where the pool listens."""
        settings = self.config.server
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{'https' if settings.tls_cert else 'http'}://{host}:{self.server.port}"

    async def load(self) -> None:
        """Take over what the last run knew, so that the first request is served at once."""
        for label, listed in (await self.ledger.load_model_lists()).items():
            if label in self.pool.accounts:
                self.pool.lists[label] = AccountModels(listed.models, listed.fetched_at_ms)
        self.pool.rebuild()
        state = await self.ledger.load_state()
        self.pool.resting_scopes.restore(state)
        await keeping.restore(self.pool, self.ledger, state)

    async def start(self, app: App) -> None:
        """Begin to listen."""
        self._server = HttpServer(self.config.server, app)
        await self._server.start()


OpenControl = Callable[[Runtime], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def open_runtime(
    config: Config,
    make_app: Callable[[Runtime], App],
    *,
    open_control: OpenControl | None = None,
    clock: Clock | None = None,
    stop_now: asyncio.Event | None = None,
) -> AsyncIterator[Runtime]:
    """A running pool: books, accounts, jobs, server. At exit, running requests have the grace time to end.

    `open_control` opens what the command line talks to; it answers until the last request has ended.
    `stop_now` ends that grace early. Raises StartError or StoreError when something cannot be opened.
    """
    if config.database.path is None:
        raise StartError("The configuration names no database file; set [database] path.")
    settings = config.database
    stop_now = stop_now or asyncio.Event()
    async with AsyncExitStack() as stack:
        database = await asyncio.to_thread(
            Database.open,
            Path(config.database.path),
            busy_timeout_ms=settings.busy_timeout_ms,
            wal=settings.wal,
            synchronous=settings.synchronous,
            commit_interval_ms=settings.commit_interval_ms,
        )
        stack.push_async_callback(database.aclose)
        runtime = Runtime(config, database, clock or Clock())
        stack.push_async_callback(runtime.pool.aclose)
        if runtime.access_log is not None:
            stack.callback(runtime.access_log.flush)
        await runtime.load()
        stack.callback(keeping.keep, runtime.pool, runtime.ledger)
        await runtime.start(make_app(runtime))
        await stack.enter_async_context(_background(runtime))
        if open_control is not None:
            await stack.enter_async_context(open_control(runtime))
        stack.push_async_callback(_drain, runtime, stop_now)
        yield runtime


def access_log(config: Config) -> AccessLog | None:
    """Where each request leaves a line, None where the configuration wants none."""
    settings = config.server
    wanted = settings.access_log and settings.log_level in ("DEBUG", "INFO")
    return AccessLog(settings.log_format) if wanted else None


async def serve(
    config: Config,
    make_app: Callable[[Runtime], App],
    attend: Callable[[Runtime], Coroutine[Any, Any, None]],
    open_control: OpenControl | None = None,
) -> None:
    """Run a pool until SIGTERM or SIGINT. `attend` runs while it listens; when that returns, the pool ends too.

    The first signal ends `attend` and lets running requests end within the grace time, the second one ends those at
    once. Raises what `open_runtime` and `attend` raise.
    """
    loop = asyncio.get_running_loop()
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            stop_now.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    tune_process()
    try:
        async with open_runtime(config, make_app, open_control=open_control, stop_now=stop_now) as runtime:
            gc.freeze()  # what stands now stays: the collector need not look at it again
            await _unless(stop, attend(runtime))
            if stop.is_set() and runtime.pool.in_flight:
                grace_s = config.server.shutdown_grace_s
                _log.info("stopping; running requests have %g s to end, a second signal ends them now", grace_s)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, to its end or until `stop` is set."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        working.cancel()
        await asyncio.wait({working, stopped})
    if not working.cancelled():
        working.result()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run the program, on uvloop where that exists."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main)


def tune_process() -> None:
    """What a process that only serves sets for itself: how threads take turns, what freed memory is kept, when cycles
    are looked for, and as many open files as it may have (each stream needs two)."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such settings
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
        mallopt(_M_MMAP_THRESHOLD, OWN_PAGES_FROM_BYTES)
    gc.set_threshold(*COLLECT_AFTER)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _drain(runtime: Runtime, stop_now: asyncio.Event) -> None:
    whole = await runtime.server.drain(runtime.config.server.shutdown_grace_s, stop_now)
    if not whole:
        _log.warning("some answers had not ended yet and were cut off")


@asynccontextmanager
async def _background(runtime: Runtime) -> AsyncIterator[None]:
    """The jobs, in one task group that ends with the runtime."""

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(jobs.refresh_models(runtime.config, runtime.pool, runtime.ledger))
            group.create_task(jobs.retain(runtime.config, runtime.pool, runtime.ledger))
            group.create_task(jobs.poll_meters(runtime.pool, runtime.ledger, runtime.pool.learn_reading))
            group.create_task(jobs.keep(runtime.pool, runtime.ledger))
            group.create_task(jobs.tick(runtime.server))

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
