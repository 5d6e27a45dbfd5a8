"""How a provider behaves: ready-made scripts, good and bad, and what an account does request after request.

A script is either steps, or a function from the request and the reply that a good provider would send to steps. What
may live here: deciding what is sent. What may not: sending it.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from eggpool.domain import Dialect, ListedModel, Usage
from eggpool.scripted import chat, messages
from eggpool.scripted.answer import Question, saying
from eggpool.scripted.good import CODECS, JSON, SSE, answered, error_reply, json_reply
from eggpool.scripted.received import ReceivedRequest
from eggpool.scripted.steps import (
    END_OF_CHUNKS,
    Drop,
    Hang,
    Pause,
    Reply,
    Reset,
    Send,
    SendChunk,
    Step,
    Steps,
)

Play = Callable[[ReceivedRequest, Reply], Steps]
Script = Steps | Play
Events = tuple[bytes, ...]


def play(script: Script, request: ReceivedRequest, good_reply: Reply) -> Steps:
    """The steps of a script for this request."""
    return script if isinstance(script, tuple) else script(request, good_reply)


class Behaviour:
    """What one account does: `scripts` for one request each, then `then` for all others.

    Questions for models are no work: they get the scripts in `lists`, then `lists_then`. `models` is what this account
    may use; None leaves that to the provider. It changes with each request, so it belongs to one account.
    """

    def __init__(
        self,
        *scripts: Script,
        then: Script | None = None,
        lists: tuple[Script, ...] = (),
        lists_then: Script | None = None,
        models: tuple[ListedModel, ...] | None = None,
    ) -> None:
        self._scripts = deque(scripts)
        self._then: Script = good if then is None else then
        self._lists = deque(lists)
        self._lists_then: Script = good if lists_then is None else lists_then
        self.models = models

    def next_script(self, request: ReceivedRequest) -> Script:
        """The script for this request; a queued one is used up."""
        if request.is_model_list:
            return self._lists.popleft() if self._lists else self._lists_then
        return self._scripts.popleft() if self._scripts else self._then


# Good ones.


def good(_request: ReceivedRequest, reply: Reply) -> Steps:
    """As it should be."""
    return reply.steps()


def say(text: str, *, usage: Usage | None = None) -> Script:
    """Answer a conversation with this text; with `usage`, report these counts instead of true ones."""

    def script(request: ReceivedRequest, _good: Reply) -> Steps:
        question = Question.read(request.dialect, request.body)
        return answered(question, saying(question, text, usage=usage)).steps()

    return script


def slow(first_byte_s: float, per_event_s: float = 0.0) -> Script:
    """As it should be, but late: so long until the headers, so long before each event."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        if good_reply.events is None:
            return (Pause(first_byte_s), *good_reply.steps())
        steps: list[Step] = [Pause(first_byte_s), good_reply.stream_head()]
        for event in good_reply.events:
            steps += [Pause(per_event_s), SendChunk(event)]
        return (*steps, END_OF_CHUNKS)

    return script


def limited_after(requests: int, retry_after_s: float, then: Script = good) -> Script:
    """A plan: so many requests, answered as `then` says; after that 429 until `retry_after_s` have passed."""
    served = 0
    renewed_at_s = 0.0

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        nonlocal served, renewed_at_s
        if served >= requests and renewed_at_s and request.received_at_s >= renewed_at_s:
            served, renewed_at_s = 0, 0.0
        if served < requests:
            served += 1
            return play(then, request, good_reply)
        renewed_at_s = renewed_at_s or request.received_at_s + retry_after_s
        wait_s = max(1, math.ceil(renewed_at_s - request.received_at_s))
        return play(rate_limited(retry_after=wait_s), request, good_reply)

    return script


# Replies by status.


