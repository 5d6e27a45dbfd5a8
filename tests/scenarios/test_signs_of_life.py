"""A stream that keeps its client waiting shows signs of life, which cost nothing: failover stays free behind them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.helpers.pool import ALL_DIALECTS, key_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES, WORDS, payloads, question, text_of

from eggpool.domain import Dialect, Outcome
from eggpool.scripted import Behaviour, Play, Reply, ScriptedProvider, Step, Steps, WaitFor, error, good
from eggpool.scripted.behaviours import play
from eggpool.scripted.received import ReceivedRequest
from eggpool.scripted.steps import SendChunk

QUIET = "[upstream]\nkeepalive_after_ms = 20\n"
SIGN = {CHAT: b": keep-alive\n\n", MESSAGES: b'event: ping\ndata: {"type": "ping"}\n\n', RESPONSES: b": keep-alive\n\n"}
DIALECTS = [CHAT, MESSAGES, RESPONSES]


def after(gate: asyncio.Event, then: Play) -> Play:
    """Silence until the gate opens."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        return (WaitFor(gate), *then(request, good_reply))

    return script


def pausing_after(count: int, gate: asyncio.Event) -> Play:
    """A good stream that is silent after so many events until the gate opens."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        events = good_reply.events or ()
        steps: list[Step] = [good_reply.stream_head(), *(SendChunk(event) for event in events[:count]), WaitFor(gate)]
        return (*steps, *(SendChunk(event) for event in events[count:]), SendChunk(b""))

    return script


@pytest.mark.parametrize("dialect", DIALECTS)
def test_silence_before_the_first_word(dialect: Dialect, tmp_path: Path) -> None:
    """A client that waits gets a 200 and signs in its own dialect, then the whole answer byte for byte."""

    async def scenario() -> None:
        gate = asyncio.Event()
        async with ScriptedProvider({key_of("a"): Behaviour(after(gate, good))}) as one:
            config = settings(tmp_path, provider("one", one, "a", extra=ALL_DIALECTS), QUIET)
            async with running_pool(config) as pool, pool.post(PATHS[dialect], question(dialect, stream=True)) as reply:
                assert reply.status == 200
                assert reply.headers["content-type"].startswith("text/event-stream")
                assert await reply.content.readexactly(len(SIGN[dialect])) == SIGN[dialect]
                gate.set()
                rest = await reply.content.read()
                while rest.startswith(SIGN[dialect]):
                    rest = rest.removeprefix(SIGN[dialect])
                assert text_of(dialect, rest) == f"You said: {WORDS}"
                (row,) = await pool.booked(1)
                assert row.record.outcome is Outcome.COMPLETED

    run(scenario)


def test_another_account_answers_behind_the_signs(tmp_path: Path) -> None:
    """Signs carry no content: when the account fails after all, the next one is tried and the client sees no error."""

    async def scenario() -> None:
        gate = asyncio.Event()
        failing = Behaviour(after(gate, lambda request, reply: play(error(500), request, reply)))
        async with ScriptedProvider({key_of("a"): failing, key_of("b"): good}) as one:
            config = settings(tmp_path, provider("one", one, "a", "b"), QUIET)
            async with running_pool(config) as pool, pool.post(PATHS[CHAT], question(stream=True)) as reply:
                assert await reply.content.readexactly(len(SIGN[CHAT])) == SIGN[CHAT]
                gate.set()
                rest = await reply.content.read()
                assert text_of(CHAT, rest) == f"You said: {WORDS}"
                assert b"error" not in rest
                (row,) = await pool.booked(1)
                assert [attempt.error_class for attempt in row.attempts] == ["server_error", None]

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_last_failure_is_told_inside_the_stream(dialect: Dialect, tmp_path: Path) -> None:
    """After the head of a stream there is no second status: the provider's words come as the dialect's error event."""

    async def scenario() -> None:
        gate = asyncio.Event()
        failing = after(gate, lambda request, reply: play(error(500, message="the eggs are broken"), request, reply))
        async with ScriptedProvider({key_of("a"): failing}) as one:
            config = settings(tmp_path, provider("one", one, "a", extra=ALL_DIALECTS), QUIET)
            async with running_pool(config) as pool, pool.post(PATHS[dialect], question(dialect, stream=True)) as reply:
                assert await reply.content.readexactly(len(SIGN[dialect])) == SIGN[dialect]
                gate.set()
                rest = await reply.content.read()
                last = payloads(rest)[-1]
                told = last if dialect is RESPONSES else last["error"]
                assert told["message"] == "the eggs are broken"
                assert b"[DONE]" not in rest and b"message_stop" not in rest and b"completed" not in rest
                (row,) = await pool.booked(1)
                assert (row.record.outcome, row.record.status) == (Outcome.ERROR, 200)
                assert row.record.error_class == "server_error"

    run(scenario)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_silence_inside_the_answer(dialect: Dialect, tmp_path: Path) -> None:
    """Signs come between the events of an answer too, and nothing of the answer is lost."""

    async def scenario() -> None:
        gate = asyncio.Event()
        async with ScriptedProvider({key_of("a"): Behaviour(pausing_after(6, gate))}) as one:
            config = settings(tmp_path, provider("one", one, "a", extra=ALL_DIALECTS), QUIET)
            async with running_pool(config) as pool, pool.post(PATHS[dialect], question(dialect, stream=True)) as reply:
                received = b""
                while not received.endswith(SIGN[dialect] * 2):
                    received += await reply.content.readany()
                gate.set()
                received += await reply.content.read()
                assert text_of(dialect, received) == f"You said: {WORDS}"

    run(scenario)


def test_a_plain_answer_gets_no_signs(tmp_path: Path) -> None:
    """Who waits for a plain answer gets exactly that, however late it comes."""

    async def scenario() -> None:
        gate = asyncio.Event()
        async with ScriptedProvider({key_of("a"): Behaviour(after(gate, good))}) as one:
            config = settings(tmp_path, provider("one", one, "a"), QUIET)
            async with running_pool(config) as pool:
                asked = asyncio.ensure_future(pool.answer(PATHS[CHAT], question()))
                await one.wait_for(lambda at: len(at.work) == 1)
                asyncio.get_running_loop().call_later(0.1, gate.set)
                status, body = await asked
                assert status == 200
                assert text_of(CHAT, body) == f"You said: {WORDS}"

    run(scenario)


def test_a_client_that_leaves_during_the_signs(tmp_path: Path) -> None:
    """A client that gives up while it is shown signs ends the request at the provider, and is booked as gone."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): Behaviour(after(asyncio.Event(), good))}) as one:
            config = settings(tmp_path, provider("one", one, "a"), QUIET)
            async with running_pool(config) as pool:
                async with pool.post(PATHS[CHAT], question(stream=True)) as reply:
                    await reply.content.readexactly(len(SIGN[CHAT]))
                    reply.close()
                await one.wait_for(lambda at: at.closed_early == 1)
                (row,) = await pool.booked(1)
                assert row.record.outcome is Outcome.CANCELLED
                assert pool.in_flight == 0

    run(scenario)
