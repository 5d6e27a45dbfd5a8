"""The budgets that are not multiples of nginx: waiting for the first event, memory, starting up."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from bench.cases import Books, CaseResult, Figures, Sent
from bench.lab import Lab
from bench.measure import BenchError, Process, wait_until
from bench.proxies import Direct, Pool, answers, ask, eggpool

STREAMS = 2_000
STREAMS_WARM_UP = 20
LONG_STREAMS = 300
START_TIMEOUT_S = 20.0
COMMAND_TIMEOUT_S = 30.0


class Budget(msgspec.Struct, frozen=True):
    """One figure with its bound; `value` None says by `problem` why there is none."""

    name: str
    unit: str
    most: float
    value: float | None
    spread: tuple[float, float] | None = None
    problem: str | None = None

    @property
    def holds(self) -> bool | None:
        """None when it was not measured."""
        return None if self.value is None else self.value <= self.most


def of_paced(result: CaseResult) -> list[Budget]:
    """What the paced case has shown beside its cost."""
    return [
        _budget("added latency per event, paced, p50", "ms", 0.4, result.added_p50_ms["eggpool"]),
        _budget("added latency per event, paced, p99", "ms", 3.0, result.added_p99_ms["eggpool"]),
        Budget("resident memory, idle", "MB", 60, result.idle_rss_mb),
        Budget("resident memory during the paced case", "MB", 80, result.busy_rss_mb),
    ]


def first_event(lab: Lab, runs: int) -> tuple[list[Budget], tuple[str, ...]]:
    """One client alone: how much longer it waits for its first event."""
    direct = Direct(lab.upstream)
    added: list[float] = []
    pool = Pool(lab.upstream, lab.folder(), lab.proxy_core)
    try:
        pool.wait()
        books, sent = Books(pool), Sent()
        sent.add(lab.streams(pool, "first", 20).told)
        for _ in range(runs):
            base = lab.streams(direct, "first", 100).told
            told = lab.streams(pool, "first", 100).told
            sent.add(told)
            added.append((told.first_p50_us - base.first_p50_us) / 1000)
        _, problems = books.differences(sent)
    finally:
        pool.close()
    return [_budget("added time to the first event, one client, p50", "ms", 1.5, Figures.of(added))], problems


def open_streams(lab: Lab, streams: int) -> tuple[list[Budget], tuple[str, ...]]:
    """Many streams at once: whether each gets its first byte, and what each holds in memory."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    name = f"memory per open stream, {streams} at once"
    if soft < 2 * streams + 100:
        problem = f"not measured: a process may have {soft} open files here, {2 * streams + 100} are needed"
        return [Budget(name, "kB", 40, None, problem=problem)], ()
    pool = Pool(lab.upstream, lab.folder(), lab.proxy_core)
    try:
        pool.wait()
        books, sent = Books(pool), Sent()
        sent.add(lab.streams(pool, "first", STREAMS_WARM_UP).told)
        process = pool.process
        if process is None:
            raise BenchError("the pool has a process")
        before, during = process.rss_mb(), 0.0

        def look() -> None:
            nonlocal during
            during = process.rss_mb()

        told = lab.held(pool, streams, look)
        sent.add(told)
        _, problems = books.differences(sent)
    finally:
        pool.close()
    if told.opened != streams:
        problems = (*problems, f"{told.opened} of {streams} streams had a first byte")
        return [Budget(name, "kB", 40, None, problem="not all streams were opened")], problems
    return [Budget(name, "kB", 40, round((during - before) * 1000 / streams, 1))], problems


def long_streams(lab: Lab, streams: int) -> tuple[list[Budget], tuple[str, ...]]:
    """Streams of ten seconds, all open at the same time: how long the slowest wait for their first byte."""
    pool = Pool(lab.upstream, lab.folder(), lab.proxy_core)
    try:
        pool.wait()
        books, sent = Books(pool), Sent()
        sent.add(lab.streams(pool, "first", STREAMS_WARM_UP).told)
        told = lab.streams(pool, "long", streams).told
        sent.add(told)
        _, problems = books.differences(sent)
    finally:
        pool.close()
    name = f"time to the first byte, {streams} streams of ten seconds, p99"
    return [Budget(name, "ms", 100, round(told.first_p99_us / 1000, 3))], problems


def start_up(lab: Lab, times: int) -> list[Budget]:
    """From the command to the first answered request, with the model list of the last run."""
    folder = lab.folder()
    taken: list[float] = []
    for number in range(times + 1):
        began = time.monotonic()
        pool = Pool(lab.upstream, folder, lab.proxy_core)
        try:
            wait_until(_answered(pool), START_TIMEOUT_S, "the pool does not start", pool.process)
            if number:  # the first one only fills the books
                taken.append(time.monotonic() - began)
            wait_until(_listed(pool), START_TIMEOUT_S, "the pool does not list the models", pool.process)
        finally:
            pool.close()
    return [_budget("from serve to the first answered request, 100 models", "s", 0.8, Figures.of(taken))]


def commands(times: int) -> list[Budget]:
    """Commands that scripts call often, against an interpreter that does nothing; in CPU time."""
    core = next(iter(os.sched_getaffinity(0)))
    nothing, version = [], []
    for _ in range(times):
        nothing.append(_cost_ms([sys.executable, "-c", "pass"], core))
        version.append(_cost_ms([*eggpool(), "version"], core))
    ratio = statistics.median(version) / statistics.median(nothing)
    return [Budget("eggpool version, against python -c pass", "x", 5, round(ratio, 2))]


def _cost_ms(command: Sequence[str], core: int) -> float:
    before = _children_s()
    process = Process(command, core)
    try:
        if process.wait(COMMAND_TIMEOUT_S) != 0:
            raise BenchError(f"the command {' '.join(command[1:])} failed.")
    finally:
        process.close()
    return (_children_s() - before) * 1000


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _answered(pool: Pool) -> Callable[[], bool]:
    return lambda: answers(pool.place.port)


def _listed(pool: Pool) -> Callable[[], bool]:
    return lambda: ask(pool.place.port, "GET", "/v1/models")[1].count(b"another-model-") > 0


def _budget(name: str, unit: str, most: float, figures: Figures) -> Budget:
    return Budget(name, unit, most, figures.median, (figures.lowest, figures.highest))
