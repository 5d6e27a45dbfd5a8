"""Rests are kept over a restart, bounded in number, and never for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import key_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, PATHS, question

from eggpool.domain import AccountLabel
from eggpool.engine.rests import MOST_RESTS, Rests
from eggpool.routing.health import Failed, Succeeded, model_scope
from eggpool.scripted import Behaviour, ScriptedProvider, good, rate_limited
from eggpool.store.db import Database
from eggpool.store.ledger import Ledger

A = AccountLabel("alpha/a")
SCOPE = model_scope(A, "m")


def limited(told_s: float) -> Failed:
    """A limit that a provider told, with its time."""
    return Failed("rate", on_providers_word=True, first_rest_s=1.0, jitter=0.0, told_s=told_s)


def test_a_restart_obeys_what_the_provider_said(tmp_path: Path) -> None:
    """The next process does not ask an account before the time that its provider named to the last one."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): Behaviour(rate_limited(retry_after=3600), then=good)}) as upstream:
            config = settings(tmp_path, provider("alpha", upstream, "a"))
            clock = HandClock()
            async with running_pool(config, clock) as pool:
                status, _ = await pool.answer(PATHS[CHAT], question())
                assert status == 429
            clock.advance(100)
            async with running_pool(config, clock) as pool:
                async with pool.post(PATHS[CHAT], question()) as reply:
                    assert reply.status == 429
                    assert 3490 <= int(reply.headers["retry-after"]) <= 3500
                assert len(upstream.work) == 1
                clock.advance(3501)
                status, _ = await pool.answer(PATHS[CHAT], question())
                assert status == 200
            async with running_pool(config, clock) as pool:
                assert pool.runtime.pool.rests == {}

    run(scenario)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rest:not json", "{}"),
        ('rest:["model","alpha/a","m"]', "not json"),
        ('rest:["model","alpha/a","m"]', '{"kind":"rate"}'),
        ("other", "x"),
    ],
)
def test_what_cannot_be_read_is_passed_over(key: str, value: str, tmp_path: Path) -> None:
    """A state of another version, or a damaged one, rests nothing."""
    database = Database.open(tmp_path / "usage.sqlite3")
    try:
        rests = Rests(Ledger(database), HandClock())
        rests.restore({key: value})
        assert rests.states == {}
    finally:
        database.close()


def test_a_kept_rest_that_lies_absurdly_far_ahead_is_bounded(tmp_path: Path) -> None:
    """Whatever a damaged clock wrote down, no rest is longer than the longest window there is."""
    database = Database.open(tmp_path / "usage.sqlite3")
    try:
        clock = HandClock()
        rests = Rests(Ledger(database), clock)
        far = f'{{"kind":"rate","until_ms":{clock.wall_ms() * 1000},"on_providers_word":true,"failures":1}}'
        rests.restore({'rest:["account","alpha/a"]': far})
        clock.advance(32 * 24 * 3600)
        assert rests.status(("account", A)) == "due"
    finally:
        database.close()


def test_the_number_of_rests_is_bounded(tmp_path: Path) -> None:
    """A caller that names ever new models cannot fill the memory: those that end first are forgotten."""
    database = Database.open(tmp_path / "usage.sqlite3")
    try:
        clock = HandClock()
        rests = Rests(Ledger(database), clock)
        rests.step([SCOPE], limited(3600), A)
        for number in range(MOST_RESTS + 10):
            rests.step([model_scope(A, f"model-{number}")], limited(2), A)
        assert len(rests.states) <= MOST_RESTS
        assert rests.status(SCOPE) == "resting"
        rests.step([SCOPE], Succeeded(clock.now()), A)
        assert rests.status(SCOPE) == "well"
    finally:
        database.close()
