"""Faults of a provider of another dialect are told in the client's own, and a broken reply never looks whole."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.helpers.pool import BEARER, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import (
    CHAT,
    HELD_BACK,
    MESSAGES,
    MODEL,
    PATHS,
    RESPONSES,
    WORDS,
    opening,
    payloads,
    question,
    text_of,
)
from tests.scenarios.crossing import CROSSING_IDS, CROSSINGS, PROTOCOLS, TRANSLATION, judged, one_dialect

from eggpool.domain import Dialect, Usage
from eggpool.scripted import (
    Behaviour,
    Play,
    Question,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    SendChunk,
    Steps,
    WaitFor,
    answer_to,
    crlf_lines,
    cut_body,
    cut_stream,
    drop_before_reply,
    empty_200,
    error,
    error_200,
    error_in_stream,
    good,
    hang_after_events,
    html_200,
    huge_event,
    in_chunks,
    multi_line_data,
    no_terminal_marker,
    rate_limited,
    reply,
    reshaped,
    say,
    with_comments,
)
from eggpool.scripted.behaviours import play
from eggpool.scripted.good import answered

crossings = pytest.mark.parametrize(("ours", "theirs"), CROSSINGS, ids=CROSSING_IDS)
MARKS = {CHAT: (b"[DONE]", b'"finish_reason":"'), MESSAGES: (b"message_stop", b"message_delta")}
MARKS[RESPONSES] = (b"response.completed", b"response.incomplete")
"""What only a whole reply has."""

TYPES = {
    CHAT: {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"},
    MESSAGES: {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        529: "overloaded_error",
    },
}
TYPES[RESPONSES] = TYPES[CHAT]
WORST = {CHAT: "server_error", MESSAGES: "api_error", RESPONSES: "server_error"}


def told(ours: Dialect, body: bytes) -> Any:
    """The error in a body of this dialect; fails when it is none."""
    payload = msgspec.json.decode(body)
    if ours is MESSAGES:
        assert payload["type"] == "error"
        assert set(payload["error"]) == {"type", "message"}
    else:
        assert set(payload) == {"error"}
        assert set(payload["error"]) == {"message", "type", "param", "code"}
    return payload["error"]


def break_in(ours: Dialect, body: bytes) -> str:
    """The message of the error with which a stream ends; fails when it ends otherwise, or looks whole."""
    for mark in MARKS[ours]:
        assert mark not in body
    events = payloads(body)
    last = events[-1]
    if ours is RESPONSES:
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert sum(event["type"] in ("response.failed", "error") for event in events) == 1
        return str(last["response"]["error"]["message"])
    assert sum("error" in event for event in events) == 1
    return str(last["error"]["message"])


def in_the_other_form(*, stream: bool) -> Play:
    """A good answer, as a stream or a whole one, whatever was asked for."""

    def script(request: ReceivedRequest, _good: Reply) -> Steps:
        payload = request.payload | {"stream": stream, "stream_options": {"include_usage": True}}
        asked = Question(request.dialect, request.body, payload)
        return answered(asked, answer_to(asked)).steps()

    return script


@crossings
def test_error_statuses(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A provider's error keeps its status and its wording, in the shape and with the type of the client's dialect."""

    async def scenario() -> None:
        statuses = [400, 413, 422, 404, 500, 502, 503, 529, 403, 401, 429]
        scripts = [error(status, message=f"This is about {status}, truly.") for status in statuses[:-1]]
        scripts.append(rate_limited(7, "This is about 429, truly."))
        async with one_dialect(tmp_path, theirs, {"one": Behaviour(*scripts)}) as (pool, upstream):
            for status in statuses:
                async with pool.post(PATHS[ours], question(ours)) as answer:
                    assert answer.status == status
                    assert answer.headers["content-type"].startswith("application/json")
                    body = await answer.read()
                    found = told(ours, body)
                    assert found["message"] == f"This is about {status}, truly."
                    other = WORST[ours] if status >= 500 else "invalid_request_error"
                    assert found["type"] == TYPES[ours].get(status, other)
                    assert int(answer.headers["content-length"]) == len(body)
                    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
            assert [request.dialect for request in upstream.work] == [theirs] * len(statuses)

    run(scenario)


