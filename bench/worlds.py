"""The worlds of the simulator: what is drawn, from which ranges, and how. No routing here, and no results.

How much work comes is found in `bench/demand.py`, which puts a world together.

Sums are dollars, prices dollars per million tokens, instants milliseconds since 1970. A world is drawn from its seed
alone, so every strategy meets the same accounts, the same conversations and the same failures.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from eggpool.domain import QuotaUnit, WindowKind
from eggpool.routing.periods import Every, anchored

# --- everything that is drawn, and from where -------------------------------------------------------------------------

DAYS = (21, 35)
PLAN_ACCOUNTS = (3, 7)
METERED_ACCOUNTS = (1, 2)  # behind the plans, where a world has any
DEMAND = (1.0, 1.25)  # of what the plans can serve of it, when each conversation stays where its cache is
DEMAND_EQUAL = (0.4, 0.9)  # in worlds of equal accounts, of what they can serve when work never ends

# Plans, as they are sold: five hours and a week (coding plans), a day (compute subscriptions), a month (credits). Each
# counts in one unit; longer limits are multiples of shorter ones.
PLANS = (("five hours", 0.5), ("day", 0.25), ("month", 0.25))
FIVE_HOUR_DOLLARS = (3.0, 12.0)
WEEK_PER_FIVE_HOURS = (2.5, 8.0)
MONTH_PER_WEEK = (2.0, 4.0)
HAS_MONTH = 0.4
DAY_DOLLARS = (1.0, 6.0)
MONTH_PER_DAY = (12.0, 25.0)
FIVE_HOUR_ROLLS = 0.3  # else a block that begins at the first use
WEEK_KINDS = ((WindowKind.ANCHORED, 0.5), (WindowKind.ROLLING, 0.25), (WindowKind.BLOCK, 0.25))
UNITS = ((QuotaUnit.MONEY, 0.75), (QuotaUnit.TOKENS, 0.1), (QuotaUnit.REQUESTS, 0.15))

# When a world begins, longer windows are under way, used at an even pace (give or take): no gift of whole periods.
USED_BEFORE = (0.8, 1.0)  # of the share of the period that is over; of a rolling window, of the limit

# What the pool knows of a plan: its windows beforehand, through a meter, or neither.
KNOWN_BEFOREHAND = 0.6
METER_IF_KNOWN = 0.6
METER_IF_UNKNOWN = 0.8
METER_POLL_S = (300, 900)  # an account that was not used since is asked again after an hour
METER_WHOLE_PERCENTS = 0.5
PRICE_BASIS = (0.85, 1.2)  # what a plan's own accounting makes of a dollar of ours
ESTIMATE_ERROR = (0.6, 1.6)  # of a request's estimate, for a prompt that is cached nowhere

# Prices of the one model; a plan counts at its own basis, a metered account is paid.
INPUT_PRICE = (3.0, 6.0)
OUTPUT_PER_INPUT = (4.0, 6.0)
CACHE_READ_PER_INPUT = (0.1, 0.1)
CACHE_WRITE_PER_INPUT = (1.0, 1.25)
CACHE_LIFETIME_S = 300

# Conversations of coding agents: the prompt grows by each turn and what the tools answer, until it is compacted.
TURNS = (4, 90)
FIRST_PROMPT = (8_000, 30_000)
GROWTH = (400, 4_000)
OUTPUT = (150, 1_600)
LONGEST_PROMPT = (120_000, 190_000)
COMPACTED_PROMPT = (15_000, 35_000)
TOOL_GAP_S = (1, 40)
PERSON_GAP_S = (60, 2_400)
PERSON_ANSWERS = (0.03, 0.15)  # of the gaps: a person reads, thinks, goes for lunch
TOKENS_PER_S = (40, 110)
FIRST_TOKEN_S = (0.5, 5.0)
HOURS = (0.05,) * 7 + (0.3, 0.7) + (1.0,) * 9 + (0.6, 0.4, 0.4, 0.3, 0.2, 0.1)  # weight of each hour of a day, UTC
WEEKEND = 0.35
DAYS_DIFFER = (0.3, 1.0)  # standard deviation of the logarithm of a day's work: some days are busy, some are quiet
DAY_OFF = (0.0, 0.15)

# Failures.
OUTAGES_PER_WEEK = (0.0, 2.5)  # of an account
OUTAGE_S = (30, 5_400)
ERROR_RATE = (0.0, 0.01)  # of single requests
TELLS_RESET = 0.8  # of the plans: whether a refusal for quota names its end

# ----------------------------------------------------------------------------------------------------------------------

T = TypeVar("T")

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
STARTS_MS = 1_799_020_800_000 // DAY_MS * DAY_MS
HOURS_IN_DAY = 24
SATURDAY = 5


class WindowFacts(NamedTuple):
    """A window as the provider keeps it; `limit` in dollars at its basis, tokens or requests."""

    name: str
    kind: WindowKind
    unit: QuotaUnit
    limit: float
    length_ms: int
    every: Every | None = None
    anchor_day: int = 0
    anchor_s: int = 0
    begun_ms: int = 0  # of a block that is under way when the world begins: for how long
    used: float = 0.0  # share when the world begins


class AccountFacts(NamedTuple):
    """An account; a metered one has no windows."""

    name: str
    windows: tuple[WindowFacts, ...]
    basis: float
    known: bool
    poll_s: int | None
    whole_percents: bool
    tells_reset: bool
    outages: tuple[tuple[int, int], ...]
    error_rate: float

    @property
    def metered(self) -> bool:
        """Whether it is paid by the token."""
        return not self.windows


class Turn(NamedTuple):
    """One request of a conversation, `gap_ms` after the answer before it."""

    gap_ms: int
    prompt: int  # tokens, all that came before included
    kept: int  # of these, as many as can stand in a cache: those of the turn before, unless it was compacted
    output: int
    lasts_ms: int
    estimate_error: float
    luck: float  # below an account's error rate, the first attempt fails


class Conversation(NamedTuple):
    """What one agent does for one task."""

    begins_ms: int
    turns: tuple[Turn, ...]


class Prices(NamedTuple):
    """Dollars per token."""

    fresh: float
    read: float
    output: float

    def cost(self, prompt: int, cached: int, output: int) -> float:
        """What a request costs."""
        return (prompt - cached) * self.fresh + cached * self.read + output * self.output


class World(NamedTuple):
    """Everything that a strategy meets."""

    kind: str
    seed: int
    ends_ms: int
    accounts: tuple[AccountFacts, ...]
    conversations: tuple[Conversation, ...]
    prices: Prices
    capacity: float  # dollars of it that the plans can serve
    demand: float  # dollars of work, when each conversation stays where its cache is


KINDS = ("metered behind", "plans only", "equal plans")


class Usual(NamedTuple):
    """A request as it is on average."""

    dollars: float
    tokens: float

    def per_dollar(self, unit: QuotaUnit, basis: float = 1.0) -> float:
        """What a dollar of usual work takes of a limit in that unit."""
        return {QuotaUnit.MONEY: basis, QuotaUnit.TOKENS: self.tokens / self.dollars}.get(unit, 1 / self.dollars)


def draw_prices(chance: random.Random) -> Prices:
    """What the one model costs."""
    fresh = chance.uniform(*INPUT_PRICE) / 1e6
    return Prices(
        fresh=fresh * chance.uniform(*CACHE_WRITE_PER_INPUT),
        read=fresh * chance.uniform(*CACHE_READ_PER_INPUT),
        output=fresh * chance.uniform(*OUTPUT_PER_INPUT),
    )


def usual_turn(prices: Prices, chance: random.Random) -> Usual:
    """The mean of many."""
    turns = [turn for _ in range(200) for turn in _turns(chance)]
    dollars = sum(ideal_cost(prices, turn) for turn in turns) / len(turns)
    return Usual(dollars, sum(turn.prompt + turn.output for turn in turns) / len(turns))


def ideal_cost(prices: Prices, turn: Turn) -> float:
    """What a turn costs where its conversation has always been."""
    return prices.cost(turn.prompt, turn.kept if turn.gap_ms <= CACHE_LIFETIME_S * 1000 else 0, turn.output)


def draw_plans(chance: random.Random, usual: Usual, ends_ms: int, *, equal: bool) -> list[AccountFacts]:
    """The plans, each its own or all as the first one."""
    count = chance.randint(*PLAN_ACCOUNTS)
    if not equal:
        return [_plan(chance, number, usual, ends_ms) for number in range(count)]
    one = _plan(chance, 0, usual, ends_ms)
    return [one._replace(name=f"plan/{number}", outages=_outages(chance, ends_ms)) for number in range(count)]


def draw_metered(chance: random.Random) -> list[AccountFacts]:
    """Accounts that are paid by the token."""
    return [
        AccountFacts(f"metered/{number}", (), 1.0, True, None, False, True, (), chance.uniform(*ERROR_RATE))
        for number in range(chance.randint(*METERED_ACCOUNTS))
    ]


def _plan(chance: random.Random, number: int, usual: Usual, ends_ms: int) -> AccountFacts:
    unit = _pick(chance, UNITS)
    windows = _sold(chance, unit, usual.per_dollar(unit))
    windows = [one if one.name == "five_hour" else _under_way(chance, one) for one in windows]
    known = chance.random() < KNOWN_BEFOREHAND
    has_meter = chance.random() < (METER_IF_KNOWN if known else METER_IF_UNKNOWN)
    return AccountFacts(
        name=f"plan/{number}",
        windows=tuple(windows),
        basis=chance.uniform(*PRICE_BASIS) if unit is QuotaUnit.MONEY else 1.0,
        known=known,
        poll_s=chance.randint(*METER_POLL_S) if has_meter else None,
        whole_percents=chance.random() < METER_WHOLE_PERCENTS,
        tells_reset=chance.random() < TELLS_RESET,
        outages=_outages(chance, ends_ms),
        error_rate=chance.uniform(*ERROR_RATE),
    )


def _sold(chance: random.Random, unit: QuotaUnit, scale: float) -> list[WindowFacts]:
    """The windows of a plan; `scale` is what a dollar is in its unit."""
    sold = _pick(chance, PLANS)
    second = chance.randrange(24) * 3600
    windows: list[WindowFacts] = []
    if sold == "five hours":
        five_hours = chance.uniform(*FIVE_HOUR_DOLLARS) * scale
        month = five_hours * chance.uniform(*WEEK_PER_FIVE_HOURS)
        block = WindowKind.ROLLING if chance.random() < FIVE_HOUR_ROLLS else WindowKind.BLOCK
        week_kind = _pick(chance, WEEK_KINDS)
        windows = [
            WindowFacts("five_hour", block, unit, five_hours, 5 * HOUR_MS),
            WindowFacts("weekly", week_kind, unit, month, 7 * DAY_MS, "week", chance.randrange(7), second),
        ]
        month *= chance.uniform(*MONTH_PER_WEEK)
    else:
        day = chance.uniform(*DAY_DOLLARS) * scale
        if sold == "day":
            windows = [WindowFacts("daily", WindowKind.ANCHORED, unit, day, DAY_MS, "day", 0, second)]
        month = day * chance.uniform(*MONTH_PER_DAY)
    if sold == "month" or chance.random() < HAS_MONTH:
        day_of_month = chance.randint(1, 31)
        windows.append(
            WindowFacts("monthly", WindowKind.ANCHORED, unit, month, 30 * DAY_MS, "month", day_of_month, second)
        )
    return windows


def _under_way(chance: random.Random, window: WindowFacts) -> WindowFacts:
    """A longer window as the world finds it."""
    begun_ms = chance.randrange(window.length_ms)
    over = begun_ms / window.length_ms
    if window.kind is WindowKind.ANCHORED:
        begins, ends = borders(window, STARTS_MS)
        over = (STARTS_MS - begins) / (ends - begins)
    elif window.kind is WindowKind.ROLLING:
        over = 1.0
    return window._replace(begun_ms=begun_ms, used=over * chance.uniform(*USED_BEFORE))


def _outages(chance: random.Random, ends_ms: int) -> tuple[tuple[int, int], ...]:
    weeks = (ends_ms - STARTS_MS) / (7 * DAY_MS)
    begins = sorted(
        chance.randrange(STARTS_MS, ends_ms) for _ in range(round(chance.uniform(*OUTAGES_PER_WEEK) * weeks))
    )
    return tuple((begin, begin + chance.randint(*OUTAGE_S) * 1000) for begin in begins)


def borders(window: WindowFacts, at_ms: int) -> tuple[int, int]:
    """The period of an anchored window that an instant lies in."""
    return anchored(window.every, window.anchor_day, window.anchor_s, window.length_ms, at_ms)


def draw_conversations(chance: random.Random, ends_ms: int) -> Iterator[Conversation]:
    """As many as are asked for, in no order: any number of them has the same busy and quiet days."""
    days = (ends_ms - STARTS_MS) // DAY_MS
    differ, off = chance.uniform(*DAYS_DIFFER), chance.uniform(*DAY_OFF)
    busy = [0.02 if chance.random() < off else chance.lognormvariate(0.0, differ) for _ in range(days)]
    weights = [
        HOURS[hour] * busy[day] * (WEEKEND if (STARTS_MS // DAY_MS + day + 3) % 7 >= SATURDAY else 1.0)
        for day in range(days)
        for hour in range(HOURS_IN_DAY)
    ]
    sums, hours = list(itertools.accumulate(weights)), range(days * HOURS_IN_DAY)
    while True:
        begins = STARTS_MS + chance.choices(hours, cum_weights=sums)[0] * HOUR_MS + chance.randrange(HOUR_MS)
        yield Conversation(begins, tuple(_turns(chance)))


def _turns(chance: random.Random) -> list[Turn]:
    person = chance.uniform(*PERSON_ANSWERS)
    longest = chance.randint(*LONGEST_PROMPT)
    prompt, kept = chance.randint(*FIRST_PROMPT), 0
    turns: list[Turn] = []
    for number in range(round(chance.triangular(TURNS[0], TURNS[1], TURNS[0]))):
        gap_s = chance.uniform(*(PERSON_GAP_S if chance.random() < person else TOOL_GAP_S)) if number else 0.0
        output = chance.randint(*OUTPUT)
        lasts_s = chance.uniform(*FIRST_TOKEN_S) + output / chance.uniform(*TOKENS_PER_S)
        turns.append(
            Turn(
                gap_ms=round(gap_s * 1000),
                prompt=prompt,
                kept=kept,
                output=output,
                lasts_ms=round(lasts_s * 1000),
                estimate_error=chance.uniform(*ESTIMATE_ERROR),
                luck=chance.random(),
            )
        )
        kept = prompt
        prompt += output + chance.randint(*GROWTH)
        if prompt > longest:
            prompt, kept = chance.randint(*COMPACTED_PROMPT), 0
    return turns


def _pick(chance: random.Random, table: tuple[tuple[T, float], ...]) -> T:
    return chance.choices([one for one, _ in table], [weight for _, weight in table])[0]
