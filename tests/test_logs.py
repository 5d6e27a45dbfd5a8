"""Log lines: readable, parseable, and without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.logs import FOREIGN, AccessLog, Format, Level, configure, redact, register_secret

log = logging.getLogger("eggpool.tests.logs")


class Lines(io.StringIO):
    """A stream that takes log lines."""

    def configured(self, level: Level, log_format: Format) -> Lines:
        """The stream after `configure` has been told of it."""
        configure(level, log_format, self)
        return self


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    levels = {name: logging.getLogger(name).level for name in FOREIGN}
    yield Lines()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_text_lines_say_when_how_bad_where_and_what(lines: Lines) -> None:
    """A line for people holds the time with its offset, the level, the logger and the message."""
    lines.configured("INFO", "text")
    log.warning("account %s rests", "a/b")
    log.debug("not this one")
    assert lines.getvalue().endswith(" WARNING  eggpool.tests.logs: account a/b rests\n")
    assert lines.getvalue().count("\n") == 1


def test_json_lines_are_objects(lines: Lines) -> None:
    """A line for programs is one JSON object, whatever the message contains."""
    lines.configured("DEBUG", "json")
    log.debug('a "quote"\nand a \ud800 surrogate')
    entry = json.loads(lines.getvalue())
    assert entry["level"] == "DEBUG"
    assert entry["logger"] == "eggpool.tests.logs"
    assert entry["message"] == 'a "quote"\nand a ? surrogate'
    assert entry["at"].endswith("Z")


def test_a_message_cannot_forge_a_line(lines: Lines) -> None:
    """A line end or an escape sequence from outside is shown, not obeyed."""
    lines.configured("INFO", "text")
    log.info("model %s", "x\n2026 ERROR forged\x1b[31m\u2028")
    assert lines.getvalue().count("\n") == 1
    assert "\\n2026 ERROR forged\\x1b[31m\\u2028" in lines.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_hidden_everywhere(lines: Lines, log_format: Format) -> None:
    """A registered secret shows in no message, argument or exception, and neither quoted nor escaped."""
    secret = 'pass"word\\é-4711'
    register_secret(secret)
    lines.configured("INFO", log_format)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("with %s and %r", secret, [secret])
    log.info("http://x/?q=pass%22word%5C%C3%A9-4711")
    assert "4711" not in lines.getvalue()
    assert "ValueError: ***" in lines.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer KEYKEYKEYKEY",
        "authorization: Basic KEYKEYKEYKEY",
        "{'x-api-key': 'KEYKEYKEYKEY'}",
        '{"api_key": "KEYKEYKEYKEY"}',
        "[(b'authorization', b'Bearer KEYKEYKEYKEY')]",
        "key sk-KEYKEYKEYKEY was refused",
        "key sk-ant-api03-KEYKEYKEYKEY was refused",
        "ep_0123456789abcdefKEYKEY",
        "AIzaSyA0123456789012345678KEYKEY",
        "socks5://user:KEYKEYKEYKEY@proxy:1080 failed",
        "https://KEYKEYKEYKEY@host/path",
        "cookie=KEYKEYKEYKEY; path=/",
    ],
)
def test_what_looks_like_a_key_is_hidden(text: str) -> None:
    """Keys that nobody has registered are recognised by their shape or their place."""
    assert "KEY" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["the ask-for-more model", "https://host/path", "basic configuration", "a@b.example", "requests: 5"]
)
def test_ordinary_words_stay(text: str) -> None:
    """Redaction does not blot out what is no secret."""
    assert redact(text) == text


def test_short_secrets_are_not_taken() -> None:
    """A placeholder such as "ollama" does not take that word out of every line."""
    register_secret("ollama")
    assert redact("ollama-local answers") == "ollama-local answers"


@given(st.lists(st.text("abc*?[(\\", min_size=8, max_size=12), min_size=1, max_size=5), st.text("abc*", max_size=5))
def test_any_secret_is_hidden(secrets: list[str], around: str) -> None:
    """Secrets that are part of one another, or look like patterns, are hidden all the same."""
    for secret in secrets:
        register_secret(secret)
    for secret in secrets:
        assert secret not in redact(f"{around} {secret} {around}")


def test_a_secret_inside_another_leaves_no_rest() -> None:
    """Of a secret that begins with another one nothing is left over."""
    register_secret("first-secret")
    register_secret("first-secret-and-more")
    assert redact("<first-secret-and-more>") == "<***>"


def test_configuring_again_replaces(lines: Lines) -> None:
    """A second call changes level and format and does not double the lines."""
    old = Lines().configured("DEBUG", "text")
    lines.configured("ERROR", "json")
    log.warning("unseen")
    log.error("seen")
    assert old.getvalue() == ""
    assert lines.getvalue().count("\n") == 1


def test_libraries_are_quiet_below_a_warning(lines: Lines) -> None:
    """Debug lines of the HTTP libraries, which may hold headers, are not written; their warnings are, once."""
    lines.configured("DEBUG", "text")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").debug("headers")
    logging.getLogger("uvicorn.error").warning("odd")
    assert lines.getvalue().count("\n") == 1
    assert "odd" in lines.getvalue()


def test_an_endless_path_is_not_kept() -> None:
    """The access log shows the beginning of a path, and keeps no more of it."""
    stream = io.StringIO()
    log = AccessLog("text", stream)
    for end in ("a", "b"):
        log.add(0, "GET", "/" + "x" * 60_000 + end, "-", 404, "id", 1)
    log.flush()
    assert [len(line.split(" eggpool.access: ")[1]) for line in stream.getvalue().splitlines()] == [219, 219]
    assert [len(path) for path in log._paths] == [200]
