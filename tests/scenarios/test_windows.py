"""What accounts may spend: windows order accounts, refuse only where the user says so, and outlive the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from pathlib import Path

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import RunningPool, after_a_crash, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, opening

from eggpool.domain import AccountLabel, Dialect, QuotaUnit, Usage
from eggpool.engine import keeping
from eggpool.scripted import (
    Behaviour,
    Script,
    ScriptedProvider,
    WaitFor,
    cut_stream,
    error,
    error_in_stream,
    good,
    hang_after_events,
    rate_limited,
    say,
)

DOLLARS = 1_000_000_000  # in nanodollars
A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")
COSTLY = say("so it is", usage=Usage(input_tokens=100_000, output_tokens=0))
"""An answer that costs 30 cents: 100,000 tokens at 3 dollars a million."""

DOLLAR_A_WEEK = """
[limits]
five_hour_microdollars = 0
weekly_microdollars = 1_000_000
monthly_microdollars = 0
"""


async def served_by(pool: RunningPool, body: bytes | None = None, path: str = PATHS[CHAT], **headers: str) -> str:
    """The account that answers a new conversation, or the status of the refusal."""
    async with pool.post(path, body or opening(), **headers) as reply:
        await reply.read()
        return str(reply.headers["x-eggpool-account"]) if reply.status == 200 else str(reply.status)


def spent(pool: RunningPool, label: AccountLabel, window: str = "weekly") -> int:
    """What a window has counted, in its own unit."""
    return sum(one.own for one in pool.runtime.pool.accounts[label].quota.windows if one.spec.name == window)


def share(pool: RunningPool, label: AccountLabel, window: str = "weekly") -> float:
    """How far a window is used, reservations included."""
    views = pool.runtime.pool.accounts[label].quota.view(pool.runtime.clock.wall_ms())
    used = next(view.used_share for view in views if view.name == window)
    assert used is not None
    return used


def test_limits_spare_the_account_that_is_ahead(tmp_path: Path) -> None:
    """New conversations go to the account that has used less of its week, until it has used more."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": COSTLY, "b": COSTLY}, extra=DOLLAR_A_WEEK, clock=clock) as (pool, _):
            assert await served_by(pool) == A
            clock.advance(1)
            assert await served_by(pool) == B
            clock.advance(1)
            live = pool.runtime.pool.accounts[B].quota
            live.set_used("weekly", 0.9, clock.wall_ms())
            assert [await served_by(pool) for _ in range(2)] == [A, A]
            assert spent(pool, A) == 3 * 3 * DOLLARS // 10

    run(scenario)


def test_limits_never_refuse(tmp_path: Path) -> None:
    """However far beyond its assumed limit an account is, it is used when there is no better one."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": COSTLY}, extra=DOLLAR_A_WEEK, clock=HandClock()) as (pool, _):
            assert {await served_by(pool) for _ in range(10)} == {A}
            assert share(pool, A) > 2.9

    run(scenario)


def test_a_used_up_account_comes_last_in_its_tier(tmp_path: Path) -> None:
    """What is used up by our estimate comes behind a metered account of its tier, but before a lower tier."""

    async def scenario() -> None:
        clock = HandClock()
        offset = "[providers.alpha.limits]\nweekly_microdollars = 1_000_000\noffset_weekly_microdollars = 1_000_000\n"
        async with ScriptedProvider({key_of(name): good for name in "abc"}) as at:
            text = (
                provider("alpha", at, "a", extra='billing = "plan"\nrouting_priority = 1')
                + offset
                + provider("beta", at, "b", extra='billing = "metered"\nrouting_priority = 1')
                + provider("gamma", at, "c")
            )
            async with running_pool(settings(tmp_path, text), clock) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 3)
                assert await served_by(pool) == "beta/b"
                at.behave(key_of("b"), rate_limited(600))
                assert await served_by(pool) == "alpha/a"
                at.behave(key_of("a"), rate_limited(600))
                assert await served_by(pool) == "gamma/c"

    run(scenario)


def test_plan_before_metered(tmp_path: Path) -> None:
    """What is prepaid is used before what is paid by the token, whatever came first; and the latter when it fails."""

    async def scenario() -> None:
        clock = HandClock()
        async with ScriptedProvider({key_of(name): good for name in "ab"}) as at:
            text = provider("alpha", at, "a") + provider("beta", at, "b", extra='billing = "plan"')
            async with running_pool(settings(tmp_path, text), clock) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                for _ in range(3):
                    assert await served_by(pool) == "beta/b"
                    clock.advance(1)
                at.behave(key_of("b"), rate_limited(600))
                assert await served_by(pool) == "alpha/a"

    run(scenario)


@pytest.mark.parametrize("offset", [0, 600_000])
def test_an_enforced_ceiling(tmp_path: Path, offset: int) -> None:
    """With `enforce` the ceiling refuses with 429 and the time when enough of the window is over, not longer."""

    async def scenario() -> None:
        clock = HandClock()
        extra = DOLLAR_A_WEEK + f"enforce = true\noffset_weekly_microdollars = {offset}\n"
        async with pool_of(tmp_path, {"a": COSTLY}, extra=extra, clock=clock) as (pool, upstream):
            for _ in range(2 if offset else 4):
                assert await served_by(pool) == A
                clock.advance(3600)
            asked = len(upstream.work)
            async with pool.post(PATHS[CHAT], opening()) as refused:
                assert refused.status == 429
                assert b"alpha/a: ceiling_weekly" in await refused.read()
                back_s = int(refused.headers["retry-after"])
            assert 5 * 86_400 < back_s <= 7 * 86_400 + 2 * 3600
            assert len(upstream.work) == asked
            async with pool.http.get(pool.url + "/v1/readyz") as ready:
                assert ready.status == 503
            clock.advance(back_s - 1)
            assert await served_by(pool) == "429"
            clock.advance(1)
            async with pool.http.get(pool.url + "/v1/readyz") as ready:
                assert ready.status == 200
            assert await served_by(pool) == A

    run(scenario)


def test_a_ceiling_counts_what_is_under_way(tmp_path: Path) -> None:
    """A request that runs holds its place below the ceiling; when it turns out cheaper, the next one is let through."""

    async def scenario() -> None:
        go = asyncio.Event()
        table = """
