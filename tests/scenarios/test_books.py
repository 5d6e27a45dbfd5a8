"""Every request that was let in is in the books once: tokens, money, times, client."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from pathlib import Path

import pytest
from tests.helpers.pool import CLIENT_KEY, RunningPool, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES, question

from eggpool.domain import Dialect, Usage
from eggpool.scripted import (
    Behaviour,
    Drop,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    SendChunk,
    Steps,
    WaitFor,
    good,
    html_200,
    say,
)

USAGE = Usage(input_tokens=1000, cache_read_tokens=600, output_tokens=50)
ALICE, BOB = "ep_alice-key-00000", "ep_bob-key-0000000"
CLIENTS = "".join(
    f'[[clients]]\nname = "{name}"\nkey_hash = "sha256:{hashlib.sha256(key.encode()).hexdigest()}"\n'
    for name, key in (("alice", ALICE), ("bob", BOB))
)


async def summary(pool: RunningPool, query: str = "") -> dict[str, object]:
    """`/api/stats/summary`."""
    async with pool.get(f"/api/stats/summary{query}") as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, object] = await answer.json()
        return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, RESPONSES])
def test_tokens_and_money(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    """Cached tokens are a part of the input and have their own price; the row says that the cost is derived."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": say("some words here", usage=USAGE)}) as (pool, _):
            body = question(dialect, stream=stream)
            assert (await pool.answer(PATHS[dialect], body))[0] == 200
            record = (await pool.booked(1))[0].record
            assert record.usage == USAGE
            # 400 at 3 dollars, 600 at 0.30 and 50 at 15 dollars a million, in nanodollars.
            assert record.cost.nanodollars == 400 * 3000 + 600 * 300 + 50 * 15000
            assert record.cost.exactness.value == "derived"
            assert record.price is not None
            assert (record.streamed, record.dialect, record.model_served) == (stream, dialect, "scripted-large")
            assert (record.bytes_received, record.client) == (len(body), "default")
            assert record.bytes_emitted > 0
            times = (record.queue_us, record.first_byte_us, record.first_event_us, record.total_us)
            assert None not in times
            assert sorted(times, key=lambda time: time or 0) == list(times)

    run(scenario)


def test_unpriced(tmp_path: Path) -> None:
    """A model without a price is booked as unpriced, never as free, and is not refused."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _):
            for _ in range(30):
                assert (await pool.answer(PATHS[CHAT], question(model="scripted-small")))[0] == 200
            record = (await pool.booked(30))[0].record
            assert (record.cost.nanodollars, record.cost.exactness.value) == (None, "unknown")
            found = await summary(pool)
            assert (found["total_requests"], found["unpriced_requests"]) == (30, 30)
            assert (found["total_input_tokens"], found["total_output_tokens"]) == (90, 150)

    run(scenario)


def test_many_small_calls(tmp_path: Path) -> None:
    """Thirty identical small calls cost thirty times what one costs: nothing is rounded away."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _):
            for _ in range(30):
                await pool.answer(PATHS[CHAT], question())
            costs = {row.record.cost.nanodollars for row in await pool.booked(30)}
            assert costs == {3 * 3000 + 5 * 15000}
            ids = [row.record.upstream_request_id for row in await pool.booked(30)]
            assert len(set(ids)) == 30
            assert None not in ids
            assert (await summary(pool))["total_cost_nanodollars"] == 30 * 84_000

    run(scenario)


def test_books_by_client(tmp_path: Path) -> None:
    """Each client has a key of its own, of which the pool holds the hash only, and books of its own."""

    async def scenario() -> None:
        async with (
            ScriptedProvider() as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "one"), CLIENTS)) as pool,
        ):
            for key, times in ((ALICE, 3), (BOB, 2), (CLIENT_KEY, 1)):
                for _ in range(times):
                    headers = {"authorization": f"Bearer {key}"}
                    assert (await pool.answer(PATHS[CHAT], question(), **headers))[0] == 200
            rows = await pool.booked(6)
            assert Counter(row.record.client for row in rows) == {"alice": 3, "bob": 2, "default": 1}
            assert (await summary(pool, "?client=alice"))["total_requests"] == 3
            assert (await summary(pool))["total_requests"] == 6
            assert (await pool.answer(PATHS[CHAT], question(), authorization="Bearer ep_carol-key-00000"))[0] == 401

    run(scenario)


