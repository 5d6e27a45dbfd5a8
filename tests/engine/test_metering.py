"""When usage endpoints are asked: soon, then at each interval, and ever less often while they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.engine.test_pool import Notebook
from tests.helpers.clock import HandClock
from tests.helpers.pool import key_of, provider, run, settings

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel
from eggpool.engine import jobs
from eggpool.engine.clock import Clock
from eggpool.engine.metering import FIRST_WITHIN_S, LONGEST_PAUSE_S, Meters, pause_s
from eggpool.engine.pool import Pool
from eggpool.scripted import Behaviour, ScriptedProvider, error, html_200, reply
from eggpool.store.ledger import Ledger
from eggpool.upstream.meters import Reading

A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")
GOOD = reply(200, {"usage": {"rolling": {"status": "ok", "percent": 7}}})
METER = 'meter = "opencode-go"'


class Told:
    """What was learnt."""

    def __init__(self) -> None:
        self.readings: list[tuple[AccountLabel, Reading]] = []

    def __call__(self, label: AccountLabel, reading: Reading) -> None:
        """Take a reading."""
        self.readings.append((label, reading))


@asynccontextmanager
async def opened(config: Config, clock: Clock) -> AsyncIterator[tuple[Pool, Notebook, Ledger]]:
    """A pool with books in memory, closed at the end."""
    notebook = Notebook()
    ledger = Ledger(notebook)
    pool = Pool(config, ledger, clock)
    try:
        yield pool, notebook, ledger
    finally:
        await pool.aclose()


@given(st.floats(10, 1e6), st.integers(0, 10**6), st.floats(0, 1))
def test_a_pause_is_bounded(interval_s: float, failures: int, jitter: float) -> None:
    """Never shorter than the interval, never longer than an hour (or the interval) and a tenth."""
    pause = pause_s(interval_s, failures, jitter)
    assert interval_s <= pause <= max(interval_s, LONGEST_PAUSE_S) * 1.1


def test_a_pause_doubles_with_each_failure() -> None:
    """Two minutes, four, eight ... an hour."""
    assert [pause_s(120.0, failures, 0.0) for failures in range(7)] == [120, 240, 480, 960, 1920, 3600, 3600]


def test_each_account_with_a_meter_is_due_soon_and_then_at_its_interval(tmp_path: Path) -> None:
    """Within seconds of the start, then once in each interval; an account without a meter never."""

    async def scenario() -> None:
        async with ScriptedProvider(default=GOOD) as there:
            text = provider("alpha", there, "a", "b", extra=METER) + provider("beta", there, "c")
            clock = HandClock()
            async with opened(settings(tmp_path, text), clock) as (pool, _, ledger):
                told = Told()
                meters = Meters(pool, ledger, told)
                found = {*meters.due()}
                assert meters.nap_s() <= FIRST_WITHIN_S
                clock.advance(FIRST_WITHIN_S)
                found |= {*meters.due()}
                assert found == {A, B}
                assert meters.due() == []
                clock.advance(119.0 - FIRST_WITHIN_S)
                assert meters.due() == []
                clock.advance(1.0 + FIRST_WITHIN_S + 12.0)
                assert {*meters.due()} == {A, B}
                await meters.ask(A)
                assert [(label, reading.reports[0].used_share) for label, reading in told.readings] == [(A, 0.07)]
                assert told.readings[0][1].reports[0].at_ms == clock.wall_ms()

    run(scenario)


def test_a_meter_that_fails_changes_nothing_but_an_event_at_its_first_failure(tmp_path: Path) -> None:
    """Nothing is learnt, one event is told for a row of failures, and the pauses grow; a success begins anew."""

    async def scenario() -> None:
        key = key_of("a")
        behaviour = Behaviour(error(500), html_200(), GOOD, error(401), then=GOOD)
        async with ScriptedProvider({key: behaviour}) as there:
            clock = HandClock()
            async with opened(settings(tmp_path, provider("alpha", there, "a", extra=METER)), clock) as (
                pool,
                notebook,
                ledger,
            ):
                told = Told()
                meters = Meters(pool, ledger, told)
                meters.due()
                clock.advance(FIRST_WITHIN_S)
                meters.due()
                for pause, learnt, events in ((240.0, 0, 1), (480.0, 0, 1), (120.0, 1, 1), (240.0, 1, 2)):
                    await meters.ask(A)
                    assert len(told.readings) == learnt
                    assert notebook.events == ["meter_failed"] * events
                    clock.advance(pause - 1.0)
                    assert meters.due() == []
                    clock.advance(1.0 + pause * 0.1)
                    assert meters.due() == [A]
                assert pool.ready
                assert not pool.resting

    run(scenario)


def test_the_job_goes_on_whatever_one_account_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A meter that fails and a reader that is broken are in nobody's way."""

    async def scenario() -> None:
        keys = {key_of("a"): Behaviour(then=GOOD), key_of("b"): Behaviour(then=error(500))}
        keys[key_of("c")] = Behaviour(then=GOOD)
        async with ScriptedProvider(keys) as there:
            config = settings(tmp_path, provider("alpha", there, "a", "b", "c", extra=METER))
            async with opened(_impatient(config), Clock()) as (pool, notebook, ledger):
                enough = asyncio.Event()
                seen: list[AccountLabel] = []

                def learn(label: AccountLabel, _: Reading) -> None:
                    if label == "alpha/c":
                        raise ValueError("a defect")
                    seen.append(label)
                    if len(seen) == 3:
                        enough.set()

                job = asyncio.ensure_future(jobs.poll_meters(pool, ledger, learn))
                await enough.wait()
                await there.wait_for(lambda one: {request.api_key for request in one.requests} == set(keys))
                job.cancel()
                await asyncio.wait([job])
                assert set(seen) == {A}
                assert notebook.events == ["meter_failed"]

    run(scenario)
    assert "a defect" in caplog.text


def _impatient(config: Config) -> Config:
    """The same with an interval that no person could configure, so that the test need not wait."""
    there = config.providers["alpha"]
    accounts = tuple(replace(account, meter_interval_s=0.01) for account in there.accounts)
    return replace(config, providers={"alpha": replace(there, accounts=accounts)})
