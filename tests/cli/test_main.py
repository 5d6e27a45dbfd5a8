"""The table of commands: help, version, where `--config` may stand, exit codes, and that starting is quick."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.terminal import COMMAND, Terminal

from eggpool import __version__
from eggpool.cli.main import COMMANDS, overview

BAD = "[server]\nprot = 1\nport = -1\n"
GOOD = "[server]\nport = 4711\n"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A person in an empty folder."""
    return Terminal(tmp_path)


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("--config", "x"), ("--config", "x", "--help")])
def test_without_a_command_there_is_help(terminal: Terminal, words: tuple[str, ...]) -> None:
    """The overview names every command and the file in use, and ends well."""
    said = terminal.run(*words)
    assert said.code == 0
    assert set(COMMANDS) <= {line.split()[0] for line in said.out.splitlines() if line.startswith("  ")}
    assert f"Config file: {terminal.folder / 'home/.config/eggpool/config.toml'}" in said.out


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if COMMANDS[name][0].startswith("eggpool.cli.setup:")] + ["accounts list"]
)
def test_help_has_no_side_effect(terminal: Terminal, name: str) -> None:
    """Asking how a command works neither makes a file nor needs one, in either way of asking."""
    asked = [terminal.run(*name.split(), "--help"), terminal.run("help", *name.split())]
    assert [said.code for said in asked] == [0, 0]
    assert asked[0].out == asked[1].out
    assert "--config PATH" in asked[0].out
    assert list(terminal.folder.iterdir()) == []


@pytest.mark.parametrize("words", [("version",), ("--version",), ("--config", "x", "version")])
def test_the_version_is_a_line(terminal: Terminal, words: tuple[str, ...]) -> None:
    """Scripts read it as it is."""
    assert terminal.run(*words).out == f"{__version__}\n"


@pytest.mark.parametrize("words", [("version", "--json"), ("version", "--json", "--config", "x")])
def test_the_version_can_be_json(terminal: Terminal, words: tuple[str, ...]) -> None:
    """Programs get an object."""
    said = json.loads(terminal.run(*words).out)
    assert said["version"] == __version__
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    "words", [("check-config", "--config", "x.toml"), ("--config", "x.toml", "check-config"), ("check-config",)]
)
def test_the_configuration_may_be_named_before_or_after_the_command(terminal: Terminal, words: tuple[str, ...]) -> None:
    """`--config` is understood in either place, and $EGGPOOL_CONFIG where it is not given."""
    path = terminal.file("x.toml", GOOD)
    other = terminal.file("y.toml", BAD)
    said = terminal.run(*words, EGGPOOL_CONFIG=str(other if "--config" in words else path))
    assert said.code == 0
    assert said.out.startswith(f"Configuration loaded successfully from {path}\n  Server: 127.0.0.1:4711\n")


def test_a_command_of_a_group_takes_the_configuration_too(terminal: Terminal) -> None:
    """`eggpool accounts list --config x` and `eggpool accounts --config x list` are the same."""
    terminal.file("x.toml", GOOD)
    for words in (("accounts", "list", "--config", "x.toml"), ("accounts", "--config", "x.toml", "list")):
        assert terminal.run(*words).out == "No configured accounts. Run `eggpool connect` to add one.\n"


def test_the_configuration_is_looked_for_in_order(terminal: Terminal) -> None:
    """The option, the variable, the folder one is in, the user's own."""

    def used(*words: str, **variables: str) -> str:
        return terminal.run("check-config", *words, **variables).out.splitlines()[0].rpartition("/")[2]

    terminal.file("home/.config/eggpool/own.toml", "").rename(terminal.folder / "home/.config/eggpool/config.toml")
    assert terminal.run("check-config").out.startswith(
        f"Configuration loaded successfully from {terminal.folder}/home/.config/eggpool/config.toml"
    )
    terminal.file("xdg/eggpool/config.toml", "")
    assert "/xdg/eggpool/" in terminal.run("check-config", XDG_CONFIG_HOME=str(terminal.folder / "xdg")).out
    here = terminal.file("config.toml", "")
    assert str(here) in terminal.run("check-config").out
    terminal.file("variable.toml", "")
    assert used(EGGPOOL_CONFIG="variable.toml") == "variable.toml"
    terminal.file("option.toml", "")
    assert used("--config", "option.toml", EGGPOOL_CONFIG="variable.toml") == "option.toml"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("chek-config",), 2, "No such command 'chek-config'. Did you mean 'check-config'?"),
        (("--bogus",), 2, "No such option"),
        (("newkey", "--bogus"), 2, "No such option"),
        (("help", "bogus"), 2, "No such command 'bogus'."),
        (("accounts", "bogus"), 2, "No such command 'bogus'."),
        (("check-config",), 2, "Error: there is no configuration at"),
        (("check-config", "--config", "bad.toml"), 2, "Error: 2 problems in"),
        (("check-config", "--config", "folder"), 2, "is a folder; name the file in it"),
        (("check-config", "--config", "latin1.toml"), 2, "is not UTF-8 text"),
        (("getkey", "--config", "good.toml"), 1, "No API key configured."),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_a_code(
    terminal: Terminal, words: tuple[str, ...], code: int, sentence: str
) -> None:
    """Wrong use and a wrong configuration are 2, what is not so is 1; stdout stays empty."""
    terminal.file("good.toml", GOOD)
    terminal.file("bad.toml", BAD)
    (terminal.folder / "folder").mkdir()
    (terminal.folder / "latin1.toml").write_bytes(b"# caf\xe9\n")
    said = terminal.run(*words)
    assert (said.code, said.out) == (code, "")
    assert sentence in said.err


def test_every_command_of_the_table_has_a_place() -> None:
    """The table's summaries are sentences, and its places name a module of the terminal."""
    for place, summary in COMMANDS.values():
        assert place.startswith("eggpool.cli.")
        assert place.count(":") == 1
        assert summary.endswith(".")
    assert all(name in overview() for name in COMMANDS)


def test_who_reads_may_leave(terminal: Terminal) -> None:
    """`eggpool help | head -1` says nothing about broken pipes."""
    for words in ("help", "connect list"):
        done = subprocess.run(
            ["sh", "-c", f"{COMMAND} {words} | true"],
            cwd=terminal.folder,
            env=terminal.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stderr == ""


@pytest.mark.parametrize("words", [("version",), ("help",)])
def test_a_quick_command_imports_next_to_nothing(words: tuple[str, ...]) -> None:
    """Neither the command-line library nor the configuration is imported to tell the version."""
    code = (
        "import sys; from eggpool.cli.main import main; main(sys.argv[1:]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'click', 'msgspec', 'tomlkit', 'tomllib', 'pathlib', 'json', 'asyncio'}), sep=',', file=sys.stderr)"
    )
    # -S leaves out site, which may import some of them for its own sake.
    source = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *words],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == "\n"


def test_the_version_is_told_in_the_time_of_a_few_empty_programs() -> None:
    """Shell prompts and watchdogs may ask for it: at most five times the start of Python, at best of several."""

    def best(*command: str) -> float:
        times: list[float] = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(str(COMMAND), "version") < 5 * best(sys.executable, "-c", "pass")
