"""What a provider says about limits holds, has its scope, and ends."""

from __future__ import annotations

import asyncio
import json
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.helpers.clock import START_MS, HandClock
from tests.helpers.pool import key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES, opening, question

from eggpool.domain import Dialect
from eggpool.scripted import (
    Behaviour,
    Pause,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    SendChunk,
    Steps,
    WaitFor,
    drop_before_reply,
    error,
    good,
    rate_limited,
    reply,
)

NO_BALANCE = reply(429, {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}})


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, RESPONSES])
def test_every_account_limited(tmp_path: Path, dialect: Dialect) -> None:
    """With every account limited, a client gets 429 and the time of the first to come back; nobody is asked again."""

    async def scenario() -> None:
        clock = HandClock()
        accounts = {"a": rate_limited(40), "b": rate_limited(30)}
        async with pool_of(tmp_path, accounts, clock=clock) as (pool, upstream):
            async with pool.post(PATHS[dialect], question(dialect)) as first:
                assert (first.status, first.headers["retry-after"]) == (429, "30")
                assert b"Rate limit reached." in await first.read()
            clock.advance(10)
            async with pool.post(PATHS[dialect], question(dialect)) as second:
                assert (second.status, second.headers["retry-after"]) == (429, "20")
                assert second.headers["x-proxy-attempt-count"] == "0"
                told = json.loads(await second.read())["error"]
                assert told["type"] == "rate_limit_error"
                assert "alpha/a" in told["message"]
                assert "alpha/b" in told["message"]
            assert len(upstream.work) == 2
            refused = (await pool.booked(2))[0].record
            assert (refused.outcome.value, refused.status, refused.error_class) == ("error", 429, "rate_limited")

    run(scenario)


def test_retry_after_is_never_missing(tmp_path: Path) -> None:
    """A provider's 429 without a time is passed on with the time that the pool itself will wait."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"a": rate_limited()}, clock=HandClock()) as (pool, _),
            pool.post(PATHS[CHAT], question()) as answer,
        ):
            assert (answer.status, answer.headers["retry-after"]) == (
                429,
                "2",
            )  # a second and a little: who comes back then is served

    run(scenario)


@pytest.mark.parametrize("retry_after", [30, formatdate(START_MS / 1000 + 30, usegmt=True)], ids=["seconds", "date"])
def test_one_probe_when_the_rest_ends(tmp_path: Path, retry_after: int | str) -> None:
    """When a rest ends, one request tries the account while the others still get 429; its success ends the rest."""

    async def scenario() -> None:
        clock, go = HandClock(), asyncio.Event()
        script = Behaviour(rate_limited(retry_after), lambda _, good_reply: (WaitFor(go), *good_reply.steps()))
        async with pool_of(tmp_path, {"a": script}, clock=clock) as (pool, upstream):
            for _ in range(3):
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
                clock.advance(9)
            assert len(upstream.work) == 1
            clock.advance(45)
            probe = asyncio.create_task(pool.answer(PATHS[CHAT], question()))
            await upstream.wait_for(lambda there: len(there.work) == 2)
            for _ in range(3):
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            go.set()
            assert (await probe)[0] == 200
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            assert len(upstream.work) == 3

    run(scenario)


def test_a_probe_that_fails_rests_longer(tmp_path: Path) -> None:
    """Without a time from the provider, each failed probe doubles the rest: there is one probe for each rest."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": rate_limited()}, clock=clock) as (pool, upstream):
            await pool.answer(PATHS[CHAT], question())
            for _ in range(100):
                clock.advance(0.5)
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            # 1, 2, 4, 8, 16 and 32 seconds (a tenth more at most) within 50.
            assert 5 <= len(upstream.work) <= 6

    run(scenario)


def test_a_probe_whose_client_leaves(tmp_path: Path) -> None:
    """A probe whose client left tells nothing: the next request is the probe, and nothing stays locked."""

    async def scenario() -> None:
        clock = HandClock()
        script = Behaviour(rate_limited(5), (WaitFor(asyncio.Event()),))
        async with pool_of(tmp_path, {"a": script}, clock=clock) as (pool, upstream):
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            clock.advance(6)
            probe = asyncio.create_task(pool.answer(PATHS[CHAT], question()))
            await upstream.wait_for(lambda there: len(there.work) == 2)
            probe.cancel()
            await pool.until(lambda: pool.in_flight == 0)
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200

    run(scenario)