def reply(status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> Steps:
    """A plain reply; `body` is bytes, or a value that is sent as JSON."""
    given = tuple((headers or {}).items())
    if isinstance(body, bytes):
        return Reply(status, given, body).steps()
    return Reply(status, JSON, msgspec.json.encode(body)).with_headers(*given).steps()


def error(
    status: int,
    dialect: Dialect | None = None,
    message: str = "The scripted provider says no.",
    headers: Mapping[str, str] | None = None,
) -> Script:
    """An error status in the shape of a dialect; None takes that of the request."""

    def script(request: ReceivedRequest, _good: Reply) -> Steps:
        body = error_reply(dialect or request.dialect, status, message)
        return body.with_headers(*(headers or {}).items()).steps()

    return script


def rate_limited(retry_after: float | str | None = None, message: str = "Rate limit reached.") -> Script:
    """429; `retry_after` as the header says it: seconds or an HTTP date."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return error(429, message=message, headers=headers)


def html_200() -> Steps:
    """200 with a page where an answer should be."""
    return reply(200, b"<html><body>Welcome</body></html>\n", {"content-type": "text/html"})


def empty_200() -> Steps:
    """200 with nothing."""
    return reply(200, b"", {"content-type": "application/json"})


def error_200(message: str = "The model is overloaded.") -> Script:
    """200 with an error where an answer should be."""

    def script(request: ReceivedRequest, _good: Reply) -> Steps:
        return json_reply(CODECS[request.dialect].error_body(503, message)).steps()

    return script


# Silence and broken connections.


def hang_before_headers() -> Steps:
    """Not a byte comes."""
    return (Hang(),)


def hang_after_headers() -> Script:
    """The headers of the good reply come, then nothing."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        if good_reply.events is None:
            return (Send(good_reply.head(("content-length", str(len(good_reply.body))))), Hang())
        return (good_reply.stream_head(), Hang())

    return script


def hang_after_events(count: int) -> Script:
    """So many events of the good stream, then nothing."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        return (good_reply.stream_head(), *map(SendChunk, _events(good_reply)[:count]), Hang())

    return script


def drop_before_reply() -> Steps:
    """The connection closes without a byte."""
    return (Drop(),)


def drop_when_reused() -> Script:
    """As it should be on a fresh connection; a reused one closes without a byte, as if it had idled too long."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        return good_reply.steps() if request.place_on_connection == 1 else (Drop(),)

    return script


def cut_stream(after_events: int, *, mid_event: bool = False, reset: bool = False) -> Script:
    """So many events of the good stream, with `mid_event` half of the next one, then the connection breaks."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        events = _events(good_reply)
        sent = list(events[:after_events])
        if mid_event:
            following = events[min(after_events, len(events) - 1)]
            sent.append(following[: len(following) // 2])
        # The pause lets the events arrive: a reset may take back what the client has not read.
        end: Step = Reset() if reset else Drop()
        return (good_reply.stream_head(), *map(SendChunk, sent), Pause(0.02 if reset else 0), end)

    return script


def cut_body(after_bytes: int) -> Script:
    """So many bytes of the good plain body, then the connection closes, short of its content-length."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        head = good_reply.head(("content-length", str(len(good_reply.body))))
        return (Send(head), Send(good_reply.body[:after_bytes]), Drop())

    return script


# Streams that are odd, or lie.


def stream(events: Events, *, chunk: int | None = None, pause: float | None = None) -> Steps:
    """These events as a stream: one chunk each, or chunks of `chunk` bytes; `pause` seconds after each."""
    pieces = events if chunk is None else _split(b"".join(events), chunk)
    sent: list[Step] = []
    for piece in pieces:
        sent.append(SendChunk(piece))
        if pause is not None:
            sent.append(Pause(pause))
    return (Reply(200, SSE).stream_head(), *sent, END_OF_CHUNKS)


def reshaped(reshape: Callable[[Events], Events]) -> Script:
    """The good stream with its events changed by a function."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        return good_reply.with_events(reshape(_events(good_reply))).steps()

    return script


def in_chunks(size: int = 1, *, pause: float | None = None) -> Script:
    """The good stream in chunks of so many bytes, wherever they fall."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        return stream(_events(good_reply), chunk=size, pause=pause)

    return script


def crlf_lines() -> Script:
    """The good stream with CRLF line ends."""
    return reshaped(lambda events: tuple(event.replace(b"\n", b"\r\n") for event in events))


def with_comments(comment: bytes = b": keep-alive\n\n") -> Script:
    """The good stream with a comment before each event, as some providers send while they think."""
    return reshaped(lambda events: tuple(comment + event for event in events))


def multi_line_data() -> Script:
    """The good stream with each JSON object spread over two `data:` lines."""
    return reshaped(lambda events: tuple(event.replace(b"data: {", b"data: {\ndata: ", 1) for event in events))


def huge_event(size: int = 5 * 1024 * 1024) -> Script:
    """An answer whose text is one word of so many bytes, thus one event."""
    return say("x" * size)


def error_in_stream(after_events: int = 0, message: str = "The model is overloaded.") -> Script:
    """So many events of the good stream, then an error event in its dialect, then a proper end of the body."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        failed = CODECS[request.dialect].error_event(message)
        return good_reply.with_events((*_events(good_reply)[:after_events], failed)).steps()

    return script


def no_terminal_marker(*, finish_reason: bool = False) -> Script:
    """The good stream, ended properly without its last word: `[DONE]`, `message_stop`, `response.completed`.

    A chat stream loses its finish chunk (and usage) too, unless `finish_reason` keeps it.
    """

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        kept = _events(good_reply)[:-1]
        if request.dialect is Dialect.CHAT and not finish_reason:
            asked = (request.payload.get("stream_options") or {}).get("include_usage") is True
            kept = kept[: -2 if asked else -1]
        return good_reply.with_events(kept).steps()

    return script


def usage_in_each_chunk(input_tokens: int = 11, output_tokens: int = 7) -> Script:
    """A chat stream in which every chunk carries the usage so far; in the end, and in truth, these counts."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        question = Question.read(request.dialect, request.body)
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        answer = saying(question, " ".join(["word"] * output_tokens), usage=usage)
        return good_reply.with_events(chat.stream_events_counting(question, answer)).steps()

    return script


def usage_in_each_delta(input_tokens: int = 11, output_tokens: int = 7) -> Script:
    """A messages stream with several `message_delta` events, each with the output so far; in truth, these counts."""

    def script(request: ReceivedRequest, good_reply: Reply) -> Steps:
        question = Question.read(request.dialect, request.body)
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        answer = saying(question, " ".join(["word"] * output_tokens), usage=usage)
        reports = tuple(range(1, output_tokens, 2))
        return good_reply.with_events(messages.stream_events(question, answer, reports=reports)).steps()

    return script


def gzipped() -> Script:
    """The good reply, compressed though nobody asked for it; a stream is flushed at each event."""

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        pack = zlib.compressobj(wbits=31)
        named = good_reply.with_headers(("content-encoding", "gzip"))
        if good_reply.events is None:
            body = pack.compress(good_reply.body) + pack.flush()
            return msgspec.structs.replace(named, body=body).steps()
        packed = [pack.compress(event) + pack.flush(zlib.Z_SYNC_FLUSH) for event in good_reply.events]
        return named.with_events((*packed, pack.flush())).steps()

    return script


def with_trailers(*trailers: tuple[str, str]) -> Script:
    """The good reply, chunked, with fields behind its last chunk (RFC 9112, 7.1.2)."""
    fields = trailers or (("x-checksum", "0"),)

    def script(_request: ReceivedRequest, good_reply: Reply) -> Steps:
        named = good_reply.with_headers(("trailer", ", ".join(name for name, _ in fields)))
        pieces = _split(named.body, 100) if named.events is None else named.events
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return (named.stream_head(), *map(SendChunk, pieces), Send(f"0\r\n{lines}\r\n".encode("latin-1")))

    return script


def _events(good_reply: Reply) -> Events:
    if good_reply.events is None:
        raise ValueError("This script needs a request that asks for a stream and can be answered.")
    return good_reply.events


def _split(data: bytes, size: int) -> Events:
    return tuple(data[start : start + size] for start in range(0, len(data), size))
