"""What an account may still spend: windows, reports, reservations, and what is kept over a restart."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind, WindowSource, WindowSpec
from eggpool.routing.quota import HAIR, MOST_WINDOWS, SHORT_FULL, Quota, QuotaSnapshot, Reservation, WindowView
from eggpool.routing.spending import Spending
from eggpool.routing.windows import BUCKETS, LARGEST_SHARE, TOLD_BEYOND, Channel

NOW = 1_800_000_000_000  # Friday 15 January 2027, 08:00 UTC
SECOND, HOUR, DAY = 1000, 3_600_000, 86_400_000
POLL_S = 300
ROLLING, BLOCK, ANCHORED = WindowKind.ROLLING, WindowKind.BLOCK, WindowKind.ANCHORED
MONEY, TOKENS, PERCENT = QuotaUnit.MONEY, QuotaUnit.TOKENS, QuotaUnit.PERCENT
MONDAY, NEXT_MONDAY = NOW - 4 * DAY - 8 * HOUR, NOW + 3 * DAY - 8 * HOUR

HOURS = WindowSpec("five_hour", BLOCK, TOKENS, 1000, 18_000, WindowSource.PRESET)
WEEK = WindowSpec("weekly", ANCHORED, TOKENS, 1000, 604_800, WindowSource.PRESET, every="week")
DAYS = WindowSpec("three_days", ROLLING, TOKENS, 1000, 259_200, WindowSource.CONFIG)
ASSUMED = WindowSpec("weekly", ROLLING, MONEY, 30_000, 604_800, WindowSource.ASSUMED)


def tokens(amount: int) -> Spending:
    """A request of so many tokens."""
    return Spending(0, amount, 1)


def used(quota: Quota, now_ms: int, name: str | None = None) -> float | None:
    """The used share of the named window, or of the only one."""
    return only(quota, now_ms, name).used_share


def only(quota: Quota, now_ms: int, name: str | None = None) -> WindowView:
    """The named window, or the only one."""
    (found,) = [one for one in quota.view(now_ms) if name is None or one.name == name]
    return found


def told(share: float | None, at_ms: int = NOW, **more: object) -> QuotaReport:
    """A report in percent about the week."""
    fields = {"window": "weekly", "at_ms": at_ms, "unit": PERCENT, "used_share": share, **more}
    return msgspec.convert(fields, QuotaReport)


# --- windows ------------------------------------------------------------------------------------------------------


def test_a_block_begins_at_its_first_use() -> None:
    """A block that has not begun presses nothing; then it lasts its length from the request that began it."""
    quota = Quota([HOURS])
    assert quota.pressure(NOW) == 0
    quota.settle(quota.reserve(tokens(100), NOW), tokens(200), NOW + 60 * SECOND)
    assert only(quota, NOW + HOUR).starts_at_ms == NOW
    assert quota.pressure(NOW + HOUR) == pytest.approx(0.2 - 0.2)
    assert used(quota, NOW + 5 * HOUR - 1) == pytest.approx(0.2)
    assert used(quota, NOW + 5 * HOUR) == 0
    assert quota.pressure(NOW + 6 * HOUR) == 0


def test_an_anchored_window_follows_the_calendar() -> None:
    """The week is used up evenly when the used share is the elapsed one; on Monday all is there again."""
    quota = Quota([WEEK])
    quota.add(tokens(500), NOW, NOW)
    elapsed = (NOW - MONDAY) / (7 * DAY)
    assert quota.pressure(NOW) == pytest.approx(0.5 - elapsed)
    assert quota.pressure(NOW, tokens(100)) == pytest.approx(0.6 - elapsed)
    assert used(quota, NEXT_MONDAY - 1) == pytest.approx(0.5)
    assert used(quota, NEXT_MONDAY) == 0


def test_a_rolling_window_forgets_in_time() -> None:
    """What was used counts for the window's length, to the bucket."""
    quota = Quota([DAYS])
    quota.add(tokens(300), NOW, NOW)
    quota.add(tokens(100), NOW + DAY, NOW + DAY)
    assert quota.pressure(NOW + DAY) == pytest.approx(0.4 - 0.5)
    bucket = 3 * DAY // BUCKETS
    assert used(quota, NOW + 3 * DAY - 1) == pytest.approx(0.4)
    assert used(quota, NOW + 3 * DAY + 2 * bucket) == pytest.approx(0.1)
    assert used(quota, NOW + 4 * DAY + 2 * bucket) == 0


