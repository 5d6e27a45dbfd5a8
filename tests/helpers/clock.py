"""A clock that only a test moves: rests end and lists grow old without anybody waiting."""

from __future__ import annotations

from eggpool.engine.clock import Clock

START_MS = 1_790_000_000_000


class HandClock(Clock):
    """Both clocks of the program, standing still until `advance`."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def now(self) -> float:
        """Monotonic seconds."""
        return 1000.0 + self._passed_s

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return START_MS + round(self._passed_s * 1000)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds
