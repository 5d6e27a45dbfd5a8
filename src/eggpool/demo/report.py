"""Whether answers and books are right, and the tables of what went where and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from eggpool import pricing
from eggpool.demo.traffic import Asked, Told
from eggpool.domain import Outcome, UsageSource
from eggpool.store.stats import RequestRow


def faults(told: Sequence[Told], rows: Mapping[int, RequestRow], received: int) -> Iterator[str]:
    """What is not as it must be, a sentence each. `received` is how many requests the provider got."""
    for one in told:
        name = f"Request {one.asked.number} ({one.asked.kind.name})"
        if one.error is not None:
            yield f"{name} failed: {one.error}"
        elif one.status != 200:
            yield f"{name} was answered with the status {one.status}, not 200."
        elif one.text != one.asked.expected.text:
            yield f"{name} was not answered in the provider's words."
        elif not one.whole:
            yield f"{name} was answered with a stream that has no end."
        row = rows.get(one.request_id)
        if row is None:
            yield f"{name} is not in the books."
        else:
            yield from (f"{name} is booked wrongly: {fault}." for fault in _booking_faults(one.asked, row))
    if len(rows) != len(told):
        yield f"{len(told)} requests were sent, and the books have {len(rows)}."
    tries = sum(len(row.attempts) for row in rows.values())
    if tries != received:
        yield f"The provider got {received} requests, and the books have {tries} tries."
    if not any(row.record.attempts > 1 and row.record.outcome is Outcome.COMPLETED for row in rows.values()):
        yield "No request went on to a second account, though one account has run into its limit."


def _booking_faults(asked: Asked, row: RequestRow) -> Iterator[str]:
    record, usage = row.record, asked.expected.usage
    expected = (
        ("outcome", record.outcome.value, Outcome.COMPLETED.value),
        ("path", record.path, f"/v1{asked.kind.path}"),
        ("model", record.model_served, asked.kind.model.id),
        ("streamed", record.streamed, asked.kind.streamed),
        ("input tokens", record.usage.input_tokens, usage.input_tokens),
        ("output tokens", record.usage.output_tokens, usage.output_tokens),
        ("cost", record.cost, pricing.cost(usage, asked.kind.model.price, UsageSource.REPORTED)),
        ("tries", record.attempts, len(row.attempts)),
    )
    for what, booked, right in expected:
        if booked != right:
            yield f"{what} {booked} instead of {right}"


def request_table(told: Sequence[Told], rows: Mapping[int, RequestRow]) -> str:
    """What went where and why, a line for each request."""
    lines: list[tuple[str, ...]] = [
        (" #", "request", "outcome", "account", "tries", "tokens", "cost $", "1st ms", "moved on from")
    ]
    for one in told:
        row = rows.get(one.request_id)
        if row is None:
            lines.append((str(one.asked.number), one.asked.kind.name, "not booked", *[""] * 6))
            continue
        record = row.record
        lines.append(
            (
                str(one.asked.number),
                one.asked.kind.name,
                record.outcome.value,
                _name(record.account),
                str(record.attempts),
                f"{record.usage.input_tokens}+{record.usage.output_tokens}",
                _dollars(record.cost.nanodollars),
                _milliseconds(record.first_byte_us),
                ", ".join(f"{_name(one.account)}: {one.error_class}" for one in row.attempts if one.error_class),
            )
        )
    return _table(lines, right={0, 4, 5, 6, 7})


def account_table(names: Sequence[str], rows: Mapping[int, RequestRow]) -> str:
    """Which account did what."""
    lines = [("account", "answered", "refused", "tokens in", "tokens out", "cost $", "median 1st ms")]
    for name in names:
        records = [row.record for row in rows.values() if _name(row.record.account) == name]
        tries = [attempt for row in rows.values() for attempt in row.attempts if _name(attempt.account) == name]
        first = [record.first_byte_us for record in records if record.first_byte_us is not None]
        lines.append(
            (
                name,
                str(len(records)),
                str(sum(attempt.error_class is not None for attempt in tries)),
                str(sum(record.usage.input_tokens for record in records)),
                str(sum(record.usage.output_tokens for record in records)),
                _dollars(sum(record.cost.nanodollars or 0 for record in records)),
                _milliseconds(round(median(first)) if first else None),
            )
        )
    return _table(lines, right={1, 2, 3, 4, 5, 6})


def _table(lines: Sequence[tuple[str, ...]], *, right: set[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(row)]
        for row in (zip(line, widths, strict=True) for line in lines)
    ]
    return "\n".join(" ".join(cells).rstrip() for cells in padded) + "\n"


def _name(account: str | None) -> str:
    return "-" if account is None else account.partition("/")[2]


def _dollars(nanodollars: int | None) -> str:
    return "unknown" if nanodollars is None else f"{nanodollars / 1e9:.6f}"


def _milliseconds(microseconds: int | None) -> str:
    return "-" if microseconds is None else f"{microseconds / 1000:.1f}"


def verdict(told: Sequence[Told], wrong: Sequence[str]) -> str:
    if wrong:
        return "\n".join(["This is not as it must be:", *(f"  {fault}" for fault in wrong)])
    return f"All {len(told)} requests were answered rightly and are in the books with the right\nusage and cost."