def test_a_rolling_window_counts_from_the_begin() -> None:
    """What a long request used falls out when its length has passed since the request began, not since it ended."""
    quota = Quota([DAYS])
    quota.add(tokens(100), NOW + DAY, NOW + DAY)
    quota.add(tokens(300), NOW, NOW + DAY)
    bucket = 3 * DAY // BUCKETS
    assert used(quota, NOW + 3 * DAY - 1) == pytest.approx(0.4)
    assert used(quota, NOW + 3 * DAY + 2 * bucket) == pytest.approx(0.1)


def test_memory_of_a_rolling_window_is_bounded() -> None:
    """However much happens, no more than its buckets are kept."""
    quota = Quota([DAYS])
    for minute in range(0, 10 * 24 * 60, 7):
        quota.add(tokens(1), NOW + minute * 60 * SECOND, NOW + minute * 60 * SECOND)
    (state,) = quota.snapshot(NOW + 10 * DAY).windows
    assert len(state.buckets) <= BUCKETS + 2
    assert state.own == sum(amount for _, amount in state.buckets)


def test_the_longest_window_sets_the_pace() -> None:
    """Pressure is that of the longest window, and of a shorter one as far as it is beyond half and its time."""
    quota = Quota([HOURS, msgspec.structs.replace(DAYS, limit=10_000)])
    quota.add(tokens(400), NOW, NOW)
    assert quota.pressure(NOW) == pytest.approx(0.04 - 0.5)
    quota.add(tokens(300), NOW, NOW)
    assert quota.pressure(NOW) == pytest.approx(0.07 - 0.5 + 0.7 - SHORT_FULL)
    assert quota.pressure(NOW, tokens(100)) == pytest.approx(0.08 - 0.5 + 0.8 - SHORT_FULL)
    assert quota.pressure(NOW + 3 * HOUR) == pytest.approx(0.07 - 0.5 + 0.7 - 0.6)
    assert quota.pressure(NOW + 4 * HOUR) == pytest.approx(0.07 - 0.5)


def test_of_windows_of_one_length_the_tighter_counts() -> None:
    """Two windows of about the same length: the one that is further ahead."""
    quota = Quota([WEEK, msgspec.structs.replace(DAYS, length_s=600_000)])
    quota.add(tokens(600), NOW, NOW)
    assert quota.pressure(NOW) == pytest.approx(0.6 - 0.5)
    assert quota.pressure(MONDAY + 7 * DAY - 1) == pytest.approx(0.6 - 0.5)


def test_no_limit_no_pressure() -> None:
    """An account of which nothing is known is neither spared nor hurried."""
    assert Quota().pressure(NOW, tokens(10**9)) == 0
    assert Quota([msgspec.structs.replace(WEEK, limit=None)]).pressure(NOW, tokens(10**9)) == 0
    assert not Quota().exhausted(NOW)


def test_an_offset_counts_as_used() -> None:
    """What was used outside the pool is said by hand."""
    assert used(Quota([msgspec.structs.replace(WEEK, offset=250)]), NOW) == pytest.approx(0.25)


def test_better_known_windows_replace_assumed_ones() -> None:
    """An assumed window makes way for a better known one of about its length, and stays beside others."""
    hour = msgspec.structs.replace(ASSUMED, name="hour", length_s=3600)
    assert [one.name for one in Quota([hour, ASSUMED, DAYS]).view(NOW)] == ["hour", "weekly", "three_days"]
    known = msgspec.structs.replace(DAYS, length_s=600_000)
    assert [one.name for one in Quota([hour, ASSUMED, known]).view(NOW)] == ["hour", "three_days"]
    enforced = msgspec.structs.replace(ASSUMED, enforce=True)
    assert len(Quota([enforced, known]).view(NOW)) == 2


