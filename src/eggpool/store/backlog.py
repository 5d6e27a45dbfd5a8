"""The bounded queue between the event loop and the writer: what waits, what is given up first, and what was lost.

A plain data structure: no thread, no clock; the writer holds its lock around each call.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

import msgspec

from eggpool.store.facts import AnyFact, Begun, Ended, Tally

MAX_FACTS = 50_000
MAX_BYTES = 64 * 1024 * 1024


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A fact in the queue. `number` grows with each put."""

    number: int
    at: float  # monotonic seconds
    fact: AnyFact


class Losses:
    """What could not be kept: facts given up, and the sums of the requests among them."""

    def __init__(self) -> None:
        self.facts = 0
        self.tally = Tally()

    def __bool__(self) -> bool:
        return self.facts > 0

    def add(self, fact: AnyFact) -> None:
        """One more fact that will not be written."""
        self.facts += 1
        if isinstance(fact, Ended):
            self.tally += fact.tally()


class Backlog:
    """First in, first out, with two kinds of facts: those that can be given up wait in a queue of their own, and the
    tries of a request are given up at once while more than half of the room is taken.

    Beside them waits what is known of requests under way, by their ids: the end of a request takes its begin along, so
    that only a request that outlives a commit has its begin written. They are no more than the requests that run, and
    take no room.
    """

    def __init__(self, max_facts: int = MAX_FACTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_facts = max_facts
        self._max_bytes = max_bytes
        self._begun: dict[int, Waiting] = {}
        self._essential: deque[Waiting] = deque()
        self._others: deque[Waiting] = deque()
        self._count = 0  # begins apart
        self._bytes = 0
        self.losses = Losses()

    def __len__(self) -> int:
        return len(self._begun) + self._count

    @property
    def size(self) -> int:
        """Estimated bytes."""
        return self._bytes

    @property
    def half_empty(self) -> bool:
        """There is room."""
        return self._bytes * 2 <= self._max_bytes and self._count * 2 <= self._max_facts

    def put(self, item: Waiting) -> None:
        """Add a fact. Beyond the bounds the oldest one that is not essential goes; when there is none, the new one is
        summed up instead of kept."""
        fact = item.fact
        if isinstance(fact, Begun):
            earlier = self._begun.get(fact.record.id)
            # Where another account has the request now, it has waited as long as before.
            self._begun[fact.record.id] = item if earlier is None else Waiting(earlier.number, earlier.at, fact)
            return
        if isinstance(fact, Ended):
            self._begun.pop(fact.record.id, None)
            if not self.half_empty and fact.tries:
                self.losses.facts += 1
                item = Waiting(item.number, item.at, fact.without_tries())
        size = item.fact.size
        while self._bytes + size > self._max_bytes or self._count >= self._max_facts:
            if not self._others:
                self.losses.add(fact)
                return
            oldest = self._others.popleft()
            self._count -= 1
            self._bytes -= oldest.fact.size
            self.losses.add(oldest.fact)
        self._count += 1
        self._bytes += size
        (self._essential if fact.essential else self._others).append(item)

    def take(self, count: int) -> list[Waiting]:
        """The oldest facts, at most `count` of each kind."""
        begun = [self._begun.pop(request_id) for request_id in list(islice(self._begun, count))]
        taken: list[Waiting] = []
        for queue in (self._essential, self._others):
            taken += [queue.popleft() for _ in range(min(count, len(queue)))]
        self._count -= len(taken)
        self._bytes -= sum(item.fact.size for item in taken)
        return begun + taken

    def oldest(self) -> Waiting | None:
        """The fact that has waited longest."""
        first = [*islice(self._begun.values(), 1), *islice(self._essential, 1), *islice(self._others, 1)]
        return min(first, key=lambda item: item.number, default=None)

    def take_losses(self) -> Losses:
        """What was lost since the last call."""
        losses, self.losses = self.losses, Losses()
        return losses
