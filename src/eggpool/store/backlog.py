"""The bounded queue between the event loop and the writer: what waits, what is given up first, and what was lost.

A plain data structure: no thread, no clock; the writer holds its lock around each call.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from eggpool.store.facts import Fact, Tally

MAX_FACTS = 50_000
MAX_BYTES = 64 * 1024 * 1024


class Waiting(NamedTuple):
    """A fact in the queue; `number` counts all facts ever put."""

    number: int
    at: float  # monotonic seconds
    fact: Fact


class Losses:
    """What could not be kept: facts given up, and the sums of the requests among them."""

    def __init__(self) -> None:
        self.facts = 0
        self.tally = Tally()

    def __bool__(self) -> bool:
        return self.facts > 0

    def add(self, fact: Fact) -> None:
        """One more fact that will not be written."""
        self.facts += 1
        if fact.tally is not None:
            self.tally += fact.tally


class Backlog:
    """First in, first out, with two kinds of facts: those that can be given up wait in a queue of their own."""

    def __init__(self, max_facts: int = MAX_FACTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_facts = max_facts
        self._max_bytes = max_bytes
        self._essential: deque[Waiting] = deque()
        self._others: deque[Waiting] = deque()
        self._bytes = 0
        self.losses = Losses()

    def __len__(self) -> int:
        return len(self._essential) + len(self._others)

    @property
    def size(self) -> int:
        """Estimated bytes."""
        return self._bytes

    @property
    def half_empty(self) -> bool:
        """There is room again."""
        return len(self) * 2 <= self._max_facts and self._bytes * 2 <= self._max_bytes

    def put(self, item: Waiting) -> None:
        """Add a fact. Beyond the bounds the oldest one that is not essential goes; when there is none, the new one is
        summed up instead of kept."""
        while self._is_full(item.fact.size) and self._others:
            oldest = self._others.popleft()
            self._bytes -= oldest.fact.size
            self.losses.add(oldest.fact)
        if self._is_full(item.fact.size):
            self.losses.add(item.fact)
            return
        (self._essential if item.fact.essential else self._others).append(item)
        self._bytes += item.fact.size

    def _is_full(self, size: int) -> bool:
        return len(self) >= self._max_facts or self._bytes + size > self._max_bytes

    def take(self, count: int) -> list[Waiting]:
        """The oldest facts, at most `count` of each kind."""
        taken: list[Waiting] = []
        for queue in (self._essential, self._others):
            for _ in range(min(count, len(queue))):
                item = queue.popleft()
                self._bytes -= item.fact.size
                taken.append(item)
        return taken

    def oldest(self) -> Waiting | None:
        """The fact that has waited longest."""
        if self._essential and self._others:
            return min(self._essential[0], self._others[0], key=lambda item: item.number)
        queue = self._essential or self._others
        return queue[0] if queue else None

    def take_losses(self) -> Losses:
        """What was lost since the last call."""
        losses, self.losses = self.losses, Losses()
        return losses
