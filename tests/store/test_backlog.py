"""The bounded queue in front of the writer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eggpool.store.backlog import Backlog, Waiting
from eggpool.store.facts import Fact, Tally

facts_put = st.lists(st.tuples(st.booleans(), st.integers(1, 50)), max_size=60)


@given(put=facts_put, max_facts=st.integers(1, 20), max_bytes=st.integers(1, 300), takes=st.sets(st.integers(0, 60)))
def test_nothing_is_lost_without_being_counted(
    put: list[tuple[bool, int]], max_facts: int, max_bytes: int, takes: set[int]
) -> None:
    """The bounds hold; every fact is either taken in order or counted, and requests are in the sums."""
    backlog = Backlog(max_facts, max_bytes)
    taken: list[Waiting] = []
    for number, (essential, size) in enumerate(put):
        tally = Tally(1, 10, 1, 5) if essential else None
        backlog.put(Waiting(number, 0.0, Fact("fact", (), size, essential=essential, tally=tally)))
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
    """Requests push out attempts, the oldest first; an attempt never pushes out a request."""
    backlog = Backlog(2, 1000)
    backlog.put(Waiting(1, 0.0, Fact("attempts", (), 1, essential=False)))
    backlog.put(Waiting(2, 0.0, Fact("attempts", (), 1, essential=False)))
    backlog.put(Waiting(3, 0.0, Fact("request", (), 1)))
    assert [item.number for item in backlog.take(9)] == [3, 2]
    backlog.put(Waiting(4, 0.0, Fact("request", (), 1)))
    backlog.put(Waiting(5, 0.0, Fact("request", (), 1)))
    backlog.put(Waiting(6, 0.0, Fact("attempts", (), 1, essential=False)))
    assert [item.number for item in backlog.take(9)] == [4, 5]
    assert backlog.losses.facts == 2
