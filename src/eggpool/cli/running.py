"""What commands about the running server share: asking it, and showing times and tables to people."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import click

from eggpool.cli import config_file
from eggpool.control import client
from eggpool.control.protocol import Request
from eggpool.engine.insight import RestStatus

T = TypeVar("T")

WORDS = {"provider": "its provider's word", "guess": "our guess", "user": "your word"}

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def ask(option: str | None, request: Request, expected: type[T]) -> T:
    """The answer of the server that runs with the configuration. Raises what `client.ask` raises, and ConfigError."""
    path = config_file.locate(option, os.environ)
    config = config_file.read(path, os.environ, upstream_keys=False).config
    return client.ask(Path(str(config.database.path)), request, expected)


def duration(seconds: float) -> str:
    """A length of time in its two largest units: "2h 5m", "0s"."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in _UNITS:
        if left >= length and len(parts) < 2:
            parts.append(f"{left // length}{unit}")
            left %= length
        elif parts:
            break
    return " ".join(parts) or "0s"


def clock_time(at_ms: int, now_ms: int) -> str:
    """An instant in local time, with its date when that is another day."""
    at, now = time.localtime(at_ms / 1000), time.localtime(now_ms / 1000)
    return time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%Y-%m-%d %H:%M", at)


def rest_words(rest: RestStatus) -> str:
    """Why something rests and for how long yet, in a few words."""
    what = {"account": "", "model": f"{rest.name}: ", "provider": f"provider {rest.name}: "}[rest.scope]
    why = "by hand" if rest.kind == "by_hand" else f"{rest.kind}, {WORDS[rest.word]}"
    ends = {"resting": f"{duration(rest.left_s)} left", "due": "over, not tried yet", "trial": "being tried"}
    return f"{what}{why}, {ends[rest.state]}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns; those in which nothing stands are left out, and what no terminal should get is escaped."""
    used = [number for number in range(len(head)) if any(row[number] for row in rows)]
    lines = [[head[number] for number in used], *([_plain(row[number]) for number in used] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(used))]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def _plain(text: str) -> str:
    """Names come from other machines: none of them may steer the terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