def test_scope_of_a_rate_limit(tmp_path: Path) -> None:
    """A 429 rests one model at one account: other models there are served on."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(rate_limited(60))}, clock=HandClock()) as (pool, _):
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            assert (await pool.answer(PATHS[CHAT], question(model="scripted-small")))[0] == 200

    run(scenario)


def test_scope_of_a_spent_balance(tmp_path: Path) -> None:
    """A spent balance rests the account, not its neighbour at the same provider; the pool stays ready for work."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": NO_BALANCE, "b": Behaviour(good, NO_BALANCE)}, clock=clock) as (pool, _):
            async with pool.post(PATHS[CHAT], question()) as answer:
                assert answer.headers["x-eggpool-account"] == "alpha/b"
            async with pool.http.get(pool.url + "/v1/readyz") as ready:
                assert ready.status == 200
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            assert (await pool.answer(PATHS[CHAT], question(model="scripted-small")))[0] == 429
            async with pool.http.get(pool.url + "/v1/readyz") as ready:
                assert (ready.status, (await ready.json())["status"]) == (503, "degraded")
            clock.advance(120)
            async with pool.http.get(pool.url + "/v1/readyz") as ready:
                assert ready.status == 200

    run(scenario)


def test_guesses_never_refuse(tmp_path: Path) -> None:
    """Whatever went wrong without a provider's word, the account is still tried when there is no other."""

    async def scenario() -> None:
        faults: tuple[Script, ...] = (error(500), error(401), error(403), error(529), drop_before_reply())
        async with pool_of(tmp_path, {"a": Behaviour(*faults)}, clock=HandClock()) as (pool, upstream):
            while (await pool.answer(PATHS[CHAT], question()))[0] != 200:
                assert len(upstream.work) < 10

    run(scenario)


def test_max_concurrency(tmp_path: Path) -> None:
    """An account takes no more requests at once than the operator allows; beyond that the answer is 429."""

    async def scenario() -> None:
        go = asyncio.Event()
        async with ScriptedProvider({key_of("a"): lambda _, reply: (WaitFor(go), *reply.steps())}) as upstream:
            table = provider("alpha", upstream, "a") + "max_concurrency = 2"
            async with running_pool(settings(tmp_path, table)) as pool:
                waiting = [asyncio.create_task(pool.answer(PATHS[CHAT], question())) for _ in range(2)]
                await upstream.wait_for(lambda there: len(there.work) == 2)
                async with pool.post(PATHS[CHAT], question()) as third:
                    assert third.status == 429
                    assert int(third.headers["retry-after"]) >= 1
                    assert b"max_concurrency" in await third.read()
                go.set()
                assert [(await one)[0] for one in waiting] == [200, 200]

        run(scenario)


