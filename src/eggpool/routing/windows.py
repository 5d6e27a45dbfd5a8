"""One quota window of an account: what was used in it, what its provider said about it, and how it moves on.

A `Window` is one of the few mutable things; it belongs to one `Quota` and does nothing but arithmetic: every instant is
an argument, in wall-clock milliseconds. Shares are parts of the limit, 1.0 is all of it. Nothing that a provider says
can break it: amounts, shares and instants are held within bounds.

A provider's report fixes the share at one moment; from there on our own spending moves it. In a rolling window that was
reported on, what others used is taken to fall out evenly over the window's length.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind, WindowSource, WindowSpec
from eggpool.routing.periods import anchor_of, anchored
from eggpool.routing.spending import LARGEST, PLACES

Channel = Literal["meter", "headers", "error", "hand"]
"""How a word about a window reached us: a usage endpoint, a reply's headers, an error's body, a person."""

BUCKETS = 60  # of a rolling window: its memory, and the precision with which use falls out of it
LARGEST_SHARE = 10.0
SHORTEST_MS = 1000
LONGEST_MS = 366 * 86_400_000
TOLD_BEYOND = 1.1  # a reset is believed up to this many lengths away: months have up to 31 days
_LEARNT_STEP = 0.01  # most providers tell whole percents: less than one is no difference
_LEARNT_MEMORY = 0.7  # of what was learnt before, at each further step
_LEARNT_LEEWAY = 4.0  # how far a provider's own basis of prices may lie from a limit that is known
_PRIOR_SHARE = 0.05  # how much a known limit weighs against what is learnt
_WEAK_PRIOR_SHARE = 0.01  # and one that is only assumed
_SAME_RESET_MS = 3_600_000
UNDER_WAY_MS = 1000  # when to look again where only what is under way fills a ceiling: it may turn out cheaper
_ROLLING_TOLD_MS = 5_000  # how long a falling share is taken for a constant


# Looked up once: finding a member of an enumeration costs as much as the arithmetic here.
_ROLLING = WindowKind.ROLLING
_BLOCK = WindowKind.BLOCK
_ANCHORED = WindowKind.ANCHORED


class Told(msgspec.Struct, frozen=True):
    """A provider's (or a person's) word about a window, and what of our own was finished in it at that moment."""

    channel: Channel
    at_ms: int
    share: float | None
    own: int
    full: bool  # the provider's own word that nothing is left
    resets_at_ms: int | None


class Drift(msgspec.Struct, frozen=True):
    """How far reports lay above (or below) what was believed just before them, in shares."""

    last: float = 0.0
    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """The mean over all reports."""
        return self.total / self.count if self.count else 0.0


class WindowState(msgspec.Struct, frozen=True):
    """A window as it is kept over a restart."""

    spec: WindowSpec
    configured: WindowSpec | None  # as it was before its provider said anything
    model: str | None
    starts_ms: int
    ends_ms: int
    own: int
    buckets: tuple[tuple[int, int], ...] = ()
    told: tuple[Told, ...] = ()
    learnt_share: float = 0.0
    learnt_own: float = 0.0
    drift: Drift = Drift()


class Line(msgspec.Struct, frozen=True, gc=False):
    """A window from some moment until `until_ms`: its used share stays, its elapsed share moves by `-slope` each
    millisecond. `ratio` is the share that one unit of spending takes.
    """

    share: float
    elapsed: float
    slope: float
    until_ms: int
    ratio: float


class Window:
    """One window: its period, our own spending in it, and what was told about it.

    `ratio` is the share that one unit of spending takes, `limit` the limit in the window's unit; both None while nobody
    knows. `place` is which of a request's amounts it counts.
    """

    __slots__ = (
        "_base",
        "_buckets",
        "_learnt_own",
        "_learnt_share",
        "_newest",
        "_own",
        "_width_ms",
        "configured",
        "drift",
        "ends_ms",
        "is_guess",
        "kind",
        "length_ms",
        "limit",
        "model",
        "place",
        "ratio",
        "spec",
        "starts_ms",
        "told",
    )

    def __init__(self, spec: WindowSpec, model: str | None = None, configured: WindowSpec | None = None) -> None:
        self.model = model
        self.configured = configured  # None: its provider told of it
        self.limit: int | None = None
        self.ratio: float | None = None
        self.starts_ms = 0
        self.ends_ms = 0  # of a period that has begun; 0 when none has, and for rolling windows
        self.told: dict[Channel, Told] = {}
        self.drift = Drift()
        self._own = 0
        self._buckets: dict[int, int] = {}
        self._newest = 0
        self._base: Told | None = None  # from which the ratio is learnt next
        self._learnt_share = 0.0
        self._learnt_own = 0.0
        self._describe(spec)

    def _describe(self, spec: WindowSpec) -> None:
        self.spec = spec
        self.kind = spec.kind
        self.place = PLACES[spec.unit]
        # It only stands in the general `[limits]`, and the user does not want it enforced.
        self.is_guess = spec.source is WindowSource.ASSUMED and not spec.enforce
        self.length_ms = min(max(spec.length_s * 1000, SHORTEST_MS), LONGEST_MS)
        self._width_ms = max(self.length_ms // BUCKETS, 1)
        limit = spec.limit
        known = limit is not None and limit > 0 and spec.unit is not QuotaUnit.PERCENT
        self.limit = min(limit, LARGEST) if limit is not None and known else None
        self._weigh()

    def _weigh(self) -> None:
        """Find the ratio: as it was learnt, within reason where a limit is known, else what the limit says."""
        limit = self.limit
        self.ratio = None if limit is None else 1 / limit
        if self._learnt_own > 0:
            self.ratio = self._learnt_share / self._learnt_own
            if limit is not None and self.spec.source is not WindowSource.ASSUMED:
                self.ratio = min(max(self.ratio, 1 / (limit * _LEARNT_LEEWAY)), _LEARNT_LEEWAY / limit)

    @property
    def key(self) -> tuple[str, str | None, bool]:
        """What tells windows of an account apart: a ceiling of the user's own is not the provider's limit."""
        return self.spec.name, self.model, self.spec.enforce

    @property
    def own(self) -> int:
        """Our own finished spending in the period, as of the last `move`."""
        return self._own

    # --- time ---------------------------------------------------------------------------------------------------

    def move(self, now_ms: int) -> None:
        """Bring the period up to `now_ms`; a clock that was set back counts from there on."""
        kind = self.kind
        if kind is _ROLLING:
            self._roll(now_ms)
        elif kind is _BLOCK:
            if self.ends_ms and now_ms >= self.ends_ms:
                self._begin(0, 0)
            elif now_ms < self.starts_ms:
                self.starts_ms, self.ends_ms = now_ms, now_ms + self.length_ms
        elif now_ms >= self.ends_ms:
            self._begin(*self._calendar(now_ms))
        elif now_ms < self.starts_ms:
            self.starts_ms, self.ends_ms = self._calendar(now_ms)
        if self.told:
            ended = [one.channel for one in self.told.values() if one.resets_at_ms and now_ms >= one.resets_at_ms]
            for channel in ended:
                del self.told[channel]

    def _calendar(self, now_ms: int) -> tuple[int, int]:
        spec = self.spec
        starts, ends = anchored(spec.every, spec.anchor_day, spec.anchor_s, self.length_ms, now_ms)
        return starts, max(ends, now_ms + 1)  # the calendar ends somewhere, time does not

    def _begin(self, starts_ms: int, ends_ms: int) -> None:
        self.starts_ms, self.ends_ms = starts_ms, ends_ms
        self._own = 0
        self._base = None
        self.told.clear()

    def _roll(self, now_ms: int) -> None:
        newest = now_ms // self._width_ms
        if newest == self._newest:
            return
        if newest < self._newest:
            ahead = sum(self._buckets.pop(one) for one in list(self._buckets) if one > newest)
            self._buckets[newest] = self._buckets.get(newest, 0) + ahead
        self._newest = newest
        for one in [one for one in self._buckets if one < newest - BUCKETS]:
            self._own -= self._buckets.pop(one)

    # --- spending -----------------------------------------------------------------------------------------------

    def add(self, amount: int, began_ms: int, now_ms: int) -> None:
        """Count what was finished by a request that began at `began_ms`, in the window's unit."""
        kind = self.kind
        if not self.told and amount <= LARGEST - self._own:  # as nearly always; and the period, or its part, goes on
            if kind is not _ROLLING:
                if self.starts_ms <= now_ms < self.ends_ms:
                    self._own += amount
                    return
            elif began_ms // self._width_ms == self._newest == now_ms // self._width_ms:
                self._buckets[self._newest] = self._buckets.get(self._newest, 0) + amount
                self._own += amount
                return
        self.move(now_ms)
        if kind is _ROLLING:
            bucket = min(began_ms, now_ms) // self._width_ms
            if bucket < self._newest - BUCKETS:
                return
            room = min(amount, LARGEST - self._own)
            self._buckets[bucket] = self._buckets.get(bucket, 0) + room
        else:
            if kind is _BLOCK and not self.ends_ms:
                starts = min(began_ms, now_ms)
                if now_ms - starts >= self.length_ms:
                    return
                self.starts_ms, self.ends_ms = starts, starts + self.length_ms
            room = min(amount, LARGEST - self._own)
        self._own += room

    # --- what is told -------------------------------------------------------------------------------------------

    def tell(self, report: QuotaReport, channel: Channel, now_ms: int, poll_ms: int) -> None:
        """Take in what was said. Of one channel only the newest word counts."""
        # A moment that cannot be true would move the window to another age.
        at_ms = report.at_ms if now_ms - self.length_ms < report.at_ms <= now_ms else now_ms
        before = self.told.get(channel)
        if before is not None and at_ms < before.at_ms <= now_ms:
            return
        self.move(now_ms)
        share = _share_told(report, self.limit if report.unit is self.spec.unit else None)
        resets_at_ms = self._reset_told(report, now_ms)
        believed = self.share(now_ms, 0, poll_ms)
        self._adopt(report)
        if share is not None:
            if believed is not None:
                off = share - believed
                self.drift = Drift(off, self.drift.total + off, self.drift.count + 1)
            if report.unit is QuotaUnit.PERCENT or report.unit is not self.spec.unit:
                self._learn(Told(channel, at_ms, share, self._own, False, resets_at_ms))
        full = report.exhausted if report.exhausted is not None else share is not None and share >= 1.0
        if full and share is None:
            share = 1.0
        if share is None:
            return
        if resets_at_ms is not None:
            self._follow(resets_at_ms)
        elif share > 0 and self.kind is _BLOCK and not self.ends_ms:
            self.starts_ms, self.ends_ms = at_ms, at_ms + self.length_ms  # it has begun, nobody says when
        if channel == "hand":
            self.told.clear()  # a person who sets a value has seen the others
        self.told[channel] = Told(channel, at_ms, share, self._own, full, resets_at_ms)

    def forget_full(self) -> None:
        """Believe no word any more that nothing is left; what it says about the share stays."""
        self.told = {
            channel: msgspec.structs.replace(one, full=False) if one.full else one for channel, one in self.told.items()
        }

    def _adopt(self, report: QuotaReport) -> None:
        """A limit that the provider tells replaces what was configured or assumed."""
        spec = self.spec
        known = report.limit is not None and report.limit > 0 and report.unit is not QuotaUnit.PERCENT
        if report.unit is spec.unit and report.limit is not None and known and report.limit != spec.limit:
            spec = msgspec.structs.replace(spec, limit=min(report.limit, LARGEST))
        if spec.source is WindowSource.ASSUMED and report.unit is QuotaUnit.PERCENT and spec.limit is not None:
            limit = self.limit
            if limit is not None and not self._learnt_own:
                self._learnt_share, self._learnt_own = _WEAK_PRIOR_SHARE, _WEAK_PRIOR_SHARE * limit
            spec = msgspec.structs.replace(spec, limit=None)
        if spec is not self.spec or spec.source is not WindowSource.PROVIDER:
            self._describe(msgspec.structs.replace(spec, source=WindowSource.PROVIDER))

    def _reset_told(self, report: QuotaReport, now_ms: int) -> int | None:
        """The reset as an instant that can be true, else None."""
        told = report.resets_at_ms
        if told is None or told <= now_ms:
            return None
        return min(told, now_ms + round(self.length_ms * TOLD_BEYOND))

    def _follow(self, resets_at_ms: int) -> None:
        """The provider's reset is the end of the period; where periods are anchored, of the following ones too."""
        spec = self.spec
        if spec.kind is _ROLLING:
            return
        if spec.kind is _ANCHORED and abs(resets_at_ms - self.ends_ms) > _SAME_RESET_MS and spec.every:
            day, second = anchor_of(spec.every, resets_at_ms)
            self._describe(msgspec.structs.replace(spec, anchor_day=day, anchor_s=second))
        self.ends_ms = resets_at_ms
        self.starts_ms = resets_at_ms - self.length_ms

    def _learn(self, told: Told) -> None:
        """From two reports of one channel: what share our spending between them took."""
        base = self._base
        if base is None or base.share is None or told.share is None or base.channel != told.channel:
            self._base = told if base is None else base
            return
        share, own = told.share - base.share, told.own - base.own
        if share < 0 or own < 0:
            self._base = told
        elif share >= _LEARNT_STEP and own > 0:
            limit = self.limit
            if not self._learnt_own and limit is not None:
                self._learnt_share, self._learnt_own = _PRIOR_SHARE, _PRIOR_SHARE * limit
            self._learnt_share = self._learnt_share * _LEARNT_MEMORY + share
            self._learnt_own = self._learnt_own * _LEARNT_MEMORY + own
            self._weigh()
            self._base = told

    def counted_words(self, now_ms: int, poll_ms: int) -> list[Told]:
        """What counts of what was told: everything younger than two polls, else the newest."""
        if len(self.told) < 2:
            return list(self.told.values())
        fresh = [one for one in self.told.values() if now_ms - one.at_ms < 2 * poll_ms]
        return fresh or [max(self.told.values(), key=lambda one: (one.at_ms, one.channel))]

    # --- questions ----------------------------------------------------------------------------------------------

    def share(self, now_ms: int, reserved: int, poll_ms: int) -> float | None:
        """The part of the limit that is used, `reserved` included; None while nobody knows. After `move(now_ms)`."""
        ratio = self.ratio
        if self.told:
            shares = [
                self._since(told, told.share, ratio or 0.0, now_ms, reserved)
                for told in self.counted_words(now_ms, poll_ms)
                if told.share is not None
            ]
            if shares:
                return max(0.0, *shares)
        if ratio is None:
            return None
        offset = min(max(self.spec.offset, 0), LARGEST)
        return min((self._own + reserved + offset) * ratio, LARGEST_SHARE)

    def _since(self, told: Told, share: float, ratio: float, now_ms: int, reserved: int) -> float:
        if self.kind is not _ROLLING:
            return min(share + (self._own - told.own + reserved) * ratio, LARGEST_SHARE)
        left = max(0.0, 1.0 - max(now_ms - told.at_ms, 0) / self.length_ms)
        return min((self._own + reserved) * ratio + (share - told.own * ratio) * left, LARGEST_SHARE)

    def elapsed(self, now_ms: int) -> float:
        """The part of the period that is over; of a rolling window always a half, of a block to come nothing."""
        if self.kind is _ROLLING:
            return 0.5
        if not self.ends_ms:
            return 0.0
        return min(max((now_ms - self.starts_ms) / (self.ends_ms - self.starts_ms), 0.0), 1.0)

    def line(self, now_ms: int, reserved: int, poll_ms: int) -> Line | None:
        """How it stands from `now_ms` on, None while no limit is known."""
        self.move(now_ms)
        share = self.share(now_ms, reserved, poll_ms)
        if share is None:
            return None
        until, slope = now_ms + self.length_ms, 0.0
        if self.kind is _ROLLING:
            until = (now_ms // self._width_ms + 1) * self._width_ms
            if self.told:
                until = min(until, now_ms + _ROLLING_TOLD_MS)
        elif self.ends_ms:
            until = self.ends_ms
            if now_ms >= self.starts_ms:
                slope = -1.0 / (self.ends_ms - self.starts_ms)
            else:
                until = min(until, self.starts_ms)
        for told in self.told.values():
            ages = told.at_ms + 2 * poll_ms
            if now_ms < ages < until:
                until = ages
            if told.resets_at_ms is not None:
                until = min(until, told.resets_at_ms)
        return Line(share, self.elapsed(now_ms), slope, until, self.ratio or 0.0)

    def told_full_until(self, now_ms: int, poll_ms: int) -> int | None:
        """Until when the provider's own word says that nothing is left; None when none does. After `move(now_ms)`."""
        ends = [
            one.resets_at_ms or self.ends_ms or one.at_ms + min(2 * poll_ms, self.length_ms)
            for one in self.counted_words(now_ms, poll_ms)
            if one.full
        ]
        return max((end for end in ends if end > now_ms), default=None)

    def ceiling_until(self, now_ms: int, reserved: int, poll_ms: int) -> int | None:
        """Until when a ceiling that refuses is reached; None while it is not. After `move(now_ms)`."""
        if not self.spec.enforce:
            return None
        share = self.share(now_ms, reserved, poll_ms)
        if share is None or share < 1.0:
            return None
        if reserved and (self.share(now_ms, 0, poll_ms) or 0.0) < 1.0:
            return now_ms + UNDER_WAY_MS
        if self.kind is not _ROLLING:
            return self.ends_ms or now_ms + self.length_ms
        over = (share - 1.0) / (self.ratio or 1.0)
        for bucket in sorted(self._buckets):
            over -= self._buckets[bucket]
            if over < 0:
                return max((bucket + BUCKETS + 1) * self._width_ms, now_ms + 1)
        return now_ms + self.length_ms

    def full_at(self, now_ms: int, reserved: int, poll_ms: int) -> int | None:
        """When everything will be used at the present pace; None when that is not before the period ends."""
        self.move(now_ms)
        share = self.share(now_ms, reserved, poll_ms)
        if share is None:
            return None
        if share >= 1.0:
            return now_ms
        if self.kind is _ROLLING:
            # What was used lately comes in at that rate; what is inside falls out evenly.
            lately = [amount for bucket, amount in self._buckets.items() if bucket > self._newest - BUCKETS // 4]
            gain = sum(lately) * (self.ratio or 0.0) / (self.length_ms / 4) - share / self.length_ms
            horizon = self.length_ms
        else:
            over = now_ms - self.starts_ms
            gain = share / over if self.ends_ms and over > 0 else 0.0
            horizon = self.ends_ms - now_ms
        wait = (1.0 - share) / gain if gain > 0 else math.inf
        return now_ms + round(wait) if wait < horizon else None

    # --- keeping ------------------------------------------------------------------------------------------------

    def state(self) -> WindowState:
        """Everything but what is under way."""
        return WindowState(
            spec=self.spec,
            configured=self.configured,
            model=self.model,
            starts_ms=self.starts_ms,
            ends_ms=self.ends_ms,
            own=self._own,
            buckets=tuple(sorted(self._buckets.items())),
            told=tuple(self.told.values()),
            learnt_share=self._learnt_share,
            learnt_own=self._learnt_own,
            drift=self.drift,
        )

    def can_resume(self, state: WindowState) -> bool:
        """Whether what was kept means the same here: the configuration is as it was, or only limits have changed."""
        return state.configured == self.configured or _make(state.spec) == _make(self.spec)

    def resume(self, state: WindowState) -> None:
        """Take over what was kept of a window; see `can_resume`."""
        if state.configured == self.configured:
            self._describe(state.spec)  # with what its provider has made of it
        self.starts_ms, self.ends_ms, self._own = state.starts_ms, state.ends_ms, state.own
        self._buckets = dict(state.buckets)
        self._newest = max(self._buckets, default=0)
        self.told = {one.channel: one for one in state.told}
        self._learnt_share, self._learnt_own, self.drift = state.learnt_share, state.learnt_own, state.drift
        self._weigh()


def _make(spec: WindowSpec) -> tuple[WindowKind, QuotaUnit, int, str | None]:
    return spec.kind, spec.unit, spec.length_s, spec.every


def _share_told(report: QuotaReport, limit: int | None) -> float | None:
    """The used share that a report says or implies, within bounds."""
    share = report.used_share
    if share is None and report.used is not None:
        told = report.limit or (100 if report.unit is QuotaUnit.PERCENT else limit)
        if told is not None and told > 0:
            share = min(max(report.used, 0), LARGEST) / min(told, LARGEST)
    if share is None or not math.isfinite(share):
        return None
    return min(max(share, 0.0), LARGEST_SHARE)