def test_a_clock_that_is_set_back() -> None:
    """A clock that was years ahead leaves nothing behind that holds for years."""
    for spec in (HOURS, WEEK, DAYS):
        quota = Quota([spec])
        ahead = NOW + 3000 * DAY
        quota.add(tokens(500), ahead, ahead)
        quota.pressure(ahead)
        assert used(quota, NOW) == pytest.approx(0.5)
        assert used(quota, NOW + 8 * DAY) == 0


# --- what refuses -------------------------------------------------------------------------------------------------


def test_an_estimate_never_refuses() -> None:
    """Beyond its limit an account is exhausted by estimate; that orders and no more."""
    quota = Quota([WEEK])
    quota.add(tokens(5000), NOW, NOW)
    assert quota.exhausted(NOW)
    assert quota.refusal(NOW) is None


def test_what_is_only_assumed_is_never_used_up() -> None:
    """Beyond a limit that nobody named, an account keeps its place before those that cost money by the token."""
    quota = Quota([ASSUMED])
    quota.add(Spending(60_000), NOW, NOW)
    assert used(quota, NOW) == pytest.approx(2.0)
    assert quota.pressure(NOW) > 1
    assert not quota.exhausted(NOW)
    ceiling = Quota([msgspec.structs.replace(ASSUMED, enforce=True)])
    ceiling.add(Spending(60_000), NOW, NOW)
    assert ceiling.exhausted(NOW)


@pytest.mark.parametrize(("spec", "back"), [(WEEK, NEXT_MONDAY), (HOURS, NOW + 5 * HOUR)])
def test_an_enforced_ceiling_refuses(spec: WindowSpec, back: int) -> None:
    """A ceiling that the user enforces refuses until its window resets, or until what only is under way may be over."""
    quota = Quota([msgspec.structs.replace(spec, enforce=True)])
    quota.add(tokens(999), NOW, NOW)
    assert quota.refusal(NOW) is None
    reservation = quota.reserve(tokens(1), NOW)
    refusal = quota.refusal(NOW)
    assert refusal is not None
    assert refusal.reason == f"ceiling_{spec.name}"
    assert NOW < refusal.until_ms <= NOW + 10 * SECOND
    quota.release(reservation, NOW)
    assert quota.refusal(NOW) is None
    quota.add(tokens(1), NOW, NOW)
    refusal = quota.refusal(NOW)
    assert refusal is not None
    assert (refusal.reason, refusal.until_ms) == (f"ceiling_{spec.name}", back)


def test_an_enforced_rolling_ceiling_ends() -> None:
    """A rolling ceiling is back when enough has fallen out of its window."""
    quota = Quota([msgspec.structs.replace(DAYS, enforce=True)])
    quota.add(tokens(500), NOW, NOW)
    quota.add(tokens(800), NOW + DAY, NOW + DAY)
    refusal = quota.refusal(NOW + DAY)
    assert refusal is not None
    assert NOW + 3 * DAY <= refusal.until_ms <= NOW + 3 * DAY + 2 * HOUR + 24 * 60 * SECOND
    assert quota.refusal(refusal.until_ms) is None


def test_a_ceiling_is_not_the_providers_limit() -> None:
    """A report about a window of the same name does not move the user's own ceiling."""
    quota = Quota([msgspec.structs.replace(WEEK, enforce=True)])
    quota.learn(told(0.99), NOW)
    assert sorted((one.enforce, one.used_share) for one in quota.view(NOW)) == [(False, 0.99), (True, 0.0)]


