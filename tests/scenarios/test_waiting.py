"""Requests that wait for an account: in order, not longer than allowed, alive meanwhile, and without a trace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.helpers.pool import RunningPool, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, opening

from eggpool.domain import AccountLabel
from eggpool.engine import by_hand
from eggpool.scripted import Behaviour, ReceivedRequest, Reply, ScriptedProvider, Steps, WaitFor, good, rate_limited

A = AccountLabel("alpha/a")


class Gate:
    """Lets the replies of one provider go one by one, in the order in which their requests came."""

    def __init__(self) -> None:
        self.doors: list[asyncio.Event] = []

    def __call__(self, _request: ReceivedRequest, reply: Reply) -> Steps:
        """Wait to be let go."""
        self.doors.append(asyncio.Event())
        return (WaitFor(self.doors[-1]), *reply.steps())


@asynccontextmanager
async def gated(
    folder: Path, routing: str, upstream: str = ""
) -> AsyncIterator[tuple[RunningPool, ScriptedProvider, Gate]]:
    """A pool of one account that takes one request at once, and the gate before its answers."""
    gate = Gate()
    async with ScriptedProvider({key_of("a"): gate}) as at:
        table = provider("alpha", at, "a", extra='protocols = ["openai", "anthropic"]') + "max_concurrency = 1\n"
        async with running_pool(settings(folder, table, f"[routing]\n{routing}\n{upstream}")) as pool:
            yield pool, at, gate


def test_first_come_first_served(tmp_path: Path) -> None:
    """Requests beyond the bound are served in the order in which they came; one that leaves hands its place on."""

    async def scenario() -> None:
        async with gated(tmp_path, "max_wait_ms = 20000") as (pool, at, gate):
            line = pool.runtime.pool.line
            asked = []
            for number in range(5):
                asked.append(asyncio.create_task(pool.answer(PATHS[CHAT], opening())))
                await pool.until(lambda number=number: len(at.work) + len(line) == number + 1)  # type: ignore[misc]
            asked[2].cancel()
            await pool.until(lambda: len(line) == 3)
            bodies = []
            for number in range(4):
                await at.wait_for(lambda there, number=number: len(there.work) == number + 1)  # type: ignore[misc]
                assert pool.in_flight == 1
                bodies.append(at.work[-1].payload["messages"][0]["content"])
                gate.doors[number].set()
            ends = await asyncio.gather(*asked, return_exceptions=True)
            assert [end[0] if isinstance(end, tuple) else None for end in ends] == [200, 200, None, 200, 200]
            assert bodies == sorted(bodies, key=lambda words: int(words.split()[1]))
            assert (len(at.work), len(line), pool.in_flight) == (4, 0, 0)

    run(scenario)


def test_without_patience(tmp_path: Path) -> None:
    """Who may not wait gets 429 at once, with a time."""

    async def scenario() -> None:
        async with gated(tmp_path, "max_wait_ms = 0") as (pool, at, gate):
            first = asyncio.create_task(pool.answer(PATHS[CHAT], opening()))
            await at.wait_for(lambda there: len(there.work) == 1)
            async with pool.post(PATHS[CHAT], opening()) as second:
                assert second.status == 429
                assert int(second.headers["retry-after"]) >= 1
            gate.doors[0].set()
            assert (await first)[0] == 200

    run(scenario)


def test_patience_ends(tmp_path: Path) -> None:
    """A request that has waited as long as it may is refused, and leaves no place taken."""

    async def scenario() -> None:
        async with gated(tmp_path, "max_wait_ms = 100") as (pool, at, gate):
            first = asyncio.create_task(pool.answer(PATHS[CHAT], opening()))
            await at.wait_for(lambda there: len(there.work) == 1)
            status, body = await pool.answer(PATHS[CHAT], opening())
            assert (status, b"alpha/a: max_concurrency" in body) == (429, True)
            gate.doors[0].set()
            assert (await first)[0] == 200
            rows = await pool.booked(2)
            assert sorted(row.record.status for row in rows) == [200, 429]
            assert [row.record.attempts for row in rows if row.record.status == 429] == [0]

    run(scenario)


def test_the_deadline_holds_while_waiting(tmp_path: Path) -> None:
    """However patient a request may be, the pool's deadline ends it."""

    async def scenario() -> None:
        async with gated(tmp_path, "max_wait_ms = 20000\ndeadline_s = 0.3") as (pool, at, gate):
            first = asyncio.create_task(pool.answer(PATHS[CHAT], opening(stream=True)))
            await at.wait_for(lambda there: len(there.work) == 1)
            status, body = await pool.answer(PATHS[CHAT], opening())
            assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_passed")
            assert len(pool.runtime.pool.line) == 0
            gate.doors[0].set()
            await first

    run(scenario)


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES])
def test_signs_of_life_while_waiting(tmp_path: Path, dialect: object) -> None:
    """A client that waits for a stream sees that somebody is there, and then gets its whole answer."""

    async def scenario() -> None:
        chosen = CHAT if dialect is CHAT else MESSAGES
        quiet = "[upstream]\nkeepalive_after_ms = 50"
        async with gated(tmp_path, "max_wait_ms = 20000", quiet) as (pool, at, gate):
            first = asyncio.create_task(pool.answer(PATHS[chosen], opening(chosen)))
            await at.wait_for(lambda there: len(there.work) == 1)
            async with pool.post(PATHS[chosen], opening(chosen, stream=True)) as waiting:
                assert waiting.status == 200
                sign = await waiting.content.readline()
                assert sign.startswith((b":", b"event: ping"))
                assert len(at.work) == 1
                gate.doors[0].set()
                await at.wait_for(lambda there: len(there.work) == 2)
                gate.doors[1].set()
                rest = await waiting.content.read()
                assert b"[DONE]" in rest or b"message_stop" in rest
            assert (await first)[0] == 200

    run(scenario)


