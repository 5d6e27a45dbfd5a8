"""How accounts are said to stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.clock import START_MS, HandClock
from tests.helpers.pool import pool_of, run
from tests.scenarios.asking import CHAT, PATHS, question

from eggpool.domain import AccountLabel
from eggpool.engine import by_hand
from eggpool.engine.status import MOST_RESTS_SHOWN, accounts, pool_status
from eggpool.routing.health import Failed, TrialBegan, account_scope, model_scope, provider_scope
from eggpool.scripted import good

A = AccountLabel("alpha/a")
WORD = Failed("plan_window", on_providers_word=True, first_rest_s=60, jitter=0.0, told_s=60)
GUESS = Failed("network", on_providers_word=False, first_rest_s=60, jitter=0.0)

DISABLED = """
[providers.beta]
id = "beta"
base_url = "http://127.0.0.1:9/v1"
static_models = ["x"]
[[providers.beta.accounts]]
name = "off"
api_key = "test-key-off-0000"
enabled = false
"""


@pytest.mark.parametrize(
    ("scope", "event", "passed_s", "state"),
    [
        (account_scope(A), WORD, 0, "resting"),
        (provider_scope("alpha"), WORD, 0, "resting"),
        (account_scope(A), GUESS, 0, "last_resort"),
        (provider_scope("alpha"), GUESS, 0, "last_resort"),
        (model_scope(A, "m"), WORD, 0, "ready"),
        (account_scope(A), WORD, 61, "ready"),
        (account_scope(AccountLabel("alpha/other")), WORD, 0, "ready"),
    ],
)
def test_states(tmp_path: Path, scope: tuple[str, ...], event: Failed, passed_s: float, state: str) -> None:
    """A word refuses, a guess puts last, a model's rest is the model's own, and a rest that is over lets through."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good}, clock=clock) as (pool, _):
            live = pool.runtime.pool
            live.resting_scopes.step([scope], event, A)
            clock.advance(passed_s)
            (account,) = accounts(live)
            assert account.state == state
            if passed_s:
                assert [(rest.state, rest.left_s) for rest in account.rests] == [("due", 0.0)]
                live.resting_scopes.step([scope], TrialBegan(), A)
                (account,) = accounts(live)
                assert account.state == "on_trial"
                assert [rest.state for rest in account.rests] == ["trial"]

    run(scenario)


def test_what_is_told_of_a_rest(tmp_path: Path) -> None:
    """Its kind, on whose word, until when on the clock of people, and how long yet."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good}, extra=DISABLED, clock=clock) as (pool, _):
            live = pool.runtime.pool
            live.resting_scopes.step([provider_scope("alpha")], WORD, A)
            by_hand.rest(live, "a", 600)
            live.resting_scopes.step([model_scope(A, "m")], GUESS, A)
            clock.advance(10)
            off, account = accounts(live)
            assert [(rest.scope, rest.name, rest.kind, rest.word, rest.left_s) for rest in account.rests] == [
                ("provider", "alpha", "plan_window", "provider", 50),
                ("account", "alpha/a", "by_hand", "user", 590),
                ("model", "m", "network", "guess", 50),
            ]
            assert [rest.until_ms for rest in account.rests] == [
                START_MS + 60_000,
                START_MS + 600_000,
                START_MS + 60_000,
            ]
            assert (off.account, off.enabled, off.state) == ("beta/off", False, "disabled")

    run(scenario)


def test_last_used(tmp_path: Path) -> None:
    """When an account was last asked, on the clock of people; nothing before its first request."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": good}, clock=clock) as (pool, _):
            assert pool_status(pool.runtime).accounts[0].last_used_ms is None
            clock.advance(5)
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            clock.advance(7)
            told = pool_status(pool.runtime)
            assert told.accounts[0].last_used_ms == START_MS + 5000
            assert (told.uptime_s, told.started_at_ms, told.now_ms) == (12, START_MS, START_MS + 12_000)

    run(scenario)


def test_many_rests_are_counted(tmp_path: Path) -> None:
    """However many models rest, an answer stays short and says how many it leaves out."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            live = pool.runtime.pool
            for number in range(MOST_RESTS_SHOWN + 5):
                live.resting_scopes.step([model_scope(A, f"m{number}")], GUESS, A)
            (account,) = accounts(live)
            assert (len(account.rests), account.more_rests) == (MOST_RESTS_SHOWN, 5)

    run(scenario)
