"""Resting and recovery: each state and event, and what holds along any history."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.routing.health import (
    BY_HAND,
    LONGEST_GUESS_S,
    LONGEST_TOLD_S,
    SHORTEST_TOLD_S,
    Event,
    Failed,
    Rest,
    Succeeded,
    TrialBegan,
    TrialLeft,
    by_hand,
    status,
    step,
)

NOW = 1000.0
GUESS = Failed("server_error", False, 1.0, 0.0)
WORD = Failed("rate", True, 1.0, 0.0)
TOLD = Failed("rate", True, 1.0, 0.0, told_s=50.0)
RESTING = Rest("server_error", NOW + 10, False, 2)
REFUSING = Rest("rate", NOW + 10, True, 2)
DUE = Rest("server_error", NOW - 1, False, 2)
DUE_WORD = Rest("rate", NOW - 1, True, 2)
TRIAL = Rest("server_error", NOW - 1, False, 2, on_trial=True)
TRIAL_WORD = Rest("rate", NOW - 1, True, 2, on_trial=True)

BY_USER = Rest(BY_HAND, NOW + 10, True, 0, since=NOW - 1)
REFUSING_SINCE = Rest("rate", NOW + 10, True, 2, since=NOW - 1)

TABLE: list[tuple[Rest | None, Event, Rest | None]] = [
    # success clears whatever it was
    *((rest, Succeeded(NOW), None) for rest in (None, RESTING, REFUSING, DUE, DUE_WORD, TRIAL, TRIAL_WORD)),
    # an answer to what was asked before the rest began says nothing about it
    (REFUSING_SINCE, Succeeded(NOW - 2), REFUSING_SINCE),
    (REFUSING_SINCE, Succeeded(NOW - 1), None),
    # a trial marks what is there and creates nothing
    (None, TrialBegan(), None),
    (DUE, TrialBegan(), TRIAL),
    (DUE_WORD, TrialBegan(), TRIAL_WORD),
    (None, TrialLeft(), None),
    (TRIAL, TrialLeft(), DUE),
    (TRIAL_WORD, TrialLeft(), DUE_WORD),
    (RESTING, TrialLeft(), RESTING),
    # a first failure
    (None, GUESS, Rest("server_error", NOW + 1, False, 1, since=NOW)),
    (None, WORD, Rest("rate", NOW + 1, True, 1, since=NOW)),
    (None, TOLD, Rest("rate", NOW + 50, True, 1, since=NOW)),
    # failures together count once, and what is made up shortens nothing
    (RESTING, GUESS, RESTING),
    (REFUSING, WORD, REFUSING),
    (REFUSING, TOLD, Rest("rate", NOW + 50, True, 2, since=NOW)),
    # what the user said holds, whatever the account does meanwhile; once it is over, failures count from one
    *((BY_USER, event, BY_USER) for event in (GUESS, WORD, TOLD, Succeeded(NOW - 2), TrialLeft())),
    (msgspec.structs.replace(BY_USER, until=NOW - 1), GUESS, Rest("server_error", NOW + 1, False, 1, since=NOW)),
    # a guess changes nothing about a provider's word that holds; a word replaces a guess
    (REFUSING, GUESS, REFUSING),
    (RESTING, WORD, Rest("rate", NOW + 2, True, 2, since=NOW)),
    (RESTING, TOLD, Rest("rate", NOW + 50, True, 2, since=NOW)),
    # failure after the rest, tried or not, doubles
    (DUE, GUESS, Rest("server_error", NOW + 4, False, 3, since=NOW)),
    (TRIAL, GUESS, Rest("server_error", NOW + 4, False, 3, since=NOW)),
    (TRIAL_WORD, WORD, Rest("rate", NOW + 4, True, 3, since=NOW)),
    (TRIAL_WORD, GUESS, Rest("server_error", NOW + 4, False, 3, since=NOW)),
    (TRIAL_WORD, TOLD, Rest("rate", NOW + 50, True, 3, since=NOW)),
    # a newer time told replaces an older one, shorter or longer
    (Rest("plan_window", NOW + 9000, True, 1, since=NOW), TOLD, Rest("rate", NOW + 50, True, 1, since=NOW)),
]


@pytest.mark.parametrize(("rest", "event", "after"), TABLE)
def test_each_state_and_event(rest: Rest | None, event: Event, after: Rest | None) -> None:
    """One step from each state."""
    assert step(rest, event, NOW) == after


@pytest.mark.parametrize(
    ("rest", "stands"),
    [(None, "well"), (RESTING, "resting"), (REFUSING, "resting"), (DUE, "due"), (TRIAL, "trial")],
)
def test_status(rest: Rest | None, stands: str) -> None:
    """Where a scope stands follows from the clock and the trial."""
    assert status(rest, NOW) == stands


def test_the_end_of_a_rest_is_due() -> None:
    """At the very instant that a rest was to end, somebody may try."""
    assert status(RESTING, RESTING.until) == "due"


FAILURES = st.builds(
    Failed,
    kind=st.sampled_from(["rate", "network"]),
    on_providers_word=st.booleans(),
    first_rest_s=st.floats(0, 100),
    jitter=st.floats(0, 1),
    told_s=st.none() | st.floats(allow_nan=False) | st.integers(0, 10**18).map(float),
)
EVENTS = FAILURES | st.sampled_from([Succeeded(1e9), TrialBegan(), TrialLeft()])
HISTORIES = st.lists(st.tuples(st.floats(0, 5000), EVENTS), max_size=40)


@given(HISTORIES)
def test_a_rest_always_ends(history: list[tuple[float, Event]]) -> None:
    """However scopes came to rest, the rest has an end within its bound, and the next success clears it."""
    rest: Rest | None = None
    now = 0.0
    for pause, event in history:
        now += pause
        rest = step(rest, event, now)
        if rest is not None:
            assert rest.until <= now + LONGEST_TOLD_S
            assert rest.failures >= 1
            if isinstance(event, Failed):
                assert not rest.on_trial
            if isinstance(event, Failed) and event.told_s is not None and rest.until > now and rest.kind == event.kind:
                assert rest.until >= now + SHORTEST_TOLD_S or not event.on_providers_word
    assert step(rest, Succeeded(now), now) is None


@given(st.lists(st.tuples(st.floats(0, 5000), FAILURES.filter(lambda failed: failed.told_s is None)), min_size=1))
def test_guesses_are_bounded(history: list[tuple[float, Failed]]) -> None:
    """As long as no provider tells a time, no rest is longer than the longest guess and its jitter."""
    rest: Rest | None = None
    now = 0.0
    for pause, event in history:
        now += pause
        rest = step(rest, event, now)
        assert rest is not None
        assert rest.until - now <= LONGEST_GUESS_S * 1.1 + 1e-6


@given(st.floats(), st.booleans())
def test_told_times_are_clamped(told_s: float, word: bool) -> None:
    """A time told is taken between a second and the longest window that anybody counts in."""
    rest = step(None, Failed("rate", word, 1.0, 0.0, told_s), 0.0)
    assert rest is not None
    if told_s == told_s:
        assert SHORTEST_TOLD_S <= rest.until <= LONGEST_TOLD_S


@given(st.integers(1, 50), FAILURES)
def test_failures_together_count_once(many: int, event: Failed) -> None:
    """Requests that were under way together and fail together are one failure, told time or not."""
    rest: Rest | None = None
    for _ in range(many):
        rest = step(rest, event, 0.0)
        if rest is not None and rest.until == 0.0:
            return  # a rest of no length is over at once
    assert rest is not None
    assert rest.failures == 1


@given(st.floats(2, 10_000), st.lists(st.tuples(st.floats(0, 100), FAILURES), max_size=10))
def test_a_guess_never_changes_a_providers_word(told_s: float, history: list[tuple[float, Failed]]) -> None:
    """Only the provider itself shortens, lengthens or replaces what it said, while that holds."""
    rest = step(None, Failed("rate", True, 1.0, 0.0, told_s), 0.0)
    now = 0.0
    for pause, event in history:
        now += pause
        assert rest is not None
        before = rest
        rest = step(rest, event, now)
        assert rest is not None
        if now < before.until and before.on_providers_word:
            if not event.on_providers_word:
                assert rest == before
            elif event.told_s is None:
                assert rest.until >= before.until


def test_failures_in_a_row_double() -> None:
    """1, 2, 4 ... seconds, up to the bound, when each trial fails."""
    rest: Rest | None = None
    now, lengths = 0.0, []
    for _ in range(12):
        rest = step(rest, GUESS, now)
        assert rest is not None
        lengths.append(rest.until - now)
        now = rest.until
        rest = step(rest, TrialBegan(), now)
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


@pytest.mark.parametrize(
    ("before", "length_s", "until"),
    [
        (None, 60, NOW + 60),
        (None, 0, NOW + SHORTEST_TOLD_S),
        (None, LONGEST_TOLD_S * 2, NOW + LONGEST_TOLD_S),
        (RESTING, 2, NOW + 2),
        (REFUSING, 2, NOW + 10),
        (REFUSING, 60, NOW + 60),
        (DUE_WORD, 2, NOW + 2),
        (BY_USER, 2, NOW + 2),
    ],
)
def test_a_rest_by_hand(before: Rest | None, length_s: float, until: float) -> None:
    """It refuses from now on, for a bounded time; what the provider said is not forgotten, what the user said is."""
    assert by_hand(before, length_s, NOW) == Rest(BY_HAND, until, on_providers_word=True, failures=0, since=NOW)
