"""What an account may still spend: all its windows, what is reserved for requests under way, and what that means.

`Quota` is the one mutable thing here; it belongs to one account, reads no clock and keeps no money of its own: every
instant is an argument, in wall-clock milliseconds. A request's spending is reserved, then settled exactly once.

Only a provider's word, or a ceiling that the user enforces, rules an account out. Everything else is pressure, which
orders accounts: used share minus elapsed share of the longest window, because what is left of it when it ends is lost,
plus how far a shorter one is beyond its time and more than half full, because it will hold up what is under way.
Between changes it is a line over time, so that a decision reads two numbers for each account instead of asking all
windows.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind, WindowSource, WindowSpec
from eggpool.routing.spending import LARGEST, NOTHING, PLACES, Amounts, Spending
from eggpool.routing.windows import LONGEST_MS, SHORTEST_MS, Channel, Drift, Line, Window, WindowState

POLL_MS = 300_000  # how often a provider is asked, where the caller does not say
SHORT_FULL = 0.5  # used share beyond which a window shorter than the longest counts
MOST_WINDOWS = 64  # of one account: what a provider can make us remember
_ABOUT = 0.25  # two windows are of about one length when they differ by less than this part
_SHORT_STEPS = 300  # in which the crowding of a short window follows its time
HAIR = 0.001  # of a window: spending that moves none of them by more leaves the line as it is
_LONGEST_LINE_MS = 60_000  # a line holds for no longer, so that a clock that was set wrong is left soon
_LENGTH_S = {
    "minute": 60,
    "hourly": 3600,
    "five_hour": 5 * 3600,
    "daily": 86_400,
    "weekly": 7 * 86_400,
    "monthly": 30 * 86_400,
}
_UNKNOWN_LENGTH_S = 30 * 86_400  # a balance that nobody refills by the clock


class Reservation(msgspec.Struct, frozen=True, eq=False):
    """What was set aside for one request; settled exactly once."""

    amounts: Amounts
    began_ms: int
    model: str | None


class QuotaRefusal(msgspec.Struct, frozen=True):
    """Why an account is ruled out: `spent_WINDOW` by its provider's word, `ceiling_WINDOW` by the user's."""

    reason: str
    until_ms: int


class WindowView(msgspec.Struct, frozen=True):
    """One window as people see it. `used_share` and `pressure` are None while no limit is known."""

    name: str
    model: str | None
    kind: WindowKind
    unit: QuotaUnit
    source: WindowSource
    limit: int | None
    enforce: bool
    length_s: int
    used_share: float | None
    elapsed_share: float
    pressure: float | None
    starts_at_ms: int | None
    resets_at_ms: int | None
    full_at_ms: int | None  # when it will be full at the present pace, if that is before it resets
    told_at_ms: int | None  # of the newest word about it
    drift: Drift


class QuotaSnapshot(msgspec.Struct, frozen=True):
    """All windows of an account as they are kept over a restart. What was under way is in the books, not here."""

    at_ms: int
    windows: tuple[WindowState, ...] = ()


_NONE: Amounts = (0, 0, 0)


class Quota:
    """The windows of one account.

    `value`, `slope` and `since_ms` are the pressure as a line: `value + slope x (now - since_ms)`, to be read after
    `refresh`; `ratio` is what one unit of a further request adds and `place` which of its amounts counts there,
    `crowded` is the part of the pressure that shorter windows make, `exhausted_now` whether our own estimate says that
    nothing is left, `refused` what rules the account out.
    """

    __slots__ = (
        "_hair",
        "_lines",
        "_lines_until_ms",
        "_longest_ms",
        "_model",
        "_moved",
        "_poll_ms",
        "_reserved",
        "_steps",
        "_under_way",
        "crowded",
        "exhausted_now",
        "per_model",
        "place",
        "ratio",
        "refused",
        "since_ms",
        "slope",
        "until_ms",
        "value",
        "windows",
    )

    def __init__(self, specs: Iterable[WindowSpec] = (), poll_ms: int = POLL_MS) -> None:
        self._poll_ms = poll_ms
        self._under_way: set[Reservation] = set()
        self._reserved = _NONE  # for all of them
        self.windows = [Window(spec, configured=spec) for spec in _without_replaced(specs)]
        self._lines: list[tuple[Window, Line]] = []  # of the windows whose limit is known
        self._longest_ms = 0
        self._steps: list[tuple[int, float]] = []  # how far a unit of an amount moves the window that it moves most
        self._moved = 0.0  # how far spending has moved windows since the line was made
        self._hair = 0.0  # how far it may, before the line is made anew
        self._lines_until_ms = 0  # so long, spending alone changes how they stand
        self._model: str | None = None  # that the line is about
        self.per_model = False  # whether anything is known about single models
        self.value = self.slope = self.ratio = self.crowded = 0.0
        self.place = 0
        self.exhausted_now = False
        self.refused: QuotaRefusal | None = None
        self.since_ms = self.until_ms = 0

    # --- spending -----------------------------------------------------------------------------------------------

    def reserve(self, estimate: Spending, now_ms: int, model: str | None = None) -> Reservation:
        """Set aside what a request will probably cost; it counts as used until it is settled."""
        more = estimate.amounts
        reservation = Reservation(more, now_ms, model)
        self._under_way.add(reservation)
        money, tokens, requests = self._reserved
        self._reserved = (money + more[0], tokens + more[1], requests + more[2])
        self._move(more, _NONE)
        return reservation

    def settle(self, reservation: Reservation, spent: Spending, now_ms: int) -> None:
        """A request has ended and cost `spent`. Raises RuntimeError when it was settled before."""
        if reservation not in self._under_way:
            raise RuntimeError("a reservation was settled twice")
        self._under_way.remove(reservation)
        (money, tokens, requests), less = self._reserved, reservation.amounts
        self._reserved = (money - less[0], tokens - less[1], requests - less[2])
        amounts = spent.amounts
        self._count(amounts, reservation.began_ms, now_ms, reservation.model, self.windows)
        self._move(amounts, less)

    def release(self, reservation: Reservation, now_ms: int) -> None:
        """A request has ended and cost nothing. Raises RuntimeError when it was settled before."""
        self.settle(reservation, NOTHING, now_ms)

    def add(
        self,
        spent: Spending,
        began_ms: int,
        now_ms: int,
        model: str | None = None,
        *,
        only: Iterable[Window] | None = None,
    ) -> None:
        """Count what was spent without a reservation: what the books hold from after a snapshot.

        `only` are the windows to count it in, where those that a snapshot knew have counted it already.
        """
        amounts = spent.amounts
        self._count(amounts, began_ms, now_ms, model, self.windows if only is None else only)
        self._move(amounts, _NONE)

    def reserved(self, unit: QuotaUnit, model: str | None = None) -> int:
        """What is set aside now, for all requests or for those of one model."""
        return self._aside(PLACES[unit], model)

    def _aside(self, place: int, model: str | None) -> int:
        if model is None:
            return self._reserved[place]
        return sum(one.amounts[place] for one in self._under_way if one.model == model)

    def _count(
        self, amounts: Amounts, began_ms: int, now_ms: int, model: str | None, windows: Iterable[Window]
    ) -> None:
        """Add what was spent to those windows that it counts in."""
        for window in windows:
            if (window.model is None or window.model == model) and (amount := amounts[window.place]):
                ends_ms = window.ends_ms
                window.add(amount, began_ms, now_ms)
                if window.ends_ms != ends_ms:
                    self.until_ms = self._lines_until_ms = 0  # a period has begun

    def _move(self, more: Amounts, less: Amounts) -> None:
        """Note what is used now and was not before, and the other way round; make the line anew when that is more than
        a hair."""
        for place, step in self._steps:
            self._moved += (more[place] - less[place]) * step
        if not -self._hair < self._moved < self._hair:
            self.until_ms = 0

    # --- what is told -------------------------------------------------------------------------------------------

    def learn(self, report: QuotaReport, now_ms: int, channel: Channel = "meter") -> None:
        """Take in what a provider said. A window that nobody knew of comes into being; absurd values are bounded."""
        window = self._told_window(report, now_ms)
        if window is not None:
            window.tell(report, channel, now_ms, self._poll_ms)
            self.per_model = self.per_model or window.model is not None
            self.until_ms = self._lines_until_ms = 0

    def set_used(self, name: str, share: float, now_ms: int) -> bool:
        """A person says how much of a window is used; that holds until it resets. False: there is no such window."""
        windows = [one for one in self.windows if one.spec.name == name and one.model is None]
        report = QuotaReport(name, now_ms, QuotaUnit.PERCENT, used_share=share, exhausted=False)
        for window in windows:
            window.tell(report, "hand", now_ms, self._poll_ms)
        self.until_ms = self._lines_until_ms = 0
        return bool(windows)

    def forget_full(self) -> None:
        """From now on no word that nothing is left is believed, until it is said again."""
        for window in self.windows:
            window.forget_full()
        self.until_ms = self._lines_until_ms = 0

    def _told_window(self, report: QuotaReport, now_ms: int) -> Window | None:
        """The window that a report is about, made when there is none; None when there are too many already."""
        key = (report.window, report.model, False)
        known = next((one for one in self.windows if one.key == key), None)
        spec = _spec_told(report, known.spec if known else None, now_ms)
        if known is not None and known.spec == spec:
            return known
        window = Window(spec, report.model, known.configured if known else None)
        if known is not None:
            known.move(now_ms)
            if known.spec.unit is spec.unit:
                if known.own:
                    window.add(known.own, now_ms, now_ms)  # the word that follows puts the sum right
                window.move(now_ms)  # into its period, which begins with nothing said
                window.told, window.drift = dict(known.told), known.drift
            self.windows[self.windows.index(known)] = window
            return window
        if len(self.windows) >= MOST_WINDOWS:
            return None
        if report.model is None:
            self.windows = [one for one in self.windows if not _replaces(spec, one.spec)]
        self.windows.append(window)
        return window

    # --- questions ----------------------------------------------------------------------------------------------

    def refresh(self, now_ms: int, model: str | None = None) -> None:
        """Bring the line and what stands beside it up to now. Cheap while `since_ms <= now_ms < until_ms`."""
        if self.since_ms <= now_ms < self.until_ms and (not self.per_model or model == self._model):
            return
        if now_ms < self._lines_until_ms and self.since_ms <= now_ms and model == self._model:
            self._weigh(now_ms, self._lines_until_ms, anew=True)  # only spending has changed since
            return
        until = now_ms + _LONGEST_LINE_MS
        self._model = model
        refused: QuotaRefusal | None = None
        lines: list[tuple[Window, Line]] = []
        longest_ms = 0
        guessed = not self._knows_better(now_ms)
        enforced = False
        for window in self.windows:
            if window.model is not None and window.model != model:
                continue
            if window.is_guess and not guessed:
                continue
            reserved = self._aside(window.place, window.model)
            line = window.line(now_ms, reserved, self._poll_ms)
            if window.told or window.spec.enforce:
                refused = self._ruled_out(window, reserved, now_ms, refused)
                enforced = enforced or window.spec.enforce
            if line is not None:
                lines.append((window, line))
                longest_ms = max(longest_ms, window.length_ms)
                until = min(until, line.until_ms)
        if refused is not None:
            until = min(until, refused.until_ms)
        self._lines, self._longest_ms, self.refused = lines, longest_ms, refused
        # Where a ceiling refuses, spending changes more than how the windows stand.
        self._lines_until_ms = 0 if enforced else until
        self._hair = 0.0 if enforced else HAIR
        self._weigh(now_ms, until, anew=False)

    def _knows_better(self, now_ms: int) -> bool:
        """Whether a share of the account is known by more than an assumption: then assumptions say nothing."""
        for window in self.windows:
            if window.model is None and not window.is_guess:
                window.move(now_ms)
                if window.share(now_ms, 0, self._poll_ms) is not None:
                    return True
        return False

    def _weigh(self, now_ms: int, until: int, *, anew: bool) -> None:
        """The pressure of all windows together: the pace of the longest, and the crowding of a shorter one.

        It holds until `until`, as the lines do, and where there is a shorter window not so long: crowding moves with
        its time, which the line does not follow. `anew`: the windows stand otherwise than when the lines were made.
        """
        self.since_ms, self.value, self.slope, self.ratio, self.crowded = now_ms, 0.0, 0.0, 0.0, 0.0
        self.exhausted_now = False
        self._moved = 0.0
        steps = [0.0, 0.0, 0.0]
        pace: float | None = None
        short: tuple[float, int] | None = None  # ratio and place of the most crowded one
        for window, line in self._lines:
            place, length_ms = window.place, window.length_ms
            share, elapsed = line.share, line.elapsed
            if anew:
                share = window.share(now_ms, self._aside(place, window.model), self._poll_ms) or 0.0
                elapsed = window.elapsed(now_ms)
            steps[place] = max(steps[place], line.ratio)
            if share >= 1.0 and not window.is_guess:
                self.exhausted_now = True  # a limit that nobody named has no end: to ask costs one refusal at most
            if length_ms * (1 + _ABOUT) >= self._longest_ms:
                if pace is None or share - elapsed > pace:
                    pace, self.slope, self.ratio, self.place = share - elapsed, line.slope, line.ratio, place
                continue
            crowded = share - (elapsed if elapsed > SHORT_FULL else SHORT_FULL)
            if crowded > self.crowded:
                self.crowded, short = crowded, (line.ratio, place)
            until = min(until, now_ms + length_ms // _SHORT_STEPS)
        if pace is not None:
            self.value = pace + self.crowded
        if short is not None and short[1] == self.place:
            self.ratio += short[0]
        self._steps = [(place, step) for place, step in enumerate(steps) if step]
        self.until_ms = max(until, now_ms + 1)

    def _ruled_out(
        self, window: Window, reserved: int, now_ms: int, before: QuotaRefusal | None
    ) -> QuotaRefusal | None:
        """What rules the account out with this window too: the later end counts."""
        last = before
        for reason, until_ms in (
            ("spent", window.told_full_until(now_ms, self._poll_ms)),
            ("ceiling", window.ceiling_until(now_ms, reserved, self._poll_ms)),
        ):
            if until_ms is not None and (last is None or until_ms > last.until_ms):
                last = QuotaRefusal(f"{reason}_{window.spec.name}", until_ms)
        return last

    def pressure(self, now_ms: int, extra: Spending = NOTHING, model: str | None = None) -> float:
        """How far the account is ahead of its time after `extra`; 0 while no limit is known."""
        self.refresh(now_ms, model)
        return self.value + self.slope * (now_ms - self.since_ms) + extra.amounts[self.place] * self.ratio

    def exhausted(self, now_ms: int, model: str | None = None) -> bool:
        """Whether our own estimate says that nothing is left. It orders, it never refuses."""
        self.refresh(now_ms, model)
        return self.exhausted_now

    def refusal(self, now_ms: int, model: str | None = None) -> QuotaRefusal | None:
        """What rules the account out, and until when: the last of several ends."""
        self.refresh(now_ms, model)
        return self.refused

    def shares(self, now_ms: int, extra: Spending = NOTHING) -> list[float]:
        """The used share of each window whose limit is known and says something, after `extra`."""
        amounts = extra.amounts
        found: list[float] = []
        better = self._knows_better(now_ms)
        for window in self.windows:
            if better and window.is_guess:
                continue
            window.move(now_ms)
            share = window.share(now_ms, self._aside(window.place, window.model), self._poll_ms)
            if share is not None:
                found.append(share + amounts[window.place] * (window.ratio or 0.0))
        return found

    def view(self, now_ms: int) -> tuple[WindowView, ...]:
        """All windows, for people."""
        return tuple(self._view(window, now_ms) for window in self.windows)

    def _view(self, window: Window, now_ms: int) -> WindowView:
        window.move(now_ms)
        spec = window.spec
        reserved = self._aside(window.place, window.model)
        share = window.share(now_ms, reserved, self._poll_ms)
        elapsed = window.elapsed(now_ms)
        return WindowView(
            name=spec.name,
            model=window.model,
            kind=spec.kind,
            unit=spec.unit,
            source=spec.source,
            limit=window.limit,
            enforce=spec.enforce,
            length_s=window.length_ms // 1000,
            used_share=share,
            elapsed_share=elapsed,
            pressure=None if share is None else share - elapsed,
            starts_at_ms=window.starts_ms or None,
            resets_at_ms=window.ends_ms or None,
            full_at_ms=window.full_at(now_ms, reserved, self._poll_ms),
            told_at_ms=max((one.at_ms for one in window.told.values()), default=None),
            drift=window.drift,
        )

    # --- keeping ------------------------------------------------------------------------------------------------

    def snapshot(self, now_ms: int) -> QuotaSnapshot:
        """Everything that was finished and told until now, as values that JSON can carry."""
        for window in self.windows:
            window.move(now_ms)
        return QuotaSnapshot(now_ms, tuple(window.state() for window in self.windows))

    def restore(self, snapshot: QuotaSnapshot, now_ms: int) -> tuple[Window, ...]:
        """Take over a snapshot. Windows that the configuration has changed begin anew; learnt ones come back.

        What was spent after `snapshot.at_ms` is then added with `add`, from the books. Gives the windows that the
        snapshot says nothing about: for those all that the books have is to be added.
        """
        resumed: set[tuple[str, str | None, bool]] = set()
        for state in snapshot.windows[:MOST_WINDOWS]:
            kept = Window(state.spec, state.model, state.configured)
            window = next((one for one in self.windows if one.key == kept.key), None)
            if window is None and state.configured is None:
                self.windows = [one for one in self.windows if state.model or not _replaces(state.spec, one.spec)]
                self.windows.append(kept)
                window = kept
            if window is not None and window.can_resume(state):
                window.resume(state)
                resumed.add(window.key)
                window.move(now_ms)
                self.per_model = self.per_model or window.model is not None
        self.until_ms = self._lines_until_ms = 0
        return tuple(window for window in self.windows if window.key not in resumed)


def _without_replaced(specs: Iterable[WindowSpec]) -> list[WindowSpec]:
    """Without the assumed windows in whose place better known ones stand."""
    everything = list(specs)
    return [one for one in everything if not any(_replaces(other, one) for other in everything)]


def _replaces(better: WindowSpec, assumed: WindowSpec) -> bool:
    if assumed.source is not WindowSource.ASSUMED or better.source is WindowSource.ASSUMED or assumed.enforce:
        return False
    return abs(better.length_s - assumed.length_s) <= _ABOUT * assumed.length_s


def _spec_told(report: QuotaReport, known: WindowSpec | None, now_ms: int) -> WindowSpec:
    """What a window is, after a report: as it is known, where the report does not say otherwise."""
    kind, length_s = report.kind, _length_told(report)
    if known is None:
        reset_s = ((report.resets_at_ms or 0) - now_ms) // 1000
        length_s = length_s or _LENGTH_S.get(report.window) or (reset_s if reset_s > 0 else _UNKNOWN_LENGTH_S)
        if kind is None:
            kind = WindowKind.BLOCK if report.resets_at_ms is not None else WindowKind.ROLLING
        return WindowSpec(
            name=report.window,
            kind=kind,
            unit=report.unit,
            limit=report.limit if report.limit is None else min(max(report.limit, 0), LARGEST),
            length_s=min(max(length_s, SHORTEST_MS // 1000), LONGEST_MS // 1000),
            source=WindowSource.PROVIDER,
        )
    spec = known
    if kind is not None and kind is not spec.kind:
        spec = msgspec.structs.replace(spec, kind=kind, every=None)
    if length_s is not None and spec.every is None and abs(length_s - spec.length_s) > _ABOUT * spec.length_s:
        spec = msgspec.structs.replace(spec, length_s=length_s)
    if spec.source is WindowSource.ASSUMED and report.unit not in (spec.unit, QuotaUnit.PERCENT):
        spec = msgspec.structs.replace(spec, unit=report.unit, limit=None)
    return spec


def _length_told(report: QuotaReport) -> int | None:
    """The length in a report, None when it does not say or cannot be true."""
    length_s = report.length_s
    return length_s if length_s is not None and SHORTEST_MS <= length_s * 1000 <= LONGEST_MS else None