@pytest.mark.parametrize(
    ("report", "until"),
    [
        (told(1.0, resets_at_ms=NOW + HOUR), NOW + HOUR),
        (told(1.3, resets_at_ms=NOW + HOUR), NOW + HOUR),
        (told(None, exhausted=True, resets_at_ms=NOW + HOUR), NOW + HOUR),
        (told(0.4, exhausted=True, resets_at_ms=NOW + HOUR), NOW + HOUR),
        (told(1.0), NEXT_MONDAY),  # it does not say: the calendar does
        (told(1.0, exhausted=False, resets_at_ms=NOW + HOUR), None),  # it says itself that it serves on
        (told(0.99, resets_at_ms=NOW + HOUR), None),
        (msgspec.structs.replace(told(None), unit=TOKENS, used=1000, limit=1000, resets_at_ms=NOW + HOUR), NOW + HOUR),
        (msgspec.structs.replace(told(None), unit=TOKENS, used=10, limit=1000, resets_at_ms=NOW + HOUR), None),
    ],
)
def test_a_providers_word_refuses(report: QuotaReport, until: int | None) -> None:
    """The provider's word that nothing is left refuses until the window resets, and then no more."""
    quota = Quota([WEEK])
    quota.learn(report, NOW)
    refusal = quota.refusal(NOW + SECOND)
    assert (None if refusal is None else refusal.until_ms) == until
    if until is not None:
        assert quota.refusal(until - 1) is not None
        assert quota.refusal(until) is None


def test_a_word_without_an_end_is_bounded() -> None:
    """Where nobody knows when a balance is filled up, the word holds for two polls."""
    quota = Quota((), POLL_S * 1000)
    quota.learn(QuotaReport("balance", NOW, MONEY, exhausted=True), NOW)
    assert quota.refusal(NOW + 2 * POLL_S * SECOND - 1) is not None
    assert quota.refusal(NOW + 2 * POLL_S * SECOND) is None


# --- what is told -------------------------------------------------------------------------------------------------


def test_our_spending_is_added_between_reports() -> None:
    """A report fixes the share; what we spend after it is added, what is under way too."""
    quota = Quota([WEEK])
    quota.add(tokens(700), NOW - HOUR, NOW - HOUR)
    quota.learn(told(0.3), NOW)
    assert used(quota, NOW) == pytest.approx(0.3)
    quota.add(tokens(100), NOW, NOW + SECOND)
    quota.reserve(tokens(50), NOW + SECOND)
    assert used(quota, NOW + SECOND) == pytest.approx(0.45)


def test_a_newer_report_replaces_an_older_one() -> None:
    """Of one channel the newest word counts, whatever order they arrive in."""
    quota = Quota([WEEK])
    quota.learn(told(0.6, NOW - HOUR), NOW)
    quota.learn(told(0.2, NOW), NOW)
    quota.learn(told(0.9, NOW - SECOND), NOW)
    assert used(quota, NOW) == pytest.approx(0.2)


def test_of_two_channels_the_higher_counts_while_both_are_fresh() -> None:
    """Between channels the higher share counts while both are younger than two polls, then the newer one."""
    quota = Quota([WEEK], POLL_S * 1000)
    quota.learn(told(0.6), NOW, "headers")
    quota.learn(told(0.2, NOW + 60 * SECOND), NOW + 60 * SECOND, "meter")
    assert used(quota, NOW + 60 * SECOND) == pytest.approx(0.6)
    later = NOW + 2 * POLL_S * SECOND
    quota.learn(told(0.25, later), later, "meter")
    assert used(quota, later) == pytest.approx(0.25)
    assert quota.pressure(later) == pytest.approx(0.25 - (later - MONDAY) / (7 * DAY))


def test_a_line_ends_where_a_word_ages() -> None:
    """The pressure changes at the very moment at which a word stops counting."""
    quota = Quota([WEEK], POLL_S * 1000)
    quota.learn(told(0.2, NOW + 60 * SECOND), NOW + 60 * SECOND, "meter")
    quota.learn(told(0.6), NOW + 60 * SECOND, "headers")
    end = NOW + 2 * POLL_S * SECOND
    assert quota.pressure(end - 1) - quota.pressure(end) == pytest.approx(0.4, abs=1e-6)


