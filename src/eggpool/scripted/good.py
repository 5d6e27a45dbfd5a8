"""What a well-behaved provider answers at each of its endpoints.

What may live here: from a received request to a whole reply. What may not: faults, and sending.
"""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import math
import struct
import urllib.parse
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from eggpool.domain import Dialect, Limits, ListedModel, Price
from eggpool.errors import BadRequest, NotFound, RequestRefused, Unauthorized
from eggpool.scripted import chat, messages, responses
from eggpool.scripted.answer import CREATED_AT_S, Answer, Question, answer_to, count_tokens, texts
from eggpool.scripted.received import ReceivedRequest
from eggpool.scripted.steps import Headers, Reply

MAX_STORED_RESPONSES = 1000
EMBEDDING_DIMENSIONS = 8
MODELS_PAGE = 20

DEFAULT_MODELS = (
    ListedModel(
        "scripted-large",
        "Scripted Large",
        CREATED_AT_S,
        Limits(context=200_000, output=32_000),
        price=Price(input=3_000_000_000, output=15_000_000_000, cache_read=300_000_000),
    ),
    ListedModel("scripted-small", "Scripted Small", CREATED_AT_S, Limits(context=32_000, output=8_000)),
    ListedModel("claude-scripted", "Claude, scripted", CREATED_AT_S),
)
"""One model with limits and prices, one with limits, one of which nothing is known."""


class Codec(msgspec.Struct, frozen=True):
    """One dialect's way of saying things."""

    reply: Callable[[Question, Answer], bytes]
    stream_events: Callable[[Question, Answer], tuple[bytes, ...]]
    error_body: Callable[[int, str], bytes]
    error_event: Callable[[str], bytes]
    request_id_header: str


CODECS = {
    Dialect.CHAT: Codec(chat.reply, chat.stream_events, chat.error_body, chat.error_event, "x-request-id"),
    Dialect.MESSAGES: Codec(
        messages.reply, messages.stream_events, messages.error_body, messages.error_event, "request-id"
    ),
    Dialect.RESPONSES: Codec(
        responses.reply, responses.stream_events, responses.error_body, responses.error_event, "x-request-id"
    ),
}

JSON: Headers = (("content-type", "application/json"),)
SSE: Headers = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))


def json_reply(payload: Any, status: int = 200) -> Reply:
    """A plain reply with a JSON body; bytes are taken as they are."""
    body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return Reply(status, JSON, body)


def error_reply(dialect: Dialect, status: int, message: str) -> Reply:
    """An error in the shape of a dialect."""
    return json_reply(CODECS[dialect].error_body(status, message), status)


def answered(question: Question, answer: Answer) -> Reply:
    """An answer, plain or streamed as the question asks, in its dialect."""
    codec = CODECS[question.dialect]
    if question.streamed:
        return Reply(200, SSE, events=codec.stream_events(question, answer))
    return json_reply(codec.reply(question, answer))


