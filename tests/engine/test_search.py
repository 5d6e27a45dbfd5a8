"""One request's search for an account: who is tried, who is waited for, and that no place is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.engine.test_pool import Notebook
from tests.helpers.clock import HandClock

from eggpool.config.load import load
from eggpool.config.schema import Routing
from eggpool.domain import AccountLabel, Dialect, ListedModel
from eggpool.engine.clock import Clock
from eggpool.engine.inbound import Inbound, Surface
from eggpool.engine.leases import ONE_REQUEST
from eggpool.engine.pool import Pool
from eggpool.engine.search import IMPATIENT_WAIT_S, Search
from eggpool.errors import NotFound
from eggpool.routing.catalog import AccountModels
from eggpool.routing.verdict import Kind
from eggpool.store.ledger import Ledger

TEXT = """
[server]
api_key = "ep_test-client-key-0000"
[database]
path = "/nowhere/usage.sqlite3"
[models]
aliases = { fast = ["m", "n"], gone = ["nothing", "n"] }
[routing]
max_wait_ms = 60000
[providers.alpha]
id = "alpha"
base_url = "http://127.0.0.1:9/v1"
static_models = ["m"]
[[providers.alpha.accounts]]
name = "a"
api_key = "test-key-a-00000"
max_concurrency = 1
[[providers.alpha.accounts]]
name = "b"
api_key = "test-key-b-00000"
max_concurrency = 2
"""
A, B = AccountLabel("alpha/a"), AccountLabel("alpha/b")


def opened(clock: Clock, text: str = TEXT) -> Pool:
    """A pool of two accounts, one of which takes one request at once and the other two."""
    pool = Pool(load(text, {}, folder="/nowhere").config, Ledger(Notebook()), clock)
    for label in (A, B):
        pool.take_list(label, AccountModels((ListedModel("m"), ListedModel("n")), clock.wall_ms()))
    return pool


def asked(pool: Pool, model: str = "m", headers: Iterable[tuple[bytes, bytes]] = ()) -> Inbound:
    """A request that arrives now."""
    return Inbound(
        id=1,
        client="default",
        client_address="127.0.0.1",
        surface=Surface(Dialect.CHAT),
        method="POST",
        path="/v1/chat/completions",
        query="",
        headers=list(headers),
        named=dict(headers),
        body=b"{}",
        envelope=None,
        model=model,
        only=None,
        arrived=pool.clock.now(),
        arrived_ms=pool.clock.wall_ms(),
    )


def search_of(pool: Pool, model: str = "m", headers: Iterable[tuple[bytes, bytes]] = ()) -> Search:
    """The search of a request that arrives now."""
    return Search(pool, asked(pool, model, headers), pool.config)


async def settled() -> None:
    """Let everybody who can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class Crowd:
    """Requests that come, wait, run and end, as `dispatch` has them do."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.waiting: list[int] = []  # in the order in which they came
        self.running: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.begun: dict[int, Search] = {}
        self.overtaken: list[tuple[int, int]] = []  # who was served, and who waited longer and had no place yet

    def arrive(self) -> None:
        """One more comes."""
        number = len(self.tasks)
        self.waiting.append(number)
        self.tasks[number] = asyncio.create_task(self._request(number))

    def leave(self, number: int) -> None:
        """That one leaves, whether it waits or runs."""
        self.tasks[number].cancel()
        if number in self.waiting and number not in self.begun:
            self.waiting.remove(number)  # it never runs at all

    async def _request(self, number: int) -> None:
        search = self.begun[number] = search_of(self.pool)
        try:
            while (choice := search.next()) is None:
                search.leased()
                assert await search.wait(), "nobody may be refused here"
        finally:
            before = self.waiting[: self.waiting.index(number)]
            self.waiting.remove(number)
        lease = self.pool.lease(choice)
        search.leased()
        placed = {one.rank for one in self.pool.line._waiters if one.place is not None}
        self.overtaken += [(number, one) for one in before if self.begun[one]._rank not in placed]
        end = self.running[number] = asyncio.Event()
        try:
            await end.wait()
            lease.answered()
            lease.ended(ONE_REQUEST)
        finally:
            del self.running[number]
            if not lease.settled:
                lease.left()


@settings(deadline=None)
@example([*[("arrive", 0)] * 8, ("at once", 1)])
@example([*[("arrive", 0)] * 8, ("at once", 0), ("at once", 1)])
@given(st.lists(st.tuples(st.sampled_from(["arrive", "arrive", "end", "leave", "at once"]), st.integers(0, 99))))
def test_nobody_is_overtaken_and_no_place_is_lost(steps: list[tuple[str, int]]) -> None:
    """However requests come, end and leave: served in order, never more than allowed, never fewer than possible."""

    async def scenario() -> None:
        pool = opened(Clock())
        crowd = Crowd(pool)
        for what, number in steps:
            alive = [one for one, task in crowd.tasks.items() if not task.done()]
            if what == "arrive":
                crowd.arrive()
            elif what == "end" and crowd.running:
                sorted(crowd.running.items())[number % len(crowd.running)][1].set()
            elif what == "leave" and alive:
                crowd.leave(alive[number % len(alive)])
            elif what == "at once":  # all that can happen in one turn of the loop
                ends = list(crowd.running.values())[number % 2 :: 2]
                for event in ends if number % 4 < 2 else ():
                    event.set()
                for one in alive[number % 3 :: 2]:
                    crowd.leave(one)
                for event in ends:
                    event.set()
                crowd.arrive()
            if what != "at once" or number % 2:
                await settled()
                assert len(crowd.running) == min(3, len(crowd.running) + len(crowd.waiting))
                assert pool.in_flight == len(crowd.running)
        assert crowd.overtaken == []
        for _ in range(len(crowd.tasks) + 1):
            await settled()
            for event in list(crowd.running.values()):
                event.set()
        await settled()
        assert (pool.in_flight, len(pool.line), crowd.waiting) == (0, 0, [])
        results = await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)
        assert {type(one) for one in results} <= {type(None), asyncio.CancelledError}

    asyncio.run(scenario())


def test_who_looks_again_keeps_its_rank() -> None:
    """A request that was called for nothing is still before those who came after it."""

    async def scenario() -> None:
        pool = opened(Clock())
        crowd = Crowd(pool)
        for _ in range(5):
            crowd.arrive()
        await settled()
        assert crowd.waiting == [3, 4]
        for _ in range(3):
            pool.line.wake()
            await settled()
        crowd.running[0].set()
        await settled()
        assert crowd.waiting == [4]
        for number in (1, 2, 3, 4):
            await settled()
            crowd.running[number].set()
        await settled()
        assert pool.in_flight == 0

    asyncio.run(scenario())


def test_a_place_that_cannot_be_taken_goes_on() -> None:
    """When the account that had a place begins to rest, those who wait for it give up at once, and none loops."""

    async def scenario() -> None:
        clock = Clock()
        pool = opened(clock, TEXT.replace("max_wait_ms = 60000", "max_wait_ms = 3000"))
        busy = [search_of(pool) for _ in range(3)]
        leases = []
        for one in busy:
            choice = one.next()
            assert choice is not None
            leases.append(pool.lease(choice))
        waiters = [search_of(pool) for _ in range(4)]
        assert [one.next() for one in waiters] == [None] * 4
        waiting = [asyncio.create_task(one.wait()) for one in waiters]
        await settled()
        assert len(pool.line) == 4
        for lease in leases:
            lease.failed(Kind.PLAN_WINDOW, 600)
        await settled()
        assert all(one.done() for one in waiting[:3])
        for one in waiters[:3]:
            assert one.next() is None
            one.leased()
            assert not await one.wait()
        await settled()
        assert waiting[3].done()
        assert waiters[3].next() is None
        waiters[3].leased()
        assert not await waiters[3].wait()
        assert (pool.in_flight, len(pool.line)) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(("originator", "waits"), [(b"codex_exec", True), (b"codex_cli_rs", True), (b"other", False)])
def test_who_gives_up_at_the_first_429(originator: bytes, waits: bool) -> None:
    """Codex waits some seconds even where the configuration lets nobody wait; others are told at once."""

    async def scenario() -> None:
        clock = HandClock()
        pool = opened(clock, TEXT.replace("max_wait_ms = 60000", "max_wait_ms = 0"))
        for model in ("m", "n"):
            for _ in range(2):
                choice = search_of(pool, model).next()
                assert choice is not None
                pool.lease(choice).failed(Kind.RATE, IMPATIENT_WAIT_S - 1)
        search = search_of(pool, headers=[(b"originator", originator)])
        assert search.next() is None
        waiting = asyncio.create_task(search.wait())
        await settled()
        assert waiting.done() != waits
        waiting.cancel()
        await asyncio.wait([waiting])
        assert len(pool.line) == 0

    asyncio.run(scenario())


def test_a_chain_is_walked() -> None:
    """Of an alias the next model is tried when the one before cannot be served, each account once for each model."""
    pool = opened(HandClock())
    search = search_of(pool, "fast")
    tried: list[tuple[AccountLabel, str]] = []
    while (choice := search.next()) is not None:
        tried.append((choice.candidate.account, choice.candidate.model))
        assert search.others_left == (len(tried) < 4)
        pool.lease(choice).failed(Kind.SERVER_ERROR, None)
    assert tried == [(A, "m"), (B, "m"), (A, "n"), (B, "n")]


def test_the_last_resort_comes_after_the_chain() -> None:
    """What rests on our guess is tried behind the next model, and before giving up."""
    pool = opened(HandClock())
    for _ in range(2):
        choice = search_of(pool, "m").next()
        assert choice is not None
        pool.lease(choice).failed(Kind.SERVER_ERROR, None)
    search = search_of(pool, "fast")
    tried: list[tuple[AccountLabel, str]] = []
    while (choice := search.next()) is not None:
        tried.append((choice.candidate.account, choice.candidate.model))
        assert search.others_left == (len(tried) < 4)
        pool.lease(choice).failed(Kind.SERVER_ERROR, None)
    assert tried == [(A, "n"), (B, "n"), (A, "m"), (B, "m")]


def test_others_are_left_only_where_they_may_be_tried() -> None:
    """The last account that may be tried is waited for, though a chain goes on with nobody, or tries are bounded."""
    pool = opened(HandClock())
    for _ in range(2):
        choice = search_of(pool, "n").next()
        assert choice is not None
        pool.lease(choice).failed(Kind.RATE, 600)
    search = search_of(pool, "fast")
    assert [search.next() is not None, search.others_left] == [True, True]
    assert [search.next() is not None, search.others_left] == [True, False]

    config = replace(pool.config, routing=Routing(max_retries_before_stream=1))
    bounded = Search(pool, asked(pool), config)
    assert [bounded.next() is not None, bounded.others_left] == [True, True]
    assert [bounded.next() is not None, bounded.others_left] == [True, False]
    assert bounded.next() is None


def test_an_alias_of_what_nobody_has() -> None:
    """A model of a chain that nobody serves is passed over; a name that means nothing is told."""
    pool = opened(HandClock())
    choice = search_of(pool, "gone").next()
    assert choice is not None
    assert choice.candidate.model == "n"
    with pytest.raises(NotFound):
        search_of(pool, "mm")
