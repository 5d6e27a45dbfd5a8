"""The table for people and the file for programs, from the same results."""

from __future__ import annotations

import msgspec

from bench.cases import CaseResult, Figures
from bench.others import Budget


class Setting(msgspec.Struct, frozen=True):
    """Under what the figures came about; nothing that names a machine."""

    date: str
    eggpool: str
    python: str
    nginx: str | None
    load: str
    cpu_count: int
    runs: int
    quick: bool


def ratio(result: CaseResult, name: str = "eggpool") -> float | None:
    """The cost as a multiple of nginx's; None without nginx."""
    if "nginx" not in result.cpu_us or name not in result.cpu_us:
        return None
    return round(result.cpu_us[name].median / result.cpu_us["nginx"].median, 2)


def verdict(result: CaseResult) -> str:
    """Whether the budget holds."""
    multiple = ratio(result)
    if multiple is None:
        return "no nginx"
    if multiple <= result.case.target:
        return "on target"
    return "holds" if multiple <= result.case.limit else "OVER"


def failures(results: list[CaseResult], budgets: list[Budget], problems: list[str]) -> list[str]:
    """What makes the measurement fail: limits that do not hold, and books that differ."""
    found = [
        f"{result.case.name}: {ratio(result)} x nginx is over the limit of {result.case.limit:g}"
        for result in results
        if verdict(result) == "OVER"
    ]
    found += [f"{result.case.name}: {problem}" for result in results for problem in result.problems]
    found += [
        f"{budget.name}: {budget.value:g} {budget.unit} is over {budget.most:g} {budget.unit}"
        for budget in budgets
        if budget.holds is False and budget.value is not None
    ]
    return found + problems


def table(results: list[CaseResult], budgets: list[Budget]) -> str:
    """At most 100 columns."""
    lines: list[str] = []
    if results:
        peer = any("peer" in result.cpu_us for result in results)
        head = f"{'case':<11}{'per':<9}{'nginx µs':<20}{'eggpool µs':<20}{'ratio':>6}{'target':>7}{'limit':>6}  budget"
        lines += [head + "     peer µs" if peer else head, ""]
        lines += [_case_line(result) for result in results]
        lines.append("")
    width = max((len(budget.name) for budget in budgets), default=0)
    for budget in budgets:
        if budget.value is None:
            lines.append(f"{budget.name:<{width}}  {budget.problem}")
            continue
        spread = f"({budget.spread[0]:g}-{budget.spread[1]:g})" if budget.spread else ""
        told = f"{budget.value:>7g} {budget.unit:<3}{spread}"
        holds = "holds" if budget.holds else "OVER"
        lines.append(f"{budget.name:<{width}}  {told:<27}{budget.most:>5g} {budget.unit:<3} {holds}")
    return "\n".join(line.rstrip() for line in lines)


def to_json(setting: Setting, results: list[CaseResult], budgets: list[Budget], failed: list[str]) -> bytes:
    """The same, with every run."""
    told = {
        "setting": setting,
        "cases": {
            result.case.name: {
                "unit": result.case.unit,
                "cpu_us": result.cpu_us,
                "per_second": result.per_second,
                "added_p50_ms": result.added_p50_ms,
                "added_p99_ms": result.added_p99_ms,
                "ratio": ratio(result),
                "target": result.case.target,
                "limit": result.case.limit,
                "budget": verdict(result),
                "booked_requests": result.booked,
            }
            for result in results
        },
        "others": [{**msgspec.structs.asdict(budget), "holds": budget.holds} for budget in budgets],
        "failed": failed,
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"


def _case_line(result: CaseResult) -> str:
    case, multiple = result.case, ratio(result)
    line = (
        f"{case.name:<11}{case.unit:<9}{_spread(result.cpu_us.get('nginx')):<20}"
        f"{_spread(result.cpu_us.get('eggpool')):<20}{'-' if multiple is None else f'{multiple:g}':>6}"
        f"{case.target:>7g}{case.limit:>6g}  {verdict(result):<9}"
    )
    return line + "  " + _spread(result.cpu_us["peer"]) if "peer" in result.cpu_us else line


def _spread(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    return f"{_short(figures.median)} ({_short(figures.lowest)}-{_short(figures.highest)})"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
