"""The life of one request, from top to bottom: plan, lease, send, judge, commit, relay, settle.

`Dispatcher.exchange` makes one `Exchange` for each request. Its caller opens it (which tries accounts until one
answers), reads it to its end, and closes it, whatever happens in between. Decisions are made by `routing`, bytes are
understood by `wire`; here they are put in order. No lock is held and nothing waits for the books.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable

import msgspec

from eggpool.config.schema import Config, Provider
from eggpool.domain import AccountLabel, Outcome, Usage
from eggpool.engine.booking import Attempt, Booking
from eggpool.engine.clock import Clock
from eggpool.engine.inbound import Head, Inbound
from eggpool.engine.pool import Lease, Pool
from eggpool.errors import (
    AllFailed,
    AllLimited,
    BadRequest,
    CannotServe,
    DeadlinePassed,
    EggPoolError,
    NoAccount,
    NotFound,
    RequestRefused,
    StreamCut,
    UpstreamBroken,
    UpstreamError,
)
from eggpool.routing.catalog import Candidate, Offer
from eggpool.routing.plan import Choice, Demand, Plan, plan
from eggpool.routing.reset_times import back_in_s
from eggpool.routing.verdict import VERDICTS, Kind, classify, classify_exception
from eggpool.store.ledger import Ledger
from eggpool.upstream.client import Call, Reply, is_local
from eggpool.upstream.headers import hide, towards_client, towards_provider
from eggpool.wire import envelope as envelopes
from eggpool.wire import forms
from eggpool.wire.dialects import CODECS
from eggpool.wire.notes import ErrorInfo, Note
from eggpool.wire.relay import PlainRelay, StreamRelay

MAX_HELD_BYTES = 256 * 1024  # of a stream before its first content
MAX_PLAIN_BYTES = 64 * 1024 * 1024  # of a plain reply that is held whole before it is passed on
MAX_ERROR_BYTES = 1024 * 1024
ERROR_BODY_S = 5.0  # silence inside an error's body, after which its status has to do
LONGEST_ID = 128  # characters of a provider's name for a request
MAX_REASONS = 20  # accounts named in an error message

_CLIENT_FAULTS = frozenset(range(400, 500)) - {401, 402, 403, 408, 429, 499}


class _Failure(msgspec.Struct):
    """How an attempt failed. `head` and `body` are the provider's own answer, where it gave one."""

    kind: Kind
    detail: str
    head: Head | None = None
    body: bytes = b""
    told_s: float | None = None


class _Stage(enum.Enum):
    """How far an exchange has come."""

    OPENING = "opening"
    RELAYING = "relaying"
    COMPLETE = "complete"  # the provider's answer is whole and was handed over
    BROKEN = "broken"  # it was not, and the client was told
    REFUSED = "refused"  # the client got an error


class Dispatcher:
    """Makes exchanges; holds what they share."""

    def __init__(self, config: Config, pool: Pool, ledger: Ledger, clock: Clock) -> None:
        self.config = config
        self.pool = pool
        self.ledger = ledger
        self.clock = clock
        self.redacted = frozenset(name.lower().encode("latin-1") for name in config.security.redact_headers)
        self.local = {provider.id: is_local(provider.base_url) for provider in config.providers.values()}

    def exchange(self, inbound: Inbound) -> Exchange:
        """The exchange of one request; its caller closes it."""
        return Exchange(self, inbound)

    def refused(self, inbound: Inbound, error: EggPoolError) -> None:
        """Book a request that is refused before it becomes an exchange."""
        booking = self.booking(inbound)
        booking.status = error.status
        booking.error_class = error.machine_code if isinstance(error, RequestRefused) else type(error).code
        booking.close(Outcome.CLIENT_ERROR, None)

    def booking(self, inbound: Inbound) -> Booking:
        """The notes of one request."""
        keep_detail = self.config.security.persist_redacted_error_detail
        return Booking(self.ledger, self.clock, inbound, keep_detail=keep_detail)