SAYS_TOO_LONG: dict[Dialect, tuple[int, Any]] = {
    CHAT: (400, {"error": {"message": "This model's maximum context length is 8192 tokens.", "type": "x",
                           "param": "messages", "code": "context_length_exceeded"}}),
    MESSAGES: (400, {"type": "error", "error": {"type": "invalid_request_error",
                                                "message": "prompt is too long: 9000 tokens > 8192 maximum"}}),
    RESPONSES: (400, {"error": {"message": "Your input exceeds the context window of this model.", "type": "x",
                                "param": "input", "code": "context_length_exceeded"}}),
}  # fmt: skip
COMPACTS_AT = {CHAT: "maximum context length", MESSAGES: "prompt is too long", RESPONSES: "maximum context length"}
"""What the agents of each dialect look for."""


@crossings
@pytest.mark.parametrize("stream", [False, True])
def test_prompt_too_long(tmp_path: Path, ours: Dialect, theirs: Dialect, stream: bool) -> None:
    """A prompt that is too long is told in the words at which the client's agents compact, with the provider's own."""

    async def scenario() -> None:
        status, body = SAYS_TOO_LONG[theirs]
        async with one_dialect(tmp_path, theirs, {"one": reply(status, body)}) as (pool, _):
            status, answer = await pool.answer(PATHS[ours], question(ours, stream=stream))
            assert status == 400
            found = told(ours, answer)
            assert COMPACTS_AT[ours] in found["message"]
            assert body["error"]["message"] in found["message"]
            assert found.get("code") == (None if ours is MESSAGES else "context_length_exceeded")
            assert pool.runtime.pool.rests == {}

    run(scenario)


def failed_at_once(theirs: Dialect, code: str, message: str) -> Script:
    """A stream that begins and then tells an error, as providers of each dialect do."""
    kind = "rate_limit_error" if code == "rate_limit_exceeded" else "invalid_request_error"
    events: dict[Dialect, Any] = {
        CHAT: {"error": {"message": message, "type": kind, "code": code}},
        MESSAGES: {"type": "error", "error": {"type": kind, "message": message}},
        RESPONSES: {
            "type": "response.failed",
            "response": {"id": "resp_1", "status": "failed", "error": {"code": code, "message": message}},
        },
    }
    name = b"" if theirs is CHAT else b"event: " + events[theirs]["type"].encode() + b"\n"
    event = name + b"data: " + json.dumps(events[theirs]).encode() + b"\n\n"
    return reshaped(lambda whole: (*whole[: 0 if theirs is CHAT else 1], event))


@pytest.mark.parametrize(("ours", "theirs"), [*CROSSINGS, *((one, one) for one in PROTOCOLS)])
@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        ("context_length_exceeded", "prompt is too long: it exceeds the maximum context length", 400),
        ("invalid_value", "this tool has no name", 400),
        ("rate_limit_exceeded", "too many eggs", 429),
    ],
    ids=["too long", "client's fault", "limit"],
)
def test_what_is_told_inside_a_stream_has_its_status(
    tmp_path: Path, ours: Dialect, theirs: Dialect, code: str, message: str, status: int
) -> None:
    """The client's own fault, told before any content, is a 400 in the provider's words: it must not be repeated."""

    async def scenario() -> None:
        if theirs is RESPONSES and code == "invalid_value":
            return  # a failed response of that code is a failure of the provider
        async with one_dialect(tmp_path, theirs, {"a": failed_at_once(theirs, code, message)}) as (pool, upstream):
            answer, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert answer == status
            assert message in told(ours, body)["message"]
            assert len(upstream.work) == 1
            assert (pool.runtime.pool.rests == {}) == (status == 400)

    run(scenario)


def test_a_limit_inside_a_stream_for_codex(tmp_path: Path) -> None:
    """Codex ends its turn at a 429 and repeats after a 502: a limit that was told inside a stream is not its end."""

    async def scenario() -> None:
        script = failed_at_once(RESPONSES, "rate_limit_exceeded", "too many eggs")
        async with one_dialect(tmp_path, RESPONSES, {"a": script}, extra="[routing]\nmax_wait_ms = 1\n") as (pool, _):
            asked = question(RESPONSES, stream=True)
            status, body = await pool.answer(PATHS[RESPONSES], asked, originator="codex_cli_rs")
            assert status == 502
            assert "too many eggs" in told(RESPONSES, body)["message"]

    run(scenario)


