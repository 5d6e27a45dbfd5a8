"""Weeks of traffic in seconds: how well the pool chooses accounts, beside other ways of choosing.

    python bench/simulate.py                # seeds 1 to 20
    python bench/simulate.py --seeds 21-40

For each seed three worlds are drawn (`bench/worlds.py` says from what): plans with metered accounts behind them, the
same plans alone, and equal plans. The first two have 1 to 1.25 times the work that the plans can serve, as
`bench/capacity.py` finds it. Every strategy meets each of them. Printed are the median and the worst over the
worlds of a kind, then one line per bar; the exit code is 1 when a bar does not hold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.demand import draw
from bench.simulation import Figures, Simulation
from bench.strategies import STRATEGIES
from bench.worlds import KINDS

OURS, UNPACED, LEAST, STICKY = "ours", "affinity, then highest share", "least utilised (0.1)", "sticky"
METERED, ALONE, EQUAL = KINDS

Results = dict[tuple[str, str], list[Figures]]
"""Of each kind of world and strategy, one for each seed, in order."""


class Column(NamedTuple):
    """A figure as it is shown; `scale` is what it is multiplied with."""

    title: str
    scale: float
    decimals: int
    smaller_is_better: bool
    of: Callable[[Figures], float]


COLUMNS = (
    Column("with room", 1, 0, True, lambda one: one.refused_with_room),
    Column("waiting", 1, 0, True, lambda one: one.refused_waiting),
    Column("refused %", 100, 2, True, lambda one: one.refused),
    Column("beyond %", 100, 2, True, lambda one: one.beyond),
    Column("unspent %", 100, 1, True, lambda one: one.unspent),
    Column("cached %", 100, 1, False, lambda one: one.cached),
    Column("paid $/M", 1, 3, True, lambda one: one.paid_per_million),
    Column("cost $/M", 1, 3, True, lambda one: one.cost),
    Column("spread", 100, 1, True, lambda one: one.spread),
    Column("moves %", 100, 2, True, lambda one: one.moves),
)


class Bar(NamedTuple):
    """A bound that must hold, and how it came out; `paired` is the median over the worlds of the ratio in each."""

    words: str
    value: float
    bound: float
    at_most: bool
    paired: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        paired = "" if self.paired is None else f"; world by world {self.paired:.1f}"
        bound = f"{'at most' if self.at_most else 'at least'} {self.bound:g}"
        return f"{'holds ' if self.holds else 'FAILED'}  {self.words}: {self.value:.1f} ({bound}{paired})"


def simulate(job: tuple[str, int]) -> list[Figures]:
    """One world under every strategy."""
    world = draw(*job)
    return [Simulation(world, strategy).run() for strategy in STRATEGIES.values()]


def run(seeds: range, workers: int) -> Results:
    """Every strategy in every world."""
    jobs = [(kind, seed) for kind in KINDS for seed in seeds]
    with ProcessPoolExecutor(workers) as executor:
        played = list(executor.map(simulate, jobs))
    results: Results = {(kind, strategy): [] for kind in KINDS for strategy in STRATEGIES}
    for (kind, _), figures in zip(jobs, played, strict=True):
        for strategy, one in zip(STRATEGIES, figures, strict=True):
            results[kind, strategy].append(one)
    return results


def bars(results: Results) -> list[Bar]:
    """What must hold: the medians of the table compared, unless the words say otherwise."""

    def part(kind: str, other: str, of: Callable[[Figures], float], bound: float, words: str) -> Bar:
        """Ours as a part of the other's, in percent."""
        one, two = ([of(figures) for figures in results[kind, name]] for name in (OURS, other))
        pairs = [mine / theirs for mine, theirs in zip(one, two, strict=True) if theirs]
        value, paired = statistics.median(one) / statistics.median(two), statistics.median(pairs)
        return Bar(f"{kind}: {words}, % of {other}", 100 * value, bound, of is not _cached, 100 * paired)

    with_room = sum(one.refused_with_room for kind in KINDS for one in results[kind, OURS])
    spread = [statistics.median(one.spread for one in results[EQUAL, name]) for name in (OURS, LEAST)]
    return [
        Bar("requests refused while an eligible account had quota, all worlds", with_room, 0, True),
        *(part(kind, STICKY, _cached, 99, "cached share") for kind in KINDS),
        part(METERED, LEAST, _paid, 55, "paid per token"),
        part(METERED, UNPACED, _paid, 85, "paid per token"),
        part(ALONE, LEAST, _refused, 60, "refused"),
        part(ALONE, UNPACED, _refused, 92, "refused"),
        Bar(f"{EQUAL}: spread of utilisation beyond {LEAST}, points", 100 * (spread[0] - spread[1]), 5, True),
    ]


def _cached(one: Figures) -> float:
    return one.cached


def _paid(one: Figures) -> float:
    return one.paid_per_million


def _refused(one: Figures) -> float:
    return one.refused


def show(results: Results) -> None:
    """Print the table."""
    for kind in KINDS:
        print(f"\n{kind}{'':{32 - len(kind)}}" + "".join(f"{one.title:>16}" for one in COLUMNS))
        for strategy in STRATEGIES:
            cells = []
            for column in COLUMNS:
                values = [column.of(one) * column.scale for one in results[kind, strategy]]
                worst = max(values) if column.smaller_is_better else min(values)
                cells.append(f"{statistics.median(values):.{column.decimals}f} ({worst:.{column.decimals}f})")
            print(f"  {strategy:30}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> int:
    """Simulate, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-20", help="first and last seed, such as 1-20")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    began = time.monotonic()
    results = run(seeds, arguments.workers)
    requests = sum(one.requests for figures in results.values() for one in figures)
    show(results)
    print(
        f"\n{requests} requests in {time.monotonic() - began:.0f} s; each cell: median (worst) of {len(seeds)} worlds\n"
    )
    judged = bars(results)
    for bar in judged:
        print(bar)
    return 0 if all(bar.holds for bar in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
