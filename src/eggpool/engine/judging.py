"""One reply of a provider, read until it is an answer that can be committed to, or a failure with its kind.

Here bytes are awaited and judged; what follows from a failure is `routing.verdict`'s to say, and what happens to the
account `dispatch`'s. Until an answer is committed to, nothing of the reply has reached the client.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from eggpool.domain import QuotaReport
from eggpool.engine.inbound import Head, Inbound
from eggpool.engine.translating import Translation
from eggpool.errors import UpstreamError, WireError
from eggpool.routing import used_up
from eggpool.routing.reset_times import back_in_s
from eggpool.routing.verdict import Kind, classify
from eggpool.upstream.client import Reply
from eggpool.upstream.headers import hide
from eggpool.upstream.target import Target
from eggpool.wire import too_long
from eggpool.wire.dialects import Codec
from eggpool.wire.notes import ErrorInfo, Note
from eggpool.wire.relay import PlainRelay, StreamRelay
from eggpool.wire.translation import TranslatedReply, TranslatedStream, read_stream

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
_OF_THE_BODY = frozenset({b"content-type", b"content-encoding", b"content-length", b"etag", b"content-md5"})

NO_CONTENT = 204  # must not say how long it is (RFC 9110, 8.6)
MAX_HELD_BYTES = 256 * 1024  # of a stream before its first content
MAX_PLAIN_BYTES = 64 * 1024 * 1024  # of a plain reply that is held whole before it is passed on
MAX_ERROR_BYTES = 1024 * 1024
ERROR_BODY_S = 5.0  # silence inside an error's body, after which its status has to do

Relay = StreamRelay | PlainRelay | TranslatedStream


class Failure(msgspec.Struct):
    """How an attempt failed. `head` and `body` are the provider's own answer, where it gave one.

    `in_band` tells that the provider said so under a 200: `detail` are its own words.
    """

    kind: Kind
    detail: str
    head: Head | None = None
    body: bytes = b""
    told_s: float | None = None
    used_up: tuple[QuotaReport, ...] = ()  # the windows that the provider says have nothing left
    in_band: bool = False


class Answer(msgspec.Struct):
    """An answer to commit to: `held` is what the client gets first, `relay` takes what follows, where more is to come.

    A plain reply that is whole has no relay but a `note`. `dropped` is what the client's dialect has no words for.
    """

    head: Head
    held: bytes = b""
    relay: Relay | None = None
    note: Note | None = None
    dropped: tuple[str, ...] = ()


class Judge:
    """Judges one reply. `first_event_timeout_s` is None when the first event is waited for as long as any other.

    `translation` is that of the request, None for a reply that is passed on as it is.
    """

    __slots__ = (
        "_client_codec",
        "_codec",
        "_early",
        "_first_event_timeout_s",
        "_head",
        "_inbound",
        "_model",
        "_read_timeout_s",
        "_reply",
        "_target",
        "_translation",
    )

    def __init__(
        self,
        inbound: Inbound,
        target: Target,
        model: str,
        codec: Codec,
        reply: Reply,
        head: Head,
        *,
        first_event_timeout_s: float | None,
        read_timeout_s: float,
        early: Callable[[], bool],
        translation: Translation | None = None,
    ) -> None:
        self._translation = translation
        self._client_codec = codec if translation is None else translation.target
        self._inbound = inbound
        self._target = target
        self._model = model
        self._codec = codec
        self._reply = reply
        self._head = head
        self._first_event_timeout_s = first_event_timeout_s
        self._read_timeout_s = read_timeout_s
        self._early = early

    async def judge(self, now_ms: int) -> Answer | Failure:
        """The answer or the failure. Raises UpstreamError when the reply breaks off before it is either."""
        reply, answers = self._reply, self._inbound.surface.answers
        if 400 <= reply.status < 600:
            return await self._read_error(now_ms)
        if not 200 <= reply.status < 300:
            return Failure(Kind.NO_ANSWER, f"The provider answered with status {reply.status}, which is no answer.")
        if reply.opaque and self._translation is not None:
            return Failure(Kind.NO_ANSWER, "The provider's reply came in an encoding that cannot be undone.")
        if reply.opaque:
            # It came encoded although it was asked for plain: nothing can be read in it, but the client may know how.
            return Answer(self._head, relay=PlainRelay(self._codec))
        content_type = (reply.header("content-type") or "").lower()
        if content_type.startswith("text/event-stream"):
            if self._translation is not None and not self._translation.stream:
                return await self._collect(streamed=True)
            return await self._await_content()
        if answers and "html" in content_type:
            return Failure(Kind.NO_ANSWER, "The provider answered with a page instead of a reply.")
        return await self._collect()

    async def _read_error(self, now_ms: int) -> Failure:
        """A provider's error status: its words decide what it means, or its status alone when they do not come."""
        reply, body = self._reply, bytearray()
        reply.limit_wait(ERROR_BODY_S, "idle")
        try:
            while len(body) < MAX_ERROR_BYTES and (chunk := await reply.read()):
                body += chunk
        except UpstreamError:
            words = f"The provider answered with status {reply.status}, and broke off."
            body = bytearray(self._codec.write_error(reply.status, words, "upstream_broken"))
        shown = hide(bytes(body), self._target.secrets)  # some providers quote the key that they refuse
        told = self._codec.read_error(shown)
        words = told.message or shown[:2048].decode("utf-8", "replace")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        kind = classify(reply.status, told.code, told.type, words, page="html" in headers.get("content-type", ""))
        told_s = back_in_s(headers, shown, now_ms)
        limited = kind in (Kind.RATE, Kind.PLAN_WINDOW, Kind.BALANCE)
        return Failure(
            kind=kind,
            detail=told.message or f"The provider answered with status {reply.status}.",
            head=self._head if self._translation is None else self._translated_head(JSON),
            body=shown if self._translation is None else self._told_in_other_words(kind, told, words),
            told_s=told_s,
            used_up=used_up.read(shown, now_ms, told_s=told_s, model=self._model) if limited else (),
        )

    async def _await_content(self) -> Answer | Failure:
        """Hold a stream's events back until one has content: so long, another account can still be tried."""
        reply, inbound, translation = self._reply, self._inbound, self._translation
        relay: StreamRelay | TranslatedStream
        if translation is None:
            relay = StreamRelay(self._codec, withhold_usage=inbound.lacks_usage)
        else:
            relay = TranslatedStream(translation.source, translation.target, translation.echo)
        if self._first_event_timeout_s is not None:
            reply.limit_wait(self._first_event_timeout_s, "first_event")
        held = b""
        while True:
            chunk = await reply.read()
            held += relay.feed(chunk) if chunk else relay.finish()
            if not relay.content and relay.error is not None:
                return told_in_band(relay.error)
            if relay.content or len(held) > MAX_HELD_BYTES or (held and not inbound.surface.answers):
                break
            if not chunk:
                return Failure(Kind.NO_ANSWER, "The provider's stream ended before it said anything.")
        reply.limit_wait(self._read_timeout_s, "idle")
        return Answer(self._head if translation is None else self._translated_head(EVENT_STREAM), held, relay)

    async def _collect(self, *, streamed: bool = False) -> Answer | Failure:
        """A plain reply is held whole, so that one which breaks off can still be tried elsewhere."""
        parts: list[bytes] = []
        size = 0
        while chunk := await self._reply.read():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_PLAIN_BYTES:
                if self._translation is not None:
                    return Failure(Kind.NO_ANSWER, "The provider's reply is too long to be translated.")
                relay = PlainRelay(self._codec)
                return Answer(self._head, relay.feed(b"".join(parts)), relay)
        body = b"".join(parts)
        if self._translation is not None:
            return self._translated(self._translation, body, streamed=streamed)
        note = self._codec.read_reply(body)
        if self._inbound.surface.answers and note.error is not None:
            return told_in_band(note.error)
        if self._inbound.surface.answers and not note.content:
            return Failure(Kind.NO_ANSWER, "The provider's reply is empty or not a JSON object.")
        if self._early():
            return Failure(Kind.NO_ANSWER, "The provider answered with a plain reply where a stream was asked for.")
        if self._reply.status != NO_CONTENT:
            self._head.headers.append((b"content-length", b"%d" % size))
        return Answer(self._head, body, note=note)

    def _translated(self, translation: Translation, body: bytes, *, streamed: bool) -> Answer | Failure:
        """A whole reply in the client's dialect, as a stream when that was asked for."""
        note = self._codec.read_reply(body) if not streamed else Note()
        if note.error is not None:
            return told_in_band(note.error)
        try:
            source = translation.source
            events = read_stream(source, body) if streamed else source.reply_events(body)
            reply = TranslatedReply(events, translation.target, translation.echo, stream=translation.stream)
        except WireError as error:
            return Failure(Kind.NO_ANSWER, str(error))
        if reply.error is not None:
            return told_in_band(reply.error)
        if not reply.whole:
            return Failure(Kind.BROKEN, "The provider ended its stream without saying that the reply is whole.")
        head = self._translated_head(EVENT_STREAM if translation.stream else JSON)
        if not translation.stream:
            head.headers.append((b"content-length", b"%d" % len(reply.body)))
        told = Note(content=True, terminal=True, usage=reply.usage)
        return Answer(head, reply.body, note=told, dropped=reply.dropped)

    def _told_in_other_words(self, kind: Kind, told: ErrorInfo, words: str) -> bytes:
        """A provider's error in the client's dialect, with its status and wording."""
        message, code = told.message or words or "The provider gave no reason.", told.code or told.type
        if kind is Kind.PROMPT_TOO_LONG:
            message, code = too_long.translated(self._inbound.surface.dialect, message), too_long.CODE
        return self._client_codec.write_error(self._reply.status, message, code)

    def _translated_head(self, content_type: bytes) -> Head:
        """The head of a reply whose body is written anew."""
        kept = [(name, value) for name, value in self._head.headers if name not in _OF_THE_BODY]
        return Head(self._head.status, [(b"content-type", content_type), *kept])


def told_in_band(told: ErrorInfo) -> Failure:
    """An error that came under a 200."""
    kind = classify(200, told.code, told.type, told.message)
    return Failure(kind, told.message or "The provider told an error inside its reply.", in_band=True)
