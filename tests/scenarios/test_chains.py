"""Names that stand for several models, models that a request needs more from, and why an account was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import RunningPool, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, PATHS, opening, question

from eggpool.domain import Limits, ListedModel
from eggpool.scripted import Behaviour, ReceivedRequest, Reply, Script, ScriptedProvider, Steps, error, good, reply
from eggpool.scripted.behaviours import play
from eggpool.scripted.behaviours import rate_limited as limited

ALIASES = '[models]\naliases = { fast = ["scripted-large", "scripted-small"], other = ["missing", "scripted-small"] }\n'
WHY = {"x-eggpool-decision": "1"}


async def asked(pool: RunningPool, model: str, **headers: str) -> tuple[int, str, Any]:
    """The status, the account and the decision for a new question."""
    async with pool.post(PATHS[CHAT], opening(model=model), **headers, **WHY) as answer:
        await answer.read()
        told = answer.headers["x-eggpool-decision"]
        assert len(told) <= 600
        return answer.status, str(answer.headers.get("x-eggpool-account")), json.loads(told)


def for_model(model: str, script: Script) -> Script:
    """This for one model, a good answer for the others."""

    def chosen(request: ReceivedRequest, good_reply: Reply) -> Steps:
        return play(script if request.payload.get("model") == model else good, request, good_reply)

    return chosen


def models_of(upstream: ScriptedProvider) -> list[str]:
    """The models that were asked for, in order."""
    return [request.payload["model"] for request in upstream.work]


@pytest.mark.parametrize("fault", ["refused", "failed"])
def test_the_next_model(tmp_path: Path, fault: str) -> None:
    """When nobody can serve the first model of an alias, the next one is used; each account once for each model."""

    async def scenario() -> None:
        bad = for_model("scripted-large", limited(60) if fault == "refused" else error(500))
        async with pool_of(tmp_path, {"a": bad, "b": bad}, extra=ALIASES, clock=HandClock()) as (pool, upstream):
            status, _, told = await asked(pool, "fast")
            assert status == 200
            assert models_of(upstream) == ["scripted-large", "scripted-large", "scripted-small"]
            assert [failure is None for _, failure in told["tried"]] == [False, False, True]
            row = (await pool.booked(1))[0].record
            assert (row.model_asked, row.model_served) == ("fast", "scripted-small")
            assert json.loads(row.decision or "") == told
            status, _, _ = await asked(pool, "fast")
            assert status == 200
            # Whoever says so, what rests is passed over while the next model is served.
            assert models_of(upstream)[3:] == ["scripted-small"]

    run(scenario)


def test_a_model_that_nobody_has(tmp_path: Path) -> None:
    """It is passed over within a chain, and the alias stands in the list of models."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}, extra=ALIASES) as (pool, upstream):
            assert (await asked(pool, "other"))[0] == 200
            assert models_of(upstream) == ["scripted-small"]
            async with pool.get("/v1/models") as reply:
                names = {one["id"] for one in (await reply.json())["data"]}
            assert {"fast", "other"} <= names
            assert "missing" not in names

    run(scenario)


def test_a_chain_of_which_nothing_is_left(tmp_path: Path) -> None:
    """The refusal tells the first time at which any of the chain comes back, and who was considered."""

    async def scenario() -> None:
        def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
            wait = 600 if request.payload.get("model") == "scripted-large" else 90
            return play(limited(wait), request, good_reply)

        clock = HandClock()
        async with pool_of(tmp_path, {"a": script}, extra=ALIASES, clock=clock) as (pool, upstream):
            async with pool.post(PATHS[CHAT], opening(model="fast")) as first:
                assert (first.status, first.headers["retry-after"]) == (429, "90")
            clock.advance(30)
            async with pool.post(PATHS[CHAT], opening(model="fast"), **WHY) as second:
                assert (second.status, second.headers["retry-after"]) == (429, "60")
                told = json.loads(second.headers["x-eggpool-decision"])
                assert told == {"best": [], "no": {"resting_rate": 1}}
            assert len(upstream.work) == 2

    run(scenario)


