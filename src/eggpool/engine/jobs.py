"""What happens in the background: model lists, usage endpoints, retention, the Date header. Each job never ends.

A job that fails is logged and goes on at its next turn; none of them gives up, and none is in the way of a request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel, EventRecord, PingRecord
from eggpool.engine import keeping
from eggpool.engine.metering import Learn, Meters
from eggpool.engine.pool import Pool
from eggpool.engine.server import HttpServer
from eggpool.errors import EggPoolError
from eggpool.routing.catalog import AccountModels, merge
from eggpool.store.ledger import Ledger
from eggpool.upstream.discovery import Found, fetch_models, lists_models

_log = logging.getLogger(__name__)

RETENTION_INTERVAL_S = 3600.0
FETCHES_AT_ONCE = 8
METERS_AT_ONCE = 4


async def refresh_models(config: Config, pool: Pool, ledger: Ledger) -> None:
    """Ask every account for its models, at start and at each interval."""

    async def refresh() -> None:
        await fetch_all(pool, ledger)

    if config.models.startup_refresh:
        await _guarded("models", refresh)
    if config.models.refresh_interval_s == 0:
        return
    await _repeat("models", config.models.refresh_interval_s, refresh)


async def fetch_all(pool: Pool, ledger: Ledger) -> None:
    """Ask every account once, some at a time."""
    gate = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def one(label: AccountLabel) -> None:
        async with gate:
            await fetch_one(pool, ledger, label)

    async with asyncio.TaskGroup() as group:
        for label, account in list(pool.accounts.items()):
            if lists_models(account.target):
                group.create_task(one(label))


async def fetch_one(pool: Pool, ledger: Ledger, label: AccountLabel) -> Found:
    """Ask one account; take its list when it is good, and book the fetch either way."""
    account = pool.accounts[label]
    found = await fetch_models(pool.clients[account.provider], account.target)
    at_ms = pool.clock.wall_ms()
    ledger.ping(PingRecord(label, at_ms, found.latency_us, found.status, len(found.models) or None, found.error))
    if found.error is None:
        models = merge(pool.lists.get(label, AccountModels()), found.models, at_ms)
        pool.take_list(label, models)
        ledger.model_list(label, models.models, at_ms)
    else:
        endpoint = account.target.provider.models_endpoint
        if endpoint is None or endpoint.required:
            _log.warning("%s: %s", label, found.error)
            ledger.event(EventRecord(at_ms, "catalog_failed", found.error, label))
    return found


async def poll_meters(pool: Pool, ledger: Ledger, learn: Learn) -> None:
    """Ask each account that has a meter what it has left, gently: at its interval, some at a time, for ever."""
    meters = Meters(pool, ledger, learn)
    gate = asyncio.Semaphore(METERS_AT_ONCE)

    async def one(label: AccountLabel) -> None:
        async def ask() -> None:
            await meters.ask(label)

        async with gate:
            await _guarded("meters", ask)

    async def turn() -> None:
        async with asyncio.TaskGroup() as group:
            for label in meters.due():
                group.create_task(one(label))

    while True:
        await _guarded("meters", turn)
        await asyncio.sleep(meters.nap_s())


async def retain(config: Config, pool: Pool, ledger: Ledger) -> None:
    """Delete what is older than the configuration wants it kept."""

    async def trim() -> None:
        await ledger.trim(
            pool.clock.wall_ms(),
            config.dashboard.retain_request_stats_days,
            config.dashboard.retain_event_days,
            config.models.ping_retain_days,
        )

    await _repeat("retention", RETENTION_INTERVAL_S, trim)


async def keep(pool: Pool, ledger: Ledger) -> None:
    """Write down, some time apart, what a restart needs."""

    async def write() -> None:
        keeping.keep(pool, ledger)

    await _repeat("keep", keeping.KEEP_INTERVAL_S, write)


async def tick(server: HttpServer) -> None:
    """Renew the Date header each second."""
    while True:
        await asyncio.sleep(1.0)
        server.tick()


async def _repeat(name: str, interval_s: float, job: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await _guarded(name, job)


async def _guarded(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """A job's boundary: whatever goes wrong inside ends here, and the next turn comes."""
    try:
        await job()
    except EggPoolError as error:
        _log.warning("the job %s failed: %s", name, error)
    except Exception as error:  # noqa: BLE001 - the job boundary
        _log.error("the job %s failed with an error that is a defect: %s", name, type(error).__name__, exc_info=error)
