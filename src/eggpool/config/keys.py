"""What keys a section has, read off the schema: name, type, bounds, default, help, and both in words.

Only the description of keys lives here; `table` reads values by it and `reference` renders it.
"""

from __future__ import annotations

import functools
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from eggpool.config.schema import (
    ACCOUNT_NAME_PATTERN,
    KEY_HASH_PATTERN,
    PROVIDER_ID_PATTERN,
    TIME_OF_DAY_PATTERN,
    Secret,
    Section,
)

Holds = Literal["value", "section", "sections", "named", "lists"]
"""A plain value, a table, an array of tables, a table of named tables, or a table of named lists of text."""

PATTERN_WORDS = {
    PROVIDER_ID_PATTERN: "at most 64 letters, digits, '-' and '_', beginning with a letter or digit",
    ACCOUNT_NAME_PATTERN: "a name without white space and '/', of at most 64 characters",
    KEY_HASH_PATTERN: "'sha256:' and 64 hexadecimal digits",
    TIME_OF_DAY_PATTERN: 'a time of day such as "08:30"',
    "^/": "a path that begins with '/'",
}


class Key(msgspec.Struct, frozen=True):
    """One key of a section. `type` leaves None out, which TOML cannot say; `default` is msgspec.NODEFAULT for a key
    that must be there."""

    name: str
    type: Any
    help: str
    holds: Holds
    section: type[Section] | None
    secret: bool
    unused: bool
    default: object

    @property
    def required(self) -> bool:
        """Whether a section without this key cannot be used."""
        return self.default is msgspec.NODEFAULT


@functools.cache
def keys_of(section: type[Section]) -> dict[str, Key]:
    """The keys of a section by name, in the order of the schema.

    A field without help that leads to no section is none: the loader fills it in.
    """
    hints = get_type_hints(section, include_extras=True)
    found: dict[str, Key] = {}
    for field in msgspec.structs.fields(section):
        hint = hints[field.name]
        metas = _metas(hint)
        holds, inner = _holds(hint)
        text = next((meta.description for meta in metas if meta.description), "")
        if not text and inner is None:
            continue
        default: object = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        found[field.name] = Key(
            name=field.name,
            type=_without_none(hint),
            help=text or (inner.__doc__ or "").partition("\n")[0],
            holds=holds,
            section=inner,
            secret=Secret in _alternatives(hint),
            unused=any((meta.extra or {}).get("unused") for meta in metas),
            default=default,
        )
    return found


def expected(hint: Any) -> str:
    """The values that a type takes, as words: "a whole number from 0 to 65535"."""
    metas = _metas(hint)
    kinds = [_kind(kind) for kind in _alternatives(hint)]
    for meta in metas:
        if meta.pattern is not None:
            return PATTERN_WORDS[meta.pattern]
    return " or ".join(kinds) + _bounds(metas)


def literals(hint: Any) -> tuple[object, ...] | None:
    """The only values that a type takes, or None when it is no enumeration."""
    alternatives = _alternatives(hint)
    if len(alternatives) == 1 and get_origin(alternatives[0]) is Literal:
        return get_args(alternatives[0])
    return None


def takes_text(hint: Any) -> bool:
    """Whether text of some form is among the values that a type takes."""
    return str in _alternatives(hint)


def _kind(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        values = [f'"{value}"' if isinstance(value, str) else str(value).lower() for value in get_args(kind)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if origin is tuple:
        entry = get_args(kind)[0]
        return "a list of text" if entry is str else "a list of " + _kind(entry).removeprefix("one of ")
    if origin is dict:
        return "a table"
    return {str: "text", Secret: "text", bool: "true or false", int: "a whole number", float: "a number"}[kind]


def _bounds(metas: list[msgspec.Meta]) -> str:
    words = ""
    for meta in metas:
        if meta.ge is not None and meta.le is not None:
            words += f" from {meta.ge} to {meta.le}"
        elif meta.ge is not None:
            words += f" of at least {meta.ge}"
        if meta.gt is not None:
            words += f" above {meta.gt}"
        if meta.min_length:
            words += ", not empty"
    return words


def _metas(hint: Any) -> list[msgspec.Meta]:
    if get_origin(hint) is not Annotated:
        return []
    return [meta for meta in get_args(hint)[1:] if isinstance(meta, msgspec.Meta)]


def _alternatives(hint: Any) -> list[Any]:
    """The types of a union without None, and without annotations."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(bare) in (Union, types.UnionType):
        return [_alternatives(part)[0] for part in get_args(bare) if part is not type(None)]
    return [bare]


def _without_none(hint: Any) -> Any:
    alternatives, metas = _alternatives(hint), _metas(hint)
    bare = alternatives[0] if len(alternatives) == 1 else Union[tuple(alternatives)]  # noqa: UP007 - made at run time
    return Annotated[(bare, *metas)] if metas else bare


def _holds(hint: Any) -> tuple[Holds, type[Section] | None]:
    kind = _alternatives(hint)[0]
    if isinstance(kind, type) and issubclass(kind, Section):
        return "section", kind
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and _is_section(arguments[0]):
        return "sections", arguments[0]
    if origin is dict and _is_section(arguments[1]):
        return "named", arguments[1]
    if origin is dict and get_origin(arguments[1]) is tuple:
        return "lists", None
    return "value", None


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
