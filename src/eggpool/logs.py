"""Log lines on standard error: for people or as JSON, and never with a secret in them.

Redaction happens where a line is formatted, so it costs nothing while a level is off, and covers the text of
exceptions too. `logging` is one per process, and so are the level and the secrets kept here.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Literal, TextIO
from urllib.parse import quote

import msgspec

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Format = Literal["text", "json"]

SHORTEST_SECRET = 8  # a shorter one would blot out ordinary words, and no key is that short
MASK = "***"

# Libraries tell at INFO what we tell ourselves, and at DEBUG what may hold headers.
FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "aiohttp", "asyncio", "httptools")

_HEADER = r"(?i)\b(x-api-key|api[-_]key|(?:proxy-)?authorization|cookie)([\"']?\s*[:=]\s*[\"']?)"
_GENERIC: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(_HEADER + r"(?:[a-z]+\s+)?[^\s\"',;&]{6,}"), rf"\1\2{MASK}"),
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {MASK}"),
    (re.compile(r"\b(sk|gsk|xai|pk|rk|csk|nvapi|ghp|hf|r8)[-_][A-Za-z0-9_-]{8,}"), rf"\1-{MASK}"),
    (re.compile(r"\bep_[0-9A-Za-z]{8,}"), f"ep_{MASK}"),
    (re.compile(r"\bAIza[0-9A-Za-z_-]{20,}"), f"AIza{MASK}"),
    (re.compile(r"(?<=://)[^\s/@]+@"), f"{MASK}@"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class _Secrets:
    """The registered secrets as one pattern, which is replaced as a whole so that readers need no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: frozenset[str] = frozenset()
        self.pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        """Hide `value`, and what it looks like inside a URL and in a `repr`."""
        if len(value) < SHORTEST_SECRET:
            return
        new = {value, quote(value, safe="", errors="replace"), repr(value)[1:-1]}
        with self._lock:
            if new <= self._values:
                return
            self._values |= new
            longest_first = sorted(self._values, key=lambda form: (-len(form), form))
            self.pattern = re.compile("|".join(re.escape(form) for form in longest_first))


_secrets = _Secrets()


def register_secret(value: str) -> None:
    """From now on no line shows `value`. One of fewer than eight characters is not taken."""
    _secrets.add(value)


def redact(text: str) -> str:
    """The text without registered secrets and without what looks like a key, a token or a password in a URL."""
    pattern = _secrets.pattern
    if pattern is not None:
        text = pattern.sub(MASK, text)
    for generic, replacement in _GENERIC:
        text = generic.sub(replacement, text)
    return text


class TextFormatter(logging.Formatter):
    """One line for each record: local time, level, where, what. A line end inside the message cannot make a new one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the exception when there is one."""
        at = datetime.fromtimestamp(record.created).astimezone()
        message = _CONTROL.sub(lambda match: repr(match[0])[1:-1], record.getMessage())
        line = f"{at.isoformat(timespec='milliseconds')} {record.levelname:<8} {record.name}: {message}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return redact(line)


class JsonFormatter(logging.Formatter):
    """One JSON object for each record: at (UTC), level, logger, message, and exception when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line."""
        at = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _encodable(redact(record.getMessage())),
        }
        if record.exc_info:
            fields["exception"] = _encodable(redact(self.formatException(record.exc_info)))
        return msgspec.json.encode(fields).decode()


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that a second `configure` finds it."""


def configure(level: Level, log_format: Format, stream: TextIO | None = None) -> None:
    """Send all log lines of the process to `stream`, by default standard error. May be called again."""
    # A broken standard error must not print a traceback for every line that could not be written.
    logging.raiseExceptions = False
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    least = max(logging.WARNING, logging.getLevelNamesMapping()[level])
    for name in FOREIGN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(least)