def test_all_rest_for_a_moment(tmp_path: Path) -> None:
    """When the first account is back soon enough, a request waits for it and is served, also the one that was told."""

    async def scenario() -> None:
        accounts = {"a": Behaviour(rate_limited(1)), "b": rate_limited(600)}
        async with pool_of(tmp_path, accounts, extra="[routing]\nmax_wait_ms = 10000") as (pool, upstream):
            async with pool.post(PATHS[CHAT], opening()) as answer:
                assert (answer.status, answer.headers["x-eggpool-account"]) == (200, "alpha/a")
                assert answer.headers["x-proxy-attempt-count"] == "3"
            assert len(upstream.work) == 3
            row = (await pool.booked(1))[0]
            assert [attempt.error_class for attempt in row.attempts] == ["rate", "rate", None]
            assert json.loads(row.record.decision or "")["tried"][-1] == ["alpha/a", None]

    run(scenario)


def test_all_rest_for_long(tmp_path: Path) -> None:
    """When nobody is back soon enough, nobody is kept waiting: the refusal comes at once, with the time."""

    async def scenario() -> None:
        accounts = {"a": rate_limited(30), "b": rate_limited(600)}
        async with pool_of(tmp_path, accounts, extra="[routing]\nmax_wait_ms = 10000") as (pool, upstream):
            for _ in range(2):
                async with asyncio.timeout(5), pool.post(PATHS[CHAT], opening()) as answer:
                    assert answer.status == 429
                    assert 20 <= int(answer.headers["retry-after"]) <= 30
            assert len(upstream.work) == 2

    run(scenario)


def test_codex_waits_without_being_told_to(tmp_path: Path) -> None:
    """A client that ends its turn at the first 429 is kept waiting for some seconds instead; others are not."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(rate_limited(1), rate_limited(1))}) as (pool, upstream):
            assert (await pool.answer(PATHS[CHAT], opening()))[0] == 429
            assert (await pool.answer(PATHS[CHAT], opening()))[0] == 429
            assert len(upstream.work) == 1
            assert (await pool.answer(PATHS[CHAT], opening(), originator="codex_exec"))[0] == 200

    run(scenario)


def test_waking_by_hand_ends_the_waiting(tmp_path: Path) -> None:
    """Who waits for a resting account is served as soon as somebody wakes it."""

    async def scenario() -> None:
        extra = "[routing]\nmax_wait_ms = 25000"
        async with pool_of(tmp_path, {"a": good}, extra=extra) as (pool, _):
            live = pool.runtime.pool
            by_hand.rest(live, "a", 20)
            waiting = asyncio.create_task(pool.answer(PATHS[CHAT], opening()))
            await pool.until(lambda: len(live.line) == 1)
            by_hand.wake(live, "a")
            async with asyncio.timeout(10):
                assert (await waiting)[0] == 200

    run(scenario)


def test_a_client_that_leaves_while_waiting(tmp_path: Path) -> None:
    """It stands in the books as one that left, and nothing of it stays in the line."""

    async def scenario() -> None:
        async with gated(tmp_path, "max_wait_ms = 20000") as (pool, at, gate):
            live = pool.runtime.pool
            first = asyncio.create_task(pool.answer(PATHS[CHAT], opening()))
            await at.wait_for(lambda there: len(there.work) == 1)
            second = asyncio.create_task(pool.answer(PATHS[CHAT], opening()))
            await pool.until(lambda: len(live.line) == 1)
            second.cancel()
            await pool.until(lambda: len(live.line) == 0)
            gate.doors[0].set()
            assert (await first)[0] == 200
            outcomes = sorted(row.record.outcome.value for row in await pool.booked(2))
            assert outcomes == ["cancelled", "completed"]
            assert live.accounts[A].in_flight == 0

    run(scenario)
