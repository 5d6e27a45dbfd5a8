"""Asking usage endpoints: where the question goes, with which key, and what comes of every answer."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.helpers.pool import run
from tests.upstream.calling import calling, provider, target

from eggpool.config.schema import Auth
from eggpool.domain import MeterName
from eggpool.scripted import (
    Drop,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Send,
    Steps,
    drop_before_reply,
    error,
    hang_before_headers,
    html_200,
    reply,
)
from eggpool.upstream.meters import MAX_ANSWER_BYTES, QUESTIONS, Question, Reading, address, ask

GOLDEN = Path(__file__).parent.parent / "golden" / "meters"
AT_MS = 1_789_303_200_000
KEY = "test-one-key-0000"


def golden(name: str) -> bytes:
    """A documented answer."""
    return (GOLDEN / f"{name}.json").read_bytes()


def asked(
    meter: MeterName, script: Script, settings: dict[str, Any] | None = None
) -> tuple[Reading, list[ReceivedRequest]]:
    """What comes of asking a provider that answers so, and what it was asked."""
    readings: list[Reading] = []
    requests: list[ReceivedRequest] = []

    async def scenario() -> None:
        async with ScriptedProvider(default=script) as there, calling() as client:
            at = provider(there.base_url, **settings or {})
            readings.append(await ask(client, target(at), meter, AT_MS))
            requests.extend(there.requests)

    run(scenario, 10)
    return readings[0], requests


def by_path(answers: dict[str, Steps]) -> Script:
    """A provider that knows these paths only."""

    def script(request: ReceivedRequest, _good: Reply) -> Steps:
        return answers.get(request.path, reply(404, b"{}"))

    return script


def test_every_meter_has_its_questions() -> None:
    """What the configuration can name can be asked."""
    assert set(QUESTIONS) == set(get_args(MeterName))


@pytest.mark.parametrize(
    ("meter", "answers", "windows", "balance"),
    [
        ("opencode-go", {"/zen/go/v1/usage": "opencode-go"}, ["five_hour", "weekly", "monthly"], None),
        ("zai", {"/api/monitor/usage/quota/limit": "zai"}, ["five_hour", "weekly"], None),
        ("kimi", {"/coding/v1/usages": "kimi"}, ["weekly", "five_hour"], None),
        ("moonshot", {"/v1/users/me/balance": "moonshot"}, [], 49_588_940_000),
        ("minimax", {"/v1/token_plan/remains": "minimax-token-plan"}, ["five_hour", "weekly"], None),
        ("minimax", {"/v1/api/openplatform/coding_plan/remains": "minimax-coding-plan"}, ["five_hour"], None),
        ("synthetic", {"/v2/quotas": "synthetic"}, ["five_hour", "weekly"], None),
        ("chutes", {"/users/me/subscription_usage": "chutes-subscription"}, ["4_hour", "monthly"], None),
        ("chutes", {"/users/me/quota_usage/me": "chutes-quota"}, ["daily"], None),
        ("nano-gpt", {"/api/subscription/v1/usage": "nano-gpt"}, ["daily", "monthly"], None),
        (
            "openrouter",
            {"/api/v1/key": "openrouter-key", "/api/v1/credits": "openrouter-credits"},
            ["monthly"],
            74_750_000_000,
        ),
        ("openrouter", {"/api/v1/key": "openrouter-key"}, ["monthly"], None),
        ("openrouter", {"/api/v1/credits": "openrouter-credits"}, [], 74_750_000_000),
        ("deepseek", {"/user/balance": "deepseek"}, [], 4_250_000_000),
    ],
)
def test_a_good_answer(meter: MeterName, answers: dict[str, str], windows: list[str], balance: int | None) -> None:
    """Windows or money, from the first endpoint that tells them, at the moment of asking."""
    reading, _ = asked(meter, by_path({path: reply(200, golden(name)) for path, name in answers.items()}))
    assert reading.error is None
    assert [report.window for report in reading.reports] == windows
    assert all(report.at_ms == AT_MS for report in reading.reports)
    assert reading.balance_nanodollars == balance
    assert 0 < reading.latency_us < 5_000_000


def test_a_forerunner_is_asked_only_when_its_successor_tells_nothing() -> None:
    """One good answer is enough, unless the questions are about different things."""
    _, requests = asked("minimax", reply(200, golden("minimax-token-plan")))
    assert [request.path for request in requests] == ["/v1/token_plan/remains"]
    _, requests = asked("openrouter", reply(200, golden("openrouter-key")))
    assert [request.path for request in requests] == ["/api/v1/key", "/api/v1/credits"]


def test_the_question_carries_the_accounts_own_key() -> None:
    """As requests do; one that goes in a header of its own is shown as Authorization, which usage endpoints read."""
    good = reply(200, golden("kimi"))
    _, (request,) = asked("kimi", good)
    assert (request.method, request.path, request.body) == ("GET", "/coding/v1/usages", b"")
    assert request.header("authorization") == f"Bearer {KEY}"
    assert request.header("accept-encoding") == "identity"
    _, (request,) = asked("kimi", good, {"auth": Auth(mode="api_key")})
    assert (request.header("authorization"), request.header("x-api-key")) == (f"Bearer {KEY}", KEY)
    _, (request,) = asked("kimi", good, {"auth": Auth(mode="raw_authorization")})
    assert request.header("authorization") == KEY


def test_a_compressed_answer() -> None:
    """An answer that comes compressed is read like any other."""
    packed = reply(200, gzip.compress(golden("opencode-go")), {"content-encoding": "gzip"})
    reading, _ = asked("opencode-go", packed)
    assert len(reading.reports) == 3


@pytest.mark.parametrize(
    ("meter", "base_url", "urls"),
    [
        ("opencode-go", "https://opencode.ai/zen/go/v1", ["https://opencode.ai/zen/go/v1/usage"]),
        ("zai", "https://api.z.ai/api/coding/paas/v4", ["https://api.z.ai/api/monitor/usage/quota/limit"]),
        ("zai", "https://open.bigmodel.cn/api/anthropic", ["https://open.bigmodel.cn/api/monitor/usage/quota/limit"]),
        ("kimi", "https://api.kimi.com/coding", ["https://api.kimi.com/coding/v1/usages"]),
        (
            "minimax",
            "https://api.minimax.io/anthropic/v1",
            [
                "https://www.minimax.io/v1/token_plan/remains",
                "https://api.minimax.io/v1/api/openplatform/coding_plan/remains",
            ],
        ),
        (
            "minimax",
            "https://api.minimaxi.com/anthropic",
            [
                "https://api.minimaxi.com/v1/token_plan/remains",
                "https://api.minimaxi.com/v1/api/openplatform/coding_plan/remains",
            ],
        ),
        ("synthetic", "https://api.synthetic.new/openai/v1", ["https://api.synthetic.new/v2/quotas"]),
        (
            "chutes",
            "https://llm.chutes.ai/v1",
            ["https://api.chutes.ai/users/me/subscription_usage", "https://api.chutes.ai/users/me/quota_usage/me"],
        ),
        ("nano-gpt", "https://nano-gpt.com/api/v1", ["https://nano-gpt.com/api/subscription/v1/usage"]),
        ("deepseek", "https://api.deepseek.com", ["https://api.deepseek.com/user/balance"]),
        # whatever else a person has written there: the same host and port, and no other
        ("chutes", "http://llm.chutes.ai/v1", ["http://llm.chutes.ai/users/me/subscription_usage"]),
        ("chutes", "http://llm.chutes.ai:443/v1", ["http://llm.chutes.ai:443/users/me/subscription_usage"]),
        ("chutes", "https://llm.chutes.ai:8443/v1", ["https://llm.chutes.ai:8443/users/me/subscription_usage"]),
        ("chutes", "https://proxy.example/llm.chutes.ai", ["https://proxy.example/users/me/subscription_usage"]),
        ("minimax", "http://127.0.0.1:8000/v1", ["http://127.0.0.1:8000/v1/token_plan/remains"]),
        ("kimi", "http://[::1]:8000", ["http://[::1]:8000/coding/v1/usages"]),
    ],
)
def test_the_key_goes_to_its_own_provider_only(meter: MeterName, base_url: str, urls: list[str]) -> None:
    """The host of the base URL is asked, or the one that the same provider has for it."""
    there = target(provider(base_url))
    assert [str(address(there, question)) for question in QUESTIONS[meter]][: len(urls)] == urls


def test_no_other_host_is_ever_asked() -> None:
    """The table of hosts stays within one provider's own domain."""
    for questions in QUESTIONS.values():
        for question in questions:
            for base, other in question.hosts.items():
                assert base.split(".")[-2:] == other.split(".")[-2:]