[[providers.alpha.windows]]
name = "daily"
kind = "anchored"
every = "day"
limit_requests = 2
enforce = true
"""
        async with ScriptedProvider({key_of("a"): lambda _, reply: (WaitFor(go), *reply.steps())}) as at:
            config = settings(tmp_path, provider("alpha", at, "a") + table)
            async with running_pool(config, HandClock()) as pool:
                running = [asyncio.create_task(pool.answer(PATHS[CHAT], opening())) for _ in range(2)]
                await at.wait_for(lambda there: len(there.work) == 2)
                async with pool.post(PATHS[CHAT], opening()) as refused:
                    # Nobody knows yet what they will cost in the end.
                    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
                go.set()
                assert [(await one)[0] for one in running] == [200, 200]
                assert share(pool, A, "daily") == 1.0

    run(scenario)


def test_a_window_by_the_calendar(tmp_path: Path) -> None:
    """A window of a day ends at midnight UTC, to the second."""

    async def scenario() -> None:
        clock = HandClock()  # 14:13:20 UTC
        table = """
[[providers.alpha.windows]]
name = "daily"
kind = "anchored"
every = "day"
limit_requests = 2
enforce = true
"""
        async with (
            ScriptedProvider() as at,
            running_pool(settings(tmp_path, provider("alpha", at, "a") + table), clock) as pool,
        ):
            assert [await served_by(pool) for _ in range(3)] == [A, A, "429"]
            async with pool.post(PATHS[CHAT], opening()) as refused:
                assert int(refused.headers["retry-after"]) == (24 - 14) * 3600 - 13 * 60 - 20
            clock.advance((24 - 14) * 3600 - 13 * 60 - 21)
            assert await served_by(pool) == "429"
            clock.advance(1)
            assert await served_by(pool) == A

    run(scenario)


def test_a_restart_knows_what_was_spent(tmp_path: Path) -> None:
    """The next process counts on where the last one stopped, whether that ended well or died."""

    async def scenario() -> None:
        clock = HandClock()
        async with ScriptedProvider({key_of("a"): COSTLY, key_of("b"): COSTLY}) as at:
            config = settings(tmp_path, provider("alpha", at, "a", "b"), DOLLAR_A_WEEK)
            async with running_pool(config, clock) as pool:
                for number in range(5):
                    await served_by(pool)
                    clock.advance(1)
                    if number in (1, 2):  # after the second time one of them has the older word
                        keeping.keep(pool.runtime.pool, pool.runtime.ledger)
                        clock.advance(1)
                before = {label: spent(pool, label) for label in (A, B)}
                assert sum(before.values()) == 5 * 3 * DOLLARS // 10
                while not await pool.runtime.database.settle(1.0):
                    pass
                again = after_a_crash(config, tmp_path / "crashed")
            for follower in (config, again):
                async with running_pool(follower, clock) as pool:
                    assert {label: spent(pool, label) for label in (A, B)} == before

    run(scenario)


def test_a_ceiling_that_is_switched_on_knows_the_past(tmp_path: Path) -> None:
    """What the books hold counts below a limit that the user sets afterwards."""

    async def scenario() -> None:
        clock = HandClock()
        async with ScriptedProvider({key_of("a"): COSTLY}) as at:
            text = provider("alpha", at, "a")
            async with running_pool(settings(tmp_path, text, DOLLAR_A_WEEK), clock) as pool:
                assert {await served_by(pool) for _ in range(4)} == {A}
            clock.advance(60)
            enforced = settings(tmp_path, text, DOLLAR_A_WEEK + "enforce = true\n")
            async with running_pool(enforced, clock) as pool:
                assert spent(pool, A) == 4 * 3 * DOLLARS // 10
                assert await served_by(pool) == "429"

    run(scenario)


ENDINGS: dict[str, tuple[Script, Dialect, bool]] = {
    "plain": (good, CHAT, False),
    "stream": (good, CHAT, True),
    "messages": (good, MESSAGES, True),
    "costly": (COSTLY, MESSAGES, False),
    "fails": (error(500), CHAT, False),
    "limited": (rate_limited(1), CHAT, True),
    "refused": (error(400), CHAT, False),
    "cut": (cut_stream(5), MESSAGES, True),
    "cut at once": (cut_stream(0), MESSAGES, True),
    "error in stream": (error_in_stream(5), MESSAGES, True),
    "leaves": (hang_after_events(5), MESSAGES, True),
    "leaves early": (hang_after_events(0), MESSAGES, True),
}
"""By name: what the account does, and what it is asked."""


@pytest.mark.parametrize("seed", range(4))
def test_what_is_booked_is_what_windows_count(tmp_path: Path, seed: int) -> None:
    """Whatever the ends of requests, the money in the books is the money in the windows, also after a crash."""

    async def scenario() -> None:
        chance, clock = random.Random(seed), HandClock()
        async with ScriptedProvider({key_of(name): good for name in "ab"}) as at:
            config = settings(tmp_path, provider("alpha", at, "a", "b", extra=ALL), DOLLAR_A_WEEK)
            async with running_pool(config, clock) as pool:
                count = 40
                for _ in range(count):
                    name = chance.choice(sorted(ENDINGS))
                    script, dialect, stream = ENDINGS[name]
                    for account in "ab":
                        at.behave(key_of(account), Behaviour(then=script))
                    body = opening(dialect, stream=stream)
                    if name.startswith("leaves"):
                        served = len(at.work)
                        asking = asyncio.create_task(pool.answer(PATHS[dialect], body))
                        await at.wait_for(lambda there, served=served: len(there.work) > served)  # type: ignore[misc]
                        await pool.until(lambda early=name == "leaves early": early or _relaying(pool))  # type: ignore[misc]
                        asking.cancel()
                        await pool.until(lambda: pool.in_flight == 0)
                    else:
                        with contextlib.suppress(OSError):
                            await pool.answer(PATHS[dialect], body)
                    await pool.until(lambda: pool.in_flight == 0)
                    clock.advance(chance.choice([2, 20, 200]))
                    if chance.random() < 0.2:
                        keeping.keep(pool.runtime.pool, pool.runtime.ledger)
                        clock.advance(0.5)
                await pool.booked(count)
                booked = dict(
                    await pool.rows(
                        "SELECT account, sum(coalesce(cost_nanodollars, 0)) FROM requests "
                        "WHERE account IS NOT NULL GROUP BY account"
                    )
                )
                counted = {label: spent(pool, label) for label in (A, B)}
                assert sum(counted.values()) > 0
                assert counted == {label: booked.get(label, 0) for label in (A, B)}
                for label in (A, B):
                    quota = pool.runtime.pool.accounts[label].quota
                    assert not any(quota.reserved(unit) for unit in QuotaUnit)
                again = after_a_crash(config, tmp_path / "crashed")
            for follower in (config, again):
                async with running_pool(follower, clock) as pool:
                    assert {label: spent(pool, label) for label in (A, B)} == counted

    run(scenario, 60)


ALL = 'protocols = ["openai", "anthropic", "responses"]'


def _relaying(pool: RunningPool) -> bool:
    """Whether an answer is on its way to a client."""
    return any(connection.responding for connection in pool.client_connections)


def test_offsets_are_shown_and_weigh(tmp_path: Path) -> None:
    """What was spent outside the pool counts from the start."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of(name): good for name in "ab"}) as at:
            text = provider("alpha", at, "b", "a").replace(
                'name = "b"\n', 'name = "b"\nweekly_offset_microdollars = 500_000\n'
            )
            async with running_pool(settings(tmp_path, text, DOLLAR_A_WEEK), HandClock()) as pool:
                assert share(pool, B) == 0.5
                assert share(pool, A) == 0.0
                assert [await served_by(pool) for _ in range(3)] == [A] * 3
                async with pool.get("/api/status") as reply:
                    told = json.loads(await reply.read())
                shown = {
                    account["account"]: {window["name"]: window["used_share"] for window in account["windows"]}
                    for account in told["accounts"]
                }
                assert shown[B]["weekly"] == 0.5

    run(scenario)