BEFORE_CONTENT: dict[str, Script] = {
    "error status": error(500),
    "error under 200": error_200("busy"),
    "error first": error_in_stream(0, "busy"),
    "page": html_200(),
    "nothing": empty_200(),
    "dropped": drop_before_reply(),
    "cut at once": cut_stream(0),
    "garbage": reshaped(lambda events: (b"data: {]\n\n", *events)),
    "strange encoding": lambda request, reply: reply.with_headers(("content-encoding", "rot13")).steps(),
}


@crossings
@pytest.mark.parametrize("fault", BEFORE_CONTENT)
def test_failover(tmp_path: Path, ours: Dialect, theirs: Dialect, fault: str) -> None:
    """Whatever fails before the first content is tried at the next account, and the client sees a good stream."""

    async def scenario() -> None:
        accounts = {"a": BEFORE_CONTENT[fault], "b": good}
        async with one_dialect(tmp_path, theirs, accounts) as (pool, _):
            status, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert (status, text_of(ours, body)) == (200, f"You said: {WORDS}")
            (row,) = await pool.booked(1)
            assert [attempt.account for attempt in row.attempts] == ["alpha/a", "alpha/b"]

    run(scenario)


@crossings
@pytest.mark.parametrize("native_first", [True, False], ids=["native to foreign", "foreign to native"])
@pytest.mark.parametrize("stream", [False, True])
def test_failover_between_dialects(
    tmp_path: Path, ours: Dialect, theirs: Dialect, native_first: bool, stream: bool
) -> None:
    """A request moves from an account of its own dialect to one of another, and back, and is right at each."""

    async def scenario() -> None:
        fails = error_in_stream(0, "busy") if stream else error(503)
        scripts: list[Script] = [fails, good] if native_first else [good, fails]
        async with (
            ScriptedProvider({key_of("n"): scripts[0]}) as native,
            ScriptedProvider({key_of("f"): scripts[1]}) as foreign,
        ):
            text = provider("native", native, "n", extra=f'protocols = ["{PROTOCOLS[ours]}"]')
            text += provider(
                "foreign", foreign, "f", extra=f'protocols = ["{PROTOCOLS[theirs]}"]\nrouting_priority = 1'
            )
            if native_first:
                text = text.replace("routing_priority = 1", "routing_priority = 0").replace(
                    f'protocols = ["{PROTOCOLS[ours]}"]', f'protocols = ["{PROTOCOLS[ours]}"]\nrouting_priority = 1'
                )
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                asked = question(ours, stream=stream)
                async with pool.post(PATHS[ours], asked) as answer:
                    assert answer.status == 200
                    assert text_of(ours, await answer.read()) == f"You said: {WORDS}"
                    told = answer.headers.get(TRANSLATION)
                assert told == (f"{ours.value}>{theirs.value}" if native_first else None)
                assert native.work[0].path == PATHS[ours]
                judged(foreign.work[0])
                (row,) = await pool.booked(1)
                assert len(row.attempts) == 2

    run(scenario)


def broken(theirs: Dialect) -> dict[str, Script]:
    """Streams that break after their first word, by what happens."""
    count = HELD_BACK[theirs] + 2
    return {
        "error event": error_in_stream(count, "too busy now"),
        "cut": cut_stream(count),
        "reset": cut_stream(count, reset=True),
        "cut inside an event": cut_stream(count, mid_event=True),
        "no end marker": no_terminal_marker(),
        "garbage": reshaped(lambda events: (*events[:count], b"data: {]\n\n", *events[count:])),
        "an error and more": reshaped(lambda events: (*events[:count], _ERRORS[theirs], *events[count:])),
        "half an event at the end": reshaped(lambda events: (*events[:count], events[count][:-9])),
        "too long an event": reshaped(lambda events: (*events[:count], b"data: " + b"x" * 17_000_000, *events[count:])),
    }


_ERRORS = {
    CHAT: b'data: {"error":{"message":"too busy now","type":"server_error","code":503}}\n\n',
    MESSAGES: b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"too busy now"}}\n\n',
    RESPONSES: b'event: error\ndata: {"type":"error","code":"server_error","message":"too busy now","param":null}\n\n',
}


