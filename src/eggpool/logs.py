"""Log lines on standard error: for people or as JSON, and never with a secret in them.

Redaction happens where a line is formatted, so it costs nothing while a level is off, and covers the text of
exceptions too. `logging` is one per process, and so are the level and the secrets kept here.
"""

from __future__ import annotations

import contextlib
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
LONGEST_PATH = 200  # characters of a path that a line shows
MOST_PATHS = 1000  # whose cleaned form is kept

# Libraries tell at INFO what we tell ourselves, and at DEBUG what may hold headers.
FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio", "httptools")

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


class AccessLog:
    """One line for each request, written some at a time.

    A line costs a fraction of what `logging` takes for it: its parts are known to be harmless, except the path, which
    is cleaned once for each that is seen. Lines wait until `flush`; the owner calls it soon after the first one.
    """

    def __init__(self, log_format: Format, stream: TextIO | None = None) -> None:
        self._json = log_format == "json"
        self._stream = stream
        self._lines: list[str] = []
        self._paths: dict[str, str] = {}
        self._second = 0
        self._stamp = ("", "")

    def add(self, at_ms: int, method: str, path: str, account: str, status: int, request_id: str, took_us: int) -> bool:
        """Note a request that ended at `at_ms`; True for the first line since the last flush."""
        path = path[:LONGEST_PATH]
        shown = self._paths.get(path)
        if shown is None:
            shown = self._clean(path)
        at = self._at(at_ms)
        if self._json:
            line = (
                f'{{"at":"{at}","level":"INFO","logger":"eggpool.access","method":"{method}","path":{shown},'
                f'"account":"{account}","status":{status},"request_id":"{request_id}","took_ms":{took_us / 1000:.1f}}}'
            )
        else:
            line = (
                f"{at} INFO     eggpool.access: {method} {shown} {account} {status} {request_id} {took_us / 1000:.1f}ms"
            )
        self._lines.append(line)
        return len(self._lines) == 1

    def flush(self) -> None:
        """Write the lines that wait. A standard error that is gone loses them, as it loses all others."""
        lines, self._lines = self._lines, []
        if lines:
            stream = self._stream or sys.stderr
            with contextlib.suppress(OSError, ValueError):
                stream.write("\n".join(lines) + "\n")
                stream.flush()

    def _clean(self, path: str) -> str:
        shown = _CONTROL.sub(lambda match: repr(match[0])[1:-1], redact(path))
        shown = msgspec.json.encode(_encodable(shown)).decode() if self._json else shown
        if len(self._paths) < MOST_PATHS:
            self._paths[path] = shown
        return shown

    def _at(self, at_ms: int) -> str:
        """The instant as the other lines write it; its date and zone are worked out once a second."""
        second, millisecond = divmod(at_ms, 1000)
        if second != self._second:
            at = datetime.fromtimestamp(second, UTC)
            stamp = at.isoformat() if self._json else at.astimezone().isoformat()
            self._second = second
            self._stamp = (stamp[:19], "Z" if self._json else stamp[19:])
        return f"{self._stamp[0]}.{millisecond:03}{self._stamp[1]}"
