"""The commands about the running server, as a person meets them when there is none, or writes them wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.terminal import Terminal

from eggpool.cli.running import clock_time, duration

CONFIG = """
[server]
api_key = "ep_test-client-key-0000"
[database]
path = "usage.sqlite3"
[providers.alpha]
base_url = "http://127.0.0.1:9/v1"
[[providers.alpha.accounts]]
name = "a"
api_key = "test-first-key-0000"
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A person beside a configuration with which nothing runs."""
    here = Terminal(tmp_path)
    here.file("config.toml", CONFIG)
    return here


@pytest.mark.parametrize(
    "words",
    [
        ("accounts", "status"),
        ("accounts", "rest", "a"),
        ("accounts", "rest", "a", "--for", "1d12h"),
        ("accounts", "wake", "a"),
        ("accounts", "set-used", "a", "weekly", "43%"),
        ("explain", "--model", "m"),
        ("explain", "--model", "m", "--conversation", "x", "--dialect", "messages", "--json"),
    ],
)
def test_nothing_runs(terminal: Terminal, words: tuple[str, ...]) -> None:
    """A command that needs the server ends with 3, one sentence that says what to do, and nothing on stdout."""
    for said in (terminal.run(*words), terminal.run("--config", "config.toml", *words)):
        assert (said.code, said.out) == (3, "")
        (line,) = said.err.splitlines()
        assert line == (
            f"Error: No server runs with this configuration (nobody listens at {terminal.folder}/usage.sqlite3.sock); "
            "`eggpool serve` starts one."
        )


def test_status_of_what_does_not_run(terminal: Terminal) -> None:
    """That nothing runs is an answer: 1, and as JSON it can be read."""
    said = terminal.run("status")
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("No server runs with this configuration")
    said = terminal.run("status", "--json")
    assert (said.code, json.loads(said.out)) == (1, {"running": False})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("accounts", "rest", "a", "--for", "10"), "written like 90s, 10m, 2h or 1d12h"),
        (("accounts", "rest", "a", "--for", "ten minutes"), "written like"),
        (("accounts", "rest", "a", "--for", "1h x"), "written like"),
        (("accounts", "rest", "a", "--for", "\u0661s"), "written like"),
        (("accounts", "rest", "a", "--for", ""), "written like"),
        (("accounts", "rest", "a", "--for", "0s"), "lasts from a second to 31 days"),
        (("accounts", "rest", "a", "--for", "32d"), "lasts from a second to 31 days"),
        (("accounts", "rest", "a", "--for", "999999999d"), "lasts from a second to 31 days"),
        (("accounts", "rest"), "Missing argument 'NAME'"),
        (("accounts", "set-used", "a", "weekly", "43"), "a percentage from 0% to 100%"),
        (("accounts", "set-used", "a", "weekly", "0.43"), "a percentage"),
        (("accounts", "set-used", "a", "weekly", "101%"), "a percentage"),
        (("accounts", "set-used", "a", "weekly", "nan%"), "a percentage"),
        (("accounts", "set-used", "a", "weekly"), "Missing argument 'SHARE'"),
        (("explain",), "Missing option '--model'"),
        (("explain", "--model", "m", "--dialect", "latin"), "'latin' is not one of 'chat', 'messages', 'responses'"),
    ],
)
def test_wrong_use(terminal: Terminal, words: tuple[str, ...], told: str) -> None:
    """What is written wrongly is told before anybody is asked, with 2."""
    said = terminal.run(*words)
    assert (said.code, said.out) == (2, "")
    assert told in said.err


def test_a_configuration_that_cannot_be_used(terminal: Terminal) -> None:
    """Without knowing the database nobody can be asked."""
    assert terminal.run("status", "--config", "missing.toml").code == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0s"),
        (0.4, "0s"),
        (59.6, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (3601, "1h"),
        (2 * 86_400 + 3 * 3600 + 5, "2d 3h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    """At most the two largest units, and none that is nothing."""
    assert duration(seconds) == words


def test_clock_times() -> None:
    """An instant of today has no date, one of another day has."""
    now_ms = 1_790_000_000_000
    assert len(clock_time(now_ms, now_ms)) == len("12:00:00")
    assert clock_time(now_ms + 10 * 86_400_000, now_ms)[:7] in ("2026-09", "2026-10")
