"""From a TOML table to a section: each key found, converted within its bounds, and every fault collected.

Only what one key can tell lives here; what two keys say together is `load`'s. A fault is worded for people (what is
expected, what is there), and text is never quoted unless its key takes one of a few words.
"""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Mapping
from typing import TypeVar, cast

import msgspec

from eggpool.config.findings import Findings, at, shown
from eggpool.config.keys import Key, expected, keys_of, literals, takes_text
from eggpool.config.retired import is_retired
from eggpool.config.schema import Config, Secret, Section

S = TypeVar("S", bound=Section)

_WORST_INTEGER = 2**63
_REFUSED: dict[str, str] = {
    "dashboard.store_request_content": "must be false: prompts are never stored",
}
_NOTHING = object()


def read_section(
    section: type[S],
    table: object,
    findings: Findings,
    *,
    place: str = "",
    trail: tuple[str, ...] = (),
    given: Mapping[str, object] | None = None,
) -> S | None:
    """The section that a table describes; None when it is no table or lacks a key that must be there.

    A key with a fault is recorded and takes its default, so that the faults of other keys are found too. `given` has
    values for keys that may be absent from the table.
    """
    if not isinstance(table, Mapping):
        findings.problem(place, f"expected a table, got {_got(table)}")
        return None
    keys = keys_of(section)
    values: dict[str, object] = {}
    usable = True
    for name, value in table.items():
        here, below = at(place, name), (*trail, name)
        key = keys.get(name)
        if key is None:
            _unknown(name, here, below, keys, findings)
            continue
        if key.unused:
            findings.warning(here, "is known but has no effect in this version")
        converted = _value(key, value, here, below, findings)
        if converted is not _NOTHING:
            values[name] = converted
        elif key.required:
            usable = False
    for key in keys.values():
        if key.required and key.name not in table:
            if given is None or key.name not in given:
                findings.problem(at(place, key.name), f"is missing; expected {expected(key.type)}")
                usable = False
            else:
                values[key.name] = given[key.name]
    return section(**values) if usable else None


def read_list(
    section: type[S], entries: object, findings: Findings, *, place: str, trail: tuple[str, ...]
) -> list[tuple[str, S]]:
    """The sections of an array of tables, each with its place; those that cannot be used are left out."""
    if not isinstance(entries, list):
        findings.problem(place, f"expected an array of tables, [[{place}]], got {_got(entries)}")
        return []
    found: list[tuple[str, S]] = []
    for index, entry in enumerate(entries):
        here = at(place, index)
        value = read_section(section, entry, findings, place=here, trail=(*trail, str(index)))
        if value is None:
            findings.unusable.add(here)
        else:
            found.append((here, value))
    return found


def read_named(
    section: type[S], table: object, findings: Findings, *, place: str, trail: tuple[str, ...]
) -> dict[str, S]:
    """The sections of a table of tables, by name; those that cannot be used are left out."""
    if not isinstance(table, Mapping):
        findings.problem(place, f"expected named tables, [{place}.NAME], got {_got(table)}")
        return {}
    found: dict[str, S] = {}
    for name, entry in table.items():
        given = {"id": name}
        value = read_section(section, entry, findings, place=at(place, name), trail=(*trail, name), given=given)
        if value is not None:
            found[name] = value
    return found


def read_lists(table: object, findings: Findings, *, place: str) -> dict[str, tuple[str, ...]]:
    """A table of lists of text, by name; a single text stands for a list of one. Faulty entries are left out."""
    if not isinstance(table, Mapping):
        findings.problem(place, f"expected a table, got {_got(table)}")
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for name, value in table.items():
        entries = [value] if isinstance(value, str) else value
        if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
            found[name] = tuple(entries)
        else:
            findings.problem(at(place, name), f"expected text or a list of text, got {_got(value)}")
    return found


def _value(key: Key, value: object, place: str, trail: tuple[str, ...], findings: Findings) -> object:
    if key.section is not None:
        if key.holds == "section":
            section = read_section(key.section, value, findings, place=place, trail=trail)
            return _NOTHING if section is None else section
        if key.holds == "sections":
            return tuple(entry for _, entry in read_list(key.section, value, findings, place=place, trail=trail))
        return read_named(key.section, value, findings, place=place, trail=trail)
    if key.holds == "lists":
        return read_lists(value, findings, place=place)
    converted = _convert(key, value)
    if converted is _NOTHING:
        findings.problem(
            place, _REFUSED.get(".".join(trail)) or f"expected {expected(key.type)}, got {_got(value, key)}"
        )
    return converted


def _convert(key: Key, value: object) -> object:
    """The value of a key, or nothing when it is not one that the key takes."""
    words = literals(key.type)
    if words is not None:
        return value if any(value == word and type(value) is type(word) for word in words) else _NOTHING
    if key.secret:
        return Secret(value) if isinstance(value, str) else _NOTHING
    if isinstance(value, int) and abs(value) >= _WORST_INTEGER:
        return _NOTHING
    if isinstance(value, float) and not math.isfinite(value):
        return _NOTHING
    try:
        return cast(object, msgspec.convert(value, key.type))
    except (msgspec.ValidationError, RecursionError):
        return _NOTHING


def _unknown(name: str, place: str, trail: tuple[str, ...], keys: Mapping[str, Key], findings: Findings) -> None:
    if is_retired(trail):
        findings.warning(place, "is known but has no effect in this version")
        return
    near = difflib.get_close_matches(name, keys, n=1)
    if near:
        hint = f"; did you mean '{near[0]}'?"
    else:
        homes = [f"[{home.name}]" for home in keys_of(Config).values() if _has(home, name)]
        hint = f"; it belongs in {homes[0]}" if len(homes) == 1 else ""
    findings.problem(place, f"unknown key '{shown(name)}'{hint}")


def _has(home: Key, name: str) -> bool:
    return home.holds == "section" and home.section is not None and name in keys_of(home.section)


def _got(value: object, key: Key | None = None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= _WORST_INTEGER:
        return "a number that is too large"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        # Only a key that takes one of a few words has text that cannot be a misplaced secret of full length.
        if key is not None and literals(key.type) is not None and len(value) <= 16:
            return f'"{shown(value)}"'
        if not value:
            return "empty text"
        return "other text" if key is not None and takes_text(key.type) else "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "a table"
    return "a date or time" if isinstance(value, (datetime.date, datetime.time)) else "something else"