def test_the_providers_reset_is_the_border() -> None:
    """Where the provider's week begins otherwise than we knew, its word holds for the following weeks too."""
    quota = Quota([WEEK])
    reset = NOW + 2 * DAY + 3 * HOUR
    quota.learn(told(0.5, resets_at_ms=reset), NOW)
    assert only(quota, NOW).resets_at_ms == reset
    assert used(quota, reset) == 0
    assert only(quota, reset + DAY).resets_at_ms == reset + 7 * DAY


def test_a_short_month_does_not_move_the_anchor() -> None:
    """A plan that began on a 31st resets on 28 February and then on 31 March."""
    month = WindowSpec("monthly", ANCHORED, TOKENS, 1000, 2_592_000, WindowSource.PRESET, every="month", anchor_day=31)
    quota = Quota([month])
    now, february, march = NOW + 20 * DAY, 1_803_772_800_000, 1_806_451_200_000
    quota.learn(told(0.5, now, window="monthly", resets_at_ms=february), now)
    assert only(quota, february + DAY).resets_at_ms == march


def test_percent_moves_by_what_was_learnt() -> None:
    """Where a provider tells only percents, two reports teach what our spending takes."""
    quota = Quota()
    quota.learn(told(0.10), NOW)
    quota.add(Spending(5_000_000, 0), NOW, NOW)
    assert used(quota, NOW) == pytest.approx(0.10)
    quota.learn(told(0.15, NOW + HOUR), NOW + HOUR)
    quota.add(Spending(1_000_000, 0), NOW + HOUR, NOW + HOUR)
    assert used(quota, NOW + HOUR) == pytest.approx(0.16)


def test_a_known_limit_bounds_what_is_learnt() -> None:
    """Use outside the pool is not taken for a price a hundred times as high."""
    quota = Quota([WEEK])
    quota.learn(told(0.1), NOW)
    quota.add(tokens(1), NOW, NOW)
    quota.learn(told(0.9, NOW + HOUR), NOW + HOUR)
    quota.add(tokens(10), NOW + HOUR, NOW + HOUR)
    share = used(quota, NOW + HOUR)
    assert share is not None
    assert 0.9 < share <= 0.9 + 4 * 0.01 + 1e-9


def test_drift_is_kept() -> None:
    """How far reports lie from what was believed is kept: the last and the mean."""
    quota = Quota([WEEK])
    quota.add(tokens(300), NOW, NOW)
    quota.learn(told(0.35), NOW)
    quota.learn(told(0.36, NOW + HOUR), NOW + HOUR)
    drift = only(quota, NOW + HOUR).drift
    assert drift.count == 2
    assert [drift.last, drift.mean] == pytest.approx([0.01, 0.03])


def test_unknown_windows_come_into_being() -> None:
    """A report about a window that nobody knew of makes it; per model where it says so."""
    quota = Quota([WEEK])
    quota.learn(QuotaReport("daily", NOW, QuotaUnit.REQUESTS, used=50, limit=100, resets_at_ms=NOW + HOUR), NOW)
    quota.learn(told(0.9, model="large"), NOW)
    daily = only(quota, NOW, "daily")
    assert (daily.source, daily.used_share, daily.limit) == (WindowSource.PROVIDER, 0.5, 100)
    assert quota.pressure(NOW, model="large") > quota.pressure(NOW, model="small")
    assert quota.pressure(NOW, model="small") == quota.pressure(NOW)


def test_a_model_of_an_account_is_refused_alone() -> None:
    """A word about one model refuses that model."""
    quota = Quota()
    quota.learn(told(1.0, model="large", resets_at_ms=NOW + HOUR), NOW)
    assert quota.refusal(NOW, "large") is not None
    assert quota.refusal(NOW, "small") is None
    assert quota.refusal(NOW, "large") is not None


