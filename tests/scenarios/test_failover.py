"""When one account fails before the first word, another one answers and the client sees nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers.clock import HandClock
from tests.helpers.pool import ALL_DIALECTS, key_of, pool_of, provider, run, running_pool, settings
from tests.scenarios.asking import (
    CHAT,
    HELD_BACK,
    MESSAGES,
    PATHS,
    RESPONSES,
    STREAM_EVENTS,
    opening,
    question,
    text_of,
)

from eggpool.domain import Dialect
from eggpool.scripted import (
    Behaviour,
    Script,
    ScriptedProvider,
    cut_body,
    cut_stream,
    drop_before_reply,
    drop_when_reused,
    empty_200,
    error,
    error_200,
    error_in_stream,
    good,
    html_200,
    no_terminal_marker,
    rate_limited,
    reply,
    reshaped,
)

DIALECTS = [CHAT, MESSAGES, RESPONSES]
EITHER_WAY: dict[str, tuple[Script, str]] = {
    "401": (error(401), "credentials"),
    "402": (error(402), "balance"),
    "403": (error(403), "forbidden"),
    "404 of the model": (error(404, message="The model `scripted-large` does not exist."), "model_missing"),
    "408": (error(408), "timeout"),
    "429": (rate_limited(), "rate"),
    "500": (error(500), "server_error"),
    "502": (error(502), "server_error"),
    "503": (error(503), "overloaded"),
    "529": (error(529), "overloaded"),
    "redirect": (reply(307, b"", {"location": "http://127.0.0.1:1/"}), "no_answer"),
    "closed": (drop_before_reply(), "broken"),
    "no HTTP": (reply(200, b"", {"content-length": "x"}), "broken"),
    "page": (html_200(), "no_answer"),
    "nothing": (empty_200(), "no_answer"),
    "error under 200": (error_200("busy"), "server_error"),
    "array": (reply(200, b"[]"), "no_answer"),
    "half an object": (reply(200, b'{"choices":[', {"content-type": "application/json"}), "no_answer"),
}
STREAMED: dict[str, tuple[Script, str]] = {
    "error first": (error_in_stream(0, "busy"), "overloaded"),
    "cut at once": (cut_stream(0), "broken"),
    "reset at once": (cut_stream(0, reset=True), "broken"),
    "no events": (reshaped(lambda _: ()), "no_answer"),
    "only comments": (reshaped(lambda _: (b": thinking\n\n",) * 3), "no_answer"),
}


async def check_failover(folder: Path, dialect: Dialect, script: Script, kind: str, *, stream: bool) -> None:
    """Account `a` fails so; account `b` answers in its place, and the books tell both."""
    async with pool_of(folder, {"a": script, "b": good}) as (pool, upstream):
        async with pool.post(PATHS[dialect], question(dialect, stream=stream)) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            assert answer.headers["x-proxy-attempt-count"] == "2"
            assert answer.headers["x-eggpool-account"] == "alpha/b"
        assert text_of(dialect, body) == "You said: say three words"
        if stream and dialect is not CHAT:
            assert body == b"".join(STREAM_EVENTS[dialect](upstream.work[-1].body))
        # A reused connection that is closed before the reply is tried once more on a fresh one, so `a` may occur twice.
        assert list(dict.fromkeys(request.api_key for request in upstream.work)) == [key_of("a"), key_of("b")]
        assert len({request.body for request in upstream.work}) == 1
        row = (await pool.booked(1))[0]
        assert (row.record.outcome.value, row.record.attempts, row.record.account) == ("completed", 2, "alpha/b")
        assert [attempt.error_class for attempt in row.attempts] == [kind, None]
        assert [attempt.account for attempt in row.attempts] == ["alpha/a", "alpha/b"]
        assert pool.in_flight == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", EITHER_WAY)
def test_fault_before_the_first_word(tmp_path: Path, fault: str, dialect: Dialect, stream: bool) -> None:
    """An error status, a broken connection or a 200 that is no answer leads to the next account."""
    script, kind = EITHER_WAY[fault]
    run(lambda: check_failover(tmp_path, dialect, script, kind, stream=stream))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", STREAMED)
def test_fault_at_the_beginning_of_a_stream(tmp_path: Path, fault: str, dialect: Dialect) -> None:
    """A stream that fails before it says anything leads to the next account, although it began with a 200."""
    script, kind = STREAMED[fault]
    run(lambda: check_failover(tmp_path, dialect, script, kind, stream=True))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_no_content_is_held_back(tmp_path: Path, dialect: Dialect) -> None:
    """The role, the start of a message and of its blocks commit to nothing: a break behind them stays unseen."""
    script = cut_stream(HELD_BACK[dialect])
    run(lambda: check_failover(tmp_path, dialect, script, "broken", stream=True))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_error_behind_what_is_held_back(tmp_path: Path, dialect: Dialect) -> None:
    """An error event behind events without content is one at the beginning."""
    script = error_in_stream(HELD_BACK[dialect])
    run(lambda: check_failover(tmp_path, dialect, script, "overloaded", stream=True))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_stream_that_ends_without_a_word(tmp_path: Path, dialect: Dialect) -> None:
    """A stream that ends properly before any content is no answer."""
    script = reshaped(lambda events: events[: HELD_BACK[dialect]])
    run(lambda: check_failover(tmp_path, dialect, script, "no_answer", stream=True))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_plain_reply_that_breaks_off(tmp_path: Path, dialect: Dialect) -> None:
    """A plain reply that ends before its length is not passed on in part: another account is tried."""
    run(lambda: check_failover(tmp_path, dialect, cut_body(40), "broken", stream=False))


@pytest.mark.parametrize("stream", [False, True])
def test_refused_connection(tmp_path: Path, stream: bool) -> None:
    """A provider that cannot be reached is passed over, and not tried first again while another one works."""

    async def scenario() -> None:
        async with ScriptedProvider({key_of("a"): good}) as gone, ScriptedProvider({key_of("b"): good}) as there:
            text = provider("alpha", gone, "a", extra=ALL_DIALECTS) + provider("beta", there, "b", extra=ALL_DIALECTS)
            async with running_pool(settings(tmp_path, text)) as pool:
                await pool.until(lambda: len(pool.runtime.pool.lists) == 2)
                await gone.unplug()
                for attempts in ("2", "1"):
                    async with pool.post(PATHS[CHAT], question(stream=stream)) as answer:
                        assert answer.status == 200
                        assert answer.headers["x-eggpool-account"] == "beta/b"
                        assert answer.headers["x-proxy-attempt-count"] == attempts
                        await answer.read()
                rows = await pool.booked(2)
                assert [attempt.error_class for attempt in rows[1].attempts] == ["network", None]

    run(scenario)


def test_every_account_is_tried(tmp_path: Path) -> None:
    """As long as there is an account that was not tried, the request goes on; the client learns how many it took."""

    async def scenario() -> None:
        accounts: dict[str, Script] = {f"a{number}": error(500) for number in range(7)} | {"z": good}
        async with pool_of(tmp_path, accounts) as (pool, upstream), pool.post(PATHS[CHAT], question()) as answer:
            assert answer.status == 200
            assert answer.headers["x-proxy-attempt-count"] == "8"
            assert len({request.api_key for request in upstream.work}) == len(upstream.work) == 8

    run(scenario)


def test_ceiling_on_retries(tmp_path: Path) -> None:
    """With max_retries_before_stream, no more than that many further accounts are tried."""

    async def scenario() -> None:
        accounts = {name: error(500) for name in "abcd"}
        extra = "[routing]\nmax_retries_before_stream = 1"
        async with pool_of(tmp_path, accounts, extra=extra) as (pool, upstream):
            assert (await pool.answer(PATHS[CHAT], question()))[0] == 500
            assert len(upstream.work) == 2

    run(scenario)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_last_error_in_its_own_words(tmp_path: Path, dialect: Dialect, stream: bool) -> None:
    """When all fail, the last provider's error is the answer: its status, its bytes, its headers."""

    async def scenario() -> None:
        told = {"x-request-id": "req_theirs", "x-custom": "kept"}
        accounts = {"a": error(503, message="first"), "b": error(500, message="last words", headers=told)}
        async with (
            pool_of(tmp_path, accounts) as (pool, _),
            pool.post(PATHS[dialect], question(dialect, stream=stream)) as answer,
        ):
            body = await answer.read()
            assert answer.status == 500
            assert b"last words" in body
            assert answer.headers["content-length"] == str(len(body))
            assert answer.headers["x-custom"] == "kept"
            assert answer.headers["x-proxy-attempt-count"] == "2"
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.status, row.error_class) == ("error", 500, "server_error")
            assert row.account is None

    run(scenario)