class GoodProvider:
    """Answers requests as they should be; remembers stored responses, at most MAX_STORED_RESPONSES."""

    def __init__(self) -> None:
        self._stored: dict[tuple[str | None, str], bytes] = {}

    def reply_to(self, request: ReceivedRequest, models: tuple[ListedModel, ...], *, authorised: bool) -> Reply:
        """The reply that the request deserves; whatever is wrong with it is told in its dialect's shape."""
        try:
            if not authorised:
                raise Unauthorized("Incorrect API key provided.")
            return self._reply_to(request, models)
        except RequestRefused as error:
            return error_reply(request.dialect, error.status, str(error))

    def _reply_to(self, request: ReceivedRequest, models: tuple[ListedModel, ...]) -> Reply:
        if request.method == "HEAD" and request.path == "/":
            return Reply()
        if request.is_model_list and request.method in ("GET", "POST"):
            return _models(request, models)
        if request.path.startswith("/v1/responses/") and request.path != "/v1/responses/input_tokens":
            return self._stored_response(request)
        if request.method != "POST" or request.path not in _WORK:
            raise NotFound(f"Unknown request: {request.method} {request.path}")
        if request.path == "/v1/audio/transcriptions":
            return _transcription(request, models)
        question = Question.read(request.dialect, request.body) if request.path in _TALK else _plain(request)
        _known(question.model, models)
        if request.path == "/v1/messages" and not isinstance(question.payload.get("max_tokens"), int):
            raise BadRequest("max_tokens: Field required", param="max_tokens")
        if request.path == "/v1/responses":
            self._keep(request, question)
        return _WORK[request.path](question)

    def _keep(self, request: ReceivedRequest, question: Question) -> None:
        previous = question.payload.get("previous_response_id")
        if previous is not None and (request.api_key, previous) not in self._stored:
            raise BadRequest(f"Previous response with id '{previous}' not found.", param="previous_response_id")
        if question.payload.get("store", True):
            kept = responses.reply(question, answer_to(question))
            self._stored[request.api_key, responses.response_id(question)] = kept
            if len(self._stored) > MAX_STORED_RESPONSES:
                del self._stored[next(iter(self._stored))]

    def _stored_response(self, request: ReceivedRequest) -> Reply:
        response_id, _, part = request.path.removeprefix("/v1/responses/").partition("/")
        kept = self._stored.get((request.api_key, response_id))
        if kept is None:
            raise NotFound(f"Response with id '{response_id}' not found.")
        if request.method == "DELETE" and not part:
            del self._stored[request.api_key, response_id]
            return json_reply({"id": response_id, "object": "response", "deleted": True})
        if (request.method, part) in (("GET", ""), ("POST", "cancel")):
            return json_reply(kept)
        if (request.method, part) == ("GET", "input_items"):
            return json_reply({"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None})
        raise NotFound(f"Unknown request: {request.method} {request.path}")


def _known(model: str, models: tuple[ListedModel, ...]) -> ListedModel:
    for listed in models:
        if listed.id == model:
            return listed
    raise NotFound(f"The model `{model}` does not exist or you do not have access to it.", param="model")


def _plain(request: ReceivedRequest) -> Question:
    """A request that is no conversation: a JSON object with a model."""
    try:
        payload = msgspec.json.decode(request.body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest("The body is not a JSON object.") from error
    if not isinstance(payload.get("model"), str):
        raise BadRequest("model: Field required", param="model")
    return Question(request.dialect, request.body, payload)


def _models(request: ReceivedRequest, models: tuple[ListedModel, ...]) -> Reply:
    anthropic = request.dialect is Dialect.MESSAGES
    describe = _anthropic_model if anthropic else _openai_model
    wanted = urllib.parse.unquote(request.path.removeprefix("/v1/models").removeprefix("/"))
    if wanted:
        return json_reply(describe(_known(wanted, models)))
    if not anthropic:
        return json_reply({"object": "list", "data": [_openai_model(model) for model in models]})
    query = urllib.parse.parse_qs(request.query)
    asked = query.get("limit", [""])[0]
    limit = int(asked) if asked.isdecimal() else MODELS_PAGE
    ids = [model.id for model in models]
    after = query.get("after_id", [""])[0]
    begin = ids.index(after) + 1 if after in ids else 0
    page = models[begin : begin + limit]
    return json_reply(
        {
            "data": [_anthropic_model(model) for model in page],
            "has_more": begin + limit < len(models),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


def _openai_model(model: ListedModel) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": model.created or CREATED_AT_S,
        "owned_by": "scripted",
    }
    described = {
        "name": model.display_name,
        "context_length": model.limits.context,
        "max_input_tokens": model.limits.input,
        "max_completion_tokens": model.limits.output,
    }
    entry |= {name: value for name, value in described.items() if value is not None}
    if model.price is not None:
        rates = {
            "prompt": model.price.input,
            "completion": model.price.output,
            "input_cache_read": model.price.cache_read,
            "input_cache_write": model.price.cache_write,
        }
        entry["pricing"] = {name: dollars_per_token(rate) for name, rate in rates.items() if rate is not None}
    return entry


def dollars_per_token(nanodollars_per_million: int) -> str:
    """A price as OpenRouter writes it: dollars for one token, as a decimal text."""
    return format(Decimal(nanodollars_per_million).scaleb(-15).normalize(), "f")


def _anthropic_model(model: ListedModel) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "model",
        "id": model.id,
        "display_name": model.display_name or model.id,
        "created_at": datetime.fromtimestamp(model.created or CREATED_AT_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    described = {"max_input_tokens": model.limits.input or model.limits.context, "max_tokens": model.limits.output}
    return entry | {name: value for name, value in described.items() if value is not None}


def _conversation(question: Question) -> Reply:
    return answered(question, answer_to(question))


def _count_tokens(question: Question) -> Reply:
    return json_reply({"input_tokens": question.input_tokens})


def _count_input_tokens(question: Question) -> Reply:
    return json_reply({"object": "response.input_tokens", "input_tokens": question.input_tokens})


def _completion(question: Question) -> Reply:
    answer = answer_to(question)
    head = {"id": f"cmpl-{question.digest}", "object": "text_completion", "created": CREATED_AT_S}
    head |= {"model": question.model}

    def choice(text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}]}

    usage = {"usage": chat.usage_block(answer.usage)}
    if not question.streamed:
        return json_reply(head | choice(answer.text, chat.STOPS[answer.stop]) | usage)
    events = [chat.event(head | choice(delta, None)) for delta in answer.deltas]
    events.append(chat.event(head | choice("", chat.STOPS[answer.stop])))
    if (question.payload.get("stream_options") or {}).get("include_usage") is True:
        events.append(chat.event(head | {"choices": []} | usage))
    return Reply(200, SSE, events=(*events, chat.DONE))


def _embeddings(question: Question) -> Reply:
    asked = question.payload.get("input")
    inputs = asked if isinstance(asked, list) else [asked]
    used = sum(count_tokens(text) for text in texts(inputs))

    def embedding(text: str) -> Any:
        digest = hashlib.sha256(text.encode()).digest()[:EMBEDDING_DIMENSIONS]
        length = math.sqrt(sum(byte * byte for byte in digest)) or 1.0
        vector = struct.pack(f"<{EMBEDDING_DIMENSIONS}f", *(byte / length for byte in digest))
        if question.payload.get("encoding_format") == "base64":
            return base64.b64encode(vector).decode()
        return list(struct.unpack(f"<{EMBEDDING_DIMENSIONS}f", vector))

    data = [
        {"object": "embedding", "index": index, "embedding": embedding(str(text))} for index, text in enumerate(inputs)
    ]
    usage = {"prompt_tokens": used, "total_tokens": used}
    return json_reply({"object": "list", "data": data, "model": question.model, "usage": usage})


def _rerank(question: Question) -> Reply:
    wanted = set(str(question.payload.get("query", "")).lower().split())
    documents = [" ".join(texts(document)) for document in question.payload.get("documents", [])]
    shares = [len(wanted & set(document.lower().split())) / max(1, len(wanted)) for document in documents]
    ranked = sorted(range(len(documents)), key=lambda index: (-shares[index], index))
    used = sum(map(count_tokens, documents)) + len(wanted)
    results = [{"index": index, "relevance_score": shares[index]} for index in ranked[: question.payload.get("top_n")]]
    usage = {"total_tokens": used}
    return json_reply({"id": f"rerank-{question.digest}", "model": question.model, "results": results, "usage": usage})


def _image(question: Question) -> Reply:
    used = count_tokens(str(question.payload.get("prompt", "")))
    usage = {"input_tokens": used, "output_tokens": 1, "total_tokens": used + 1}
    usage_details = {"input_tokens_details": {"text_tokens": used, "image_tokens": 0}}
    data = [{"b64_json": base64.b64encode(one_pixel()).decode()}]
    return json_reply({"created": CREATED_AT_S, "data": data, "usage": usage | usage_details})


def one_pixel() -> bytes:
    """A grey PNG of one pixel."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(b"\0\x80")) + block(b"IEND", b"")
    )


def _transcription(request: ReceivedRequest, models: tuple[ListedModel, ...]) -> Reply:
    form = b"Content-Type: " + (request.header("content-type") or "").encode() + b"\r\n\r\n" + request.body
    parsed = email.message_from_bytes(form, policy=email.policy.HTTP)
    parts = {part.get_param("name", header="content-disposition"): part for part in parsed.iter_parts()}
    if "file" not in parts or "model" not in parts:
        raise BadRequest("A multipart form with the fields file and model is required.")
    _known(_part_bytes(parts["model"]).decode().strip(), models)
    text = f"A recording of {len(_part_bytes(parts['file']))} bytes."
    usage = {"type": "tokens", "input_tokens": 10, "output_tokens": count_tokens(text)}
    return json_reply({"text": text, "usage": usage | {"total_tokens": 10 + count_tokens(text)}})


def _part_bytes(part: Any) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


_TALK = frozenset(
    {
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/completions",
    }
)
_WORK: dict[str, Callable[[Question], Reply]] = {
    "/v1/chat/completions": _conversation,
    "/v1/messages": _conversation,
    "/v1/messages/count_tokens": _count_tokens,
    "/v1/responses": _conversation,
    "/v1/responses/input_tokens": _count_input_tokens,
    "/v1/completions": _completion,
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/v1/images/generations": _image,
    "/v1/audio/transcriptions": _conversation,  # read as a form before this table is looked at
}