def test_an_assumed_window_becomes_the_providers() -> None:
    """A report replaces the assumed limit of the same name; the assumption stops counting."""
    quota = Quota([ASSUMED])
    quota.learn(told(0.5), NOW)
    week = only(quota, NOW)
    assert (week.source, week.used_share, week.limit) == (WindowSource.PROVIDER, 0.5, None)


def test_windows_are_bounded() -> None:
    """A provider cannot make us remember windows without end."""
    quota = Quota([WEEK])
    for number in range(1000):
        quota.learn(told(0.5, window=f"window{number}"), NOW)
    assert len(quota.view(NOW)) == MOST_WINDOWS


def test_set_by_hand() -> None:
    """What a person sets holds until the reset, above older words; an unknown window is told to them."""
    quota = Quota([WEEK])
    quota.learn(told(0.9), NOW)
    assert quota.set_used("weekly", 0.43, NOW + SECOND)
    assert used(quota, NOW + 2 * SECOND) == pytest.approx(0.43)
    assert used(quota, NEXT_MONDAY) == 0
    assert not quota.set_used("fortnightly", 0.43, NOW)
    assert quota.set_used("weekly", 1.0, NOW + 3 * SECOND)
    assert quota.refusal(NOW + 4 * SECOND) is None


WILD = st.none() | st.integers(-(10**30), 10**30)


@given(
    share=st.none() | st.floats(),
    spent=WILD,
    limit=WILD,
    resets=WILD,
    length=WILD,
    at_ms=st.integers(-(10**30), 10**30),
    unit=st.sampled_from(QuotaUnit),
    kind=st.none() | st.sampled_from(WindowKind),
    name=st.sampled_from(["weekly", "five_hour", "three_days", "odd"]),
    exhausted=st.none() | st.booleans(),
)
def test_absurd_reports_break_nothing(
    share: float | None,
    spent: int | None,
    limit: int | None,
    resets: int | None,
    length: int | None,
    at_ms: int,
    unit: QuotaUnit,
    kind: WindowKind | None,
    name: str,
    exhausted: bool | None,
) -> None:
    """Whatever a provider says, shares stay within bounds, a refusal ends, and all can be kept and taken up again."""
    quota = Quota([WEEK, HOURS, DAYS])
    report = QuotaReport(name, at_ms, unit, share, spent, limit, resets, length, kind, None, exhausted)
    for now_ms in (NOW, NOW + HOUR):
        quota.learn(report, now_ms)
        quota.settle(quota.reserve(Spending(10**30, -5, 1), now_ms), Spending(-1, 10**30, 10**9), now_ms + SECOND)
        quota.learn(report, now_ms + SECOND, "headers")
    later = NOW + 2 * HOUR
    for window in quota.view(later):
        assert window.used_share is None or 0 <= window.used_share <= LARGEST_SHARE
        assert 0 <= window.elapsed_share <= 1
    refusal = quota.refusal(later)
    longest_s = max(window.length_s for window in quota.view(later))
    assert refusal is None or later < refusal.until_ms <= later + longest_s * SECOND * TOLD_BEYOND
    kept = msgspec.json.decode(msgspec.json.encode(quota.snapshot(later)), type=QuotaSnapshot)
    again = Quota([WEEK, HOURS, DAYS])
    again.restore(kept, later)
    assert again.view(later) == quota.view(later)


# --- the line -----------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> Quota:
    """An account after a while of use."""
    quota = Quota(draw(st.lists(st.sampled_from([WEEK, HOURS, DAYS, ASSUMED]), unique_by=lambda one: one.name)))
    for _ in range(draw(st.integers(0, 6))):
        at_ms = NOW - draw(st.integers(0, 2 * HOUR))
        if draw(st.booleans()):
            quota.add(Spending(draw(st.integers(0, 20_000)), draw(st.integers(0, 600))), at_ms, NOW)
        else:
            channels: list[Channel] = ["meter", "headers", "hand"]
            reset = draw(st.none() | st.integers(NOW + 1, NOW + DAY))
            quota.learn(told(draw(st.floats(0, 1.5)), at_ms, resets_at_ms=reset), NOW, draw(st.sampled_from(channels)))
    return quota


