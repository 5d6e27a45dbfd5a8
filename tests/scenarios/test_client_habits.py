"""What agents do that no reference asks for, and what they look for in answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.pool import ALL_DIALECTS, pool_of, run
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, RESPONSES, question

from eggpool.domain import AccountLabel, Dialect
from eggpool.scripted import Behaviour, good, say

CURSOR: dict[str, Any] = {
    "model": "scripted-large",
    "stream": False,
    "instructions": "Be brief.",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "say three words"}]}],
    "tools": [{"type": "function", "name": "grep", "description": "Search.", "parameters": {"type": "object"}}],
    "reasoning": {"effort": "low", "summary": "auto"},
}
VERSION = {"anthropic-version": "2023-06-01"}
WINDOWS = """
[[providers.alpha.windows]]
name = "5h"
kind = "block"
length = "5h"
limit_tokens = 100_000

[[providers.alpha.windows]]
name = "weekly"
kind = "block"
length = "7d"
limit_tokens = 100_000
"""


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("prefix", ["", "/v1/v1", "/v1/v1/v1"])
def test_base_urls(tmp_path: Path, dialect: Dialect, prefix: str) -> None:
    """A base URL that lacks `/v1`, or has it although the agent adds it, works."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            path = PATHS[dialect].removeprefix("/v1")
            status, _ = await pool.answer(prefix + path, question(dialect))
            assert (status, upstream.work[0].path) == (200, PATHS[dialect])
            status, body = await pool.answer(prefix + path, b"{")
            assert status == 400
            assert ("type" in json.loads(body)) is (dialect is MESSAGES)  # the error has the dialect's shape
            async with pool.get(prefix + "/models") as answer:
                assert (answer.status, (await answer.json())["object"]) == (200, "list")

    run(scenario)


@pytest.mark.parametrize("protocol", ["openai", "anthropic", "responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_responses_where_chat_is_spoken(tmp_path: Path, protocol: str, stream: bool) -> None:
    """A Responses request to the Chat endpoint is served by any account and answered in Chat, and this is told."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": say("One two three.")}, more=f'protocols = ["{protocol}"]') as (pool, _):
            async with pool.post(PATHS[CHAT], CURSOR | {"stream": stream}) as answer:
                assert answer.status == 200
                told = answer.headers.getall("x-eggpool-translation")
                body = await answer.text()
            assert "responses>chat; lost=reasoning.summary" in told
            assert len(told) == (1 if protocol == "openai" else 2)
            if stream:
                chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
                text = "".join(
                    chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]
                )
                assert body.rstrip().endswith("[DONE]")
            else:
                text = json.loads(body)["choices"][0]["message"]["content"]
            assert text == "One two three."

    run(scenario)


def test_responses_where_chat_is_spoken_that_cannot_be(tmp_path: Path) -> None:
    """One that refers to a stored reply is refused by name, and no account is asked."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, upstream):
            status, body = await pool.answer(PATHS[CHAT], CURSOR | {"previous_response_id": "resp_1"})
            error = json.loads(body)["error"]
            assert (status, error["param"], error["code"]) == (400, "previous_response_id", "cannot_translate")
            status, body = await pool.answer(PATHS[CHAT], CURSOR | {"input": 7})
            assert (status, b"input" in body) == (400, True)
            assert upstream.work == []

    run(scenario)


def test_claude_names(tmp_path: Path) -> None:
    """With claude_aliases, Claude Code's list has each model under a name that it shows, and that name is served."""

    async def scenario() -> None:
        extra = "[models]\nclaude_aliases = true\ncollapse_models = true\n"
        async with pool_of(tmp_path, {"one": good}, extra=extra) as (pool, upstream):
            async with pool.get("/v1/models?limit=1000", **VERSION) as answer:
                names = [entry["id"] for entry in (await answer.json())["data"]]
            own = ["claude-scripted", "scripted-large", "scripted-small"]
            assert names == sorted([*own, "claude-scripted-large", "claude-scripted-small"])
            async with pool.get("/v1/models") as answer:
                assert sorted(entry["id"] for entry in (await answer.json())["data"]) == own
            async with pool.get("/v1/models/claude-scripted-small", **VERSION) as answer:
                assert (await answer.json())["max_tokens"] == 8000
            for name in names:
                status, _ = await pool.answer(PATHS[MESSAGES], question(MESSAGES, model=name))
                assert status == 200
            asked = [request.payload["model"] for request in upstream.work]
            assert asked == [name if name in own else name.removeprefix("claude-") for name in names]
            status, body = await pool.answer(PATHS[MESSAGES], question(MESSAGES, model="claude-nothing"))
            assert (status, b"claude-nothing" in body) == (404, True)

    run(scenario)


def test_claude_names_are_off(tmp_path: Path) -> None:
    """Without claude_aliases a name stands for itself only."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"one": good}) as (pool, _):
            status, _ = await pool.answer(PATHS[MESSAGES], question(MESSAGES, model="claude-scripted-large"))
            assert status == 404

    run(scenario)


def test_codex_sees_the_pools_quota(tmp_path: Path) -> None:
    """Codex gets the mean use of the pool's shortest and longest window; others get nothing."""

    async def scenario() -> None:
        accounts = {"a": Behaviour(then=good), "b": Behaviour(then=good)}
        async with pool_of(tmp_path, accounts, more=ALL_DIALECTS + WINDOWS) as (pool, _):
            live = pool.runtime.pool
            assert live.set_used(AccountLabel("alpha/a"), "5h", 0.5)
            assert live.set_used(AccountLabel("alpha/b"), "5h", 0.25)
            assert live.set_used(AccountLabel("alpha/b"), "weekly", 0.1)
            async with pool.post(PATHS[RESPONSES], question(RESPONSES), originator="codex_exec") as answer:
                assert answer.headers["x-codex-primary-window-minutes"] == "300"
                assert 37 < float(answer.headers["x-codex-primary-used-percent"]) < 39
                assert answer.headers["x-codex-secondary-window-minutes"] == "10080"
                assert 4.9 < float(answer.headers["x-codex-secondary-used-percent"]) < 6
            async with pool.post(PATHS[RESPONSES], question(RESPONSES)) as answer:
                assert not [name for name in answer.headers if name.lower().startswith("x-codex")]

    run(scenario)
