"""The client leaves: wherever it does, the provider stops, the lease is settled, the books tell, nothing stays."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.helpers.pool import BEARER, RunningPool, pool_of, run
from tests.scenarios.asking import CHAT, HELD_BACK, MESSAGES, PATHS, RESPONSES, question

from eggpool.domain import Dialect
from eggpool.scripted import (
    Hang,
    Pause,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    SendChunk,
    Step,
    Steps,
    error,
    good,
    hang_after_events,
    hang_after_headers,
    hang_before_headers,
)

DIALECTS = [CHAT, MESSAGES, RESPONSES]
BOTH_LOOPS = pytest.mark.parametrize("debug", [True, False], ids=["asyncio", "uvloop"])
TERMINAL = {CHAT: b"[DONE]", MESSAGES: b"message_stop", RESPONSES: b"response.completed"}


def request_bytes(dialect: Dialect, body: bytes, announced: int | None = None) -> bytes:
    lines = [f"POST {PATHS[dialect]} HTTP/1.1", "host: pool", f"content-length: {announced or len(body)}"]
    lines += [f"{name}: {value}" for name, value in BEARER.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@asynccontextmanager
async def connected(pool: RunningPool, sent: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of its own on which something was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pool.port)
    try:
        writer.write(sent)
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()


def leave(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close the connection, politely or not."""
    if reset:
        writer.transport.abort()
    else:
        writer.close()


async def check_left(pool: RunningPool, upstream: ScriptedProvider, outcome: str, status: int) -> None:
    """Nothing is under way any more, on either side, and the books have it once."""
    await upstream.wait_for(lambda there: bool(there.work) and all(request.end for request in there.work))
    await pool.until(lambda: pool.in_flight == 0)
    assert upstream.work[-1].end == "client_left"
    rows = await pool.booked(1)
    assert len(rows) == 1
    record = rows[0].record
    assert (record.outcome.value, record.status, record.attempts) == (outcome, status, len(rows[0].attempts))
    assert rows[0].attempts[-1].error_class is None
    assert await pool.rows("SELECT * FROM begun") == []
    assert (await pool.answer(PATHS[CHAT], question(model="scripted-small")))[0] == 200


def script_for(small: Script, large: Script) -> Script:
    """One script for the large model, another one for the rest."""

    def script(request: ReceivedRequest, reply: Reply) -> Steps:
        chosen = large if request.payload["model"] == "scripted-large" else small
        return chosen if isinstance(chosen, tuple) else chosen(request, reply)

    return script


@BOTH_LOOPS
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_before_the_first_byte(tmp_path: Path, dialect: Dialect, stream: bool, reset: bool, debug: bool) -> None:
    """A client that leaves while the provider thinks takes its request along."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"a": script_for(good, hang_before_headers())}) as (pool, upstream),
            connected(pool, request_bytes(dialect, question(dialect, stream=stream))) as (_, writer),
        ):
            await upstream.wait_for(lambda there: len(there.work) == 1)
            leave(writer, reset=reset)
            await check_left(pool, upstream, "cancelled", 499)

    run(scenario, debug=debug)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_in_what_is_held_back(tmp_path: Path, dialect: Dialect, reset: bool) -> None:
    """A client that leaves before the first content leaves while another account could still be tried."""

    async def scenario() -> None:
        large = hang_after_events(HELD_BACK[dialect])
        async with (
            pool_of(tmp_path, {"a": script_for(good, large), "b": script_for(good, large)}) as (pool, upstream),
            connected(pool, request_bytes(dialect, question(dialect, stream=True))) as (_, writer),
        ):
            await upstream.wait_for(lambda there: bool(there.work) and there.work[0].bytes_written > 200)
            leave(writer, reset=reset)
            await check_left(pool, upstream, "cancelled", 499)
            assert len([request for request in upstream.work if request.end == "client_left"]) == 1

    run(scenario)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_in_a_plain_reply(tmp_path: Path, reset: bool) -> None:
    """A plain reply that is on its way to the pool is not waited for when its client has left."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"a": script_for(good, hang_after_headers())}) as (pool, upstream),
            connected(pool, request_bytes(CHAT, question())) as (_, writer),
        ):
            await upstream.wait_for(lambda there: bool(there.work) and there.work[0].bytes_written > 0)
            leave(writer, reset=reset)
            await check_left(pool, upstream, "cancelled", 499)

    run(scenario)