def test_no_http_answer_at_all(tmp_path: Path) -> None:
    """When no provider gave an answer, the client gets a 502 that says why, in its dialect's shape."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": drop_before_reply()}) as (pool, _):
            status, body = await pool.answer(PATHS[MESSAGES], question(MESSAGES))
            assert status == 502
            assert body.startswith(b'{"type":"error","error":{"type":"api_error","message":"No account could answer.')
            row = (await pool.booked(1))[0].record
            assert (row.outcome.value, row.error_class) == ("error", "broken")

    run(scenario)


def test_a_clients_mistake_is_not_tried_elsewhere(tmp_path: Path) -> None:
    """A refusal of the request itself is returned at once, and no account suffers."""

    async def scenario() -> None:
        for status in (400, 413, 422):
            folder = tmp_path / str(status)
            folder.mkdir()
            accounts = {"a": error(status, message="Your mistake."), "b": good}
            async with pool_of(folder, accounts) as (pool, upstream):
                got, body = await pool.answer(PATHS[CHAT], question())
                assert (got, b"Your mistake." in body) == (status, True)
                assert len(upstream.work) == 1
                assert pool.runtime.pool.rests == {}
                row = (await pool.booked(1))[0].record
                assert (row.outcome.value, row.status) == ("client_error", status)

    run(scenario)


def test_bad_key_on_one_of_two_accounts(tmp_path: Path) -> None:
    """With a bad key on one of two accounts, twenty requests are twenty answers."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": error(401), "b": good}) as (pool, upstream):
            for _ in range(20):
                assert (await pool.answer(PATHS[CHAT], opening()))[0] == 200
            assert len(upstream.work) == 21

    run(scenario)


