"""The providers of the simulator: the truth that the pool does not see. Quota, prompt caches, outages, meters.

It keeps its own books with its own arithmetic, so that a mistake in the pool's cannot hide here.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

from bench.worlds import CACHE_LIFETIME_S, STARTS_MS, AccountFacts, Prices, Turn, WindowFacts, borders
from eggpool.domain import QuotaReport, QuotaUnit, WindowKind

STEPS_BEFORE = 200  # in which use from before the world falls out of a rolling window

Answer = Literal["serves", "full", "down", "error"]


class Served(NamedTuple):
    """What a request took: cached tokens, and dollars at list price."""

    cached: int
    dollars: float


class TrueWindow:
    """A window as its provider keeps it."""

    def __init__(self, facts: WindowFacts) -> None:
        self.facts = facts
        self.used = 0.0
        self._entries: deque[tuple[int, float]] = deque()  # of a rolling window
        self._ends_ms = 0
        if facts.used:
            self._begin_under_way()

    def _begin_under_way(self) -> None:
        """What was used before the world began."""
        facts = self.facts
        self.used = facts.used * facts.limit
        if facts.kind is WindowKind.ROLLING:
            step_ms = facts.length_ms // STEPS_BEFORE
            begins = STARTS_MS - facts.length_ms
            self._entries.extend((begins + (n + 1) * step_ms, self.used / STEPS_BEFORE) for n in range(STEPS_BEFORE))
        elif facts.kind is WindowKind.BLOCK:
            self._ends_ms = STARTS_MS - facts.begun_ms + facts.length_ms
        else:
            self._ends_ms = borders(facts, STARTS_MS)[1]

    def move(self, now_ms: int) -> None:
        """Let go of what is over."""
        facts = self.facts
        if facts.kind is WindowKind.ROLLING:
            while self._entries and self._entries[0][0] <= now_ms - facts.length_ms:
                self.used -= self._entries.popleft()[1]
        elif facts.kind is WindowKind.BLOCK:
            if self._ends_ms and now_ms >= self._ends_ms:
                self.used, self._ends_ms = 0.0, 0
        elif now_ms >= self._ends_ms:
            self.used, self._ends_ms = 0.0, borders(facts, now_ms)[1]

    def begin(self, now_ms: int) -> None:
        """A request came: a block begins with it."""
        if self.facts.kind is WindowKind.BLOCK and not self._ends_ms:
            self._ends_ms = now_ms + self.facts.length_ms

    def add(self, amount: float, now_ms: int) -> None:
        """A request has ended."""
        self.move(now_ms)
        self.begin(now_ms)
        self.used += amount
        if self.facts.kind is WindowKind.ROLLING:
            self._entries.append((now_ms, amount))

    @property
    def full(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.facts.limit

    def resets_ms(self) -> int | None:
        """When the period ends; of a rolling window when there is room again. None when nothing has begun."""
        if self.facts.kind is not WindowKind.ROLLING:
            return self._ends_ms or None
        over = self.used - self.facts.limit
        for at_ms, amount in self._entries:
            over -= amount
            if over < 0:
                return at_ms + self.facts.length_ms
        return None


class TrueAccount:
    """An account at its provider."""

    def __init__(self, facts: AccountFacts, prices: Prices) -> None:
        self.facts = facts
        self.windows = [TrueWindow(window) for window in facts.windows]
        self.caches: dict[int, tuple[int, int]] = {}  # conversation: last used, tokens
        self.dollars = 0.0
        self._prices = prices
        self._outages = deque(facts.outages)

    def can_serve(self, now_ms: int) -> bool:
        """Whether a request would be answered now, single errors aside."""
        return not self._down(now_ms) and not self._full(now_ms)

    def ask(self, turn: Turn, now_ms: int, *, first: bool) -> Answer:
        """A request comes in."""
        if self._down(now_ms):
            return "down"
        if self._full(now_ms):
            return "full"
        if first and turn.luck < self.facts.error_rate:
            return "error"
        for window in self.windows:
            window.begin(now_ms)
        return "serves"

    def cached(self, conversation: int, turn: Turn, now_ms: int) -> int:
        """How many tokens of the prompt stand in the cache."""
        at_ms, tokens = self.caches.get(conversation, (0, 0))
        if now_ms - at_ms > CACHE_LIFETIME_S * 1000:
            return 0
        return min(tokens, turn.kept)

    def serve(self, conversation: int, turn: Turn, now_ms: int) -> Served:
        """The prompt is read: it stands in the cache from now on."""
        cached = self.cached(conversation, turn, now_ms)
        self.caches[conversation] = (now_ms, turn.prompt)
        return Served(cached, self._prices.cost(turn.prompt, cached, turn.output))

    def charge(self, turn: Turn, served: Served, now_ms: int) -> None:
        """The answer has ended: quota is taken."""
        self.dollars += served.dollars
        amounts = {
            QuotaUnit.MONEY: served.dollars * self.facts.basis,
            QuotaUnit.TOKENS: float(turn.prompt + turn.output),
            QuotaUnit.REQUESTS: 1.0,
        }
        for window in self.windows:
            window.add(amounts[window.facts.unit], now_ms)

    def back_s(self, now_ms: int) -> float | None:
        """When there is room again, as a refusal tells it."""
        resets = [window.resets_ms() for window in self.windows if window.full]
        told = max((one for one in resets if one is not None), default=None)
        return None if told is None or not self.facts.tells_reset else (told - now_ms) / 1000

    def reports(self, now_ms: int) -> list[QuotaReport]:
        """What the usage endpoint says."""
        found = []
        for window in self.windows:
            window.move(now_ms)
            share = window.used / window.facts.limit
            rolling = window.facts.kind is WindowKind.ROLLING
            found.append(
                QuotaReport(
                    window=window.facts.name,
                    at_ms=now_ms,
                    unit=QuotaUnit.PERCENT,
                    used_share=int(share * 100) / 100 if self.facts.whole_percents else share,
                    resets_at_ms=window.resets_ms() if not rolling or window.full else None,
                    kind=window.facts.kind,
                    length_s=window.facts.length_ms // 1000,
                )
            )
        return found

    def _down(self, now_ms: int) -> bool:
        while self._outages and self._outages[0][1] <= now_ms:
            self._outages.popleft()
        return bool(self._outages) and self._outages[0][0] <= now_ms

    def _full(self, now_ms: int) -> bool:
        full = False
        for window in self.windows:
            window.move(now_ms)
            full = full or window.full
        return full