def test_refusals_are_booked_without_an_account(tmp_path: Path) -> None:
    """What a known client asked for and could not have is a client error in the books; who has no key is not there."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _):
            assert (await pool.answer(PATHS[CHAT], question(model="nobody-has-it")))[0] == 404
            assert (await pool.answer(PATHS[CHAT], b'{"model":'))[0] == 400
            assert (await pool.answer(PATHS[CHAT], question(), authorization="Bearer wrong"))[0] == 401
            assert (await pool.answer("/v1/nothing", b"{}"))[0] == 404
            rows = await pool.booked(3)
            assert [row.record.status for row in rows] == [404, 400, 404]
            record = rows[-1].record
            assert (record.outcome.value, record.status, record.error_class) == ("client_error", 404, "model_not_found")
            assert (record.account, record.attempts, record.model_asked) == (None, 0, "nobody-has-it")
            assert await pool.rows("SELECT * FROM begun") == []

    run(scenario)


def test_begun_while_under_way(tmp_path: Path) -> None:
    """A request under way for longer than a moment has a row that says so; its end takes the row's place at once."""

    async def scenario() -> None:
        more, last = asyncio.Event(), asyncio.Event()

        def script(_request: ReceivedRequest, reply: Reply) -> Steps:
            assert reply.events is not None
            first, rest = reply.events[:3], reply.events[3:]
            return (
                WaitFor(more),
                reply.stream_head(),
                *map(SendChunk, first),
                WaitFor(last),
                *map(SendChunk, rest),
                SendChunk(b""),
            )

        async with pool_of(tmp_path, {"one": script}) as (pool, upstream):
            asked = asyncio.create_task(pool.answer(PATHS[CHAT], question(stream=True)))
            await upstream.wait_for(lambda there: len(there.work) == 1)
            columns = "SELECT id, client, account, model, dialect, streamed FROM begun"
            while not (begun := await pool.rows(columns)):
                pass  # it comes a tenth of a second after the request
            assert [row[1:] for row in begun] == [("default", "alpha/one", "scripted-large", "chat", 1)]
            assert await pool.rows("SELECT * FROM requests") == []
            more.set()
            await upstream.wait_for(lambda there: there.work[0].bytes_written > 200)
            assert await pool.rows(columns) == begun
            last.set()
            assert (await asked)[0] == 200
            # Both tables in one statement, so that they are seen at one instant.
            while True:
                both = await pool.rows("SELECT (SELECT COUNT(*) FROM begun), (SELECT COUNT(*) FROM requests)")
                assert both in ([(1, 0)], [(0, 1)])
                if both == [(0, 1)]:
                    break
            assert await pool.rows("SELECT id FROM requests") == [begun[0][:1]]

    run(scenario)


def test_begun_at_another_account(tmp_path: Path) -> None:
    """What lasts and moves on to another account is noted at that one."""

    async def scenario() -> None:
        moves, ends = asyncio.Event(), asyncio.Event()

        def fails(_request: ReceivedRequest, _reply: Reply) -> Steps:
            return (WaitFor(moves), Drop())

        def answers(request: ReceivedRequest, reply: Reply) -> Steps:
            return (WaitFor(ends), *good(request, reply))

        scripts: dict[str, Script | Behaviour] = {"one": fails, "two": answers}
        async with pool_of(tmp_path, scripts) as (pool, _):
            asked = asyncio.create_task(pool.answer(PATHS[CHAT], question()))
            for label in ("alpha/one", "alpha/two"):
                while await pool.rows("SELECT account FROM begun") != [(label,)]:
                    pass
                moves.set()
            ends.set()
            assert (await asked)[0] == 200

    run(scenario)


def test_a_short_request_leaves_no_begun_row(tmp_path: Path) -> None:
    """A request that ends within one commit is written once, with its end."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _):
            for _ in range(5):
                await pool.answer(PATHS[MESSAGES], question(MESSAGES))
            assert await pool.rows("SELECT (SELECT COUNT(*) FROM begun), (SELECT COUNT(*) FROM requests)") == [(0, 5)]

    run(scenario)


def test_events_tell_of_rests(tmp_path: Path) -> None:
    """When an account begins to rest, and when it works again, an event says so."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": html_200()}) as (pool, upstream):
            await pool.answer(PATHS[CHAT], question())
            upstream.behave("test-one-key-0000", good)
            await pool.answer(PATHS[CHAT], question())
            async with pool.get("/api/events?limit=10") as answer:
                events = (await answer.json())["events"]
            assert [event["event_type"] for event in events] == ["account_recovered", "account_resting"]
            assert {event["account_id"] for event in events} == {"alpha/one"}

    run(scenario)
