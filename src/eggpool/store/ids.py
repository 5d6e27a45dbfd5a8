"""Ids of everything in the books: 63-bit integers in the order of time, made here and nowhere else."""

from __future__ import annotations

import threading

COUNTER_BITS = 21  # leaves 42 bits for the milliseconds, which lasts until the year 2109
LARGEST = 2**63 - 1


def first_id_at(at_ms: int) -> int:
    """The smallest id that can have been made at that instant (milliseconds since 1970)."""
    return min(max(at_ms, 0) << COUNTER_BITS, LARGEST)


class IdMaker:
    """Makes ids that only grow, even when the clock steps back or the machine begins with a wrong one.

    `last` is the largest id already used. Safe to call from several threads.
    """

    def __init__(self, last: int = 0) -> None:
        self._last = last
        self._lock = threading.Lock()

    def next(self, now_ms: int) -> int:
        """A new id for something that happens at `now_ms`."""
        first = now_ms << COUNTER_BITS
        with self._lock:
            self._last = made = first if first > self._last else self._last + 1
        return made if made < LARGEST else LARGEST