def test_the_first_to_come_back(tmp_path: Path) -> None:
    """A client that is told a provider's own 429 hears when the first account is back, whichever failed last."""

    async def scenario() -> None:
        clock = HandClock()
        async with (
            pool_of(tmp_path, {"a": limited(30), "b": limited(40)}, clock=clock) as (pool, _),
            pool.post(PATHS[CHAT], opening()) as answer,
        ):
            assert (answer.status, answer.headers["retry-after"]) == (429, "30")
            assert b"Rate limit reached." in await answer.read()

    run(scenario)


def test_a_chain_whose_first_model_speaks_another_dialect(tmp_path: Path) -> None:
    """What only refuses for a moment is told as such, though another model of the chain could never be served here."""

    async def scenario() -> None:
        one, two = (ListedModel("one"),), (ListedModel("two"),)
        extra = '[models]\naliases = { both = ["one", "two"] }\n[translation]\nenabled = false\n'
        keys = {key_of("a"): Behaviour(models=one), key_of("b"): Behaviour(then=limited(60), models=two)}
        async with ScriptedProvider(keys) as at:
            text = provider("alpha", at, "a", extra='protocols = ["anthropic"]') + provider("beta", at, "b")
            async with running_pool(settings(tmp_path, text, extra), HandClock()) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                assert (await asked(pool, "both"))[0] == 429
                async with pool.post(PATHS[CHAT], opening(model="both")) as refused:
                    assert refused.status == 429
                    assert b"beta/b: resting_rate" in await refused.read()

    run(scenario)


def test_a_prompt_that_is_too_long_for_one(tmp_path: Path) -> None:
    """Behind one that finds the prompt too long only larger ones are tried, of the whole chain."""

    async def scenario() -> None:
        names = {"tiny": 8_000, "small": 32_000, "huge": 500_000}
        listed = tuple(ListedModel(name, limits=Limits(context=size)) for name, size in names.items())
        too_long = error(400, message="prompt is too long: 40000 tokens > 32000 maximum")
        extra = '[models]\naliases = { any = ["small", "tiny", "huge"] }\n'
        keys = {key_of("a"): Behaviour(then=for_model("small", too_long), models=listed)}
        async with ScriptedProvider(keys) as at:
            config = settings(tmp_path, provider("alpha", at, "a"), extra)
            async with running_pool(config, HandClock()) as pool:
                status, _, told = await asked(pool, "any")
                assert status == 200
                assert models_of(at) == ["small", "huge"]
                assert told["tried"] == [["alpha/a", "prompt_too_long"], ["alpha/a", None]]
                assert pool.runtime.pool.rests == {}

    run(scenario)


IMAGE = "data:image/png;base64,aGVsbG8="


@pytest.mark.parametrize("need", ["images", "tools"])
def test_who_lacks_something_is_passed_over(tmp_path: Path, need: str) -> None:
    """A model that is known to lack what a request needs is used only where no other is left."""

    async def scenario() -> None:
        def body() -> bytes:
            told: dict[str, Any] = json.loads(opening(model="m"))
            if need == "images":
                words = told["messages"][0]["content"]
                told["messages"][0]["content"] = [
                    {"type": "text", "text": words},
                    {"type": "image_url", "image_url": {"url": IMAGE}},
                ]
            else:
                told["tools"] = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
            return json.dumps(told).encode()

        lacks = {"id": "m", "architecture": {"input_modalities": ["text"]}, "supported_parameters": ["temperature"]}
        has = {
            "id": "m",
            "architecture": {"input_modalities": ["text", "image"]},
            "supported_parameters": ["temperature", "tools", "tool_choice"],
        }

        def listing(entry: dict[str, Any], then: Script = good) -> Behaviour:
            return Behaviour(
                then=then, lists_then=reply(200, {"object": "list", "data": [entry]}), models=(ListedModel("m"),)
            )

        clock = HandClock()
        async with ScriptedProvider({key_of("a"): listing(lacks), key_of("b"): listing(has)}) as at:
            text = provider("alpha", at, "a", "b", extra="")
            async with running_pool(settings(tmp_path, text), clock) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)

                async def used(sent: bytes) -> tuple[str, Any]:
                    clock.advance(1)
                    async with pool.post(PATHS[CHAT], sent, **WHY) as answer:
                        assert answer.status == 200
                        await answer.read()
                        told = json.loads(answer.headers["x-eggpool-decision"])
                        return str(answer.headers["x-eggpool-account"]), told

                assert {(await used(opening(model="m")))[0] for _ in range(2)} == {"alpha/a", "alpha/b"}
                for _ in range(3):
                    account, told = await used(body())
                    assert account == "alpha/b"
                    assert list(told["no"].values()) == [1]
                at.behave(key_of("b"), listing(has, limited(600)))
                account, told = await used(body())
                assert account == "alpha/a"

    run(scenario)


