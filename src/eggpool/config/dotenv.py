"""The `.env` file beside the configuration: text in, variables out.

`NAME=value` lines, comments, an optional `export`, single quotes (literal) and double quotes (with `\\n`, `\\t`,
`\\"`, `\\\\` and `\\$`). Nothing is interpolated: a key may contain `$`.
"""

from __future__ import annotations

import re

from eggpool.errors import ConfigError

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)\Z")
_SINGLE = re.compile(r"'([^']*)'[ \t]*(?:#.*)?\Z")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"[ \t]*(?:#.*)?\Z')
_COMMENT = re.compile(r"(?:^|[ \t]+)#.*\Z")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def parse_dotenv(text: str, *, place: str = ".env") -> dict[str, str]:
    """The variables of a `.env` file; of two with one name, the later holds.

    Raises ConfigError with one line for each line that cannot be read; values are never quoted in it. `place` is what
    the file is called in it.
    """
    found, problems = scan_dotenv(text, place=place)
    if problems:
        raise ConfigError(problems)
    return found


def scan_dotenv(text: str, *, place: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables of a `.env` file, and what is wrong with it.

    A variable whose quotes are broken is there, too, with what stands after `=`: fit to go on looking for problems.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.match(stripped)
        if match is None:
            problems.append(f"{place} line {number}: expected NAME=value")
            continue
        name, rest = match.groups()
        value = _value(rest)
        if value is None:
            problems.append(f"{place} line {number}: the quotes of {name} are not closed, or text follows them")
        found[name] = rest if value is None else value
    return found, tuple(problems)


def _value(rest: str) -> str | None:
    if rest.startswith("'"):
        single = _SINGLE.match(rest)
        return single.group(1) if single else None
    if rest.startswith('"'):
        double = _DOUBLE.match(rest)
        return _ESCAPE.sub(lambda hit: _ESCAPED.get(hit[1], hit[1]), double.group(1)) if double else None
    return _COMMENT.sub("", rest).rstrip()