class Exchange:
    """One request and its answer. `open`, then `read` until empty, then `close` in a `finally`."""

    def __init__(self, dispatcher: Dispatcher, inbound: Inbound) -> None:
        self._dispatcher = dispatcher
        self._pool = dispatcher.pool
        self._inbound = inbound
        self._codec = CODECS[inbound.surface.dialect]
        self._booking = dispatcher.booking(inbound)
        self._stage = _Stage.OPENING
        self._lease: Lease | None = None
        self._attempt: Attempt | None = None
        self._relay: StreamRelay | PlainRelay | None = None
        self._held = b""  # what is to be handed over before anything more is read
        self._note: Note | None = None  # of a whole plain reply
        self._last_word_from: AccountLabel | None = None
        self._late = False
        self._early = False
        self._closed = False

    # --- for the data plane -------------------------------------------------------------------------------------

    @property
    def attempts(self) -> int:
        """How many accounts were tried."""
        return self._booking.attempts_ended + (self._attempt is not None)

    @property
    def account(self) -> AccountLabel | None:
        """The account whose answer is passed on, or whose error, when that is the last word."""
        return self._booking.served.account if self._booking.served else self._last_word_from

    @property
    def status(self) -> int:
        """The status that the client got, 499 when it left before there was one."""
        return self._booking.status

    @property
    def streams(self) -> bool:
        """Whether the client waits for a stream in its own dialect."""
        return self._inbound.surface.answers and self._inbound.streams

    @property
    def between_events(self) -> bool:
        """Whether something of ours may stand at this place of the answer."""
        return not isinstance(self._relay, StreamRelay) or not self._relay.inside_event

    @property
    def handed_over(self) -> bool:
        """Whether the client has been given the whole answer, so that nothing is left to be read."""
        return not self._held and self._stage in (_Stage.COMPLETE, _Stage.BROKEN, _Stage.REFUSED)

    def answered_early(self) -> None:
        """The client has had a 200 before any account answered: whatever follows, that is the status that it saw."""
        self._early = True

    async def open(self) -> Head:
        """Find an account that answers.

        Raises RequestRefused or CannotServe when there is none; a provider's own error, when it is the last word, is
        an answer like any other.
        """
        task = asyncio.current_task()
        deadline = self._inbound.arrived + self._dispatcher.config.routing.deadline_s
        timer = asyncio.get_running_loop().call_later(deadline - self._pool.clock.now(), self._too_late, task)
        try:
            head = await self._walk()
        except asyncio.CancelledError:
            if not self._late or task is None or task.uncancel() > 0:
                raise
            self._attempt_failed(_Failure(Kind.TIMEOUT, "The deadline of the pool passed."))
            raise self._refused(DeadlinePassed("No account answered before the deadline of the pool.")) from None
        except (RequestRefused, CannotServe) as error:
            raise self._refused(error) from None
        finally:
            timer.cancel()
        self._booking.status = head.status
        return head

    async def read(self) -> bytes:
        """The next bytes for the client, empty when the answer has ended. Raises StreamCut."""
        if self._held:
            out, self._held = self._held, b""
        elif self._stage is _Stage.RELAYING:
            out = await self._relay_more()
        else:
            return b""
        self._booking.emitted_bytes += len(out)
        return out

    def close(self, *, client_left: bool = False) -> None:
        """Settle and book, once, however far the exchange has come. Synchronous: nothing can interrupt it."""
        if self._closed:
            return
        self._closed = True
        if self._relay is not None and self._relay.error is not None:
            failure = _told_in_band(self._relay.error)
            self._booking.error_class = failure.kind.value
            self._attempt_failed(failure)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()
        if self._lease is not None and not self._lease.settled:
            if self._stage is _Stage.OPENING:
                self._lease.left()
            else:
                self._lease.ended()
        if attempt is not None:
            self._booking.attempt_ended(attempt)
        outcome = self._outcome(client_left=client_left)
        if self._early:
            self._booking.status = 200
        self._booking.close(outcome, self._usage())

    def _too_late(self, task: asyncio.Task[object] | None) -> None:
        self._late = True
        if task is not None:
            task.cancel()

    # --- finding an account -------------------------------------------------------------------------------------

    async def _walk(self) -> Head:
        """Try one account after the other until one answers."""
        offer = self._offer()
        ceiling = self._dispatcher.config.routing.max_retries_before_stream
        tried: set[AccountLabel] = set()
        failure: _Failure | None = None
        while True:
            planned = self._plan(offer, tried)
            if not planned.choices or (ceiling and len(tried) > ceiling):
                break
            choice = planned.choices[0]
            tried.add(choice.candidate.account)
            outcome = await self._try(choice, others_left=len(planned.choices) > 1)
            if isinstance(outcome, Head):
                return outcome
            failure = outcome
            self._last_word_from = choice.candidate.account if failure.head else None
            following = VERDICTS[failure.kind].next
            if following == "stop":
                break
            if following == "larger":
                offer = offer.larger_than(choice.candidate)
        if failure is None:
            raise _nothing_to_try(self._inbound, planned, offer)
        return self._pass_on(failure, planned)

    def _offer(self) -> Offer:
        """The accounts that have what is asked for. Raises NoAccount or NotFound."""
        model = self._inbound.model
        if not self._pool.accounts:
            raise NoAccount("No account is set up; add one with: eggpool connect PROVIDER --key-env NAME")
        if model is None:
            return self._pool.everyone()
        offer = self._pool.catalog.resolve(model)
        if offer is None:
            near = self._pool.catalog.near(model)
            hint = f" Near it: {', '.join(near)}." if near else " GET /v1/models lists what there is."
            raise NotFound(
                f"The model {model} is not served by any account.{hint}", param="model", code="model_not_found"
            )
        return offer

    def _plan(self, offer: Offer, tried: set[AccountLabel]) -> Plan:
        """The order in which to try those that were not tried yet, as things stand now."""
        clock = self._pool.clock
        demand = Demand(self._inbound.surface.dialect, self._inbound.only)
        if tried:
            left = Offer(offer.model, tuple(one for one in offer.candidates if one.account not in tried))
            return plan(self._pool, left, demand, clock.now(), clock.wall_ms())
        planned = plan(self._pool, offer, demand, clock.now(), clock.wall_ms())
        self._booking.planned(planned)
        return planned

    async def _try(self, choice: Choice, *, others_left: bool) -> Head | _Failure:
        """One attempt: the head of an answer that is committed to, or how it failed."""
        lease = self._lease = self._pool.lease(choice)
        attempt = self._attempt = self._booking.attempt(choice.candidate)
        try:
            outcome = await self._send_and_judge(lease, attempt, others_left=others_left)
        except UpstreamError as error:
            outcome = _Failure(classify_exception(error), str(error))
        if isinstance(outcome, Head):
            self._commit(choice.candidate)
        else:
            self._attempt_failed(outcome)
        return outcome

    async def _send_and_judge(self, lease: Lease, attempt: Attempt, *, others_left: bool) -> Head | _Failure:
        provider = lease.target.provider
        reply = attempt.reply = await self._send(lease, others_left=others_left)
        attempt.first_byte = self._pool.clock.now()
        attempt.upstream_request_id = _shown_id(reply, lease.target.secrets)
        head = Head(reply.status, towards_client(reply.headers, self._dispatcher.redacted, lease.target.secrets))
        if 400 <= reply.status < 600:
            return await self._read_error(reply, head, lease.target.secrets)
        if not 200 <= reply.status < 300:
            return _Failure(Kind.NO_ANSWER, f"The provider answered with status {reply.status}, which is no answer.")
        if reply.opaque:
            # It came encoded although it was asked for plain: nothing can be read in it, but the client may know how.
            self._relay = PlainRelay(self._codec)
            self._stage = _Stage.RELAYING
            return head
        content_type = (reply.header("content-type") or "").lower()
        if content_type.startswith("text/event-stream"):
            return await self._await_content(reply, head, provider, others_left=others_left)
        if self._inbound.surface.answers and "html" in content_type:
            return _Failure(Kind.NO_ANSWER, "The provider answered with a page instead of a reply.")
        return await self._collect(reply, head)

    async def _send(self, lease: Lease, *, others_left: bool) -> Reply:
        """Send the request; when the kept connection that it took turns out to be closed, once more on a fresh one."""
        client = self._pool.clients[lease.candidate.provider]
        call = self._call(lease, others_left=others_left)
        try:
            return await client.send(call, lease.target.proxy_url)
        except UpstreamBroken as error:
            if not error.stale:
                raise
        return await client.send(call, lease.target.proxy_url, fresh=True)

    def _call(self, lease: Lease, *, others_left: bool) -> Call:
        """The request as this account gets it: the client's bytes but for the changes that are permitted."""
        inbound, target, candidate = self._inbound, lease.target, lease.candidate
        provider, dialect = target.provider, inbound.surface.dialect
        body = inbound.body
        if inbound.envelope is not None:
            body = envelopes.with_changes(inbound.envelope, model=candidate.model, include_usage=inbound.lacks_usage)
        elif inbound.form is not None:
            body = forms.with_model(inbound.form, candidate.model)
        path = inbound.surface.beside or (candidate.path or target.endpoint(dialect)) + inbound.surface.below
        hurried = inbound.streams and others_left and not self._dispatcher.local[provider.id]
        return Call(
            method=inbound.method,
            url=target.url(path, inbound.query),
            headers=towards_provider(inbound.headers, target.headers, target.replaced, target.fallbacks(dialect)),
            body=body,
            connect_timeout_s=set_by_loader(provider.connect_timeout_s),
            header_timeout_s=provider.header_timeout_s if hurried else None,
            idle_timeout_s=set_by_loader(provider.read_timeout_s),
        )

    async def _read_error(self, reply: Reply, head: Head, secrets: Iterable[bytes]) -> _Failure:
        """A provider's error status: its words decide what it means, or its status alone when they do not come."""
        body = bytearray()
        reply.limit_wait(ERROR_BODY_S, "idle")
        try:
            while len(body) < MAX_ERROR_BYTES and (chunk := await reply.read()):
                body += chunk
        except UpstreamError:
            words = f"The provider answered with status {reply.status}, and broke off."
            body = bytearray(self._codec.write_error(reply.status, words, "upstream_broken"))
        shown = hide(bytes(body), secrets)  # some providers quote the key that they refuse
        told = self._codec.read_error(shown)
        words = told.message or shown[:2048].decode("utf-8", "replace")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        return _Failure(
            kind=classify(reply.status, told.code, told.type, words, page="html" in headers.get("content-type", "")),
            detail=told.message or f"The provider answered with status {reply.status}.",
            head=head,
            body=shown,
            told_s=back_in_s(headers, shown, self._pool.clock.wall_ms()),
        )

    async def _await_content(
        self, reply: Reply, head: Head, provider: Provider, *, others_left: bool
    ) -> Head | _Failure:
        """Hold a stream's events back until one has content: so long, another account can still be tried."""
        relay = StreamRelay(self._codec, withhold_usage=self._inbound.lacks_usage)
        if others_left and not self._dispatcher.local[provider.id]:
            reply.limit_wait(set_by_loader(provider.first_event_timeout_s), "first_event")
        held = b""
        while True:
            chunk = await reply.read()
            held += relay.feed(chunk) if chunk else relay.finish()
            if not relay.content and relay.error is not None:
                return _told_in_band(relay.error)
            if relay.content or len(held) > MAX_HELD_BYTES or (held and not self._inbound.surface.answers):
                break
            if not chunk:
                return _Failure(Kind.NO_ANSWER, "The provider's stream ended before it said anything.")
        reply.limit_wait(set_by_loader(provider.read_timeout_s), "idle")
        self._relay, self._held = relay, held
        self._stage = _Stage.RELAYING
        return head

    async def _collect(self, reply: Reply, head: Head) -> Head | _Failure:
        """A plain reply is held whole, so that one which breaks off can still be tried elsewhere."""
        parts: list[bytes] = []
        size = 0
        while chunk := await reply.read():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_PLAIN_BYTES:
                relay = PlainRelay(self._codec)
                self._relay, self._held = relay, relay.feed(b"".join(parts))
                self._stage = _Stage.RELAYING
                return head
        body = b"".join(parts)
        note = self._codec.read_reply(body)
        if self._inbound.surface.answers and note.error is not None:
            return _told_in_band(note.error)
        if self._inbound.surface.answers and not note.content:
            return _Failure(Kind.NO_ANSWER, "The provider's reply is empty or not a JSON object.")
        if self._early:
            return _Failure(Kind.NO_ANSWER, "The provider answered with a plain reply where a stream was asked for.")
        self._held, self._note = body, note
        self._stage = _Stage.COMPLETE
        head.headers.append((b"content-length", b"%d" % size))
        return head

    def _commit(self, candidate: Candidate) -> None:
        """From here on no other account is tried, and what was sent is not needed any more."""
        if self._lease is not None:
            self._lease.answered()
        self._booking.committed = self._pool.clock.now()
        self._booking.served = candidate
        self._inbound.body = None
        self._inbound.envelope = None
        self._inbound.form = None
        reply_id = self._relay.reply_id if self._relay else self._note.reply_id if self._note else None
        if reply_id is not None:
            self._pool.remember_reply(reply_id, candidate.account)

    def _attempt_failed(self, failure: _Failure) -> None:
        """Settle and note the running attempt, if there is one."""
        attempt, lease = self._attempt, self._lease
        if attempt is None or lease is None or lease.settled:
            return
        attempt.close()
        rest_s = lease.failed(failure.kind, failure.told_s)
        self._booking.attempt_ended(attempt, failure.kind, failure.detail, rest_s)
        self._attempt = None

    def _pass_on(self, failure: _Failure, planned: Plan) -> Head:
        """All tries failed: the last provider's error is the answer, in its own words."""
        self._booking.error_class = failure.kind.value
        wait_s = failure.told_s or planned.retry_after_s
        if failure.head is None:
            error = DeadlinePassed if failure.kind is Kind.TIMEOUT else AllFailed
            raise error(f"No account could answer. The last one failed so: {failure.detail}", retry_after_s=wait_s)
        headers = [*failure.head.headers, (b"content-length", b"%d" % len(failure.body))]
        if failure.head.status == 429 and not any(name == b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", b"%d" % max(1, round(wait_s or 1))))
        self._held = failure.body
        self._stage = _Stage.REFUSED
        return Head(failure.head.status, headers)

    # --- after the commit ---------------------------------------------------------------------------------------

    async def _relay_more(self) -> bytes:
        """The next bytes of the answer that was committed to; its end, its break, or nothing more."""
        attempt, relay = self._attempt, self._relay
        if attempt is None or attempt.reply is None or relay is None:
            return b""
        try:
            while chunk := await attempt.reply.read():
                if out := relay.feed(chunk):
                    return out
        except UpstreamError as error:
            if not isinstance(relay, StreamRelay) or not relay.terminal or relay.inside_event:
                return self._broken(_Failure(classify_exception(error), str(error)))
            # The provider had said that the reply is whole; how its connection ends takes nothing away.
        rest = relay.finish()
        if relay.terminal or relay.error is not None or not self._inbound.surface.answers:
            self._stage = _Stage.COMPLETE
            return rest
        return self._broken(
            _Failure(Kind.BROKEN, "The provider ended its stream without saying that the reply is whole.")
        )

    def _broken(self, failure: _Failure) -> bytes:
        """The answer broke off: tell the client in-band, or close the connection where that cannot be done."""
        self._stage = _Stage.BROKEN
        self._booking.error_class = failure.kind.value
        self._attempt_failed(failure)
        if not isinstance(self._relay, StreamRelay) or self._relay.inside_event:
            raise StreamCut("The provider broke off the reply.")
        return self._codec.write_error_event(502, f"The reply broke off. {failure.detail}", "upstream_broken")

    # --- the end ------------------------------------------------------------------------------------------------

    def _refused(self, error: RequestRefused | CannotServe) -> RequestRefused | CannotServe:
        """Note that the client gets an error of ours."""
        booking = self._booking
        self._stage = _Stage.REFUSED
        booking.status = error.status
        code = error.machine_code if isinstance(error, RequestRefused) else error.code
        booking.error_class = booking.error_class or code
        return error

    def _outcome(self, *, client_left: bool) -> Outcome:
        booking, relay = self._booking, self._relay
        if self._stage is _Stage.REFUSED:
            return Outcome.CLIENT_ERROR if booking.status in _CLIENT_FAULTS else Outcome.ERROR
        if self._stage is _Stage.BROKEN:
            return Outcome.ERROR
        if relay is not None and relay.error is not None:
            return Outcome.ERROR
        if self._stage is _Stage.COMPLETE and not self._held:
            return Outcome.COMPLETED
        if relay is not None and relay.terminal and not self._held:
            # Agents hang up as soon as they have read the end marker: that is a whole answer, not a client that left.
            return Outcome.COMPLETED
        booking.error_class = "client_left" if client_left else "interrupted"
        return Outcome.CANCELLED if client_left else Outcome.INTERRUPTED

    def _usage(self) -> Usage | None:
        if self._note is not None:
            return self._note.usage
        return self._relay.usage if self._relay else None


def _shown_id(reply: Reply, secrets: Iterable[bytes]) -> str | None:
    """The provider's name for the request, as it may be kept."""
    name = reply.request_id
    return None if name is None else hide(name.encode("utf-8", "replace"), secrets).decode()[:LONGEST_ID]


def _told_in_band(told: ErrorInfo) -> _Failure:
    """An error that came under a 200."""
    kind = classify(200, told.code, told.type, told.message)
    return _Failure(kind, told.message or "The provider told an error inside its reply.")


def _nothing_to_try(inbound: Inbound, planned: Plan, offer: Offer) -> RequestRefused | CannotServe:
    """Why no account can be tried at all, in words for the client."""
    dialect = inbound.surface.dialect.value
    if planned.wrong_dialect and inbound.model is None:
        return NotFound(f"No account speaks the dialect {dialect}.")
    if planned.wrong_dialect:
        spoken = sorted({one.value for candidate in offer.candidates for one in candidate.dialects})
        return BadRequest(
            f"The model {inbound.model} is served in the dialect {' and '.join(spoken)} only, and this endpoint speaks "
            f"{dialect}.",
            param="model",
            code="wrong_dialect",
        )
    reasons = ", ".join(f"{refusal.account}: {refusal.reason}" for refusal in planned.refused[:MAX_REASONS])
    return AllLimited(
        f"Every account for this request is at a limit at the moment ({reasons}).",
        retry_after_s=planned.retry_after_s or 1.0,
    )


def set_by_loader(seconds: float | None) -> float:
    """A provider's time-out, which the loader has filled in from `[upstream]`."""
    if seconds is None:
        raise AssertionError("the configuration was not loaded by config.load")
    return seconds