def test_deadline(tmp_path: Path) -> None:
    """When nobody answers before the pool's deadline, the client gets a 504 and the provider is let go."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": (WaitFor(asyncio.Event()),)}, extra="[routing]\ndeadline_s = 0.2") as (
            pool,
            upstream,
        ):
            status, body = await pool.answer(PATHS[CHAT], question())
            assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_passed")
            await upstream.wait_for(lambda there: there.work[0].end == "client_left")
            row = (await pool.booked(1))[0]
            assert (row.record.outcome.value, row.attempts[0].error_class) == ("error", "timeout")

    run(scenario)


def test_a_stream_may_outlive_the_deadline(tmp_path: Path) -> None:
    """The deadline is for finding an answer, also where that took a while: what has begun is not cut."""

    async def scenario() -> None:
        def slow(_request: ReceivedRequest, reply: Reply) -> Steps:
            assert reply.events is not None
            chunks = [SendChunk(event) for event in (*reply.events, b"")]
            return (Pause(0.2), reply.stream_head(), *chunks[:3], Pause(0.4), *chunks[3:])

        async with pool_of(tmp_path, {"a": slow}, extra="[routing]\ndeadline_s = 0.4") as (pool, _):
            assert (await pool.answer(PATHS[CHAT], question(stream=True)))[0] == 200
            assert (await pool.booked(1))[0].record.outcome.value == "completed"

    run(scenario)


@pytest.mark.parametrize("told", [True, False], ids=["with a time", "without"])
def test_two_hundred_at_once(tmp_path: Path, told: bool) -> None:
    """With every account limited, two hundred requests at once ask nobody; after the rest, each account once."""

    async def scenario() -> None:
        clock = HandClock()
        accounts = {name: rate_limited(30 if told else None) for name in ("a", "b")}
        async with pool_of(tmp_path, accounts, clock=clock) as (pool, upstream):

            async def crowd() -> None:
                asked = (pool.answer(PATHS[CHAT], question()) for _ in range(200))
                assert {status for status, _ in await asyncio.gather(*asked)} == {429}

            assert (await pool.answer(PATHS[CHAT], question()))[0] == 429
            assert len(upstream.work) == 2
            await crowd()
            assert len(upstream.work) == 2
            rest_s = 30.0 if told else 1.2
            for probed in (2, 4, 6):
                clock.advance(rest_s)
                await crowd()
                assert len(upstream.work) == 2 + probed
                assert len({request.api_key for request in upstream.work[-2:]}) == 2
                rest_s *= 1 if told else 2

    run(scenario)


def test_a_crowd_and_one_account_that_only_seems_bad(tmp_path: Path) -> None:
    """A single account that rests on our guess refuses nobody, however many come at once."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(error(500))}, clock=HandClock()) as (pool, _):
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 500
            assert pool.runtime.pool.rests
            asked = (pool.answer(PATHS[CHAT], question()) for _ in range(50))
            assert {status for status, _ in await asyncio.gather(*asked)} == {200}
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_a_missing_model_comes_back(tmp_path: Path) -> None:
    """A model that one account lacks is asked of the others, and of that account again once its rest is over."""

    async def scenario() -> None:
        clock = HandClock()
        lacks = error(404, message="The model `scripted-large` does not exist.")
        async with pool_of(tmp_path, {"a": Behaviour(lacks), "b": good}, clock=clock) as (pool, upstream):
            for _ in range(3):
                assert (await pool.answer(PATHS[CHAT], opening()))[0] == 200
            assert [request.api_key for request in upstream.work] == [key_of(name) for name in "abbb"]
            assert (await pool.answer(PATHS[CHAT], question(model="scripted-small")))[0] == 200
            assert upstream.work[-1].api_key == key_of("a")
            clock.advance(40)
            used = set()
            for _ in range(2):
                async with pool.post(PATHS[CHAT], opening()) as answer:
                    used.add(answer.headers["x-eggpool-account"])
                clock.advance(1)
            assert "alpha/a" in used

    run(scenario)


WAITS = {
    "seconds": {"retry-after": "30"},
    "date": {"retry-after": formatdate(START_MS / 1000 + 30, usegmt=True)},
    "milliseconds": {"retry-after-ms": "30000"},
}


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("wait", WAITS)
def test_retry_after_is_obeyed(tmp_path: Path, status: int, wait: str) -> None:
    """A provider that says when to come back is not asked before, in whatever unit it says so, full or overloaded."""

    async def scenario() -> None:
        clock = HandClock()
        fails = error(status, headers=WAITS[wait])
        async with pool_of(tmp_path, {"a": Behaviour(fails)}, clock=clock) as (pool, upstream):
            assert (await pool.answer(PATHS[CHAT], question()))[0] == status
            clock.advance(29)
            async with pool.post(PATHS[CHAT], question()) as answer:
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert len(upstream.work) == 1
            clock.advance(1.5)
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200

    run(scenario)


def test_an_overload_ends(tmp_path: Path) -> None:
    """However long a provider says that it is overloaded, it is asked again after five minutes."""

    async def scenario() -> None:
        clock = HandClock()
        fails = error(503, headers={"retry-after": "86400"})
        async with pool_of(tmp_path, {"a": Behaviour(fails)}, clock=clock) as (pool, _):
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 503
            clock.advance(301)
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200

    run(scenario)
