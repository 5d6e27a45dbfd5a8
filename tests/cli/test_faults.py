"""What a person or a system may do wrong: each is answered by a sentence and a code, never by a traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.terminal import COMMAND, Said, Terminal

from eggpool.cli.config_file import read_text, store_server_key, write
from eggpool.config.schema import Secret
from eggpool.errors import ConfigError, StartError

KEY = "sk-very-secret-0123456789"
LONG = "x" * 300
NOBODY = 65534


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A person in an empty folder."""
    return Terminal(tmp_path)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="eggpool-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """For a while somebody whom permissions hold back, which root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def shell(terminal: Terminal, line: str) -> Said:
    """A line for the shell, in which $EGGPOOL is the program."""
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=terminal.folder,
        env=terminal.environ | {"EGGPOOL": str(COMMAND)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("words", ["version", "help", "connect list"])
def test_an_output_that_is_full(terminal: Terminal, words: str) -> None:
    """A disk without space is told on standard error, with 1."""
    assert shell(terminal, f"$EGGPOOL {words} > /dev/full") == Said(1, "", "Error: No space left on device\n")
    assert shell(terminal, f"$EGGPOOL {words} > /dev/full 2> /dev/full").code == 1


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("help", 0, ""),
        ("check-config", 2, "there is no configuration at"),
        ("init-config", 1, "the working directory does not exist any more"),
        ("--config x.toml newkey", 1, "the working directory does not exist any more"),
        ("connect openai --key-env K", 0, ""),
    ],
)
def test_a_working_directory_that_was_removed(terminal: Terminal, words: str, code: int, sentence: str) -> None:
    """What needs it says so; everything else goes on."""
    said = shell(terminal, f"mkdir gone; cd gone; rmdir ../gone; $EGGPOOL {words}")
    assert said.code == code
    assert sentence in said.err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--config", "~nouser/x.toml", "check-config"), 2, "'~nouser' is no user's home"),
        (("init-config", "~nouser/x.toml"), 2, "'~nouser' is no user's home"),
        (("--config", LONG, "connect", "openai", "--key-env", "K"), 2, "File name too long"),
        (("init-config", LONG), 1, "File name too long"),
        (("--config", "loop.toml", "connect", "openai", "--key-env", "K"), 2, "Too many levels of symbolic links"),
        (("--config", "loop.toml", "init-config", "--force"), 1, "its symbolic links lead in a circle"),
        (("--config", "file/x.toml", "connect", "openai", "--key-env", "K"), 2, "/file is not a folder"),
        (("--config", "file/x.toml", "init-config"), 1, "/file is not a folder"),
        (("--config", "folder", "check-config"), 2, "is a folder; name the file in it"),
        (("connect", "openai", "--key-env", "K", "--name", "a\udcff"), 2, "expected a name without white space"),
        (("--config", "a\udcff.toml", "check-config"), 2, "there is no configuration at"),
    ],
)
def test_a_path_or_name_that_cannot_be_used(
    terminal: Terminal, words: tuple[str, ...], code: int, sentence: str
) -> None:
    """It is told in one sentence, and nothing is written."""
    (terminal.folder / "loop.toml").symlink_to("loop.toml")
    (terminal.folder / "folder").mkdir()
    terminal.file("file", "")
    said = terminal.run(*words)
    assert (said.code, said.out) == (code, "")
    assert sentence in said.err
    assert sorted(one.name for one in terminal.folder.iterdir()) == ["file", "folder", "loop.toml"]


def test_a_folder_that_cannot_be_searched(shared: Path) -> None:
    """Neither reading nor writing there ends in anything but a sentence."""
    (shared / "closed").mkdir(mode=0o000)
    path = shared / "closed" / "config.toml"
    with unprivileged():
        with pytest.raises(ConfigError, match=r"cannot read .*: Permission denied"):
            read_text(path, without="")
        with pytest.raises(StartError, match=r"cannot write .*: Permission denied"):
            write(path, "")
    (shared / "closed").chmod(0o700)


def test_a_key_in_a_read_only_configuration_is_not_replaced_elsewhere(shared: Path) -> None:
    """The file would win over the state folder, so a key written there would be none."""
    path = shared / "config.toml"
    path.write_text("[server]\napi_key = 'ep_0123456789'\n", encoding="utf-8")
    path.chmod(0o444)
    assert "api_key" in read_text(path)  # which loads the codec while that may still be read
    (shared / "home").mkdir(mode=0o777)
    shared.chmod(0o555)
    with unprivileged(), pytest.raises(StartError, match=r"the key stands in .*, which is read-only; change it there"):
        store_server_key(path, Secret("ep_new-0000"), {"HOME": str(shared / "home")})
    assert list((shared / "home").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("connect", "openai", KEY),
        ("connect", "openai", "--key-env", KEY),
        ("connect", "openai", "--key-env", KEY.lower().replace("-", "_")),
        ("connect", "openai", "--key-env", "AKIA0123456789ABCDEF"),
        ("connect", "openai", "--key-env", "A" * 40),
        ("connect", KEY, "--key-env", "K"),
        ("serve", KEY),
        ("accounts", "list", KEY),
    ],
)
def test_a_pasted_key_is_not_echoed(terminal: Terminal, words: tuple[str, ...]) -> None:
    """Wherever a key is pasted by mistake, it is refused without being shown or written."""
    said = terminal.run(*words)
    assert (said.code, said.out) == (2, "")
    for word in words:
        assert len(word) < 20 or word not in said.err
    assert list(terminal.folder.iterdir()) == []