def test_everybody_tells_the_same(tmp_path: Path) -> None:
    """The header, the books and the dry run name the same accounts in the same order for the same reasons."""

    async def scenario() -> None:
        clock = HandClock()
        week = '\n[[providers.alpha.windows]]\nname = "weekly"\nkind = "block"\nlength = "7d"\npercent = true\n'
        names = "abcdefg"
        async with ScriptedProvider({key_of(name): good for name in names}) as at:
            text = provider("alpha", at, *names) + week
            text += provider("beta", at, "z", extra='protocols = ["anthropic"]')
            async with running_pool(settings(tmp_path, text), clock) as pool:
                live = pool.runtime.pool
                await pool.until(lambda: len(live.lists) == len(names))  # at z this key is unknown
                for place, label in enumerate(live.accounts):
                    live.set_used(label, "weekly", (place * 3 % 7) / 10)
                async with pool.get("/api/explain?model=scripted-large&dialect=chat") as answer:
                    dry = json.loads(await answer.read())
                status, account, told = await asked(pool, "scripted-large")
                assert status == 200
                assert [one for one, _ in told["best"]] == [one["account"] for one in dry["candidates"]][:5]
                assert (told["best"][0][0], told["could"]) == (account, 7)
                assert dry["would_go_to"] == account
                assert [round(one["why"]["score"], 2) for one in dry["candidates"]][:5] == [
                    round(score, 2) for _, score in told["best"]
                ]
                assert json.loads((await pool.booked(1))[0].record.decision or "") == told

    run(scenario)


def test_a_passed_on_error_is_explained(tmp_path: Path) -> None:
    """Also an answer that is the last provider's own error says who was tried, and how each attempt ended."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": error(500), "b": error(503)}, clock=HandClock()) as (pool, _):
            status, account, told = await asked(pool, "scripted-large")
            assert (status, account) == (503, "alpha/b")
            assert told["tried"] == [["alpha/a", "server_error"], ["alpha/b", "overloaded"]]
            assert json.loads((await pool.booked(1))[0].record.decision or "") == told

    run(scenario)


def test_a_bound_on_what_is_told(tmp_path: Path) -> None:
    """However many accounts fail, and whatever they are called, the decision stays short."""

    async def scenario() -> None:
        names = [f"{'account-with-quite-a-long-name':.<40}{number:02}".replace(".", "x") for number in range(40)]
        async with pool_of(tmp_path, dict.fromkeys(names, error(500)), clock=HandClock()) as (pool, upstream):
            status, _, told = await asked(pool, "scripted-large")
            assert status == 500
            assert len(upstream.work) == 40
            assert told["tried"][-1][1] == "server_error"
            assert told["could"] == 40

    run(scenario)


def test_a_wrong_dialect_is_explained(tmp_path: Path) -> None:
    """A dialect that the model is not served in is told, also in the decision."""

    async def scenario() -> None:
        only_chat, untranslated = 'protocols = ["openai"]', "[translation]\nenabled = false\n"
        async with (
            pool_of(tmp_path, {"a": good}, more=only_chat, extra=untranslated) as (pool, _),
            pool.post(PATHS[MESSAGES], question(MESSAGES), **WHY) as refused,
        ):
            assert refused.status == 400
            assert json.loads(refused.headers["x-eggpool-decision"]) == {"best": [], "no": {"dialect": 1}}

    run(scenario)