def test_yuan_are_no_dollars() -> None:
    """The Chinese Moonshot has a reader of its own, chosen by its host."""

    def questions(base_url: str) -> list[Question]:
        host = base_url.split("/")[2]
        return [one for one in QUESTIONS["moonshot"] if host in one.only_for]

    assert len(questions("https://api.moonshot.cn/v1")) == 1
    assert not questions("https://api.moonshot.ai/v1")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (error(401), "answered with status 401. It refuses the key."),
        (error(500), "answered with status 500."),
        (reply(307, b"", {"location": "/other"}), "answered with status 307."),
        (reply(204), "answered with status 204."),
        (html_200(), "is not JSON"),
        (reply(200, b""), "is not JSON"),
        (reply(200, b"[" * 100_000), "is not JSON"),
        (reply(200, b"{}"), "told nothing that can be read"),
        (reply(200, b'{"usage": {"rolling": {"percent": "a lot"}}}'), "told nothing that can be read"),
        (reply(200, b'["' + b"x" * MAX_ANSWER_BYTES + b'"]'), "is longer than 1024 KiB"),
        (drop_before_reply(), "closed the connection"),
        ((Send(Reply().head(("content-length", "100")) + b'{"usage"'), Drop()), "broke off"),
    ],
)
def test_an_answer_that_is_none(script: Script, words: str) -> None:
    """Whatever a provider does, nothing raises: there is an error that can be shown, and no report."""
    reading, _ = asked("opencode-go", script)
    assert (reading.reports, reading.balance_nanodollars) == ((), None)
    assert reading.error is not None
    assert words in reading.error
    assert KEY not in reading.error


