"""An exchange, opened by hand: whoever holds it closes it, once or more often, at any point."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.helpers.pool import RunningPool, pool_of, run
from tests.scenarios.asking import CHAT, PATHS, question

from eggpool.engine.dispatch import Exchange
from eggpool.engine.inbound import Head, Inbound, Surface
from eggpool.errors import AllFailed, NotFound
from eggpool.scripted import drop_before_reply, good, hang_after_events
from eggpool.wire import envelope


def exchange_of(pool: RunningPool, model: str = "scripted-large", *, stream: bool = True) -> Exchange:
    """An exchange for one question, as the data plane makes it."""
    clock = pool.runtime.clock
    body = question(model=model, stream=stream)
    return pool.runtime.dispatcher.exchange(
        Inbound(
            id=pool.runtime.ledger.new_id(clock.wall_ms()),
            client="default",
            client_address="127.0.0.1",
            surface=Surface(CHAT),
            method="POST",
            path=PATHS[CHAT],
            query="",
            headers=[],
            named={},
            body=body,
            envelope=envelope.read(body),
            model=model,
            only=None,
            arrived=clock.now(),
            arrived_ms=clock.wall_ms(),
        )
    )


async def opened(exchange: Exchange) -> Head:
    """Open it in the running task."""
    task = asyncio.current_task()
    assert task is not None
    return await exchange.open(task)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reads", [0, 1, 1000])
def test_closed_more_than_once(tmp_path: Path, reads: int, stream: bool) -> None:
    """However far an exchange has come, closing it again changes nothing: one settlement, one row."""

    async def scenario() -> None:
        script = hang_after_events(4) if stream and reads == 1 else good
        async with pool_of(tmp_path, {"one": script}) as (pool, _):
            exchange = exchange_of(pool, stream=stream)
            assert (await opened(exchange)).status == 200
            assert pool.in_flight == 1
            for _ in range(reads):
                await exchange.read()
            for _ in range(3):
                exchange.close(client_left=True)
                assert (pool.in_flight, exchange.attempts) == (0, 1)
            rows = await pool.booked(1)
            whole = reads == 1000 or (reads == 1 and not stream)
            assert [row.record.outcome.value for row in rows] == ["completed" if whole else "cancelled"]
            booked = await pool.rows("SELECT COUNT(*) FROM attempts")
            assert booked == [(1,)]

    run(scenario)


def test_closed_without_being_opened(tmp_path: Path) -> None:
    """An exchange that was never opened holds nothing and is booked as a client that left."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            exchange = exchange_of(pool)
            exchange.close(client_left=True)
            exchange.close(client_left=True)
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.attempts, row.account, row.status) == ("cancelled", 0, None, 499)
            assert upstream.work == []

    run(scenario)


def test_closed_after_an_error(tmp_path: Path) -> None:
    """After a refusal and after the last failure there is nothing to read, and closing books it once."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": drop_before_reply()}) as (pool, _):
            unknown, failing = exchange_of(pool, "nobody-has-it"), exchange_of(pool)
            with pytest.raises(NotFound):
                await opened(unknown)
            with pytest.raises(AllFailed):
                await opened(failing)
            for exchange in (unknown, failing):
                assert await exchange.read() == b""
                exchange.close()
                exchange.close()
            assert pool.in_flight == 0
            assert sorted(row.record.outcome.value for row in await pool.booked(2)) == ["client_error", "error"]

    run(scenario)
