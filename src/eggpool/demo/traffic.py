"""The traffic of the demonstration: what is asked, how it is sent, and what came back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from eggpool.config.schema import Account, Provider, Secret
from eggpool.domain import Dialect, Limits, ListedModel, Price
from eggpool.errors import UpstreamError
from eggpool.scripted import Answer, Question, answer_to
from eggpool.upstream.client import Call, Client
from eggpool.upstream.target import Target
from eggpool.wire import sse

MODELS = (
    ListedModel(
        "demo-large",
        "Demo Large",
        limits=Limits(context=200_000, output=32_000),
        price=Price(input=3_000_000_000, output=15_000_000_000),
    ),
    ListedModel(
        "demo-small",
        "Demo Small",
        limits=Limits(context=64_000, output=8_000),
        price=Price(input=250_000_000, output=1_250_000_000),
    ),
)

ASKED_AT_ONCE = 3
ANSWER_LIMIT_S = 20.0

_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog")


class Kind(msgspec.Struct, frozen=True):
    """One kind of request."""

    name: str
    dialect: Dialect
    streamed: bool
    model: ListedModel
    path: str  # below /v1


KINDS = (
    Kind("chat", Dialect.CHAT, False, MODELS[0], "/chat/completions"),
    Kind("chat stream", Dialect.CHAT, True, MODELS[0], "/chat/completions"),
    Kind("messages", Dialect.MESSAGES, False, MODELS[1], "/messages"),
    Kind("messages stream", Dialect.MESSAGES, True, MODELS[1], "/messages"),
)


class Asked(msgspec.Struct, frozen=True):
    """A request that is to be sent, and the answer that the provider will give."""

    number: int
    kind: Kind
    body: bytes
    expected: Answer


class Told(msgspec.Struct, frozen=True):
    """What a client got: `text` is what the answer says, `whole` whether it has its end; `error` when there is none."""

    asked: Asked
    status: int = 0
    request_id: int = 0
    text: str = ""
    whole: bool = False
    error: str | None = None


def questions(each: int) -> list[Asked]:
    """`each` requests of every kind, in turns, no two of them alike."""
    asked = []
    for number in range(1, each * len(KINDS) + 1):
        kind = KINDS[(number - 1) % len(KINDS)]
        payload: dict[str, object] = {"model": kind.model.id, "stream": kind.streamed}
        payload["messages"] = [{"role": "user", "content": " ".join([f"No. {number}:", *_WORDS[: 1 + number % 9]])}]
        if kind.dialect is Dialect.MESSAGES:
            payload["max_tokens"] = 100
        body = msgspec.json.encode(payload)
        asked.append(Asked(number, kind, body, answer_to(Question.read(kind.dialect, body))))
    return asked


async def ask_all(asked: Sequence[Asked], url: str, key: str) -> list[Told]:
    """Send the requests to the pool at `url`, a few at a time; what came back, in their order."""
    account = Account(name="demo", api_key=Secret(key))
    client = Client(Provider(id="pool", base_url=f"{url}/v1", keepalive_timeout_s=30.0))
    target = Target(Provider(id="pool", base_url=f"{url}/v1"), account)
    told: list[Told] = []
    waiting = iter(asked)

    async def caller() -> None:
        for one in waiting:
            told.append(await _ask(one, client, target))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(ASKED_AT_ONCE):
                group.create_task(caller())
    finally:
        await client.aclose()
    return sorted(told, key=lambda one: one.asked.number)


async def _ask(asked: Asked, client: Client, target: Target) -> Told:
    call = Call(
        method="POST",
        url=target.url(asked.kind.path),
        headers=[*target.headers, (b"content-type", b"application/json"), *target.fallbacks(Dialect.MESSAGES).items()],
        body=asked.body,
        connect_timeout_s=ANSWER_LIMIT_S,
        header_timeout_s=ANSWER_LIMIT_S,
        idle_timeout_s=ANSWER_LIMIT_S,
    )
    try:
        reply = await client.send(call)
        body = b""
        try:
            while piece := await reply.read():
                body += piece
        finally:
            reply.close()
    except UpstreamError as error:
        return Told(asked, error=str(error))
    request_id = int(reply.header("x-proxy-request-id") or "0", 16)
    try:
        text, whole = read_answer(asked.kind, body)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        return Told(asked, reply.status, request_id, error="the answer cannot be read")
    return Told(asked, reply.status, request_id, text, whole)


def read_answer(kind: Kind, body: bytes) -> tuple[str, bool]:
    """What an answer says and whether it has its end.

    Raises msgspec.DecodeError, KeyError, IndexError or TypeError when it is not an answer of that kind.
    """
    if not kind.streamed:
        payload = msgspec.json.decode(body)
        if kind.dialect is Dialect.CHAT:
            return payload["choices"][0]["message"]["content"], True
        return "".join(block["text"] for block in payload["content"]), True
    text, whole = "", False
    for event in sse.events(body):
        whole = event.data == b"[DONE]" or event.name == b"message_stop"
        if event.data == b"[DONE]":
            continue
        payload = msgspec.json.decode(event.data)
        if kind.dialect is Dialect.CHAT:
            text += payload["choices"][0]["delta"].get("content") or ""
        elif payload["type"] == "content_block_delta":
            text += payload["delta"]["text"]
    return text, whole
