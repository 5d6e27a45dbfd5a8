"""A conversation that moves to an account which cannot read its thinking goes on without that thinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.pool import pool_of, run
from tests.scenarios.asking import CHAT, MESSAGES, MODEL, PATHS, RESPONSES, text_of

from eggpool.domain import Dialect
from eggpool.scripted import Play, ReceivedRequest, Reply, Steps, error, reply
from eggpool.scripted.behaviours import play

SIGNED = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
ENCRYPTED = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
WORDS = {
    MESSAGES: "messages.1.content.0: Invalid `signature` in `thinking` block",
    RESPONSES: "The encrypted content gAAA could not be verified. Reason: it could not be decrypted or parsed.",
}


def conversation(dialect: Dialect, *, foreign: bool = True, stream: bool = False) -> bytes:
    """A second turn; with `foreign`, the first one holds what only its maker can read."""
    asked: dict[str, Any] = {"model": MODEL, "stream": stream}
    if dialect is RESPONSES:
        asked["input"] = [
            *([ENCRYPTED] if foreign else []),
            {"role": "assistant", "content": [{"type": "output_text", "text": "one"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "and two"}]},
        ]
    else:
        blocks = [*([SIGNED] if foreign else []), {"type": "text", "text": "one"}]
        asked["messages"] = [
            {"role": "user", "content": "count"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": "and two"},
        ]
        asked["max_tokens"] = 999
    return json.dumps(asked).encode()


def cannot_read() -> Play:
    """Refuse what another account has signed or encrypted; answer everything else."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        if b"gAAA" in request.body or b"EqQB" in request.body:
            return play(error(400, message=WORDS[request.dialect]), request, good_reply)
        return good_reply.steps()

    return script


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", [MESSAGES, RESPONSES])
def test_once_more_without(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    """The account that refuses a signature is asked once more without it: it answers, and nothing rests."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": cannot_read(), "b": cannot_read()}) as (pool, upstream):
            sent = conversation(dialect, stream=stream)
            status, body = await pool.answer(PATHS[dialect], sent)
            assert (status, text_of(dialect, body)) == (200, "You said: and two")
            assert [json.loads(one.body) for one in upstream.work] == [
                json.loads(sent),
                json.loads(conversation(dialect, foreign=False, stream=stream)),
            ]
            (row,) = await pool.booked(1)
            assert [(one.account, one.error_class) for one in row.attempts] == [
                ("alpha/a", "signature"),
                ("alpha/a", None),
            ]
            assert row.record.outcome.value == "completed"
            assert pool.runtime.pool.rests == {}

    run(scenario)


@pytest.mark.parametrize("dialect", [MESSAGES, RESPONSES])
def test_refused_all_the_same(tmp_path: Path, dialect: Dialect) -> None:
    """When it is refused without those items too, the provider's words come back after that one try."""

    async def scenario() -> None:
        refuses = error(400, message=WORDS[dialect])
        async with pool_of(tmp_path, {"a": refuses, "b": refuses}) as (pool, upstream):
            status, body = await pool.answer(PATHS[dialect], conversation(dialect))
            assert (status, WORDS[dialect] in json.loads(body)["error"]["message"]) == (400, True)
            assert len(upstream.work) == 2
            (row,) = await pool.booked(1)
            assert (row.record.outcome.value, row.record.error_class) == ("client_error", "signature")
            assert pool.runtime.pool.rests == {}

    run(scenario)


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, RESPONSES])
def test_nothing_to_leave_out(tmp_path: Path, dialect: Dialect) -> None:
    """A request that holds no such items is not sent twice."""

    async def scenario() -> None:
        words = {"error": {"type": "invalid_request_error", "code": "invalid_encrypted_content", "message": "No."}}
        async with pool_of(tmp_path, {"a": reply(400, words)}) as (pool, upstream):
            assert (await pool.answer(PATHS[dialect], conversation(dialect, foreign=False)))[0] == 400
            assert len(upstream.work) == 1

    run(scenario)


def test_the_next_account_gets_the_whole_request(tmp_path: Path) -> None:
    """When the bare request fails too for a reason of its own, the next account gets the request as it came."""

    async def scenario() -> None:
        def overloaded(request: ReceivedRequest, good_reply: Reply) -> Steps:
            fails = error(400, message=WORDS[MESSAGES]) if b"EqQB" in request.body else error(529)
            return play(fails, request, good_reply)

        def reads(request: ReceivedRequest, good_reply: Reply) -> Steps:
            return good_reply.steps()

        async with pool_of(tmp_path, {"a": overloaded, "b": reads}) as (pool, upstream):
            sent = conversation(MESSAGES)
            assert (await pool.answer(PATHS[MESSAGES], sent))[0] == 200
            assert [b"EqQB" in one.body for one in upstream.work] == [True, False, True]
            assert upstream.work[-1].body == sent

    run(scenario)
