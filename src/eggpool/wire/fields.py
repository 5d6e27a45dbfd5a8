"""Reading fields out of decoded JSON whose shape nobody guarantees.

Providers send numbers as text, null for zero, and objects where lists were promised. Each function here gives a sound
value or a plain default, and never raises.
"""

from __future__ import annotations

import math

import msgspec

MAX_COUNT = 2**53 - 1  # what a JSON number holds exactly


def decode(data: bytes | bytearray | memoryview) -> object:
    """The JSON value in `data`; None when it is none, or null."""
    try:
        value: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value


def decode_object(data: bytes | bytearray | memoryview) -> dict[str, object]:
    """The JSON object in `data`; empty when it is anything else."""
    return mapping(decode(data))


def decode_first_object(data: bytes) -> dict[str, object]:
    """The JSON object in `data`, or the first one of a list of them; empty when it is anything else."""
    value = decode(data)
    return mapping(value[0]) if isinstance(value, list) and value else mapping(value)


def mapping(value: object) -> dict[str, object]:
    """`value` when it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """`value` when it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: object) -> str | None:
    """`value` when it is a text, or a number written out; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def number(value: object) -> float | None:
    """`value` as a finite number, also when it is written as text; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def count(value: object) -> int:
    """`value` as a count: a whole number from 0 to 2^53 - 1, whatever was sent."""
    if value is None:
        return 0  # most of what is asked for is not there
    if type(value) is int and 0 <= value <= MAX_COUNT:
        return value
    result = number(value)
    if result is None or result <= 0:
        return 0
    return min(int(result), MAX_COUNT)


def nanodollars(value: object) -> int | None:
    """A non-negative sum in dollars as nanodollars; None when it is no such sum."""
    dollars = None if value is None else number(value)
    if dollars is None or dollars < 0 or dollars > 1e9:
        return None
    return round(dollars * 1_000_000_000)