@BOTH_LOOPS
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_in_the_middle_of_a_stream(tmp_path: Path, dialect: Dialect, reset: bool, debug: bool) -> None:
    """A client that has read a part leaves: the provider stops generating, and what it had said is booked."""

    async def scenario() -> None:
        large = hang_after_events(HELD_BACK[dialect] + 3)
        async with (
            pool_of(tmp_path, {"a": script_for(good, large)}) as (pool, upstream),
            connected(pool, request_bytes(dialect, question(dialect, stream=True))) as (reader, writer),
        ):
            await reader.readuntil(b"said")
            leave(writer, reset=reset)
            await check_left(pool, upstream, "cancelled", 200)
            row = (await pool.booked(1))[-1].record
            assert (row.account, row.error_class) == ("alpha/a", "client_left")
            assert row.bytes_emitted > 100

    run(scenario, debug=debug)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_the_terminal_event(tmp_path: Path, dialect: Dialect, reset: bool) -> None:
    """Agents hang up when they have read the last event: that is a whole answer, not a client that left."""

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"a": script_for(good, hang_after_events(1000))}) as (pool, upstream),
            connected(pool, request_bytes(dialect, question(dialect, stream=True))) as (reader, writer),
        ):
            await reader.readuntil(TERMINAL[dialect])
            leave(writer, reset=reset)
            await check_left(pool, upstream, "completed", 200)

    run(scenario)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("part", [0, 1, 60])
def test_while_sending_its_body(tmp_path: Path, part: int, reset: bool) -> None:
    """A request whose body never became whole reaches no provider and no books."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, upstream):
            body = question()
            async with connected(pool, request_bytes(CHAT, body[:part], len(body))) as (_, writer):
                await pool.until(lambda: pool.runtime.server.connections == 1)
                leave(writer, reset=reset)
                await pool.until(lambda: pool.runtime.server.connections == 0)
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            assert len(upstream.work) == 1
            assert len(await pool.booked(1)) == 1

    run(scenario)


def test_after_a_failover(tmp_path: Path) -> None:
    """A client that leaves at the second account: both attempts are in the books, only the first as a failure."""

    async def scenario() -> None:
        accounts = {"a": error(500), "b": hang_before_headers()}
        async with pool_of(tmp_path, accounts) as (pool, upstream):
            async with connected(pool, request_bytes(CHAT, question())) as (_, writer):
                await upstream.wait_for(lambda there: len(there.work) == 2)
                writer.close()
                await upstream.wait_for(lambda there: there.work[1].end == "client_left")
            row = (await pool.booked(1))[0]
            assert row.record.outcome.value == "cancelled"
            assert [attempt.error_class for attempt in row.attempts] == ["server_error", None]

    run(scenario)


@BOTH_LOOPS
def test_with_a_full_window(tmp_path: Path, debug: bool) -> None:
    """A client that stopped reading holds its provider back, not the pool's memory; its leaving frees everything."""
    events, size = 20_000, 4000  # more than the sockets on the way can hold

    def endless(_request: ReceivedRequest, reply: Reply) -> Steps:
        assert reply.events is not None
        word = reply.events[HELD_BACK[CHAT]].replace(b"You", b"x" * size)
        return (reply.stream_head(), *[SendChunk(word)] * events, SendChunk(b""))

    async def scenario() -> None:
        async with (
            pool_of(tmp_path, {"a": script_for(good, endless)}) as (pool, upstream),
            connected(pool, request_bytes(CHAT, question(stream=True))) as (reader, writer),
        ):
            await reader.read(1000)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            (connection,) = pool.client_connections
            await pool.until(lambda: connection.flow.write_paused)
            for _ in range(1000):
                await asyncio.sleep(0)
            assert connection.flow.write_paused
            assert connection.transport.get_write_buffer_size() < 1024 * 1024
            assert upstream.work[0].bytes_written < events * size
            writer.transport.abort()
            await check_left(pool, upstream, "cancelled", 200)

    run(scenario, debug=debug)


