"""One timer for many deadlines: each is told in time, whatever order they were set in, and none after it was met."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.pool import run

from eggpool.engine.deadlines import Deadlines


class Told:
    """Notes who was late, and when by the loop's clock."""

    def __init__(self) -> None:
        self.late: dict[int, float] = {}

    def of(self, number: int) -> Callable[[], None]:
        """What is called when the one of that number is late."""

        def tell() -> None:
            assert number not in self.late
            self.late[number] = asyncio.get_running_loop().time()

        return tell


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_each_in_its_time(plans: list[tuple[int, bool]]) -> None:
    """Whoever is not forgotten is told once, not before its time and not much later; nobody else is."""

    async def main() -> None:
        deadlines, told, over = Deadlines(), Told(), asyncio.Event()
        loop = asyncio.get_running_loop()
        due: dict[int, float] = {}
        for number, (left_ms, forgotten) in enumerate(plans):
            late, asked_at = told.of(number), loop.time()
            deadlines.remember(late, left_ms / 1000, loop)
            if forgotten:
                deadlines.forget(late)
                deadlines.forget(late)
            else:
                due[number] = asked_at + left_ms / 1000
        loop.call_later(0.1, over.set)
        await over.wait()
        assert told.late.keys() == due.keys()
        for number, at in told.late.items():
            assert due[number] - 0.005 <= at

    run(main, 10)


def test_a_timer_that_finds_nobody() -> None:
    """When all were in time, the next deadline is set as if there had been none."""

    async def main() -> None:
        deadlines, told, passed = Deadlines(), Told(), asyncio.Event()
        loop = asyncio.get_running_loop()
        early = told.of(1)
        deadlines.remember(early, 0.01, loop)
        deadlines.forget(early)
        loop.call_later(0.03, passed.set)
        await passed.wait()
        done = asyncio.Event()
        deadlines.remember(done.set, 0.01, loop)
        await done.wait()
        assert told.late == {}

    run(main, 10)


def test_a_nearer_one_behind_a_farther_one() -> None:
    """A deadline that comes before all that are set already is told in its own time."""

    async def main() -> None:
        deadlines, done = Deadlines(), asyncio.Event()
        loop = asyncio.get_running_loop()
        deadlines.remember(Told().of(1), 3600.0, loop)
        deadlines.remember(done.set, 0.01, loop)
        await done.wait()

    run(main, 10)
