"""Alive, ready, and there: what anybody may ask without a key."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.pool import key_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, PATHS, question

from eggpool.scripted import Behaviour, ScriptedProvider, error, good


def test_live_and_there(tmp_path: Path) -> None:
    """`/v1/healthz` and `HEAD /` answer everybody, with next to nothing."""

    async def scenario() -> None:
        async with (
            ScriptedProvider() as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "a"))) as pool,
        ):
            async with pool.http.get(pool.url + "/v1/healthz") as answer:
                assert (answer.status, await answer.json()) == (200, {"status": "ok"})
            async with pool.http.head(pool.url + "/") as answer:
                assert (answer.status, await answer.read()) == (200, b"")
            async with pool.http.head(pool.url + "/v1/readyz") as answer:
                assert answer.status == 200
            async with pool.http.get(pool.url + "/v1/readyz") as answer:
                assert await answer.json() == {
                    "status": "ok",
                    "checks": {"database": "ok", "accounts": "ok", "catalog": "ok"},
                }

    run(scenario)


def test_no_account(tmp_path: Path) -> None:
    """A pool without accounts runs, is not ready, and tells a caller what to do."""

    async def scenario() -> None:
        async with running_pool(settings(tmp_path, ""), lists=False) as pool:
            async with pool.http.get(pool.url + "/v1/readyz") as answer:
                assert answer.status == 503
                assert (await answer.json())["checks"]["accounts"] != "ok"
            status, body = await pool.answer(PATHS[CHAT], question())
            assert status == 503
            assert b"eggpool connect" in body

    run(scenario)


def test_no_models_known(tmp_path: Path) -> None:
    """An account that never gave a list can still be tried, so the pool is ready; a failed request changes nothing."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("a"): Behaviour(error(500), lists_then=error(500))}) as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "a")), lists=False) as pool,
        ):
            for expected in (500, 200):
                async with pool.http.get(pool.url + "/v1/readyz") as answer:
                    assert answer.status == 200
                assert (await pool.answer(PATHS[CHAT], question()))[0] == expected

    run(scenario)


def test_good_provider_is_ready(tmp_path: Path) -> None:
    """A provider that is disabled does not count: with it alone, nothing can be tried."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): good}) as upstream:
            table = provider("alpha", upstream, "a", extra="enabled = false")
            async with running_pool(settings(tmp_path, table), lists=False) as pool:
                async with pool.http.get(pool.url + "/v1/readyz") as answer:
                    assert answer.status == 503
                assert upstream.requests == []

    run(scenario)


def test_every_answer_has_a_name(tmp_path: Path) -> None:
    """Whatever is asked, the answer carries a name of its own that a person can quote, and the number of tries."""

    async def scenario() -> None:
        async with (
            ScriptedProvider() as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "a"))) as pool,
        ):
            names = set()
            paths = ("/v1/models", "/v1/models/nope", "/v1/healthz", "/api/stats/summary", "/api/events", "/nothing")
            for path in paths:
                async with pool.get(path) as answer:
                    names.add(answer.headers["x-proxy-request-id"])
                    assert answer.headers["x-proxy-attempt-count"] == "0"
            async with pool.post(PATHS[CHAT], question()) as answer:
                names.add(answer.headers["x-proxy-request-id"])
                assert answer.headers["x-proxy-attempt-count"] == "1"
            assert len(names) == len(paths) + 1

    run(scenario)
