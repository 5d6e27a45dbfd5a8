"""Which dialect an account is asked in, what cannot be carried to it, and how long a request may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import CHAT, MESSAGES, MODEL, PATHS, RESPONSES, WORDS, opening, question, text_of
from tests.scenarios.crossing import (
    CROSSING_IDS,
    CROSSINGS,
    PROTOCOLS,
    TRANSLATION,
    anthropic_client,
    golden,
    judged,
    one_dialect,
)

from eggpool.domain import Dialect, Limits, ListedModel, Usage
from eggpool.routing.speech import REFUSED_FOR_S
from eggpool.scripted import (
    Behaviour,
    Play,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Steps,
    error,
    good,
    rate_limited,
    reply,
    say,
)
from eggpool.scripted.behaviours import play

crossings = pytest.mark.parametrize(("ours", "theirs"), CROSSINGS, ids=CROSSING_IDS)
TWO = 'protocols = ["openai", "anthropic"]'
UNKNOWN_URL = reply(
    404,
    {"error": {"message": "Unknown request URL.", "type": "invalid_request_error", "param": None, "code": None}},
)
ENGLISH = "every good egg is worth its weight in gold and then some "


def only_in(served: Dialect, refusal: Script) -> Play:
    """A provider that serves its models in one dialect only, and says `refusal` at the other endpoints."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        return good_reply.steps() if request.dialect is served else play(refusal, request, good_reply)

    return script


