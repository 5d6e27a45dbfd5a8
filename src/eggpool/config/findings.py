"""What is found while a configuration is read: problems, warnings, and the places they are at.

A place is the path of a key as one would write it: `providers.openai.accounts[0].api_key_env`. Nothing that is
recorded here may hold the value of a key that can be secret.
"""

from __future__ import annotations

import re

_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SHOWN = 40


class Findings:
    """Problems and warnings, in the order in which they were found.

    `unusable` has the places of list entries that were left out, so that the others can still be told by number.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.unusable: set[str] = set()

    def problem(self, place: str, sentence: str) -> None:
        """Something that must be mended before the configuration can be used."""
        self.problems.append(f"{place}: {sentence}")

    def warning(self, place: str, sentence: str) -> None:
        """Something that a person should know about."""
        self.warnings.append(f"{place}: {sentence}")

    def report(self, place: str, sentence: str, *, grave: bool) -> None:
        """A problem when it is grave, else a warning."""
        (self.problem if grave else self.warning)(place, sentence)

    def faulty(self, place: str) -> bool:
        """Whether a problem was found at a place or below it."""
        return any(line.startswith((place + ":", place + ".", place + "[")) for line in self.problems)

    def places(self, place: str, count: int) -> list[str]:
        """The places of the `count` usable entries of the list at `place`."""
        found: list[str] = []
        number = 0
        while len(found) < count:
            here = at(place, number)
            if here not in self.unusable:
                found.append(here)
            number += 1
        return found


def at(place: str, key: str | int) -> str:
    """The place of a key or of a list's entry below another place ("" is the file itself)."""
    if isinstance(key, int):
        return f"{place}[{key}]"
    name = key if _BARE.match(key) else '"' + shown(key) + '"'
    return f"{place}.{name}" if place else name


def shown(text: str) -> str:
    """Text of the file, shortened and without control characters, fit for a message."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= _SHOWN else clean[: _SHOWN - 3] + "..."