@crossings
@pytest.mark.parametrize("fault", broken(CHAT))
def test_broken_streams(tmp_path: Path, ours: Dialect, theirs: Dialect, fault: str) -> None:
    """A stream that breaks after content ends with one error of the client's dialect and with no mark of success."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"a": broken(theirs)[fault], "b": good}) as (pool, upstream):
            status, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert status == 200
            message = break_in(ours, body)
            assert ("too busy now" in message) == ("error" in fault)
            assert "You" in text_of(ours, body)
            assert len(upstream.work) == 1
            (row,) = await pool.booked(1)
            assert (row.record.outcome.value, row.record.status) == ("error", 200)
            assert row.record.error_class is not None
            assert [attempt.error_class for attempt in row.attempts] == [row.record.error_class]

    run(scenario)


@pytest.mark.parametrize("ours", [MESSAGES, RESPONSES])
def test_a_call_that_was_cut_is_never_whole(tmp_path: Path, ours: Dialect) -> None:
    """Agents act on a call as soon as its block has ended; one whose arguments were cut has no end."""

    async def scenario() -> None:
        tools: dict[Dialect, Any] = {
            MESSAGES: [{"name": "look_up", "input_schema": {"type": "object"}}],
            RESPONSES: [{"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}],
        }
        for theirs in [one for one in PROTOCOLS if one is not ours]:
            calls = {CHAT: 2, MESSAGES: 3, RESPONSES: 4}
            script = cut_stream(calls[theirs])
            asked = json.loads(question(ours, stream=True, words="look_up")) | {"tools": tools[ours]}
            async with one_dialect(tmp_path / theirs.value, theirs, {"a": script}) as (pool, _):
                status, body = await pool.answer(PATHS[ours], asked)
                assert status == 200
                assert b"look_up" in body
                break_in(ours, body)
                assert b"content_block_stop" not in body
                assert b"output_item.done" not in body

    for theirs in PROTOCOLS:
        (tmp_path / theirs.value).mkdir()
    run(scenario)


ODD: dict[str, Script] = {
    "byte by byte": in_chunks(1),
    "CRLF": crlf_lines(),
    "comments": with_comments(),
    "several lines of data": multi_line_data(),
    "no last blank line": reshaped(lambda events: (*events[:-1], events[-1].rstrip(b"\n"))),
    "plain instead of a stream": in_the_other_form(stream=False),
}


@crossings
@pytest.mark.parametrize("oddity", ODD)
def test_odd_streams(tmp_path: Path, ours: Dialect, theirs: Dialect, oddity: str) -> None:
    """What is odd but whole is translated as if it had come as it should: the client gets the very same bytes."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": Behaviour(good, ODD[oddity])}) as (pool, _):
            _, expected = await pool.answer(PATHS[ours], question(ours, stream=True))
            status, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert (status, text_of(ours, body)) == (200, f"You said: {WORDS}")
            assert all(mark in body for mark in MARKS[ours][:1])
            if oddity != "plain instead of a stream":
                assert _timeless(body) == _timeless(expected)
            rows = await pool.booked(2)
            assert [row.record.outcome.value for row in rows] == ["completed", "completed"]
            assert [row.record.usage.output_tokens for row in rows] == [5, 5]

    run(scenario)


def _timeless(stream: bytes) -> list[Any]:
    """The events of a stream without the time of day, which the two requests do not share."""
    events = payloads(stream)
    for event in events:
        event.pop("created", None)
        event.get("response", {}).pop("created_at", None)
    return events


@crossings
def test_a_stream_where_a_plain_reply_was_asked_for(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A stream that nobody asked for becomes the plain reply that somebody did."""

    async def scenario() -> None:
        accounts = {"one": in_the_other_form(stream=True)}
        async with one_dialect(tmp_path, theirs, accounts) as (pool, _):
            async with pool.post(PATHS[ours], question(ours)) as answer:
                assert answer.headers["content-type"] == "application/json"
                assert text_of(ours, await answer.read()) == f"You said: {WORDS}"
            assert (await pool.booked(1))[0].record.usage.output_tokens == 5

    run(scenario)


@crossings
def test_a_plain_reply_that_breaks_off(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A plain reply that is cut, or is not one, is tried elsewhere; nothing of it reaches the client."""

    async def scenario() -> None:
        accounts: dict[str, Script] = {
            "a": cut_body(40),
            "b": reply(200, {"object": "list", "data": []}),
            "c": lambda request, good_reply: play(
                no_terminal_marker(), request, Reply(200, events=_stream_of(request).events)
            ),
            "d": good,
        }
        async with one_dialect(tmp_path, theirs, accounts) as (pool, upstream):
            status, body = await pool.answer(PATHS[ours], question(ours))
            assert (status, text_of(ours, body)) == (200, f"You said: {WORDS}")
            assert len(upstream.work) == 4

    run(scenario)


def _stream_of(request: ReceivedRequest) -> Reply:
    asked = Question(request.dialect, request.body, request.payload | {"stream": True})
    whole = answered(asked, answer_to(asked))
    assert whole.events is not None
    return whole.with_headers(("content-type", "text/event-stream"))


@crossings
def test_huge_event(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A word of 5 MB arrives whole."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": huge_event()}) as (pool, _):
            status, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert status == 200
            assert len(text_of(ours, body)) == 5 * 1024 * 1024
            assert MARKS[ours][0] in body

    run(scenario)


