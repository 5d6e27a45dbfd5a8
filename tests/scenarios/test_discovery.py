"""Models come from the providers' own lists; whatever is listed can be used, and a bad list takes nothing away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import RunningPool, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, question

from eggpool.domain import AccountLabel, ListedModel
from eggpool.engine import jobs
from eggpool.scripted import Behaviour, Script, ScriptedProvider, error, good, html_200, reply

ONE = AccountLabel("alpha/one")
REAL_LIFE = ("llama-3.3-70b", "grok-4", "gemini-2.5", "o4-mini", "openai/gpt-4o", "claude-3-5-haiku", "weird:free@1")


async def refresh(pool: RunningPool) -> None:
    """Ask every account for its list, as the job does at each interval."""
    await jobs.fetch_all(pool.runtime.pool, pool.runtime.ledger)


async def listed(pool: RunningPool) -> list[str]:
    """The names in the pool's own list."""
    async with pool.get("/v1/models") as answer:
        assert answer.status == 200
        return [model["id"] for model in (await answer.json())["data"]]


def test_every_listed_model_is_usable(tmp_path: Path) -> None:
    """A provider that speaks one dialect serves all that it lists in it, whatever the names look like."""

    async def scenario() -> None:
        models = tuple(ListedModel(name) for name in REAL_LIFE)
        async with (
            ScriptedProvider({key_of("one"): good}, models=models) as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "one"))) as pool,
        ):
            names = await listed(pool)
            assert sorted(names) == sorted(f"{name}/alpha" for name in REAL_LIFE)
            for name in (*names, *REAL_LIFE):
                status, body = await pool.answer(PATHS[CHAT], question(model=name))
                assert status == 200, body
            assert [request.payload["model"] for request in upstream.work[len(names) :]] == list(REAL_LIFE)

    run(scenario)


BAD_LISTS: dict[str, Script] = {
    "empty": reply(200, {"object": "list", "data": []}),
    "error": error(500),
    "page": html_200(),
    "odd": reply(200, {"data": [1, None, {"name": 3}]}),
}


@pytest.mark.parametrize("bad", BAD_LISTS)
def test_bad_list_takes_nothing_away(tmp_path: Path, bad: str) -> None:
    """An empty or failed list leaves the catalogue as it was, and is booked as a ping and an event."""

    async def scenario() -> None:
        accounts = {"one": Behaviour(lists=(good, BAD_LISTS[bad]))}
        async with pool_of(tmp_path, accounts) as (pool, upstream):
            before = await listed(pool)
            await refresh(pool)
            assert await listed(pool) == before
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 200
            pings = await pool.rows("SELECT account, status, model_count, error FROM pings ORDER BY id")
            assert pings[0] == (ONE, 200, 3, None)
            assert pings[1][1:3] == (500 if bad == "error" else 200, None)
            assert "model list" in pings[1][3]
            assert len(await pool.rows("SELECT * FROM events WHERE kind = 'catalog_failed'")) == 1
            await refresh(pool)
            assert len(upstream.requests) == 4

    run(scenario)


def test_list_outlives_a_restart(tmp_path: Path) -> None:
    """The last good list serves from the first request after a restart on, with its limits, though no list comes."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("one"): good}) as upstream:
            config = settings(tmp_path, provider("alpha", upstream, "one"))
            async with running_pool(config) as pool:
                before = await listed(pool)
                await pool.rows("SELECT * FROM model_lists")
            upstream.behave(key_of("one"), Behaviour(lists_then=error(503)))
            async with running_pool(config, lists=False) as pool:
                assert await listed(pool) == before
                async with pool.get("/v1/models/scripted-large") as answer:
                    assert (await answer.json())["context_length"] == 200_000
                assert (await pool.answer(PATHS[CHAT], question()))[0] == 200

    run(scenario)


def test_before_the_first_list(tmp_path: Path) -> None:
    """As long as an account never gave a list, any model may be asked of it."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("one"): Behaviour(lists_then=error(500))}) as upstream,
            running_pool(settings(tmp_path, provider("alpha", upstream, "one")), lists=False) as pool,
        ):
            for name in ("scripted-large", "scripted-large/alpha"):
                assert (await pool.answer(PATHS[CHAT], question(model=name)))[0] == 200
            assert upstream.work[-1].payload["model"] == "scripted-large"
            assert await listed(pool) == []

    run(scenario)


def test_model_that_vanishes(tmp_path: Path) -> None:
    """A model that is missing from good lists is withdrawn at the third one in a row, not before."""

    async def scenario() -> None:
        accounts = {"one": Behaviour()}
        async with pool_of(tmp_path, accounts) as (pool, upstream):
            upstream.models = tuple(model for model in upstream.models if model.id != "scripted-small")
            for expected in (True, True, False):
                await refresh(pool)
                assert ("scripted-small/alpha" in await listed(pool)) == expected
            assert (await pool.answer(PATHS[CHAT], question(model="scripted-small")))[0] == 404

    run(scenario)