@given(histories(), st.lists(st.integers(0, 2 * DAY), min_size=1, max_size=8))
def test_the_line_says_what_the_windows_say(quota: Quota, waits: list[int]) -> None:
    """At any later moment, the pressure read off the line is what the windows say at that moment."""
    for wait in sorted(waits):
        now_ms = NOW + wait
        value = quota.pressure(now_ms)
        known = [one for one in quota.view(now_ms) if one.used_share is not None]
        sure = [one for one in known if one.source is not WindowSource.ASSUMED or one.enforce]
        known = sure if any(one.model is None for one in sure) else known
        longest = max((one.length_s for one in known), default=0)
        pace = max((one.pressure or 0.0 for one in known if one.length_s >= longest), default=0.0)
        shorter = [
            (one.used_share or 0.0) - max(SHORT_FULL, one.elapsed_share) for one in known if one.length_s < longest
        ]
        assert value == pytest.approx(pace + max(0.0, *shorter, 0.0), abs=0.005)
        assert quota.exhausted(now_ms) == any((one.used_share or 0) >= 1 for one in sure)


@given(histories(), st.lists(st.tuples(st.integers(0, DAY), st.integers(0, 600)), min_size=1, max_size=8))
def test_spending_between_readings_moves_the_line(quota: Quota, steps: list[tuple[int, int]]) -> None:
    """A line that was read before says after more spending what one says that is made anew, give or take a hair."""
    now_ms = NOW
    for wait, amount in steps:
        now_ms += wait
        quota.pressure(now_ms)
        quota.settle(quota.reserve(tokens(7), now_ms), tokens(amount), now_ms)
        anew = Quota()
        anew.windows, anew.per_model = quota.windows, quota.per_model
        assert quota.pressure(now_ms) == pytest.approx(anew.pressure(now_ms), abs=2 * HAIR)  # a long and a short window
        if all(abs(share - 1.0) > HAIR for share in quota.shares(now_ms)):
            assert quota.exhausted(now_ms) == anew.exhausted(now_ms)
        assert quota.refusal(now_ms) == anew.refusal(now_ms)


# --- forecast -----------------------------------------------------------------------------------------------------


def test_forecast() -> None:
    """At the present pace a window that is ahead of its time is full before it resets; one that is behind is not."""
    quota = Quota([HOURS])
    quota.settle(quota.reserve(tokens(1), NOW), tokens(400), NOW)
    assert only(quota, NOW + HOUR).full_at_ms == NOW + round(2.5 * HOUR)
    assert only(quota, NOW + 3 * HOUR).full_at_ms is None
    quota.add(tokens(700), NOW + 3 * HOUR, NOW + 3 * HOUR)
    assert only(quota, NOW + 3 * HOUR).full_at_ms == NOW + 3 * HOUR
    assert only(Quota([HOURS]), NOW).full_at_ms is None
    assert only(Quota([DAYS]), NOW).full_at_ms is None


# --- keeping ------------------------------------------------------------------------------------------------------


def test_a_restart_keeps_everything() -> None:
    """Windows, reports, what was learnt and learnt windows come back; what was spent since is added."""
    quota = Quota([WEEK, DAYS])
    quota.add(tokens(100), NOW, NOW)
    quota.learn(told(0.4), NOW)
    quota.learn(QuotaReport("daily", NOW, PERCENT, used_share=0.7, resets_at_ms=NOW + HOUR), NOW)
    kept = msgspec.json.decode(msgspec.json.encode(quota.snapshot(NOW + SECOND)), type=QuotaSnapshot)
    again = Quota([WEEK, DAYS])
    again.restore(kept, NOW + 60 * SECOND)
    assert again.view(NOW + 60 * SECOND) == quota.view(NOW + 60 * SECOND)
    for one in (quota, again):
        one.add(tokens(50), NOW + 2 * SECOND, NOW + 60 * SECOND)
    assert again.view(NOW + HOUR) == quota.view(NOW + HOUR)


