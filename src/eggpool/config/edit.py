"""Changes to the text of a configuration that keep its comments, order and line ends.

Text in, text out; tomlkit ends here. Each change is read back before it is returned: what the text means afterwards is
exactly what it meant before plus the change, or a ConfigError says that the file must be edited by hand.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

from eggpool.config.load import parse
from eggpool.errors import ConfigError

Value = str | int | float | bool | list[str]
Change = Callable[[Any], None]
"""Applied twice: to plain tables, which says what is wanted, and to the document with its comments."""

_PART = re.compile(r'(?:([A-Za-z0-9_-]+)|"([^"\\]*)"|\'([^\']*)\')((?:\[\d{1,9}\])*)(?:\.(?=.)|\Z)')
_INDEX = re.compile(r"\[(\d+)\]")


def set_value(text: str, dotted_path: str, value: Value) -> str:
    """The text with one value set, such as `server.port` or `providers.openai.accounts[0].weight`.

    Tables that are missing on the way are made. Raises ConfigError when the path leads nowhere.
    """
    path = split_path(dotted_path)
    return _changed(text, lambda tables: _put(tables, path, value))


def add_account(text: str, provider_table: Mapping[str, object], account: Mapping[str, object]) -> str:
    """The text with one more account at the provider whose id stands in `provider_table`.

    A provider that has no table yet gets this one, with `routing_priority` written out.
    """
    name = str(provider_table["id"])
    provider = {**provider_table, "routing_priority": provider_table.get("routing_priority", 0)}
    accounts_path: list[str | int] = ["providers", name, "accounts"]
    providers = parse(_unix(text)).get("providers")
    known = isinstance(providers, dict) and name in providers

    def change(tables: Any) -> None:
        if not known:
            _put(tables, ["providers", name], copy.deepcopy(provider))
        _append(tables, accounts_path, account)

    if known:
        try:
            return _changed(text, change)
        except ConfigError:
            # Accounts that stand apart from each other; one more at the end of the file means the same.
            block = _block(lambda tables: _append(tables, accounts_path, account))
    else:
        block = _block(change)
    before = _unix(text).rstrip("\n")
    return _verified(text, f"{before}\n\n{block}" if before else block, change)


def split_path(dotted_path: str) -> list[str | int]:
    """The parts of a dotted path; a place in a list is an integer. Raises ConfigError when it is none."""
    parts: list[str | int] = []
    position = 0
    while position < len(dotted_path):
        match = _PART.match(dotted_path, position)
        if match is None:
            break
        parts.append(next(group for group in match.groups()[:3] if group is not None))
        parts.extend(int(index) for index in _INDEX.findall(match[4]))
        position = match.end()
    if not parts or position < len(dotted_path):
        raise ConfigError(("the key must be a path such as server.port",))
    return parts


def _block(change: Change) -> str:
    """The text of a document that holds nothing but a change."""
    document = tomlkit.document()
    document["providers"] = tomlkit.table(is_super_table=True)
    change(document)
    return re.sub(r"\n+(?=\[)", "\n\n", document.as_string()).lstrip("\n")


def _changed(text: str, change: Change) -> str:
    """The text after a change to its document."""
    unix = _unix(text)
    parse(unix)  # its complaints name a line
    if unix and not unix.endswith("\n"):
        unix += "\n"
    try:
        document = tomlkit.parse(unix)
        change(document)
        result = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, ValueError, AttributeError):
        raise _by_hand() from None
    return _verified(text, result, change)


def _verified(text: str, result: str, change: Change) -> str:
    """The result, with the line ends of `text`, once it means what was wanted."""
    wanted = parse(_unix(text))
    change(wanted)
    try:
        meant = parse(result)
    except ConfigError:
        raise _by_hand() from None
    if meant != wanted:
        raise _by_hand()
    result = result.rstrip("\n") + "\n"
    return result.replace("\n", "\r\n") if text.count("\r\n") * 2 > text.count("\n") else result


def _put(tables: Any, path: list[str | int], value: object) -> None:
    *way, last = path
    home = _walk(tables, way)
    if isinstance(last, int):
        if not isinstance(home, list) or last >= len(home):
            raise _nowhere()
    elif not hasattr(home, "setdefault"):
        raise _nowhere()
    home[last] = value


def _append(tables: Any, path: list[str | int], entry: Mapping[str, object]) -> None:
    *way, last = path
    home = _walk(tables, way)
    entries = home.get(last)
    if entries is None:
        entries = tomlkit.aot() if isinstance(home, tomlkit.container.Container | tomlkit.items.AbstractTable) else []
        home[last] = entries
        entries = home[last]
    if not isinstance(entries, list):
        raise _nowhere()
    if isinstance(entries, AoT):
        if len(entries) and not entries[-1].as_string().endswith("\n\n"):
            entries[-1].add(tomlkit.nl())
        table = tomlkit.table()
        table.update(entry)
        table.add(tomlkit.nl())
        entries.append(table)
    else:
        entries.append(dict(entry))


def _walk(tables: Any, way: list[str | int]) -> Any:
    home = tables
    for part in way:
        if isinstance(part, int):
            if not isinstance(home, list) or part >= len(home):
                raise _nowhere()
            home = home[part]
        elif hasattr(home, "setdefault"):
            home = home.setdefault(part, {})
        else:
            raise _nowhere()
    return home


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _nowhere() -> ConfigError:
    return ConfigError(("the key leads through a value that is no table, or past the end of a list",))


def _by_hand() -> ConfigError:
    return ConfigError(("the file is written in a way that cannot be changed safely here; edit it by hand",))
