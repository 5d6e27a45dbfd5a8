"""What is noted of one request while it runs, and the records that it leaves in the books.

Only collects and puts together; what happened is decided in `dispatch`.
"""

from __future__ import annotations

import msgspec

from eggpool.domain import AttemptRecord, Dialect, Outcome, RequestBegun, RequestRecord, Usage, UsageSource
from eggpool.engine.clock import Clock
from eggpool.engine.inbound import Inbound
from eggpool.engine.leases import Lease
from eggpool.engine.search import Search
from eggpool.logs import redact
from eggpool.pricing import cost
from eggpool.routing.catalog import Candidate
from eggpool.routing.decision import also_lost, decision
from eggpool.routing.verdict import VERDICTS, Kind
from eggpool.store.ledger import Ledger
from eggpool.upstream.client import Reply

MAX_DETAIL_CHARS = 512

_US = 1_000_000  # microseconds in a second
_NO_USAGE = Usage()


class Attempt(msgspec.Struct, eq=False):
    """One try at one account while it runs."""

    number: int
    candidate: Candidate
    dialect: Dialect  # in which the account is asked
    began: float
    began_ms: int
    reply: Reply | None = None
    first_byte: float | None = None
    upstream_request_id: str | None = None

    def close(self) -> None:
        """Close the provider's reply, if there is one."""
        if self.reply is not None:
            self.reply.close()


class Booking:
    """The notes of one request."""

    __slots__ = (
        "_body_bytes",
        "_clock",
        "_first_attempt",
        "_first_byte",
        "_inbound",
        "_keep_detail",
        "_ledger",
        "_records",
        "_streams",
        "committed",
        "decision",
        "emitted_bytes",
        "error_class",
        "lasting",
        "lost",
        "served",
        "status",
    )

    def __init__(self, ledger: Ledger, clock: Clock, inbound: Inbound, *, keep_detail: bool) -> None:
        self._ledger = ledger
        self._clock = clock
        self._inbound = inbound
        self._keep_detail = keep_detail
        self._body_bytes = len(inbound.body or b"")
        self._streams = inbound.streams
        self.lasting = False
        self._records: list[AttemptRecord] = []
        self.decision: str | None = None
        self.lost: tuple[str, ...] = ()  # what a translation could not say
        self._first_attempt: float | None = None
        self._first_byte: float | None = None
        self.committed: float | None = None
        self.served: Candidate | None = None
        self.status = 499  # the client left before there was one
        self.error_class: str | None = None
        self.emitted_bytes = 0

    @property
    def attempts_ended(self) -> int:
        """How many attempts are over."""
        return len(self._records)

    def decided(self, search: Search | None) -> None:
        """Note, once, who could have taken the request, who could not, and what was tried."""
        if search is not None and search.planned is not None and self.decision is None:
            tried: list[tuple[str, str | None]] = [(record.account, record.error_class) for record in self._records]
            if self.served is not None:
                tried.append((self.served.account, None))
            self.decision = decision(search.planned, search.demand, tried, self.lost)

    def left_out(self, lost: tuple[str, ...]) -> None:
        """Note what a translated stream had no words for; its header was sent long before."""
        if lost and self.decision is not None:
            self.decision = also_lost(self.decision, lost)

    def attempt(self, candidate: Candidate, dialect: Dialect, lease: Lease) -> Attempt:
        """The account that was leased is tried, in that dialect."""
        attempt = Attempt(len(self._records) + 1, candidate, dialect, lease.began, lease.began_ms)
        if self._first_attempt is None:
            self._first_attempt = attempt.began
        if self.lasting:
            self._begun(candidate)
        return attempt

    def lasts(self, attempt: Attempt | None) -> None:
        """The request does not end at once: from now on a crash leaves a trace of it, and of the account it is at."""
        self.lasting = True
        if attempt is not None:
            self._begun(attempt.candidate)

    def _begun(self, candidate: Candidate) -> None:
        inbound = self._inbound
        self._ledger.begun(
            RequestBegun(
                id=inbound.id,
                client=inbound.client,
                account=candidate.account,
                model=candidate.model,
                dialect=inbound.surface.dialect,
                streamed=self._streams,
                started_at_ms=inbound.arrived_ms,
            )
        )

    def attempt_ended(
        self, attempt: Attempt, kind: Kind | None = None, detail: str | None = None, rest_s: float | None = None
    ) -> None:
        """An attempt is over; `kind` is None when it gave an answer or the client left."""
        reply = attempt.reply
        self._first_byte = first_byte = attempt.first_byte
        self._records.append(
            AttemptRecord(
                request_id=self._inbound.id,
                number=attempt.number,
                account=attempt.candidate.account,
                model=attempt.candidate.model,
                dialect=attempt.dialect,
                started_at_ms=attempt.began_ms,
                status=reply.status if reply else None,
                error_class=kind.value if kind else None,
                error_detail=redact(detail)[:MAX_DETAIL_CHARS] if detail and self._keep_detail else None,
                scope=VERDICTS[kind].scope if kind else None,
                rest_ms=None if rest_s is None else round(rest_s * 1000),
                connect_us=reply.connect_us if reply else None,
                first_byte_us=None if first_byte is None else round((first_byte - attempt.began) * _US),
                total_us=round((self._clock.now() - attempt.began) * _US),
                upstream_request_id=attempt.upstream_request_id,
                bytes_received=reply.bytes_received if reply else 0,
            )
        )

    def close(self, outcome: Outcome, usage: Usage | None) -> None:
        """The request is over: everything goes to the books."""
        inbound, served = self._inbound, self.served
        last = self._records[-1] if self._records and served else None
        source = UsageSource.NONE
        if usage is None:
            usage = _NO_USAGE
        else:
            source = UsageSource.REPORTED if outcome is Outcome.COMPLETED else UsageSource.PARTIAL
        price = served.price if served else None
        began, began_trying, committed = inbound.arrived, self._first_attempt, self.committed
        first_byte = self._first_byte if served else None
        self._ledger.request(
            RequestRecord(
                id=inbound.id,
                client=inbound.client,
                client_address=inbound.client_address,
                dialect=inbound.surface.dialect,
                path=inbound.path,
                model_asked=inbound.model or "",
                streamed=self._streams,
                outcome=outcome,
                status=self.status,
                started_at_ms=inbound.arrived_ms,
                ended_at_ms=self._clock.wall_ms(),
                total_us=round((self._clock.now() - began) * _US),
                attempts=len(self._records),
                account=served.account if served else None,
                model_served=served.model if served else None,
                upstream_dialect=last.dialect if last else None,
                error_class=self.error_class,
                usage=usage,
                usage_source=source,
                cost=cost(usage, price, source),
                price=price,
                queue_us=None if began_trying is None else round((began_trying - began) * _US),
                connect_us=last.connect_us if last else None,
                first_byte_us=None if first_byte is None else round((first_byte - began) * _US),
                first_event_us=None if committed is None else round((committed - began) * _US),
                bytes_received=self._body_bytes,
                bytes_emitted=self.emitted_bytes,
                upstream_request_id=last.upstream_request_id if last else None,
                decision=self.decision,
            ),
            self._records,
        )
