"""Ids in the order of time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eggpool.store.ids import LARGEST, IdMaker, first_id_at

instants = st.integers(-(10**15), 10**15)


@given(last=st.integers(0, 2**62), clock=st.lists(instants, max_size=50))
def test_ids_only_grow(last: int, clock: list[int]) -> None:
    """Each id is larger than all before, wherever the clock jumps, and fits into 63 bits."""
    maker = IdMaker(last)
    made = [maker.next(now_ms) for now_ms in clock]
    assert all(0 < made_id <= LARGEST for made_id in made)
    if not any(first_id_at(now_ms) >= LARGEST - 100 for now_ms in clock):
        assert made == sorted(set(made))
        assert all(made_id > last for made_id in made)


def test_ids_tell_their_time() -> None:
    """With a clock that runs, ids of a later millisecond are at least as large as its first one."""
    maker = IdMaker()
    first, second, later = maker.next(1000), maker.next(1000), maker.next(1001)
    assert first == first_id_at(1000)
    assert first < second < first_id_at(1001) == later
