"""Puts a world together: as much work as makes its plans as scarce as they are to be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from bench.capacity import can_serve
from bench.worlds import (
    DAY_MS,
    DAYS,
    DEMAND,
    DEMAND_EQUAL,
    HOUR_MS,
    STARTS_MS,
    Conversation,
    Prices,
    World,
    draw_conversations,
    draw_metered,
    draw_plans,
    draw_prices,
    ideal_cost,
    usual_turn,
)

ENDLESS = 1e6  # dollars of work in an hour: more than any plan lets through
FINE = 0.01  # how exactly the amount of work is found


def draw(kind: str, seed: int) -> World:
    """The world of that kind and seed; those with and without metered accounts are otherwise the same."""
    equal = kind == "equal plans"
    chance = random.Random(f"{'equal' if equal else 'mixed'} {seed}")
    ends_ms = STARTS_MS + chance.randint(*DAYS) * DAY_MS
    prices = draw_prices(chance)
    usual = usual_turn(prices, random.Random(f"usual {seed}"))
    plans = draw_plans(chance, usual, ends_ms, equal=equal)
    metered = draw_metered(chance)
    work = _Work(draw_conversations(chance, ends_ms), prices, (ends_ms - STARTS_MS) // HOUR_MS)
    capacity = can_serve(plans, [ENDLESS] * work.hours, usual)
    wanted = chance.uniform(*(DEMAND_EQUAL if equal else DEMAND))
    count = work.worth(wanted * capacity)
    if not equal:
        # So much is surely too much: not all that the plans let through is there when work comes.
        count = _least(
            count, lambda count: sum(hours := work.by_hour(count)) >= wanted * can_serve(plans, hours, usual)
        )
        capacity = can_serve(plans, work.by_hour(count), usual)
    return World(
        kind=kind,
        seed=seed,
        ends_ms=ends_ms,
        accounts=tuple([*plans, *metered] if kind == "metered behind" else plans),
        conversations=tuple(sorted(work.drawn[:count])),
        prices=prices,
        capacity=capacity,
        demand=sum(work.by_hour(count)),
    )


class _Work:
    """Conversations in the order in which they are drawn, and what they cost in each hour of the world."""

    def __init__(self, source: Iterator[Conversation], prices: Prices, hours: int) -> None:
        self.hours = hours
        self.drawn: list[Conversation] = []
        self._source = source
        self._prices = prices
        self._costs: list[list[tuple[int, float]]] = []  # of each conversation: hour, dollars

    def worth(self, dollars: float) -> int:
        """How many conversations cost so much together."""
        total, count = 0.0, 0
        while total < dollars:
            total += sum(cost for _, cost in self._costs_of(count))
            count += 1
        return count

    def by_hour(self, count: int) -> list[float]:
        """Dollars in each hour, of the first `count` conversations."""
        found = [0.0] * self.hours
        for number in range(count):
            for hour, dollars in self._costs_of(number):
                found[hour] += dollars
        return found

    def _costs_of(self, number: int) -> list[tuple[int, float]]:
        while len(self.drawn) <= number:
            self.drawn.append(next(self._source))
            self._costs.append(list(self._cost(self.drawn[-1])))
        return self._costs[number]

    def _cost(self, conversation: Conversation) -> Iterator[tuple[int, float]]:
        at_ms = conversation.begins_ms
        for turn in conversation.turns:
            at_ms += turn.gap_ms
            hour = (at_ms - STARTS_MS) // HOUR_MS
            if hour < self.hours:
                yield hour, ideal_cost(self._prices, turn)
            at_ms += turn.lasts_ms


def _least(most: int, enough: Callable[[int], bool]) -> int:
    """How many conversations are enough, when so many surely are."""
    few, many = 0, most
    while many - few > max(1, FINE * many):
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many
