"""The bounded queue in front of the writer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.books import attempt, begun, request

from eggpool.domain import Cost, Exactness, Usage
from eggpool.store import facts
from eggpool.store.backlog import Backlog, Waiting
from eggpool.store.facts import AnyFact, Begun, Ended, Fact, Tally

facts_put = st.lists(st.tuples(st.booleans(), st.integers(1, 50)), max_size=60)


def ended(request_id: int, size: int = 1) -> Ended:
    """The end of a request with 10 input tokens, 1 output token and 5 nanodollars."""
    record = request(request_id, usage=Usage(10, output_tokens=1), cost=Cost(5, Exactness.DERIVED))
    return Ended(record, None, (), size)


def tried(request_id: int) -> Ended:
    """The end of a request that took one try."""
    return facts.request(request(request_id), None, [attempt(request_id)])


def ping(number: int, size: int = 1) -> Fact:
    """A fact that can be given up."""
    return Fact(f"ping {number}", (), size, essential=False)


@given(put=facts_put, max_facts=st.integers(1, 20), max_bytes=st.integers(1, 300), takes=st.sets(st.integers(0, 60)))
def test_nothing_is_lost_without_being_counted(
    put: list[tuple[bool, int]], max_facts: int, max_bytes: int, takes: set[int]
) -> None:
    """The bounds hold; every fact is either taken in order or counted, and requests are in the sums."""
    backlog = Backlog(max_facts, max_bytes)
    taken: list[Waiting] = []
    for number, (essential, size) in enumerate(put):
        fact: AnyFact = ended(number, size) if essential else ping(number, size)
        backlog.put(Waiting(number, 0.0, fact))
        assert len(backlog) <= max_facts
        assert 0 <= backlog.size <= max_bytes
        if number in takes:
            taken += backlog.take(3)
    while len(backlog):
        oldest = backlog.oldest()
        batch = backlog.take(3)
        assert oldest in batch
        taken += batch
    assert backlog.size == 0
    assert backlog.oldest() is None
    losses = backlog.take_losses()
    assert len(taken) + losses.facts == len(put)
    for kind in (True, False):
        numbers = [item.number for item in taken if item.fact.essential is kind]
        assert numbers == sorted(numbers)
    kept = sum(item.fact.essential for item in taken)
    assert losses.tally == Tally(*(n * (sum(e for e, _ in put) - kept) for n in (1, 10, 1, 5)))
    assert not backlog.take_losses()


def test_what_can_be_given_up_goes_first() -> None:
    """Requests push out pings, the oldest first; a ping never pushes out a request."""
    backlog = Backlog(2, 1000)
    backlog.put(Waiting(1, 0.0, ping(1)))
    backlog.put(Waiting(2, 0.0, ping(2)))
    backlog.put(Waiting(3, 0.0, ended(3)))
    assert [item.number for item in backlog.take(9)] == [3, 2]
    backlog.put(Waiting(4, 0.0, ended(4)))
    backlog.put(Waiting(5, 0.0, ended(5)))
    backlog.put(Waiting(6, 0.0, ping(6)))
    assert [item.number for item in backlog.take(9)] == [4, 5]
    assert backlog.losses.facts == 2


@given(steps=st.lists(st.tuples(st.sampled_from(["begun", "ended", "take"]), st.integers(1, 5)), max_size=60))
def test_a_begin_is_taken_only_when_no_end_came_before(steps: list[tuple[str, int]]) -> None:
    """A begin that waits goes when its request ends, and a later begin of a request replaces an earlier one."""
    backlog = Backlog()
    under_way: dict[int, str] = {}
    for number, (step, request_id) in enumerate(steps):
        if step == "begun":
            under_way[request_id] = f"client {number}"
            record = msgspec.structs.replace(begun(request_id), client=under_way[request_id])
            backlog.put(Waiting(number, 0.0, Begun(record)))
        elif step == "ended":
            under_way.pop(request_id, None)
            backlog.put(Waiting(number, 0.0, ended(request_id)))
        else:
            records = [item.fact.record for item in backlog.take(100) if isinstance(item.fact, Begun)]
            assert {record.id: record.client for record in records} == under_way
            assert len(records) == len(under_way)
            under_way.clear()
            assert (len(backlog), backlog.size) == (0, 0)
    assert not backlog.losses


def test_a_begin_takes_no_room() -> None:
    """Begins are as few as the requests that run: nothing is given up for them, and they are not given up."""
    backlog = Backlog(1, 10)
    for number in (1, 2, 3):
        backlog.put(Waiting(number, 0.0, Begun(begun(number))))
    backlog.put(Waiting(4, 0.0, ping(4)))
    backlog.put(Waiting(5, 0.0, Begun(begun(2))))
    backlog.put(Waiting(6, 0.0, ended(1)))
    assert (backlog.losses.facts, len(backlog), backlog.size) == (1, 3, 1)
    assert [item.number for item in backlog.take(9)] == [2, 3, 6]


@pytest.mark.parametrize("bounds", [(4, 10**9), (10**9, 4 * tried(0).size)], ids=["facts", "bytes"])
def test_tries_are_given_up_before_requests(bounds: tuple[int, int]) -> None:
    """While more than half of the room is taken, requests are kept without their tries, which are counted as lost."""
    backlog = Backlog(*bounds)
    for number in range(5):
        backlog.put(Waiting(number, 0.0, tried(number)))
    kept = [item.fact for item in backlog.take(9)]
    assert [len(fact.tries) for fact in kept if isinstance(fact, Ended)] == [1, 1, 1, 0]
    assert (backlog.losses.facts, backlog.losses.tally.requests, backlog.size) == (3, 1, 0)


def test_the_oldest_is_found_among_all() -> None:
    """A begin that was replaced has waited since the first one; one that has ended no longer counts."""
    backlog = Backlog()
    backlog.put(Waiting(1, 1.0, Begun(begun(1))))
    backlog.put(Waiting(2, 2.0, Begun(begun(2))))
    backlog.put(Waiting(3, 3.0, ping(3)))
    backlog.put(Waiting(4, 4.0, Begun(begun(1))))
    oldest = backlog.oldest()
    assert oldest is not None
    assert (oldest.number, oldest.at) == (1, 1.0)
    backlog.put(Waiting(5, 5.0, ended(1)))
    oldest = backlog.oldest()
    assert oldest is not None
    assert oldest.number == 2
    backlog.put(Waiting(6, 6.0, ended(2)))
    oldest = backlog.oldest()
    assert oldest is not None
    assert oldest.number == 3
