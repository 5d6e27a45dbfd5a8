"""One timer for the deadlines of all requests: one of its own would cost each request more than anything it guards.

What may live here: whose time is up. What may not: what becomes of a request then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SOON_S = 0.001


class Deadlines:
    """Calls those back that have not been forgotten in time. Instants are of the loop's own clock."""

    __slots__ = ("_armed_for", "_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Callable[[], None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0

    def remember(self, late: Callable[[], None], left_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Call `late` once `left_s` from now, unless it is forgotten before."""
        at = loop.time() + left_s
        self._waiting[late] = at
        if self._timer is None or at < self._armed_for:
            self._arm(at, loop)

    def forget(self, late: Callable[[], None]) -> None:
        """It was in time. Forgetting what is not remembered does nothing."""
        self._waiting.pop(late, None)

    def _arm(self, at: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = at
        self._timer = loop.call_later(at - loop.time(), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """The timer, which is set for the first of those that were waiting then: most have been in time since."""
        self._timer = None
        now = loop.time() + _SOON_S
        for late in [one for one, at in self._waiting.items() if at <= now]:
            del self._waiting[late]
            late()
        if self._waiting:
            self._arm(min(self._waiting.values()), loop)