def test_a_long_name_that_is_set_is_a_name(terminal: Terminal) -> None:
    """A variable that exists is believed."""
    name = "A_LONG_NAME_FOR_THE_KEY_OF_OUR_DEPARTMENT_AT_OPENAI"
    assert terminal.run("connect", "openai", "--key-env", name, **{name: KEY}).code == 0


def test_line_ends_of_an_edited_file_stay(terminal: Terminal) -> None:
    """CRLF stays CRLF, whichever command writes."""
    path = terminal.folder / "config.toml"
    path.write_bytes(b"# mine\r\n[server]\r\nport = 0\r\n")
    assert terminal.run("newkey").code == 0
    assert terminal.run("connect", "openai", "--key-env", "K").code == 0
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 5


def test_everything_wrong_is_told_at_once(terminal: Terminal) -> None:
    """Keys, prices and `.env` in one answer, each with its path; what `.env` sets in a broken line is not missing."""
    terminal.file(
        "config.toml",
        "[server]\nprot = 1\n[model_overrides.m]\ninput_price_per_1k = 'three'\noutput_price_per_1k = -1\n"
        "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.accounts]]\nname = 'a'\napi_key_env = 'K'\n",
    )
    terminal.file(".env", f"what\nK='{KEY}\n")
    said = terminal.run("check-config")
    assert said.code == 2
    lines = said.err.splitlines()
    assert lines[0] == f"Error: 5 problems in {terminal.folder}/config.toml:"
    begins = [line.split(": ")[0].strip() for line in lines[1:]]
    assert begins == [
        f"{terminal.folder}/.env line 1",
        f"{terminal.folder}/.env line 2",
        "server.prot",
        "model_overrides.m.output_price_per_1k",
        'model_overrides."m".input_price_per_1k',
    ]
    assert KEY not in said.err


def test_certificate_and_key_belong_together(terminal: Terminal) -> None:
    """A certificate with its own key is taken, with another key it is not."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    for name in ("one", "two"):
        subprocess.run(
            [
                *(openssl, "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"),
                *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
            ],
            cwd=terminal.folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
    terminal.file("good.toml", "[server]\ntls_cert = 'one.pem'\ntls_key = 'one.key'\n")
    terminal.file("bad.toml", "[server]\ntls_cert = 'one.pem'\ntls_key = 'two.key'\n")
    assert terminal.run("check-config", "--config", "good.toml").code == 0
    said = terminal.run("check-config", "--config", "bad.toml")
    assert said.code == 2
    assert f"{terminal.folder}/two.key cannot be used as the key of the certificate" in said.err


def test_small_words(terminal: Terminal) -> None:
    """Help has a short form, a group alone explains itself, tables are called as they are written."""
    assert terminal.run("-h").out == terminal.run("help").out
    assert terminal.run("connect", "-h").out == terminal.run("connect", "--help").out
    alone = terminal.run("accounts")
    assert (alone.code, alone.out) == (0, terminal.run("accounts", "--help").out)
    terminal.file("twice.toml", "[providers.a]\n[providers.a]\n")
    assert "cannot declare [providers.a] twice" in terminal.run("check-config", "--config", "twice.toml").err
    assert "did you mean 'openai'?" in terminal.run("connect", "opnai", "--key-env", "K").err
    said = terminal.run("connect", "openai", "--key-env", "K", "--protocol", "anthropic")
    assert (said.code, said.out) == (2, "")
    assert "--protocol is for providers outside the catalogue" in said.err
    assert "Note: for another machine" in terminal.run("connect", "ollama-local").out
    assert "  ollama-local/ollama-local-0001  no key needed\n" in terminal.run("accounts", "list").out


def test_a_file_name_that_is_no_text_can_be_used(terminal: Terminal) -> None:
    """It is a name to the system; what cannot be shown of it is shown escaped."""
    said = terminal.run("--config", "a\udcff.toml", "connect", "openai", "--key-env", "K")
    assert said.code == 0
    assert "/a\\udcff.toml." in said.out
