"""The two clocks of the running program: one for durations, one for dates."""

from __future__ import annotations

import time


class Clock:
    """Monotonic seconds and wall-clock milliseconds; tests bring their own."""

    now = staticmethod(time.monotonic)
    """Monotonic seconds, for durations and rests."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, for the books."""
        return time.time_ns() // 1_000_000