def test_stream_aborted_then_normal_requests(tmp_path: Path) -> None:
    """After a stream was aborted at its first chunk, ten normal requests all succeed."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            async with connected(pool, request_bytes(CHAT, question(stream=True))) as (reader, writer):
                await reader.readuntil(b"data: ")
                writer.transport.abort()
            for _ in range(10):
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            assert len(await pool.booked(11)) == 11

    run(scenario)


ABORTS = 1000
AT_ONCE = 50


class Storm:
    """A thousand clients that leave at random points; `arrived` tells when a provider has got which request."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.arrived = [asyncio.Event() for _ in range(ABORTS)]
        self.points: Counter[str] = Counter()

    def script(self, request: ReceivedRequest, reply: Reply) -> Steps:
        """A good answer that stops for ever at a random place, or does not."""
        number = int(request.body.rpartition(b"number ")[2][:4])
        self.arrived[number].set()
        chance = self.random
        if chance.random() < 0.1:
            return (Hang(),)
        if reply.events is None:
            return (Hang(),) if chance.random() < 0.5 else reply.steps()
        steps: list[Step] = [reply.stream_head()]
        stop = chance.randrange(len(reply.events) * 2)
        for place, event in enumerate(reply.events):
            if place == stop:
                return (*steps, Hang())
            steps += [SendChunk(event), Pause(0)]
        return (*steps, Hang()) if chance.random() < 0.5 else (*steps, SendChunk(b""))

    async def client(self, pool: RunningPool, number: int) -> None:
        """One client: asks, reads up to a random point, and leaves."""
        chance = self.random
        dialect = chance.choice(DIALECTS)
        body = question(dialect, stream=chance.random() < 0.8, words=f"{'word ' * 20}number {number:04}")
        async with connected(pool, request_bytes(dialect, body)) as (reader, writer):
            point = chance.choice(["arrived", "head", "bytes", "more bytes"])
            reading = asyncio.ensure_future(
                reader.readexactly({"arrived": 1, "head": 1, "bytes": 600}.get(point, 3000))
            )
            arrived = asyncio.ensure_future(self.arrived[number].wait())
            await arrived
            if point != "arrived":
                # A provider may hang for ever before that point: then the client leaves after a moment of its own.
                await asyncio.wait([reading], timeout=chance.random() * 0.05)
            reading.cancel()
            await asyncio.wait([reading])
            self.points[point if reading.cancelled() else "ended"] += 1
            leave(writer, reset=chance.random() < 0.5)


@pytest.mark.parametrize("seed", [1])
def test_a_thousand_aborts(tmp_path: Path, seed: int) -> None:
    """A thousand random client aborts leave nothing in flight and no transaction open, and each is booked once."""

    async def scenario() -> None:
        storm = Storm(seed)
        accounts = dict.fromkeys("abc", storm.script)
        async with pool_of(tmp_path, accounts) as (pool, upstream):
            numbers = iter(range(ABORTS))

            async def clients() -> None:
                for number in numbers:
                    await storm.client(pool, number)

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(clients())
            await upstream.wait_for(lambda there: all(request.end for request in there.work))
            await pool.until(lambda: pool.in_flight == 0)
            assert len(upstream.work) == ABORTS
            for name in "abc":
                upstream.behave(f"test-{name}-key-0000", good)
            for _ in range(10):
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            outcomes = dict(await pool.rows("SELECT outcome, COUNT(*) FROM requests GROUP BY outcome"))
            assert sum(outcomes.values()) == ABORTS + 10
            assert set(outcomes) == {"completed", "cancelled"}
            assert await pool.rows("SELECT COUNT(*) FROM begun") == [(0,)]
            assert await pool.rows("SELECT COUNT(*) FROM attempts") == [(ABORTS + 10,)]
            assert pool.runtime.pool.rests == {}
            await pool.until(lambda: pool.runtime.server.connections == 1)  # of the ten requests
            other = sqlite3.connect(tmp_path / "usage.sqlite3", timeout=0, isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")  # raises when a transaction is open
            other.close()
            assert len(storm.points) >= 4, storm.points

    run(scenario, debug=False)