def test_mended_key_returns_without_restart(tmp_path: Path) -> None:
    """An account whose key is mended at the provider takes part again once its rest is over."""

    async def scenario() -> None:
        clock = HandClock()
        async with pool_of(tmp_path, {"a": error(401), "b": good}, clock=clock) as (pool, upstream):
            for _ in range(2):
                assert (await pool.answer(PATHS[CHAT], opening()))[0] == 200
            upstream.behave(key_of("a"), good)
            clock.advance(60)
            used = set()
            for _ in range(4):
                async with pool.post(PATHS[CHAT], opening()) as answer:
                    used.add(answer.headers["x-eggpool-account"])
                clock.advance(1)
            assert used == {"alpha/a", "alpha/b"}

    run(scenario)


def test_single_account_after_one_error(tmp_path: Path) -> None:
    """A rest that is only a guess never refuses: with one account, the request after a 500 is tried at once."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(error(500), cut_body(5), error(503))}) as (pool, _):
            assert [(await pool.answer(PATHS[CHAT], question()))[0] for _ in range(4)] == [500, 502, 503, 200]

    run(scenario)


@pytest.mark.parametrize("failure", [error(502), error(503), error(529)], ids=["502", "503", "529"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_only_account_is_asked_once_more(tmp_path: Path, failure: Script, stream: bool) -> None:
    """With nobody else to ask, what may pass quickly is tried a second time; a second failure is the answer."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": Behaviour(failure)}) as (pool, upstream):
            async with pool.post(PATHS[CHAT], question(stream=stream)) as answer:
                assert (answer.status, answer.headers["x-proxy-attempt-count"]) == (200, "2")
                await answer.read()
            rows = await pool.rows("SELECT number, status FROM attempts ORDER BY number")
            assert [row[0] for row in rows] == [1, 2]
        async with pool_of(tmp_path / "second", {"a": failure}) as (pool, upstream):
            for asked in (2, 3):  # the second request finds the account at rest, and is the only probe
                async with pool.post(PATHS[CHAT], question(stream=stream)) as answer:
                    assert answer.status in (502, 503, 529)
                assert len(upstream.work) == asked

    run(scenario)


@pytest.mark.parametrize(
    "failure",
    [error(500), error(401), error(429), error(503, headers={"retry-after": "30"})],
    ids=["500", "401", "429", "503 with a time"],
)
def test_the_only_account_is_not_asked_in_vain(tmp_path: Path, failure: Script) -> None:
    """What does not pass quickly, or says when it will, is told at once."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": failure}) as (pool, upstream):
            async with pool.post(PATHS[CHAT], question()) as answer:
                assert (answer.status >= 400, answer.headers["x-proxy-attempt-count"]) == (True, "1")
            assert len(upstream.work) == 1

    run(scenario)


def test_others_are_asked_before_the_same_one(tmp_path: Path) -> None:
    """While another account can be tried, no account is tried twice."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": error(503), "b": error(503)}) as (pool, upstream):
            async with pool.post(PATHS[CHAT], question()) as answer:
                assert (answer.status, answer.headers["x-proxy-attempt-count"]) == (503, "2")
            assert len(upstream.work) == 2

    run(scenario)


def test_stale_connection_is_no_failure(tmp_path: Path) -> None:
    """A reused connection that turns out to be closed is replaced by a fresh one: same account, no rest."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": drop_when_reused()}) as (pool, upstream):
            for _ in range(3):
                async with pool.post(PATHS[CHAT], question(words="again")) as answer:
                    assert answer.status == 200
                    assert answer.headers["x-proxy-attempt-count"] == "1"
            assert len(upstream.work) > 3
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_no_terminal_marker_is_no_answer_to_the_end(tmp_path: Path) -> None:
    """A chat stream whose finish reason came is whole without [DONE]."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": no_terminal_marker(finish_reason=True)}) as (pool, _):
            _, body = await pool.answer(PATHS[CHAT], question(stream=True))
            assert text_of(CHAT, body) == "You said: say three words"
            assert b"error" not in body
            assert (await pool.booked(1))[0].record.outcome.value == "completed"

    run(scenario)