def test_of_several_failures_the_first_is_told() -> None:
    """The newer endpoint's error says more than that of its forerunner."""
    reading, requests = asked(
        "minimax",
        by_path({"/v1/token_plan/remains": reply(403, b"")}),
    )
    assert reading.error == "The usage endpoint answered with status 403. It refuses the key."
    assert [request.path for request in requests] == [
        "/v1/token_plan/remains",
        "/v1/api/openplatform/coding_plan/remains",
    ]


def test_a_provider_that_says_nothing_is_left() -> None:
    """The question is given up after its time, and its connection is closed."""

    async def scenario() -> None:
        async with ScriptedProvider(default=hang_before_headers()) as there, calling() as client:
            at = target(provider(there.base_url))
            reading = await ask(client, at, "opencode-go", AT_MS, limit_s=0.05)
            assert reading.error == "The usage endpoint did not answer within 0.05 s."
            await there.wait_for(lambda one: one.closed_early == 1)

    run(scenario, 10)


def test_nobody_there() -> None:
    """A provider that cannot be reached is an error like any other."""

    async def scenario() -> None:
        async with calling() as client:
            reading = await ask(client, target(provider("http://127.0.0.1:1/v1")), "zai", AT_MS)
            assert reading.error == "No connection to 127.0.0.1:1: connection refused."

    run(scenario, 10)
