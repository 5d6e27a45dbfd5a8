"""The life of one request, from top to bottom: plan, lease, send, judge, commit, relay, settle.

`Dispatcher.exchange` makes one `Exchange` for each request. Its caller opens it (which tries accounts until one
answers), reads it to its end, and closes it, whatever happens in between. Decisions are made by `routing`, bytes are
understood by `wire`; here they are put in order. No lock is held and nothing waits for the books.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Iterable

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel, Dialect, Outcome, Usage
from eggpool.engine.booking import Attempt, Booking
from eggpool.engine.clock import Clock
from eggpool.engine.deadlines import Deadlines
from eggpool.engine.inbound import Head, Inbound
from eggpool.engine.judging import JSON, Answer, Failure, Judge, Relay, told_in_band
from eggpool.engine.leases import ONE_REQUEST, Lease
from eggpool.engine.pool import Pool
from eggpool.engine.refusing import nothing_to_try, raise_again, with_retry_after
from eggpool.engine.search import Search, estimate_for
from eggpool.engine.translating import TRANSLATION, Translation, Translator, told_translation
from eggpool.errors import (
    AllFailed,
    BadRequest,
    CannotServe,
    DeadlinePassed,
    EggPoolError,
    RequestRefused,
    StreamCut,
    UpstreamBroken,
    UpstreamError,
)
from eggpool.pricing import cost, saved_by_cache
from eggpool.routing import codex_headers
from eggpool.routing.catalog import Candidate
from eggpool.routing.plan import Choice
from eggpool.routing.spending import NOTHING, Spending
from eggpool.routing.verdict import VERDICTS, Kind, classify_exception
from eggpool.store.ledger import Ledger
from eggpool.upstream.client import Call, Reply, is_local
from eggpool.upstream.headers import hide, towards_client, towards_provider, without_dialect
from eggpool.wire import envelope as envelopes
from eggpool.wire import forms, provenance
from eggpool.wire.counting import Content
from eggpool.wire.dialects import CODECS
from eggpool.wire.notes import Note
from eggpool.wire.relay import PlainRelay, StreamRelay
from eggpool.wire.translation import TranslatedStream

LONGEST_ID = 128  # characters of a provider's name for a request

_CLIENT_FAULTS = frozenset(range(400, 500)) - {401, 402, 403, 408, 429, 499}


LASTS_AFTER_S = 0.1
"""After which a request is noted as begun, so that a crash leaves a trace of it, and its deadline is watched."""

AGAIN_AFTER_S = 0.25
"""Until the only account that there is is asked once more after a failure that may pass quickly."""

AFTER_THE_END_S = 1.0
"""How long a provider has to close a translated stream that it ended; then its connection is closed, not kept."""

ESTIMATED = (b"x-eggpool-estimate", b"true")
"""Stands at a count of tokens that no provider has made."""

CANNOT_COUNT = frozenset(Kind) - {Kind.BAD_REQUEST, Kind.PROMPT_TOO_LONG}
"""Failures of a provider's own count after which an estimate is given."""


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
        self.deadlines = Deadlines()
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
        self._search: Search | None = None
        self._content: Content | None = None  # what the answered request held
        self._translator: Translator | None = None
        self._translation: Translation | None = None  # of the running attempt, None when it is asked as it came
        self._relay: Relay | None = None
        self._held = b""  # what is to be handed over before anything more is read
        self._note: Note | None = None  # of a whole plain reply
        self._last_word_from: AccountLabel | None = None
        self._task: asyncio.Task[None] | None = None  # in which an account is looked for
        self._late = False
        self._early = False
        self._closed = False

    # --- for the data plane -------------------------------------------------------------------------------------

    @property
    def inbound(self) -> Inbound:
        """The request."""
        return self._inbound

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
    def decision(self) -> str:
        """Why this account, so far: compact JSON, as it will stand in the books."""
        self._booking.decided(self._search)
        return self._booking.decision or "{}"

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

    async def open(self, task: asyncio.Task[None]) -> Head:
        """Find an account that answers, in the running `task`.

        Raises RequestRefused or CannotServe when there is none; a provider's own error, when it is the last word, is
        an answer like any other.
        """
        self._task = task
        self._dispatcher.deadlines.remember(self._lasts, min(LASTS_AFTER_S, self._left_s), task.get_loop())
        try:
            head = await self._walk()
        except asyncio.CancelledError:
            if not self._late or task.uncancel() > 0:
                raise
            self._attempt_failed(Failure(Kind.TIMEOUT, "The deadline of the pool passed."))
            raise self._refused(DeadlinePassed("No account answered before the deadline of the pool.")) from None
        except (RequestRefused, CannotServe) as error:
            raise self._refused(error) from None
        finally:
            if self._booking.lasting:
                self._dispatcher.deadlines.forget(self._too_late)
        self._booking.status = head.status
        if self._inbound.gives_up_at_429 and (quota := self._pool.told_codex()):
            others = [one for one in head.headers if not one[0].startswith(codex_headers.PREFIXES)]
            return Head(head.status, others + quota)
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
        self._dispatcher.deadlines.forget(self._lasts)
        if self._relay is not None and self._relay.error is not None and self._stage is not _Stage.BROKEN:
            failure = told_in_band(self._relay.error)
            self._booking.error_class = failure.kind.value
            self._attempt_failed(failure)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()
        lease = self._lease
        if lease is not None and not lease.settled:
            if self._stage is _Stage.OPENING:
                lease.left()
            else:
                lease.ended(self._spent(lease.candidate))
        if attempt is not None:
            self._booking.attempt_ended(attempt)
        outcome = self._outcome(client_left=client_left)
        if self._early:
            self._booking.status = 200
        self._booking.decided(self._search)
        if isinstance(self._relay, TranslatedStream):
            self._booking.left_out(self._relay.dropped)
        self._booking.close(outcome, self._usage())
        self._calibrate(outcome)

    def _lasts(self) -> None:
        """A moment has passed: most requests are over by then, and need neither a trace nor a deadline."""
        self._booking.lasts(self._attempt)
        if self._stage is _Stage.OPENING and self._task is not None:
            self._dispatcher.deadlines.remember(self._too_late, self._left_s, self._task.get_loop())

    @property
    def _left_s(self) -> float:
        """How long an answer may still be looked for."""
        return self._inbound.arrived + self._dispatcher.config.routing.deadline_s - self._pool.clock.now()

    def _too_late(self) -> None:
        if self._task is not None:
            self._late = True
            self._task.cancel()

    # --- finding an account -------------------------------------------------------------------------------------

    async def _walk(self) -> Head:
        """Try one account after the other until one answers."""
        search = self._search = Search(self._pool, self._inbound, self._dispatcher.config)
        search.check_length()
        failure: Failure | None = None
        untold: BadRequest | None = None  # why an account's dialect cannot say what is asked
        while True:
            choice = search.next()
            if choice is None:
                search.leased()
                if await search.wait():
                    continue
                break
            try:
                self._translation = self._translated(search.dialect, choice.candidate)
            except BadRequest as error:
                search.leased()
                search.not_asked()
                untold = error
                continue
            outcome = await self._try(search, choice)
            if isinstance(outcome, Failure) and VERDICTS[outcome.kind].next == "bare":
                outcome = await self._try_bare(search, choice, outcome)
            if isinstance(outcome, Answer):
                return outcome.head
            failure = outcome
            self._last_word_from = choice.candidate.account if failure.head else None
            following = VERDICTS[failure.kind].next
            if following in ("stop", "bare"):
                break
            if _passes_quickly(failure) and not choice.last_resort and search.once_more(choice.candidate):
                await asyncio.sleep(AGAIN_AFTER_S)
            if following == "larger":
                search.only_larger_than(choice.candidate)
            if following == "otherwise":
                if not self._inbound.surface.answers:
                    break
                search.ask_otherwise(choice.candidate)
        if self._inbound.surface.counts and (failure is None or failure.kind in CANNOT_COUNT):
            return self._counted(search.counted)
        if failure is None and untold is not None and not search.native_comes_back:
            raise untold
        if failure is None:
            raise nothing_to_try(self._inbound, search)
        return self._pass_on(failure, search)

    async def _try(self, search: Search, choice: Choice) -> Answer | Failure:
        """One attempt: an answer, which is then committed to, or how it failed."""
        lease = self._lease = self._pool.lease(choice, estimate_for(choice.candidate, search.demand))
        search.leased()
        bound = search.demand.affinity
        if self._inbound.conversation is not None and (bound is None or not bound.warm):  # a warm one would stay as is
            now_ms = self._pool.clock.wall_ms()
            self._pool.affinity.expect(self._inbound.conversation, choice.candidate.account, now_ms)
        attempt = self._attempt = self._booking.attempt(choice.candidate, search.dialect, lease)
        try:
            outcome = await self._send_and_judge(search, lease, attempt)
        except UpstreamError as error:
            outcome = Failure(classify_exception(error), str(error))
        if isinstance(outcome, Answer):
            self._commit(search, choice.candidate, outcome)
        else:
            self._attempt_failed(outcome)
            self._pool.learn(choice.candidate.account, outcome.used_up, "error")
        return outcome

    def _counted(self, tokens: int) -> Head:
        """Nobody counts the tokens of this request for us: an estimate will do."""
        self._held = self._codec.write_count(tokens)
        self._stage = _Stage.COMPLETE
        length = b"%d" % len(self._held)
        return Head(200, [(b"content-type", JSON), (b"content-length", length), ESTIMATED])

    def _translated(self, dialect: Dialect, candidate: Candidate) -> Translation | None:
        """The request in the words of an account's dialect; None when that is the client's own. Raises BadRequest."""
        if dialect is self._inbound.surface.dialect:
            return None
        translator = self._translator = self._translator or Translator(self._inbound)
        return translator.into(dialect, candidate)

    async def _try_bare(self, search: Search, choice: Choice, refusal: Answer | Failure) -> Answer | Failure:
        """The same account once more, without what only another account can read; `refusal` where there is no such."""
        inbound, whole = self._inbound, self._inbound.envelope
        bare = provenance.without(whole, inbound.surface.dialect) if whole is not None else None
        if bare is None:
            return refusal
        inbound.envelope, self._translator = bare, None
        with contextlib.suppress(BadRequest):
            self._translation = self._translated(search.dialect, choice.candidate)
            refusal = await self._try(search, choice)
        if isinstance(refusal, Failure):
            inbound.envelope = whole  # the next account may be the one that can read it
            self._translator = None
        return refusal

    async def _send_and_judge(self, search: Search, lease: Lease, attempt: Attempt) -> Answer | Failure:
        target = lease.target
        hurried = search.others_left and not self._dispatcher.local[target.provider.id]
        call = self._call(lease, attempt.dialect, hurried=hurried)
        reply = attempt.reply = await self._send(lease, call)
        attempt.first_byte, now_ms = self._pool.clock.now(), self._pool.clock.wall_ms()
        attempt.upstream_request_id = _shown_id(reply, target.secrets)
        self._pool.learn_headers(lease.candidate, reply.headers, now_ms)
        head = Head(reply.status, towards_client(reply.headers, self._dispatcher.redacted, target.secrets))
        translation = self._translation
        judge = Judge(
            self._inbound,
            target,
            lease.candidate.model,
            self._codec if translation is None else translation.source,
            reply,
            head,
            first_event_timeout_s=set_by_loader(target.provider.first_event_timeout_s) if hurried else None,
            read_timeout_s=call.idle_timeout_s,
            early=lambda: self._early,
            translation=translation,
        )
        return await judge.judge(now_ms)

    async def _send(self, lease: Lease, call: Call) -> Reply:
        """Send the request; when the kept connection that it took turns out to be closed, once more on a fresh one."""
        client = self._pool.clients[lease.candidate.provider]
        try:
            return await client.send(call, lease.target.proxy_url)
        except UpstreamBroken as error:
            if not error.stale:
                raise
        return await client.send(call, lease.target.proxy_url, fresh=True)

    def _call(self, lease: Lease, dialect: Dialect, *, hurried: bool) -> Call:
        """The request as this account gets it: the client's bytes but for the changes that are permitted."""
        inbound, target, candidate = self._inbound, lease.target, lease.candidate
        provider, translation = target.provider, self._translation
        body, headers, query = inbound.body, inbound.headers, inbound.query
        if translation is not None:
            body, headers, query = translation.body, without_dialect(headers), ""
        elif inbound.envelope is not None:
            body = envelopes.with_changes(inbound.envelope, model=candidate.model, include_usage=inbound.lacks_usage)
        elif inbound.form is not None:
            body = forms.with_model(inbound.form, candidate.model)
        path = inbound.surface.beside or (candidate.path or target.endpoint(dialect)) + inbound.surface.below
        return Call(
            method=inbound.method,
            url=target.url(path, query),
            headers=towards_provider(headers, target.headers, target.replaced, target.fallbacks(dialect)),
            body=body,
            connect_timeout_s=set_by_loader(provider.connect_timeout_s),
            header_timeout_s=provider.header_timeout_s if hurried and inbound.streams else None,
            idle_timeout_s=set_by_loader(provider.read_timeout_s),
        )

    def _commit(self, search: Search, candidate: Candidate, answer: Answer) -> None:
        """From here on no other account is tried, and what was sent is not needed any more."""
        pool, inbound, booking = self._pool, self._inbound, self._booking
        self._held, self._relay, self._note = answer.held, answer.relay, answer.note
        if self._translation is not None:
            answer.head.headers.append((TRANSLATION, told_translation(self._translation, answer.dropped)))
            booking.lost = (*self._translation.lost, *answer.dropped)
            self._translator = self._translation = None
        self._stage = _Stage.COMPLETE if answer.relay is None else _Stage.RELAYING
        if self._lease is not None:
            self._lease.answered()
        if inbound.conversation is not None:
            escaped = search.planned is not None and search.planned.binding == "escaped"
            pool.affinity.bind(inbound.conversation, candidate.account, pool.clock.wall_ms(), escaped=escaped)
        booking.committed = pool.clock.now()
        booking.served = candidate
        booking.decided(search)
        self._content = search.content if inbound.surface.answers else None
        self._search = None
        inbound.body = None
        inbound.envelope = None
        inbound.form = None
        reply_id = answer.relay.reply_id if answer.relay else answer.note.reply_id if answer.note else None
        if reply_id is not None:
            pool.remember_reply(reply_id, candidate.account)

    def _attempt_failed(self, failure: Failure) -> None:
        """Settle and note the running attempt, if there is one."""
        attempt, lease = self._attempt, self._lease
        if attempt is None or lease is None or lease.settled:
            return
        attempt.close()
        rest_s = lease.failed(failure.kind, failure.told_s, self._spent(lease.candidate))
        self._booking.attempt_ended(attempt, failure.kind, failure.detail, rest_s)
        self._attempt = None

    def _pass_on(self, failure: Failure, search: Search) -> Head:
        """All tries failed: the last provider's error is the answer, in its own words."""
        booking = self._booking
        booking.error_class = failure.kind.value
        booking.decided(search)
        back_s = search.retry_after_s
        if failure.head is None and failure.in_band:
            raise_again(failure, self._inbound, failure.told_s or back_s)
        if failure.head is None:
            error, wait_s = DeadlinePassed if failure.kind is Kind.TIMEOUT else AllFailed, failure.told_s or back_s
            raise error(f"No account could answer. The last one failed so: {failure.detail}", retry_after_s=wait_s)
        headers = [*failure.head.headers, (b"content-length", b"%d" % len(failure.body))]
        if failure.head.status == 429:
            headers = with_retry_after(headers, failure.told_s, back_s)
        self._held = failure.body
        self._stage = _Stage.REFUSED
        return Head(failure.head.status, headers)

    # --- after the commit ---------------------------------------------------------------------------------------

    async def _relay_more(self) -> bytes:
        """The next bytes of the answer that was committed to; its end, its break, or nothing more."""
        attempt, relay = self._attempt, self._relay
        if attempt is None or attempt.reply is None or relay is None:
            return b""
        translated = relay if isinstance(relay, TranslatedStream) else None
        if translated is not None and translated.terminal:
            attempt.reply.limit_wait(AFTER_THE_END_S, "idle")
        failure: Failure | None = None
        try:
            # Behind an error nothing is translated any more. Of what is passed through, nobody asks for errors here: to
            # look for them is what makes a chunk dear.
            while translated is None or translated.error is None:
                chunk = await attempt.reply.read()
                if not chunk:
                    break
                if out := relay.feed(chunk):
                    return out
        except UpstreamError as error:
            failure = Failure(classify_exception(error), str(error))
            # A translated stream may have held back its end for more to come.
            if translated is None and (isinstance(relay, PlainRelay) or not relay.terminal or relay.inside_event):
                return self._broken(failure)
            # The provider had said that the reply is whole; how its connection ends takes nothing away.
        rest = relay.finish()
        if relay.terminal or relay.error is not None or not self._inbound.surface.answers:
            self._stage = _Stage.COMPLETE
            return rest
        failure = failure or Failure(
            Kind.BROKEN, "The provider ended its stream without saying that the reply is whole."
        )
        return rest + self._broken(failure) if translated is not None else self._broken(failure)

    def _broken(self, failure: Failure) -> bytes:
        """The answer broke off: tell the client in-band, or close the connection where that cannot be done."""
        self._stage = _Stage.BROKEN
        self._booking.error_class = failure.kind.value
        self._attempt_failed(failure)
        if self._relay is None or isinstance(self._relay, PlainRelay) or self._relay.inside_event:
            raise StreamCut("The provider broke off the reply.")
        message = f"The reply broke off. {failure.detail}"
        if isinstance(self._relay, TranslatedStream):
            return self._relay.fail(message, "upstream_broken")
        return self._codec.write_error_event(502, message, "upstream_broken")

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

    def _calibrate(self, outcome: Outcome) -> None:
        """Learn from a whole answer what a byte of a request is worth at its model."""
        usage, served, content = self._usage(), self._booking.served, self._content
        if outcome is Outcome.COMPLETED and usage is not None and served is not None and content is not None:
            self._pool.calibration.learn(served.model, content, usage.input_tokens)

    def _spent(self, candidate: Candidate) -> Spending:
        """What the reply has cost so far at this account."""
        usage = self._usage()
        if usage is None:
            return NOTHING if self._stage is _Stage.OPENING else ONE_REQUEST
        account, price = candidate.account, candidate.price
        if usage.cache_read_tokens:
            self._pool.affinity.cached(account, usage.cache_read_tokens, saved_by_cache(usage, price) or 0)
        return Spending(cost(usage, price).nanodollars or 0, usage.input_tokens + usage.output_tokens, 1)

    def _usage(self) -> Usage | None:
        if self._note is not None:
            return self._note.usage
        return self._relay.usage if self._relay else None


def _passes_quickly(failure: Failure) -> bool:
    """Whether the same account may well answer in a moment: no connection, a bad gateway or too much to do, and no
    word of when that will be over."""
    bad_gateway = failure.kind is Kind.SERVER_ERROR and failure.head is not None and failure.head.status == 502
    return failure.told_s is None and (bad_gateway or failure.kind in (Kind.NETWORK, Kind.OVERLOADED))


def _shown_id(reply: Reply, secrets: Iterable[bytes]) -> str | None:
    """The provider's name for the request, as it may be kept."""
    name = reply.request_id
    return None if name is None else hide(name, secrets).decode("utf-8", "replace")[:LONGEST_ID]


def set_by_loader(seconds: float | None) -> float:
    """A provider's time-out, which the loader has filled in from `[upstream]`."""
    if seconds is None:
        raise AssertionError("the configuration was not loaded by config.load")
    return seconds