def test_stale_list(tmp_path: Path) -> None:
    """With allow_stale_catalog = false, a list that is too old is not used any more; by default it is."""

    async def scenario() -> None:
        for allow, status in ((True, 200), (False, 404)):
            folder = tmp_path / str(allow)
            folder.mkdir()
            clock = HandClock()
            extra = f"[models]\nstale_after_s = 100\nallow_stale_catalog = {str(allow).lower()}"
            more = 'protocols = ["openai"]\nstatic_models = ["other"]'
            async with pool_of(folder, {"one": good}, extra=extra, more=more, clock=clock) as (pool, _):
                await pool.until(lambda: ONE in pool.runtime.pool.lists)
                clock.advance(101)
                pool.runtime.pool.rebuild()
                assert (await pool.answer(PATHS[CHAT], question()))[0] == status

    run(scenario)


def test_list_by_post(tmp_path: Path) -> None:
    """A provider that wants to be asked by POST is asked so, with the body that the operator names."""

    async def scenario() -> None:
        more = (
            'protocols = ["openai"]\nmodels_endpoint = { method = "POST", path = "/models", body = { kind = "chat" } }'
        )
        async with pool_of(tmp_path, {"one": good}, more=more) as (pool, upstream):
            assert upstream.requests[0].method == "POST"
            assert upstream.requests[0].payload == {"kind": "chat"}
            assert len(await listed(pool)) == 3

    run(scenario)


def test_anthropic_pages(tmp_path: Path) -> None:
    """An Anthropic-shaped list is read to its last page, with the version that it insists on."""

    async def scenario() -> None:
        models = tuple(ListedModel(f"claude-{number:03}") for number in range(45))

        def small_pages(request: Any, _: Any) -> Any:
            at = int(request.query.partition("after_id=claude-")[2] or -1) + 1
            ids = [model.id for model in models][at : at + 20]
            page = {"data": [{"type": "model", "id": name} for name in ids], "has_more": at + 20 < len(models)}
            return reply(200, page | {"first_id": ids[0], "last_id": ids[-1]})

        more = 'protocols = ["anthropic"]\nauth = { mode = "api_key" }'
        accounts = {"one": Behaviour(lists_then=small_pages)}
        async with pool_of(tmp_path, accounts, more=more) as (pool, upstream):
            assert len(await listed(pool)) == 45
            assert {request.header("anthropic-version") for request in upstream.requests} == {"2023-06-01"}
            assert {request.api_key for request in upstream.requests} == {key_of("one")}

    run(scenario)


def test_collapsed_names(tmp_path: Path) -> None:
    """With collapse_models there is one entry for each model, with the smallest limits and all its providers."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("a"): good}) as first,
            ScriptedProvider({key_of("b"): good}, models=(ListedModel("scripted-large"), ListedModel("own"))) as second,
        ):
            text = provider("first", first, "a", extra="routing_priority = 3") + provider("second", second, "b")
            async with running_pool(settings(tmp_path, text, "[models]\ncollapse_models = true")) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                assert await listed(pool) == ["claude-scripted", "own", "scripted-large", "scripted-small"]
                async with pool.get("/v1/models/scripted-large") as answer:
                    block = (await answer.json())["eggpool"]
                assert block["providers"] == ["first", "second"]
                assert block["routing_priority_max"] == 3
                assert block["limits"]["context"] == 200_000
                async with pool.get("/v1/models/scripted-large/second") as answer:
                    assert (await answer.json())["eggpool"]["provider_id"] == "second"
                for name in (*await listed(pool), "scripted-large/second"):
                    assert (await pool.answer(PATHS[CHAT], question(model=name)))[0] == 200

    run(scenario)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("union", {"both/alpha", "only-a/alpha"}), ("intersection", {"both/alpha"})],
)
def test_expose_mode(tmp_path: Path, mode: str, expected: set[str]) -> None:
    """Lists of several accounts are united or cut; what is not listed for that reason is still served."""

    async def scenario() -> None:
        accounts = {
            "a": Behaviour(models=(ListedModel("both"), ListedModel("only-a"))),
            "b": Behaviour(models=(ListedModel("both"),)),
        }
        async with pool_of(tmp_path, accounts, extra=f'[models]\nexpose_mode = "{mode}"') as (pool, _):
            await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
            assert set(await listed(pool)) == expected
            for _ in range(3):
                async with pool.post(PATHS[CHAT], question(model="only-a")) as answer:
                    assert (answer.status, answer.headers["x-eggpool-account"]) == (200, "alpha/a")

    run(scenario)


def test_dialect_of_a_model(tmp_path: Path) -> None:
    """An override decides in which dialect a model is served; asked in another one, the refusal says which."""

    async def scenario() -> None:
        more = (
            'protocols = ["openai", "anthropic"]\nmodel_overrides = { "claude-scripted" = { protocol = "anthropic" } }'
        )
        untranslated = "[translation]\nenabled = false\n"
        async with pool_of(tmp_path, {"one": good}, more=more, extra=untranslated) as (pool, upstream):
            status, body = await pool.answer(PATHS[CHAT], question(model="claude-scripted"))
            assert status == 400
            assert "served in the dialect messages only" in json.loads(body)["error"]["message"]
            assert upstream.work == []
            assert (await pool.answer(PATHS[MESSAGES], question(MESSAGES, model="claude-scripted")))[0] == 200
            assert (await pool.answer(PATHS[MESSAGES], question(MESSAGES)))[0] == 200
            refused = (await pool.booked(3))[-1].record
            assert (refused.outcome.value, refused.status, refused.error_class) == (
                "client_error",
                400,
                "wrong_dialect",
            )

    run(scenario)
