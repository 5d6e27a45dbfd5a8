"""`/api/status`, `/api/explain` and the decision in a header: what the pool tells of itself over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.pool import CLIENT_KEY, RunningPool, key_of, pool_of, run
from tests.scenarios.asking import CHAT, MODEL, PATHS, opening, question

from eggpool.engine import by_hand
from eggpool.engine.explaining import explain
from eggpool.scripted import Behaviour, good, rate_limited
from eggpool.web.decision import MAX_BYTES, shown

WHY = {"x-eggpool-decision": "1"}


async def told(pool: RunningPool, path: str, status: int = 200) -> Any:
    """The JSON at a path."""
    async with pool.get(path) as reply:
        assert (reply.status, reply.content_type) == (status, "application/json")
        return await reply.json()


@pytest.mark.parametrize("path", ["/api/status", f"/api/explain?model={MODEL}"])
def test_a_key_is_needed(tmp_path: Path, path: str) -> None:
    """Neither is open to everybody."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _), pool.http.get(pool.url + path) as reply:
            assert reply.status == 401

    run(scenario)


def test_status(tmp_path: Path) -> None:
    """The accounts as they stand, without any secret."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good, "b": good}) as (pool, _):
            by_hand.rest(pool.runtime.pool, "b", 60)
            status = await told(pool, "/api/status")
            assert [(one["account"], one["state"]) for one in status["accounts"]] == [
                ("alpha/a", "ready"),
                ("alpha/b", "resting"),
            ]
            text = json.dumps(status)
            assert not [key for key in (CLIENT_KEY, key_of("a"), key_of("b")) if key in text]

    run(scenario)


def test_explain_tells_what_would_happen(tmp_path: Path) -> None:
    """The account that is named first is the one that answers, those that would not are told with the reason."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good, "b": good, "c": good}) as (pool, upstream):
            by_hand.rest(pool.runtime.pool, "a", 60)
            for _ in range(4):
                before = await told(pool, f"/api/explain?model={MODEL}")
                assert [one["place"] for one in before["candidates"]] == [1, 2]
                assert [(one["account"], one["reason"]) for one in before["refused"]] == [
                    ("alpha/a", "resting_by_hand")
                ]
                async with pool.post(PATHS[CHAT], opening()) as reply:
                    assert reply.headers["x-eggpool-account"] == before["would_go_to"]
            assert len(upstream.work) == 4

    run(scenario)


def test_explain_changes_nothing(tmp_path: Path) -> None:
    """Asked any number of times: the same answer, no lease, nothing sent, nothing tried that is due."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good, "b": good}) as (pool, upstream):
            live = pool.runtime.pool
            first = explain(live, MODEL)
            assert {explain(live, MODEL).would_go_to for _ in range(10)} == {first.would_go_to}
            assert (live.in_flight, upstream.work, live.rests) == (0, [], {})

    run(scenario)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "invalid_request"),
        ("model=", 400, "invalid_request"),
        (f"model={MODEL}&dialect=latin", 400, "invalid_request"),
        ("model=scripted-larg", 404, "model_not_found"),
        (f"model={MODEL}&dialect=messages&conversation=x", 200, None),
        (f"model={MODEL}&dialect=", 200, None),
    ],
)
def test_questions(tmp_path: Path, query: str, status: int, code: str | None) -> None:
    """What cannot be explained is refused like any other request."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            answer = await told(pool, f"/api/explain?{query}", status)
            assert answer.get("error", {}).get("code") == code

    run(scenario)


def test_the_dialect_follows_the_model(tmp_path: Path) -> None:
    """Without a dialect the question is about one that the model is served in."""

    async def scenario() -> None:
        more = 'protocols = ["anthropic"]'
        untranslated = "[translation]\nenabled = false\n"
        async with pool_of(tmp_path, {"a": good}, more=more, extra=untranslated) as (pool, _):
            assert (await told(pool, f"/api/explain?model={MODEL}"))["dialect"] == "messages"
            other = await told(pool, f"/api/explain?model={MODEL}&dialect=chat")
            assert (other["would_go_to"], other["refused"][0]["reason"]) == (None, "dialect")

    run(scenario)


def test_a_decision_comes_only_to_those_who_ask(tmp_path: Path) -> None:
    """It stands in a header of answers and of refusals alike; what was asked for it never reaches the provider."""

    async def scenario() -> None:
        limited = {name: Behaviour(rate_limited(retry_after=60), then=good) for name in ("a", "b")}
        async with pool_of(tmp_path, limited) as (pool, upstream):
            async with pool.post(PATHS[CHAT], question(), **WHY) as reply:
                assert reply.status == 429
                decision = json.loads(reply.headers["x-eggpool-decision"])
                assert sorted(decision["tried"]) == [["alpha/a", "rate"], ["alpha/b", "rate"]]
            async with pool.post(PATHS[CHAT], question(), **WHY) as reply:
                assert reply.status == 429
                assert json.loads(reply.headers["x-eggpool-decision"])["no"] == {"resting_rate": 2}
            by_hand.wake(pool.runtime.pool, "alpha")
            async with pool.post(PATHS[CHAT], question(stream=True), **WHY) as reply:
                assert reply.status == 200
                assert len(json.loads(reply.headers["x-eggpool-decision"])["best"]) == 2
            for headers in ({}, {"x-eggpool-decision": "0"}):
                async with pool.post(PATHS[CHAT], question(), **headers) as reply:
                    assert reply.status == 200
                    assert "x-eggpool-decision" not in reply.headers
            assert not [name for one in upstream.work for name, _ in one.headers if "eggpool" in name.lower()]

    run(scenario)


def test_a_decision_fits_into_a_header() -> None:
    """It is JSON in ASCII of at most so many bytes, whatever accounts are called."""
    assert shown('{"tried":[["alpha/zürich",null]]}') == b'{"tried":[["alpha/z\\u00fcrich",null]]}'
    longest = json.dumps({"tried": ["x" * (MAX_BYTES - 14)]}, separators=(",", ":"))
    assert (len(shown(longest)), shown(longest).decode()) == (MAX_BYTES, longest)
    assert json.loads(shown(json.dumps({"tried": ["x" * MAX_BYTES]}))) == {"too_long": MAX_BYTES + 14}