def _without_usage(events: tuple[bytes, ...]) -> tuple[bytes, ...]:
    kept: list[bytes] = []
    for event in events:
        head, _, data = event.partition(b"data: ")
        if data.strip() == b"[DONE]":
            kept.append(event)
            continue
        payload = json.loads(data)
        for holder in (payload, payload.get("message"), payload.get("response")):
            if holder and "usage" in holder:
                del holder["usage"]
        if payload.get("choices") != []:
            kept.append(head + b"data: " + json.dumps(payload).encode() + b"\n\n")
    return tuple(kept)


@crossings
def test_usage_missing(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A provider that tells no usage is no failure: the stream is whole, and nothing is made up in the books."""

    async def scenario() -> None:
        async with one_dialect(tmp_path, theirs, {"one": reshaped(_without_usage)}) as (pool, _):
            status, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert (status, text_of(ours, body)) == (200, f"You said: {WORDS}")
            assert MARKS[ours][0] in body
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.usage_source.value, row.usage.output_tokens) == ("completed", "none", 0)

    run(scenario)


@crossings
@pytest.mark.parametrize("stream", [False, True])
def test_usage_is_the_same_in_all_words(tmp_path: Path, ours: Dialect, theirs: Dialect, stream: bool) -> None:
    """Cached tokens are a part of the input in one dialect and beside it in another: client and books agree."""

    async def scenario() -> None:
        script = say("ok", usage=Usage(input_tokens=100, cache_read_tokens=60, output_tokens=20))
        async with one_dialect(tmp_path, theirs, {"one": script}) as (pool, _):
            asked = json.loads(question(ours, stream=stream))
            if ours is CHAT and stream:
                asked["stream_options"] = {"include_usage": True}
            _, body = await pool.answer(PATHS[ours], asked)
            events = payloads(body) if stream else [json.loads(body)]
            found = [holder["usage"] for event in events for holder in (event, event.get("response")) if
                     holder and holder.get("usage")][-1]  # fmt: skip
            if ours is MESSAGES:
                counts = (found["input_tokens"], found["cache_read_input_tokens"], found["output_tokens"])
                assert counts == (40, 60, 20)
            else:
                whole, part = ("prompt", "completion") if ours is CHAT else ("input", "output")
                cached = found[f"{whole}_tokens_details"]["cached_tokens"]
                assert (found[f"{whole}_tokens"], cached, found[f"{part}_tokens"]) == (100, 60, 20)
            usage = (await pool.booked(1))[0].record.usage
            assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (100, 60, 20)

    run(scenario)


@crossings
def test_client_leaves(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A client that leaves in the middle stops the provider, and what was reported until then is booked."""

    async def scenario() -> None:
        accounts = {"a": hang_after_events(HELD_BACK[theirs] + 2)}
        async with one_dialect(tmp_path, theirs, accounts) as (pool, upstream):
            async with pool.http.post(pool.url + PATHS[ours], data=question(ours, stream=True), headers=BEARER) as one:
                await one.content.readany()
                one.close()
            await upstream.wait_for(lambda there: there.closed_early == 1)
            await pool.until(lambda: pool.in_flight == 0)
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.error_class) == ("cancelled", "client_left")
            assert row.usage_source.value == ("partial" if theirs is MESSAGES else "none")
            assert row.usage.input_tokens == (3 if theirs is MESSAGES else 0)

    run(scenario)


SIGN = {CHAT: b": keep-alive\n\n", MESSAGES: b'event: ping\ndata: {"type": "ping"}\n\n', RESPONSES: b": keep-alive\n\n"}
QUIET = "[upstream]\nkeepalive_after_ms = 20\n"