@crossings
def test_native_is_preferred(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """Where all else is equal, the account that speaks the client's dialect is asked, and not a byte is translated."""

    async def scenario() -> None:
        async with ScriptedProvider() as native, ScriptedProvider() as foreign:
            text = provider("afar", foreign, "f", extra=f'protocols = ["{PROTOCOLS[theirs]}"]')
            text += provider("near", native, "n", extra=f'protocols = ["{PROTOCOLS[ours]}"]')
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                for _ in range(4):
                    async with pool.post(PATHS[ours], opening(ours)) as answer:
                        assert answer.status == 200
                        assert TRANSLATION not in answer.headers
                assert (len(native.work), foreign.work) == (4, [])

    run(scenario)


@pytest.mark.parametrize(
    "refusal",
    [
        UNKNOWN_URL,
        error(400, message="This model is only supported in v1/messages and not in v1/chat/completions."),
        reply(405, b"Method Not Allowed", {"content-type": "text/plain"}),
        reply(404, b"404 page not found", {"content-type": "text/plain"}),
    ],
    ids=["404", "400", "405", "a plain 404"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_endpoint_is_learnt(tmp_path: Path, refusal: Script, stream: bool) -> None:
    """An account that refuses a dialect is asked in its other one, at once and from then on; nothing rests."""

    async def scenario() -> None:
        clock = HandClock()
        script = only_in(MESSAGES, refusal)
        async with pool_of(tmp_path, {"a": script, "b": script}, more=TWO, clock=clock) as (pool, upstream):
            for _ in range(3):
                status, body = await pool.answer(PATHS[CHAT], question(stream=stream))
                assert (status, text_of(CHAT, body)) == (200, f"You said: {WORDS}")
            asked = [request.dialect for request in upstream.work]
            assert asked == [CHAT, MESSAGES, MESSAGES, MESSAGES]
            judged(upstream.work[1])
            assert pool.runtime.pool.rests == {}
            rows = await pool.booked(3)
            assert [len(row.attempts) for row in rows] == [1, 1, 2]
            assert rows[2].attempts[0].error_class == "endpoint"
            # Other models of the provider are not concerned, and nothing is held against it for ever.
            await pool.answer(PATHS[CHAT], question(model="scripted-small"))
            assert [request.dialect for request in upstream.work[4:]] == [CHAT, MESSAGES]
            clock.advance(REFUSED_FOR_S + 1)
            await pool.answer(PATHS[CHAT], question())
            assert upstream.work[6].dialect is CHAT

    run(scenario)


def test_a_model_stays_routable(tmp_path: Path) -> None:
    """Where every dialect is refused, the provider's own word comes back each time, and each time it is asked again."""

    async def scenario() -> None:
        accounts = {"a": Behaviour(*[UNKNOWN_URL] * 4, then=good)}
        async with pool_of(tmp_path, accounts, more=TWO) as (pool, upstream):
            status, body = await pool.answer(PATHS[CHAT], question())
            assert status == 404
            assert b"Unknown request URL." in body
            assert [request.dialect for request in upstream.work] == [CHAT, MESSAGES]
            for _ in range(3):
                status, body = await pool.answer(PATHS[CHAT], question())
            assert (status, text_of(CHAT, body)) == (200, f"You said: {WORDS}")

    run(scenario)


def test_the_next_account_is_asked_after_a_refused_endpoint(tmp_path: Path) -> None:
    """An account that speaks nothing else is passed over, and the next one is asked."""

    async def scenario() -> None:
        async with (
            ScriptedProvider({key_of("a"): UNKNOWN_URL}) as first,
            ScriptedProvider({key_of("b"): good}) as second,
        ):
            text = provider("one", first, "a", extra='protocols = ["openai"]\nrouting_priority = 1')
            text += provider("two", second, "b", extra='protocols = ["anthropic"]')
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                status, body = await pool.answer(PATHS[CHAT], question())
                assert (status, text_of(CHAT, body)) == (200, f"You said: {WORDS}")

    run(scenario)


def test_the_configuration_decides(tmp_path: Path) -> None:
    """`[model_overrides] protocol` names the dialect of a model at a provider that speaks several."""

    async def scenario() -> None:
        more = f'{TWO}\n[providers.alpha.model_overrides."{MODEL}"]\nprotocol = "anthropic"\n'
        async with pool_of(tmp_path, {"a": good}, more=more) as (pool, upstream):
            async with pool.post(PATHS[CHAT], question()) as answer:
                assert answer.headers[TRANSLATION] == "chat>messages"
            await pool.answer(PATHS[CHAT], question(model="scripted-small"))
            await pool.answer(PATHS[RESPONSES], question(RESPONSES, model="scripted-small"))
            assert [request.dialect for request in upstream.work] == [MESSAGES, CHAT, CHAT]

    run(scenario)


@crossings
def test_translation_can_be_switched_off(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """With `enabled = false` a model of another dialect is a 400 that says where it is served."""

    async def scenario() -> None:
        extra = "[translation]\nenabled = false\n"
        async with one_dialect(tmp_path, theirs, {"a": good}, extra=extra) as (pool, upstream):
            status, body = await pool.answer(PATHS[ours], question(ours))
            assert status == 400
            assert theirs.value in json.loads(body)["error"]["message"]
            assert upstream.work == []

    run(scenario)


SEARCH = [{"type": "web_search"}]
SEARCH_OF_MESSAGES = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]
CANNOT: list[Any] = [
    pytest.param(
        RESPONSES, {"previous_response_id": "resp_1"}, ("previous_response_id", "conversation"), id="previous"
    ),
    pytest.param(RESPONSES, {"store": True}, ("store", "conversation"), id="store"),
    pytest.param(CHAT, {"store": True}, ("store", "conversation"), id="store of chat"),
    pytest.param(CHAT, {"n": 2}, ("answer",), id="n"),
    pytest.param(RESPONSES, {"tools": SEARCH, "tool_choice": {"type": "web_search"}}, ("web_search",), id="forced"),
    pytest.param(RESPONSES, {"tools": SEARCH, "tool_choice": "required"}, ("web_search",), id="the only one"),
    pytest.param(
        MESSAGES,
        {"tools": SEARCH_OF_MESSAGES, "tool_choice": {"type": "tool", "name": "web_search"}},
        ("web_search_20250305",),
        id="forced of messages",
    ),
    pytest.param(
        MESSAGES,
        {"tools": SEARCH_OF_MESSAGES, "tool_choice": {"type": "any"}},
        ("web_search_20250305",),
        id="the only one of messages",
    ),
]


def asked(ours: Dialect, more: Any) -> Any:
    """A question with further fields."""
    return json.loads(question(ours)) | more


@pytest.mark.parametrize(("ours", "more", "words"), CANNOT)
def test_what_cannot_be_carried_is_refused(tmp_path: Path, ours: Dialect, more: Any, words: tuple[str, ...]) -> None:
    """Where the answer would be wrong without it, the client is told what it is and what to do; nobody is asked."""

    async def scenario() -> None:
        for theirs in [one for one in PROTOCOLS if one is not ours]:
            async with one_dialect(tmp_path / theirs.value, theirs, {"a": good}) as (pool, upstream):
                status, body = await pool.answer(PATHS[ours], asked(ours, more))
                assert status == 400
                message = json.loads(body)["error"]["message"]
                assert all(word in message for word in words), message
                assert upstream.work == []
                row = (await pool.booked(1))[0].record
                assert (row.outcome.value, row.attempts) == ("client_error", 0)

    for theirs in PROTOCOLS:
        (tmp_path / theirs.value).mkdir()
    run(scenario)


@pytest.mark.parametrize(("ours", "more", "words"), CANNOT)
def test_a_native_account_is_used_instead(tmp_path: Path, ours: Dialect, more: Any, words: tuple[str, ...]) -> None:
    """An account that needs no translation answers, however many come before it that cannot be told."""

    async def scenario() -> None:
        theirs = next(one for one in PROTOCOLS if one is not ours)
        # A stranger's previous response is refused by the scripted provider; that is its own word.
        expected = 400 if "previous_response_id" in more else 200
        async with ScriptedProvider() as native, ScriptedProvider() as foreign:
            spoken = f'protocols = ["{PROTOCOLS[theirs]}"]\nrouting_priority = 1'
            text = provider("afar", foreign, "f", "g", "h", extra=spoken)
            text += provider("near", native, "n", extra=f'protocols = ["{PROTOCOLS[ours]}"]')
            config = settings(tmp_path, text, "[routing]\nmax_retries_before_stream = 1\n")
            async with running_pool(config) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 4)
                async with pool.post(PATHS[ours], asked(ours, more)) as answer:
                    assert answer.status == expected
                    assert answer.headers["x-eggpool-account"] == "near/n"
                assert (len(native.work), foreign.work) == (1, [])
                assert native.work[0].payload == asked(ours, more)

    run(scenario)


def test_a_native_account_that_comes_back(tmp_path: Path) -> None:
    """While the account that could answer rests on its provider's word, the client is told to come back."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("n"): rate_limited(30)}) as native, ScriptedProvider() as foreign:
            text = provider("afar", foreign, "f", extra='protocols = ["anthropic"]')
            text += provider("near", native, "n", extra='protocols = ["openai"]')
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                for _ in range(2):
                    async with pool.post(PATHS[CHAT], asked(CHAT, {"n": 2})) as answer:
                        assert answer.status == 429
                        assert int(answer.headers["retry-after"]) >= 29
                assert (len(native.work), foreign.work) == (1, [])

    run(scenario)


@pytest.mark.parametrize(
    ("ours", "theirs", "more", "lost"),
    [
        (RESPONSES, CHAT, {"tools": SEARCH}, "tools.web_search"),
        (RESPONSES, MESSAGES, {"tools": SEARCH}, "tools.web_search"),
        (MESSAGES, CHAT, {"tools": SEARCH_OF_MESSAGES}, "tools.web_search_20250305"),
        (CHAT, MESSAGES, {"logprobs": True, "seed": 7}, "seed,logprobs"),
        (CHAT, MESSAGES, {"an\r\nodd: näme": 1}, "an??odd: n?me"),
    ],
)
def test_what_is_left_out_is_told(tmp_path: Path, ours: Dialect, theirs: Dialect, more: Any, lost: str) -> None:
    """What is merely offered is left out, and stands in the answer's header and in the books."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"a": good}) as (pool, upstream):
            async with pool.post(PATHS[ours], asked(ours, more)) as answer:
                assert answer.status == 200
                assert answer.headers[TRANSLATION] == f"{ours.value}>{theirs.value}; lost={lost}"
            assert "tools" not in judged(upstream.work[0])
            decision = (await pool.booked(1))[0].record.decision
            assert decision is not None
            assert json.loads(decision)["lost"] == lost.split(",")

    run(scenario)


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_left_out_of_an_answer_is_told(tmp_path: Path, stream: bool) -> None:
    """What the client's dialect has no words for stands in the books, and in the header where that was not sent yet."""

    async def scenario() -> None:
        accounts = {"a": golden(MESSAGES, "search.sse")}
        async with one_dialect(tmp_path, MESSAGES, accounts) as (pool, _):
            async with pool.post(PATHS[CHAT], question(stream=stream)) as answer:
                assert answer.status == 200
                await answer.read()
                told = answer.headers[TRANSLATION]
            decision = (await pool.booked(1))[0].record.decision
            assert decision is not None
            lost = json.loads(decision)["lost"]
            assert "web_search_tool_result" in lost
            assert told == "chat>messages" + ("" if stream else f"; lost={','.join(lost)}")

    run(scenario)


SAYS = {CHAT: "maximum context length is", MESSAGES: "prompt is too long: ", RESPONSES: "maximum context length is"}


@pytest.mark.parametrize("ours", list(PROTOCOLS))
@pytest.mark.parametrize("theirs", list(PROTOCOLS))
@pytest.mark.parametrize("said_by", ["list", "provider", "everywhere"])
def test_the_window_of_a_model_is_enforced(tmp_path: Path, ours: Dialect, theirs: Dialect, said_by: str) -> None:
    """A request that is surely longer than the model's window is refused in the words at which agents compact."""

    async def scenario() -> None:
        override = f'model_overrides."{MODEL}"]\nmax_context_tokens = 1000\n'
        more = f"[providers.alpha.{override}" if said_by == "provider" else ""
        extra = f"[{override}" if said_by == "everywhere" else ""
        listed = ListedModel(MODEL, limits=Limits(context=1000 if said_by == "list" else 200_000))
        accounts = {"a": Behaviour(models=(listed,))}
        async with one_dialect(tmp_path, theirs, accounts, more=more, extra=extra) as (pool, upstream):
            assert (await pool.answer(PATHS[ours], question(ours, words=ENGLISH)))[0] == 200
            status, body = await pool.answer(PATHS[ours], question(ours, words=ENGLISH * 200))
            assert status == 400
            told = json.loads(body)["error"]
            assert SAYS[ours] in told["message"]
            assert "1000" in told["message"]
            assert told["type"] == "invalid_request_error"
            assert told.get("code") == (None if ours is MESSAGES else "context_length_exceeded")
            assert len(upstream.work) == 1

    run(scenario)


def test_the_window_is_not_enforced_where_that_is_switched_off(tmp_path: Path) -> None:
    """With `enforce_context_limit = false` the provider judges the length."""

    async def scenario() -> None:
        override = f'[model_overrides."{MODEL}"]\nmax_context_tokens = 1000\nenforce_context_limit = false\n'
        async with one_dialect(tmp_path, MESSAGES, {"a": good}, extra=override) as (pool, upstream):
            assert (await pool.answer(PATHS[CHAT], question(words=ENGLISH * 200)))[0] == 200
            assert len(upstream.work) == 1

    run(scenario)


def test_output_limit_of_a_model(tmp_path: Path) -> None:
    """The limit that Messages demands, and a chat client did not give, is the model's own."""

    async def scenario() -> None:
        extra = f'[model_overrides."{MODEL}"]\nmax_output_tokens = 4321\n'
        async with one_dialect(tmp_path, MESSAGES, {"a": good}, extra=extra) as (pool, upstream):
            await pool.answer(PATHS[CHAT], question())
            await pool.answer(PATHS[CHAT], asked(CHAT, {"max_completion_tokens": 12}))
            assert [request.payload["max_tokens"] for request in upstream.work] == [4321, 12]

    run(scenario)


def test_counts_are_learnt_and_kept(tmp_path: Path) -> None:
    """Reports teach how many tokens a request is, a restart forgets none of it, and the error is shown."""

    async def scenario() -> None:
        clock = HandClock()
        words = ENGLISH * 100
        script = say("ok", usage=Usage(input_tokens=3000, output_tokens=1))
        turn: Any = [{"role": "user", "content": words}]
        async with ScriptedProvider({key_of("a"): script}) as upstream:
            config = settings(tmp_path, provider("alpha", upstream, "a", extra='protocols = ["openai"]'))
            learnt = 0
            for start in range(2):
                async with running_pool(config, clock) as pool, anthropic_client(pool) as client:
                    if start == 0:
                        first = await client.messages.count_tokens(model=MODEL, messages=turn)
                        assert first.input_tokens < 2000
                        async with pool.get(f"/v1/models/{MODEL}") as answer:
                            assert "token_estimate_error" not in (await answer.json())["eggpool"]
                        for _ in range(30):
                            await client.messages.create(model=MODEL, max_tokens=9, messages=turn)
                        await pool.booked(30)
                    counted = await client.messages.count_tokens(model=MODEL, messages=turn)
                    assert 2700 < counted.input_tokens < 3300
                    assert learnt in (0, counted.input_tokens)
                    learnt = counted.input_tokens
                    async with pool.get(f"/v1/models/{MODEL}/alpha") as answer:
                        error = (await answer.json())["eggpool"]["token_estimate_error"]
                    assert 0 < error < 0.3
                    suffixed = await client.messages.count_tokens(model=f"{MODEL}/alpha", messages=turn)
                    assert abs(suffixed.input_tokens - learnt) < 10

    run(scenario)


@pytest.mark.parametrize("theirs", [CHAT, MESSAGES])
def test_count_of_responses(tmp_path: Path, theirs: Dialect) -> None:
    """The count that Responses has is estimated too, in its own shape, where no provider speaks that dialect."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"a": good}) as (pool, upstream):
            async with pool.post("/v1/responses/input_tokens", question(RESPONSES)) as answer:
                assert answer.headers["x-eggpool-estimate"] == "true"
                counted = await answer.json()
            assert counted["object"] == "response.input_tokens"
            assert 1 <= counted["input_tokens"] < 100
            assert upstream.work == []

    run(scenario)


def test_counts_of_providers_that_count(tmp_path: Path) -> None:
    """A provider of the client's dialect counts itself; where it cannot, an estimate stands in its place."""

    async def scenario() -> None:
        for ours, path in ((MESSAGES, "/v1/messages/count_tokens"), (RESPONSES, "/v1/responses/input_tokens")):
            accounts = {"a": Behaviour(good, UNKNOWN_URL)}
            async with one_dialect(tmp_path / ours.value, ours, accounts) as (pool, _):
                for estimated in (None, "true"):
                    async with pool.post(path, question(ours)) as answer:
                        assert answer.status == 200
                        assert answer.headers.get("x-eggpool-estimate") == estimated
                        assert (await answer.json())["input_tokens"] >= 3

    for ours in (MESSAGES, RESPONSES):
        (tmp_path / ours.value).mkdir()
    run(scenario)