def test_changed_windows_begin_anew() -> None:
    """What the configuration has changed is not filled with what an older one meant."""
    quota = Quota([WEEK])
    quota.add(tokens(100), NOW, NOW)
    again = Quota([msgspec.structs.replace(WEEK, unit=MONEY)])
    again.restore(quota.snapshot(NOW), NOW)
    assert used(again, NOW) == 0
    larger = Quota([msgspec.structs.replace(WEEK, limit=2000)])
    larger.restore(quota.snapshot(NOW), NOW)
    assert used(larger, NOW) == pytest.approx(0.05)


# --- conservation -------------------------------------------------------------------------------------------------

AMOUNTS = st.integers(0, 1000)
SPENDINGS = st.builds(Spending, AMOUNTS, AMOUNTS, st.integers(0, 3))


class Books(RuleBasedStateMachine):
    """Requests that begin and end in any order and any way, beside a plain sum."""

    def __init__(self) -> None:
        super().__init__()
        year = [
            WindowSpec(unit.value, ROLLING, unit, 10**9, 366 * 86_400, WindowSource.CONFIG)
            for unit in (MONEY, TOKENS, QuotaUnit.REQUESTS)
        ]
        self.quota = Quota(year)
        self.under_way: list[tuple[Reservation, Spending, str | None]] = []
        self.spent = [0, 0, 0]
        self.now_ms = NOW

    @rule(estimate=SPENDINGS, model=st.sampled_from([None, "a", "b"]), wait=st.integers(0, 10**6))
    def begin(self, estimate: Spending, model: str | None, wait: int) -> None:
        """A request begins."""
        self.now_ms += wait
        self.under_way.append((self.quota.reserve(estimate, self.now_ms, model), estimate, model))

    @rule(data=st.data(), spent=SPENDINGS, wait=st.integers(0, 10**6))
    def end(self, data: st.DataObject, spent: Spending, wait: int) -> None:
        """One of them ends and cost something."""
        if self.under_way:
            self.now_ms += wait
            place = data.draw(st.integers(0, len(self.under_way) - 1))
            reservation, _, _ = self.under_way.pop(place)
            self.quota.settle(reservation, spent, self.now_ms)
            for unit, amount in enumerate(spent.amounts):
                self.spent[unit] += amount
            with pytest.raises(RuntimeError):
                self.quota.settle(reservation, spent, self.now_ms)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """One of them ends and cost nothing."""
        if self.under_way:
            place = data.draw(st.integers(0, len(self.under_way) - 1))
            reservation, _, _ = self.under_way.pop(place)
            self.quota.release(reservation, self.now_ms)
            with pytest.raises(RuntimeError):
                self.quota.release(reservation, self.now_ms)

    @rule()
    def restart(self) -> None:
        """The program stops and starts; what was under way is over."""
        kept = self.quota.snapshot(self.now_ms)
        specs = [state.spec for state in kept.windows]
        self.quota, self.under_way = Quota(specs), []
        self.quota.restore(kept, self.now_ms)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Reserved is the sum of what is under way, used the sum of that and of all that was spent."""
        for place, unit in enumerate((MONEY, TOKENS, QuotaUnit.REQUESTS)):
            reserved = sum(estimate.amounts[place] for _, estimate, _ in self.under_way)
            assert self.quota.reserved(unit) == reserved
            share = used(self.quota, self.now_ms, unit.value)
            assert share == pytest.approx((reserved + self.spent[place]) / 10**9)
            for model in ("a", "b"):
                of_model = [estimate for _, estimate, one in self.under_way if one == model]
                assert self.quota.reserved(unit, model) == sum(one.amounts[place] for one in of_model)


TestBooks = Books.TestCase
