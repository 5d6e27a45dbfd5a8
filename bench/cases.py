"""The cases whose cost is compared with nginx, and the check that each request is in the books."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from bench.lab import Lab, Sample, Told
from bench.measure import BenchError
from bench.proxies import Pool, Proxy
from bench.upstream import OUTPUT_TOKENS

PACED_STREAMS = 150
WARM_UP_S = 0.5


class Case(msgspec.Struct, frozen=True):
    """What is sent, per what its cost is told, and the budget as a multiple of nginx's cost."""

    name: str
    unit: str
    connections: int
    target: float
    limit: float


CASES = (
    Case("small", "request", 32, 8, 12),
    Case("burst", "stream", 16, 7, 8),
    Case("paced", "event", PACED_STREAMS, 2.2, 2.8),
    Case("large", "request", 8, 3.5, 4.5),
    Case("translated", "event", PACED_STREAMS, 4, 6),  # Messages, of a provider that speaks Chat Completions
    Case("reversed", "event", PACED_STREAMS, 4, 6),  # and the other way round
)


class Figures(msgspec.Struct, frozen=True):
    """One figure of several runs."""

    median: float
    lowest: float
    highest: float
    runs: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figures:
        """Of at least one value."""
        rounded = tuple(round(value, 3) for value in values)
        return cls(round(statistics.median(values), 3), min(rounded), max(rounded), rounded)


class CaseResult(msgspec.Struct, frozen=True):
    """CPU time in microseconds each, by proxy; of the paced case also how late events came, in milliseconds.

    How late nginx is tells how quiet the machine was.
    """

    case: Case
    cpu_us: dict[str, Figures]
    per_second: dict[str, Figures]
    idle_rss_mb: float
    busy_rss_mb: float
    added_p50_ms: dict[str, Figures]
    added_p99_ms: dict[str, Figures]
    booked: int
    problems: tuple[str, ...]


class Sent:
    """What one proxy was sent."""

    def __init__(self) -> None:
        self.completed = self.failed = self.cut = 0

    def add(self, told: Told) -> None:
        """One more piece of load."""
        self.completed += told.completed
        self.failed += told.failed
        self.cut += told.cut


class Books:
    """The books of a running pool, from here on."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._before = self._read()

    def differences(self, sent: Sent) -> tuple[int, tuple[str, ...]]:
        """How many requests were booked, and what is wrong with that. Those that were cut may be there or not."""
        total, good, tokens = (now - before for now, before in zip(self._read(), self._before, strict=True))
        problems = []
        at_least, at_most = sent.completed, sent.completed + sent.cut
        if not at_least + sent.failed <= total <= at_most + sent.failed:
            problems.append(f"{total} requests are in the books, {_range(at_least + sent.failed, sent.cut)} were sent")
        if not at_least <= good <= at_most:
            problems.append(f"{good} requests are booked as completed, {_range(at_least, sent.cut)} were")
        if not at_least * OUTPUT_TOKENS <= tokens <= at_most * OUTPUT_TOKENS:
            told = _range(at_least * OUTPUT_TOKENS, sent.cut * OUTPUT_TOKENS)
            problems.append(f"{tokens} output tokens are booked, {told} were told")
        return total, tuple(problems)

    def _read(self) -> tuple[int, int, int]:
        summary = self._pool.summary()
        return tuple(  # type: ignore[return-value]
            msgspec.convert(summary[name], int)
            for name in ("total_requests", "successful_requests", "total_output_tokens")
        )


def run(lab: Lab, case: Case, runs: int, seconds: float) -> CaseResult:
    """Measure a case: all proxies in turn, so many times, then the books."""
    paced = case.name == "paced"
    protocol = "anthropic" if case.name == "reversed" else "openai"
    with lab.proxies(direct=paced, protocol=protocol) as proxies:
        pool = proxies[-1]
        if not isinstance(pool, Pool) or pool.process is None:
            raise BenchError("the pool is the last of the proxies")
        books = Books(pool)
        sent = {proxy.name: Sent() for proxy in proxies}
        idle_rss_mb = pool.process.rss_mb()
        for proxy in proxies:
            if case.unit != "event":
                sent[proxy.name].add(lab.closed(proxy, case.name, case.connections, WARM_UP_S, own=True).told)
        samples: dict[str, list[Sample]] = {proxy.name: [] for proxy in proxies}
        for _ in range(runs):
            for proxy in proxies:
                sample = _measure(lab, case, proxy, seconds)
                samples[proxy.name].append(sample)
                sent[proxy.name].add(sample.told)
        booked, problems = books.differences(sent[pool.name])
    failed = tuple(f"{name}: {tally.failed} requests failed" for name, tally in sent.items() if tally.failed)
    measured = {name: taken for name, taken in samples.items() if name != "direct"}
    return CaseResult(
        case=case,
        cpu_us={name: Figures.of([_each(case, one) for one in taken]) for name, taken in measured.items()},
        per_second={
            name: Figures.of([_count(case, one) / one.seconds for one in taken]) for name, taken in measured.items()
        },
        idle_rss_mb=round(idle_rss_mb, 1),
        busy_rss_mb=round(max(one.highest_rss_mb for one in samples[pool.name]), 1),
        added_p50_ms={name: _added(samples, name, "p50_us") for name in measured} if paced else {},
        added_p99_ms={name: _added(samples, name, "p99_us") for name in measured} if paced else {},
        booked=booked,
        problems=problems + failed,
    )


def _measure(lab: Lab, case: Case, proxy: Proxy, seconds: float) -> Sample:
    if case.unit == "event":
        return lab.streams(proxy, case.name, case.connections)
    return lab.closed(proxy, case.name, case.connections, seconds)


def _count(case: Case, sample: Sample) -> int:
    return max(1, sample.told.events if case.unit == "event" else sample.told.completed)


def _each(case: Case, sample: Sample) -> float:
    return sample.cpu_us / _count(case, sample)


def _added(samples: dict[str, list[Sample]], name: str, figure: str) -> Figures:
    """How much later than without a proxy, in milliseconds, run by run."""
    pairs = zip(samples[name], samples["direct"], strict=True)
    return Figures.of([(getattr(one.told, figure) - getattr(direct.told, figure)) / 1000 for one, direct in pairs])


def _range(least: int, more: int) -> str:
    return f"{least} to {least + more}" if more else str(least)
