"""The line of those who wait: first come, first served, whoever leaves, looks again or is handed a place."""

from __future__ import annotations

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.pool import run

from eggpool.domain import AccountLabel
from eggpool.engine.waiting import Line, Waiter

A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")


def test_the_first_who_waits_for_it() -> None:
    """A place goes to the first who waits for that account; to nobody when nobody does."""

    async def scenario() -> None:
        line = Line()
        first, second, third = (line.join(accounts, line.rank()) for accounts in ([B], [A, B], [A]))
        assert not line.hand(AccountLabel("alpha/c"))
        assert [line.hand(A), line.hand(A), line.hand(A)] == [True, True, False]
        assert line.hand(B)
        assert [one.place for one in (first, second, third)] == [B, A, A]
        assert all(one.turn.done() for one in (first, second, third))
        assert [line.leave(one) for one in (first, second, third)] == [B, A, A]
        assert len(line) == 0

    run(scenario)


def test_who_was_called_can_still_be_handed_a_place() -> None:
    """Between being called and looking, the first one stays the first."""

    async def scenario() -> None:
        line = Line()
        first, second = (line.join([A], line.rank()) for _ in range(2))
        line.wake()
        assert line.hand(A)
        assert (first.place, second.place) == (A, None)

    run(scenario)


def test_a_place_that_came_with_the_end_of_patience_is_not_lost() -> None:
    """Whoever gives up in the moment in which a place is handed over has it, and can hand it on."""

    async def scenario() -> None:
        line = Line()
        waiter = line.join([A], line.rank())
        waiter.turn.cancel()
        assert line.hand(A)
        assert line.leave(waiter) == A
        assert line.leave(waiter) is None

    run(scenario)


@example([("join", 0), ("join", 0), ("rejoin", 0), ("hand", 0)])
@given(
    st.lists(st.tuples(st.sampled_from(["join", "rejoin", "leave", "hand", "wake"]), st.integers(0, 9)), max_size=60)
)
def test_any_order_of_steps(steps: list[tuple[str, int]]) -> None:
    """A place always goes to the one of lowest rank who waits for it and has none; each place is given back once."""

    async def scenario() -> None:
        line = Line()
        waiting: list[Waiter] = []
        handed = taken = 0
        for what, number in steps:
            if what == "join":
                waiting.append(line.join([[A], [B], [A, B]][number % 3], line.rank()))
            elif what in ("leave", "rejoin") and waiting:
                gone = waiting.pop(number % len(waiting))
                taken += line.leave(gone) is not None
                if what == "rejoin":
                    waiting.append(line.join(gone.accounts, gone.rank))
            elif what == "hand":
                account = (A, B)[number % 2]
                could = [one for one in waiting if account in one.accounts and one.place is None]
                assert line.hand(account) == bool(could)
                if could:
                    handed += 1
                    assert min(could, key=lambda one: one.rank).place == account
            elif what == "wake":
                line.wake()
                assert all(one.turn.done() for one in waiting)
            assert len(line) == len(waiting)
        taken += sum(line.leave(one) is not None for one in waiting)
        assert (taken, len(line)) == (handed, 0)

    asyncio.run(scenario())
