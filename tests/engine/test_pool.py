"""The pool's state: leases are settled once, rests and memory are bounded, whatever happens in which order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.clock import HandClock

from eggpool.config.load import load
from eggpool.domain import AccountLabel, Dialect, ListedModel
from eggpool.engine.leases import ONE_REQUEST, Lease
from eggpool.engine.pool import MAX_REMEMBERED_REPLIES, Pool
from eggpool.routing.catalog import AccountModels
from eggpool.routing.plan import Demand, Plan, plan
from eggpool.routing.verdict import VERDICTS, Kind
from eggpool.store.facts import Fact
from eggpool.store.ids import IdMaker
from eggpool.store.ledger import Ledger

T = TypeVar("T")

TEXT = """
[server]
api_key = "ep_test-client-key-0000"
[database]
path = "/nowhere/usage.sqlite3"
[providers.alpha]
id = "alpha"
base_url = "http://127.0.0.1:9/v1"
[[providers.alpha.accounts]]
name = "a"
api_key = "test-key-a-00000"
[[providers.alpha.accounts]]
name = "b"
api_key = "test-key-b-00000"
[[providers.alpha.accounts]]
name = "off"
api_key = "test-key-c-00000"
enabled = false
"""
A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")


class Notebook:
    """Books in memory: facts are kept, nothing can be asked."""

    lag_ms = 0

    def __init__(self) -> None:
        self.ids = IdMaker(0)
        self.facts: list[Fact] = []

    def put(self, fact: object) -> None:
        """Keep it."""
        if isinstance(fact, Fact):
            self.facts.append(fact)

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """There is no file."""
        raise NotImplementedError

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """There is no file."""
        raise NotImplementedError

    async def settle(self, timeout_s: float = 0.1) -> bool:
        """All is kept."""
        return True

    @property
    def events(self) -> list[object]:
        """The kinds of the events told so far."""
        return [fact.steps[0][1][2] for fact in self.facts if fact.kind == "event"]


def opened(clock: HandClock) -> tuple[Pool, Notebook]:
    """A pool of two accounts that have one model."""
    notebook = Notebook()
    pool = Pool(load(TEXT, {}, folder="/nowhere").config, Ledger(notebook), clock)
    for label in (A, B):
        pool.take_list(label, AccountModels((ListedModel("m"),), clock.wall_ms()))
    return pool, notebook


def planned(pool: Pool, clock: HandClock) -> Plan:
    """How things stand for the model."""
    offer = pool.catalog.resolve("m")
    assert offer is not None
    return plan(pool, offer, Demand(Dialect.CHAT), clock.now(), clock.wall_ms())


def settle(lease: Lease, end: Kind | str, told_s: float | None = None) -> None:
    """End a lease in one of the ways there are."""
    if isinstance(end, Kind):
        lease.failed(end, told_s)
    elif end == "left":
        lease.left()
    else:
        lease.answered()
        lease.ended(ONE_REQUEST)


ENDS: list[Kind | str] = [*Kind, "left", "answered"]


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ["left", "answered", Kind.RATE])
def test_a_lease_is_settled_once(first: Kind | str, second: Kind | str) -> None:
    """A lease that is settled a second time is a defect that is told at once, and nothing is counted twice."""
    clock = HandClock()
    pool, _ = opened(clock)
    lease = pool.lease(planned(pool, clock).choices[0])
    assert pool.in_flight == 1
    settle(lease, first)
    assert (pool.in_flight, lease.settled) == (0, True)
    with pytest.raises(RuntimeError, match="a lease was settled twice"):
        settle(lease, second)
    assert pool.in_flight == 0


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(ENDS), st.none() | st.floats(-5, 1e9), st.floats(0, 400)), max_size=60
)


@given(STEPS)
def test_any_order_of_ends(steps: list[tuple[int, Kind | str, float | None, float]]) -> None:
    """Under any order of leases and ends, what is in flight is what is held, no account goes below zero, and in the
    end no rest is for ever: with time and one success each, all is well again."""
    clock = HandClock()
    pool, _ = opened(clock)
    held: list[Lease] = []
    for place, end, told_s, passed_s in steps:
        choices = planned(pool, clock).choices
        if choices:
            held.append(pool.lease(choices[0]))
        if held and place < len(held):
            settle(held.pop(place), end, told_s)
        clock.advance(passed_s)
        assert pool.in_flight == len(held)
        assert all(account.in_flight >= 0 for account in pool.accounts.values())
        known = {choice.candidate.account for choice in planned(pool, clock).choices}
        refused = {refusal.account for refusal in planned(pool, clock).refused}
        assert (known | refused, known & refused) == ({A, B}, set())
    for lease in held:
        lease.left()
    clock.advance(32 * 24 * 3600)
    for _ in range(2):
        for choice in planned(pool, clock).choices:
            settle(pool.lease(choice), "answered")
    assert pool.rests == {}
    assert pool.ready
    assert len(planned(pool, clock).choices) == 2


def test_a_trial_is_over_when_the_account_answers() -> None:
    """A long answer on trial does not keep others from the account: it works from the first word on."""
    clock = HandClock()
    pool, _ = opened(clock)
    choices = planned(pool, clock).choices
    for choice in choices:
        pool.lease(choice).failed(Kind.RATE, 5.0)
    assert planned(pool, clock).choices == ()
    clock.advance(6)
    trials = [pool.lease(choice) for choice in planned(pool, clock).choices]
    assert planned(pool, clock).choices == ()
    trials[0].answered()
    assert [choice.candidate.account for choice in planned(pool, clock).choices] == [trials[0].candidate.account]
    for lease in trials:
        lease.ended(ONE_REQUEST)


def test_an_old_answer_does_not_end_a_new_rest() -> None:
    """A stream that began before its account was limited says nothing about the limit."""
    clock = HandClock()
    pool, _ = opened(clock)
    choice = planned(pool, clock).choices[0]
    early = pool.lease(choice)
    clock.advance(1)
    pool.lease(choice).failed(Kind.RATE, 60.0)
    early.answered()
    early.ended(ONE_REQUEST)
    assert choice.candidate.account in {refusal.account for refusal in planned(pool, clock).refused}


def test_only_a_providers_word_makes_the_pool_unready() -> None:
    """The pool is ready as long as one account may be tried; guesses do not count, disabled accounts neither."""
    for kind, verdict in VERDICTS.items():
        clock = HandClock()
        pool, _ = opened(clock)
        while choices := [one for one in planned(pool, clock).choices if not one.last_resort]:
            settle(pool.lease(choices[0]), kind)
            if verdict.scope is None:
                break
        assert pool.ready == (not (verdict.on_providers_word and verdict.scope in ("account", "provider"))), kind


def test_events_tell_each_change_once() -> None:
    """A rest is told when it begins and when it ends, not at each failure in between."""
    clock = HandClock()
    pool, notebook = opened(clock)
    for _ in range(4):
        held = [pool.lease(planned(pool, clock).choices[0]) for _ in range(2)]
        for lease in held:
            lease.failed(Kind.SERVER_ERROR, None)
    assert notebook.events == ["account_resting"] * 2
    for _ in range(4):
        settle(pool.lease(planned(pool, clock).choices[0]), "answered")
        clock.advance(1)
    assert notebook.events[2:] == ["account_recovered"] * 2


def test_remembered_replies_are_bounded() -> None:
    """The pool remembers the newest replies, and those that were used again, up to a bound."""
    pool, _ = opened(HandClock())
    for number in range(MAX_REMEMBERED_REPLIES + 10):
        pool.remember_reply(f"resp_{number}", A)
    assert pool.account_of_reply("resp_9") is None
    assert pool.account_of_reply("resp_10") == A
    assert pool.account_of_reply(f"resp_{MAX_REMEMBERED_REPLIES + 9}") == A


def test_disabled_accounts_take_no_part() -> None:
    """An account that is disabled is not there."""
    pool, _ = opened(HandClock())
    assert set(pool.accounts) == {A, B}
    assert {candidate.account for candidate in pool.everyone().candidates} == {A, B}
