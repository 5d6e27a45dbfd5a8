"""What providers say of their windows is believed: in headers, errors, usage endpoints; and so is a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.clock import START_MS, HandClock
from tests.helpers.pool import RunningPool, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, PATHS, opening

from eggpool.domain import AccountLabel
from eggpool.engine import by_hand
from eggpool.engine.metering import Meters
from eggpool.engine.status import accounts
from eggpool.errors import CommandRefused
from eggpool.scripted import Behaviour, ReceivedRequest, Reply, Script, ScriptedProvider, Steps, good, reply
from eggpool.scripted.behaviours import play

A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")
WEEK = """
[[providers.alpha.windows]]
name = "weekly"
kind = "block"
length = "7d"
percent = true
"""


async def served_by(pool: RunningPool, model: str = "scripted-large") -> str:
    """The account that answers a new conversation, or the status of the refusal."""
    async with pool.post(PATHS[CHAT], opening(model=model)) as answer:
        await answer.read()
        return str(answer.headers["x-eggpool-account"]) if answer.status == 200 else str(answer.status)


def with_headers(**headers: str) -> Script:
    """A good answer with such headers."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return good_reply.with_headers(*named).steps()

    return script


def metered(answer: Script) -> Script:
    """A good account whose usage endpoint answers so."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        return play(answer if request.path.endswith("/usage") else good, request, good_reply)

    return script


def usage(percent: float, resets_at_ms: int, status: str = "ok") -> Script:
    """An answer of OpenCode Go's usage endpoint about the week."""
    at = datetime.fromtimestamp(resets_at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
    return reply(200, {"usage": {"weekly": {"status": status, "percent": percent, "resetsAt": at}}})


async def ask_meters(pool: RunningPool, *labels: AccountLabel) -> None:
    """Ask these accounts' usage endpoints now."""
    live = pool.runtime.pool
    meters = Meters(live, pool.runtime.ledger, live.learn_reading)
    for label in labels:
        await meters.ask(label)


def test_headers_change_the_order(tmp_path: Path) -> None:
    """An account whose headers say that little is left is spared, for that model, until its window has refilled."""

    async def scenario() -> None:
        clock = HandClock()
        little = with_headers(
            x_ratelimit_limit_tokens="10000", x_ratelimit_remaining_tokens="100", x_ratelimit_reset_tokens="50s"
        )
        much = with_headers(
            x_ratelimit_limit_tokens="10000", x_ratelimit_remaining_tokens="9900", x_ratelimit_reset_tokens="1s"
        )
        async with pool_of(tmp_path, {"a": little, "b": much}, clock=clock) as (pool, _):
            assert [await served_by(pool) for _ in range(2)] == [A, B]
            for _ in range(4):
                clock.advance(1)
                assert await served_by(pool) == B
            assert await served_by(pool, "scripted-small") == A  # longer unused, and nothing is known of it there
            clock.advance(120)
            assert await served_by(pool) == A

    run(scenario)


SOON_MS = START_MS + 3 * 3_600_000
ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "zai": (
        429,
        {
            "error": {
                "code": "1308",
                "message": "Usage limit reached for 5 hour. Your limit will reset at "
                + datetime.fromtimestamp(SOON_MS / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
                + " UTC",
                "next_flush_time": SOON_MS,
            }
        },
    ),
    "codex": (
        429,
        {
            "error": {
                "type": "usage_limit_reached",
                "message": "The usage limit has been reached",
                "resets_at": SOON_MS // 1000,
            }
        },
    ),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_that_names_the_reset(tmp_path: Path, kind: str) -> None:
    """The account is not asked before the moment that its provider named, over a restart too, and then it is."""

    async def scenario() -> None:
        clock = HandClock()
        limited = Behaviour(reply(*ERRORS[kind]))
        async with ScriptedProvider({key_of("a"): limited}) as at:
            config = settings(tmp_path, provider("alpha", at, "a"))
            async with running_pool(config, clock) as pool:
                assert await served_by(pool) == "429"
                clock.advance(60)
                async with pool.post(PATHS[CHAT], opening()) as refused:
                    assert (refused.status, refused.headers["retry-after"]) == (429, str(3 * 3600 - 60))
                (shown,) = accounts(pool.runtime.pool)
                assert shown.state == "resting"
                assert {rest.kind for rest in shown.rests} == {"plan_window", "spent_five_hour"}
            clock.advance(3 * 3600 - 60 - 1)
            async with running_pool(config, clock) as pool:
                assert await served_by(pool) == "429"
                assert len(at.work) == 1
                clock.advance(1)
                assert [await served_by(pool) for _ in range(2)] == [A, A]

    run(scenario)


def test_a_person_wakes_a_used_up_account(tmp_path: Path) -> None:
    """Who knows better than an old word of the provider's says so: the account is tried, and speaks for itself."""

    async def scenario() -> None:
        limited = Behaviour(reply(*ERRORS["zai"]), good, reply(*ERRORS["zai"]))
        async with pool_of(tmp_path, {"a": limited}, clock=HandClock()) as (pool, upstream):
            assert [await served_by(pool) for _ in range(2)] == ["429", "429"]
            woken = by_hand.wake(pool.runtime.pool, "a")
            assert {rest.kind for rest in woken.woken} == {"plan_window", "spent_five_hour"}
            assert woken.still == ()
            assert [await served_by(pool) for _ in range(3)] == [A, "429", "429"]
            assert len(upstream.work) == 3

    run(scenario)


def test_a_usage_endpoint(tmp_path: Path) -> None:
    """A meter that says 100 % refuses until its reset, one with 40 % only orders, a broken one does nothing."""

    async def scenario() -> None:
        clock = HandClock()
        resets_at_ms = START_MS + 2 * 86_400_000
        accounts_of = {"a": metered(usage(40, resets_at_ms)), "b": metered(usage(30, resets_at_ms))}
        more = 'protocols = ["openai"]\nmeter = "opencode-go"\n'
        async with pool_of(tmp_path, accounts_of, more=more, clock=clock) as (pool, upstream):
            await ask_meters(pool, A, B)
            for _ in range(3):
                assert await served_by(pool) == B
                clock.advance(1)
            upstream.behave(key_of("b"), metered(usage(100, resets_at_ms, "rate-limited")))
            await ask_meters(pool, B)
            assert await served_by(pool) == A
            upstream.behave(key_of("a"), metered(usage(100, resets_at_ms, "rate-limited")))
            await ask_meters(pool, A)
            async with pool.post(PATHS[CHAT], opening()) as refused:
                assert refused.status == 429
                assert int(refused.headers["retry-after"]) == 2 * 86_400 - 3
                assert b"alpha/a: spent_weekly" in await refused.read()
            for broken in (reply(500), reply(200, b"<html>"), reply(401), reply(200, {"usage": {}})):
                upstream.behave(key_of("a"), metered(broken))
                await ask_meters(pool, A)
                assert await served_by(pool) == "429"
            clock.advance(2 * 86_400 - 3)
            live = pool.runtime.pool.accounts
            assert [live[label].quota.refusal(clock.wall_ms()) for label in (A, B)] == [None, None]
            assert await served_by(pool) in (A, B)

    run(scenario)


def test_a_meter_that_says_more_is_left_again(tmp_path: Path) -> None:
    """When the provider has given more before the reset, its newer word counts."""

    async def scenario() -> None:
        clock = HandClock()
        resets_at_ms = START_MS + 2 * 86_400_000
        more = 'protocols = ["openai"]\nmeter = "opencode-go"\n'
        full = metered(usage(100, resets_at_ms, "rate-limited"))
        async with pool_of(tmp_path, {"a": full}, more=more, clock=clock) as (pool, upstream):
            await ask_meters(pool, A)
            assert await served_by(pool) == "429"
            clock.advance(120)
            upstream.behave(key_of("a"), metered(usage(3, resets_at_ms)))
            await ask_meters(pool, A)
            assert await served_by(pool) == A

    run(scenario)


def test_quota_that_comes_back_before_its_time(tmp_path: Path) -> None:
    """When a meter says for a while that there is quota again, one request finds out, long before the told end."""

    async def scenario() -> None:
        clock = HandClock()
        far = {
            "type": "usage_limit_reached",
            "message": "The usage limit has been reached",
            "resets_at": (START_MS + 3 * 86_400_000) // 1000,
        }
        more = 'protocols = ["openai"]\nmeter = "opencode-go"\n'
        async with pool_of(tmp_path, {"a": Behaviour(reply(429, {"error": far}))}, more=more, clock=clock) as (
            pool,
            at,
        ):
            assert await served_by(pool) == "429"
            at.behave(key_of("a"), metered(usage(3, START_MS + 7 * 86_400_000)))
            await ask_meters(pool, A)
            assert await served_by(pool) == "429"  # two words stand against each other: the worse one counts
            clock.advance(3600)
            await ask_meters(pool, A)
            assert [await served_by(pool) for _ in range(2)] == [A, A]
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_drift_is_shown(tmp_path: Path) -> None:
    """How far a report lay from what was believed before it is kept and shown."""

    async def scenario() -> None:
        clock = HandClock()
        resets_at_ms = START_MS + 2 * 86_400_000
        more = 'protocols = ["openai"]\nmeter = "opencode-go"\n'
        async with pool_of(tmp_path, {"a": metered(usage(40, resets_at_ms))}, more=more, clock=clock) as (pool, at):
            await ask_meters(pool, A)
            clock.advance(120)
            at.behave(key_of("a"), metered(usage(55, resets_at_ms)))
            await ask_meters(pool, A)
            (shown,) = accounts(pool.runtime.pool)
            weekly = next(window for window in shown.windows if window.name == "weekly")
            assert weekly.used_share == pytest.approx(0.55)
            assert weekly.drift_last == pytest.approx(0.15)
            assert weekly.resets_at_ms == resets_at_ms
            assert weekly.source == "provider"

    run(scenario)


def test_a_success_ends_the_rest_of_a_429(tmp_path: Path) -> None:
    """After the rest of a limit one request is enough, and all that was known against the account is forgotten."""

    async def scenario() -> None:
        clock = HandClock()
        limited = reply(429, {"error": {"message": "Rate limit reached."}}, {"retry-after": "20"})
        async with pool_of(tmp_path, {"a": Behaviour(limited)}, clock=clock) as (pool, _):
            assert [await served_by(pool) for _ in range(2)] == ["429", "429"]
            clock.advance(20)
            assert await served_by(pool) == A
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_a_persons_word(tmp_path: Path) -> None:
    """What a person says of a window orders accounts and is shown, never refuses, and ends at the reset."""

    async def scenario() -> None:
        clock = HandClock()
        async with ScriptedProvider({key_of(name): good for name in "ab"}) as at:
            config = settings(tmp_path, provider("alpha", at, "a", "b") + WEEK)
            async with running_pool(config, clock) as pool:
                live = pool.runtime.pool
                told = by_hand.set_used(live, "a", "weekly", 1.0)
                assert told == {"account": A, "window": "weekly", "used_share": 1.0}
                assert [await served_by(pool) for _ in range(3)] == [B] * 3
                by_hand.rest(live, "b", 60)
                assert await served_by(pool) == A
                by_hand.wake(live, "b")
                with pytest.raises(CommandRefused, match=r"it has: .*weekly"):
                    by_hand.set_used(live, "a", "yearly", 0.5)
                async with pool.get("/api/status") as shown:
                    first = json.loads(await shown.read())["accounts"][0]
                assert next(one for one in first["windows"] if one["name"] == "weekly")["used_share"] == 1.0
            async with running_pool(config, clock) as pool:
                assert await served_by(pool) == B
                clock.advance(7 * 86_400 + 1)
                assert await served_by(pool) == A

    run(scenario)