@crossings
@pytest.mark.parametrize("then", ["stream", "plain", "error"])
def test_signs_of_life(tmp_path: Path, ours: Dialect, theirs: Dialect, then: str) -> None:
    """A client that waits gets signs in its own dialect, and behind them the whole answer or the last error."""

    async def scenario() -> None:
        gate = asyncio.Event()
        ends: dict[str, Script] = {
            "stream": good,
            "plain": in_the_other_form(stream=False),
            "error": error(400, message="no egg for you"),
        }

        def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
            return (WaitFor(gate), *play(ends[then], request, good_reply))

        async with one_dialect(tmp_path, theirs, {"a": script}, extra=QUIET) as (pool, _):
            async with pool.post(PATHS[ours], question(ours, stream=True)) as answer:
                assert answer.status == 200
                sign = SIGN[ours]
                assert await answer.content.readexactly(len(sign)) == sign
                gate.set()
                rest = (await answer.read()).replace(sign, b"")
            if then == "error":
                assert b"no egg for you" in rest
                assert not any(mark in rest for mark in MARKS[ours])
            else:
                assert text_of(ours, rest) == f"You said: {WORDS}"
                assert rest.count(MARKS[ours][0]) >= 1

    run(scenario)


@crossings
def test_signs_between_events(tmp_path: Path, ours: Dialect, theirs: Dialect) -> None:
    """A provider that falls silent in the middle does not make the client believe that it died."""

    async def scenario() -> None:
        gate = asyncio.Event()

        def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
            events = good_reply.events or ()
            count = HELD_BACK[theirs] + 2
            first = [SendChunk(event) for event in events[:count]]
            rest = [SendChunk(event) for event in events[count:]]
            return (good_reply.stream_head(), *first, WaitFor(gate), *rest, SendChunk(b""))

        async with one_dialect(tmp_path, theirs, {"a": script}, extra=QUIET) as (pool, _):
            async with pool.post(PATHS[ours], question(ours, stream=True)) as answer:
                body = b""
                while not body.endswith(SIGN[ours] * 2):
                    body += await answer.content.readany()
                gate.set()
                body += await answer.read()
            assert text_of(ours, body) == f"You said: {WORDS}"
            assert MARKS[ours][0] in body

    run(scenario)


@pytest.mark.parametrize("ours", [MESSAGES, RESPONSES])
def test_an_end_that_was_said_holds(tmp_path: Path, ours: Dialect) -> None:
    """A chat stream whose answer is finished is whole, even when its connection breaks before the end marker."""

    async def scenario() -> None:
        def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
            assert good_reply.events is not None
            return play(cut_stream(len(good_reply.events) - 1), request, good_reply)

        async with one_dialect(tmp_path, CHAT, {"a": script}) as (pool, _):
            _, body = await pool.answer(PATHS[ours], question(ours, stream=True))
            assert MARKS[ours][0] in body
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.usage.output_tokens) == ("completed", 5)

    run(scenario)


def test_thoughts_of_another_account(tmp_path: Path) -> None:
    """Thoughts that a Messages provider cannot verify, lent to a Responses client, are left out in a second try."""

    async def scenario() -> None:
        def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
            words = "messages.1.content.0: Invalid `signature` in `thinking` block"
            refusal = error(400, message=words)
            return play(refusal, request, good_reply) if b"EqQB" in request.body else good_reply.steps()

        async with one_dialect(tmp_path, MESSAGES, {"a": script}) as (pool, upstream):
            thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "eggpool.signature.EqQB"}
            said = {"role": "assistant", "content": [{"type": "output_text", "text": "one"}]}
            given = [{"role": "user", "content": "count"}, thought, said, {"role": "user", "content": "and two"}]
            status, body = await pool.answer(PATHS[RESPONSES], {"model": MODEL, "input": given})
            assert (status, text_of(RESPONSES, body)) == (200, "You said: and two")
            assert len(upstream.work) == 2
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_keys_stay_hidden(tmp_path: Path) -> None:
    """A key that a provider quotes in its error does not cross either."""

    async def scenario() -> None:
        script = error(401, message=f"Incorrect API key provided: {key_of('one')}.")
        async with pool_of(tmp_path, {"one": script}, more='protocols = ["openai"]') as (pool, _):
            status, body = await pool.answer(PATHS[MESSAGES], opening(MESSAGES))
            assert status == 401
            assert key_of("one").encode() not in body

    run(scenario)
