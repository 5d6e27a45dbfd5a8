"""The commands around the configuration, as a person meets them."""

from __future__ import annotations

import hashlib
import re
import stat
import tomllib
from pathlib import Path

import pytest
from tests.cli.terminal import Terminal

KEY = "sk-very-secret-0123456789"
ACCOUNT = "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.accounts]]\nname = 'a'\n"


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A person in an empty folder."""
    return Terminal(tmp_path)


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_check_config_says_what_was_loaded(terminal: Terminal) -> None:
    """The four lines of old, then the warnings; `.env` beside the file is read, whatever folder one is in."""
    terminal.file("etc/config.toml", "[upstream]\nwrite_timeout_s = 3\n" + ACCOUNT + "api_key_env = 'K'\n")
    terminal.file("etc/.env", f"K={KEY}\n")
    said = terminal.run("check-config", "--config", "etc/config.toml")
    assert said.code == 0
    assert said.out.splitlines() == [
        f"Configuration loaded successfully from {terminal.folder}/etc/config.toml",
        "  Server: 127.0.0.1:11300",
        "  Accounts: 1",
        f"  Database: {terminal.folder}/home/.local/share/eggpool/usage.sqlite3",
        "Warning: upstream.write_timeout_s: is known but has no effect in this version",
    ]


def test_check_config_tells_every_problem_at_once(terminal: Terminal) -> None:
    """One line for each problem, with the file, and no secret in any."""
    terminal.file("config.toml", "[server]\nprot = 1\n" + ACCOUNT + f"api_key = 'Bearer {KEY}'\n")
    said = terminal.run("check-config")
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines() == [
        f"Error: 2 problems in {terminal.folder}/config.toml:",
        "  server.prot: unknown key 'prot'; did you mean 'port'?",
        "  providers.p.accounts[0].api_key: the key begins with 'Bearer'; give the key alone",
    ]


def test_the_environment_wins_over_dotenv(terminal: Terminal) -> None:
    """A variable that is set is not replaced by the file's."""
    terminal.file("config.toml", "")
    terminal.file(".env", "SERVER_API_KEY=ep_from_dotenv\n")
    assert terminal.run("getkey").out == "ep_from_dotenv"
    assert terminal.run("getkey", SERVER_API_KEY="ep_from_environment").out == "ep_from_environment"


def test_a_broken_dotenv_is_told(terminal: Terminal) -> None:
    """Its line is named, what stands there is not."""
    terminal.file("config.toml", "")
    terminal.file(".env", f"\nK='{KEY}\n")
    said = terminal.run("check-config")
    assert said.code == 2
    assert ".env line 2" in said.err
    assert KEY not in said.err


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (f"printf '{KEY}\\nuser: me\\n'", "Configuration loaded"),
        ("sh -c 'echo sk-very-secret; exit 3'", "the command ended with exit code 3"),
        ("no-such-program-anywhere", "the command's program was not found"),
        ("'", "the command cannot be run; check its quotes and its program"),
        ("true", "the key that the command printed is empty"),
    ],
)
def test_a_password_store_can_give_the_key(terminal: Terminal, command: str, answer: str) -> None:
    """The first line that the command prints is the key; what goes wrong is told without its output."""
    terminal.file("config.toml", ACCOUNT + f'api_key_command = """{command}"""\n'.replace("\\n", "\\\\n"))
    said = terminal.run("check-config")
    assert answer in said.out + said.err
    assert "very-secret" not in said.out + said.err
    assert terminal.run("accounts", "list").out.splitlines()[1] == "  p/a  command"


def test_init_config_writes_an_example_once(terminal: Terminal) -> None:
    """The file is private, is not overwritten without being told to, and works once its variable is set."""
    said = terminal.run("init-config", "new/config.toml")
    path = terminal.folder / "new" / "config.toml"
    assert said.code == 0
    assert said.out.startswith(f"Config written to {path}\n")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert terminal.run("check-config", "--config", str(path), OPENCODE_GO_KEY_1=KEY).code == 0
    example = path.read_text(encoding="utf-8")
    path.write_text("# mine", encoding="utf-8")
    again = terminal.run("init-config", "new/config.toml")
    assert (again.code, path.read_text(encoding="utf-8")) == (1, "# mine")
    assert "--force" in again.err
    assert terminal.run("init-config", "--force", "--config", "new/config.toml").code == 0
    assert path.read_text(encoding="utf-8") == example
    assert terminal.run("init-config", ".").code == 2


def test_newkey_replaces_the_key_and_getkey_prints_it(terminal: Terminal) -> None:
    """A new key is written into the file, comments kept, and is what getkey prints, without a line end."""
    path = terminal.file("config.toml", "[server] # here\nport = 1 # the port")
    first = terminal.run("newkey")
    key = re.findall(r"^New key \(use this\): (ep_[0-9a-f]{64})$", first.out, re.MULTILINE)[0]
    assert "Old key" not in first.out
    assert str(path) in first.out
    assert terminal.run("getkey").out == key
    second = terminal.run("newkey")
    assert f"Old key (expired): {key}\n" in second.out
    assert terminal.run("getkey").out != key
    assert path.read_text(encoding="utf-8").startswith("[server] # here\nport = 1 # the port\napi_key = ")


def test_a_key_in_the_state_folder_is_known(terminal: Terminal) -> None:
    """What serve kept there is printed by getkey, and named as the old key when newkey replaces it."""
    path = terminal.file("config.toml", "")
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    terminal.file(f"home/.local/state/eggpool/server_key-{name}", "ep_from_state\n")
    assert terminal.run("getkey").out == "ep_from_state"
    assert terminal.run("newkey").out.startswith("Old key (expired): ep_from_state\nNew key (use this): ep_")
    assert terminal.run("getkey").out != "ep_from_state"


def test_newkey_does_not_write_beside_a_key_from_the_environment(terminal: Terminal) -> None:
    """A key in the file would win silently over the variable, so that is where it must be changed."""
    path = terminal.file("config.toml", "# nothing\n")
    said = terminal.run("newkey", SERVER_API_KEY="ep_environment")
    assert (said.code, said.out, path.read_text(encoding="utf-8")) == (1, "", "# nothing\n")
    assert "SERVER_API_KEY" in said.err
    assert "ep_environment" not in said.err


def test_newkey_without_a_configuration_says_what_to_do(terminal: Terminal) -> None:
    """There is nothing to write the key into."""
    said = terminal.run("newkey")
    assert said.code == 2
    assert "`eggpool init-config`" in said.err


def test_connect_adds_an_account_from_the_catalogue(terminal: Terminal) -> None:
    """One command makes a configuration that works, in the user's folder when there is none."""
    said = terminal.run("connect", "anthropic", "--key-env", "ANTHROPIC_API_KEY")
    path = terminal.folder / "home/.config/eggpool/config.toml"
    assert said.code == 0
    assert said.out.splitlines() == [
        f"Added anthropic-0001 to anthropic in {path}.",
        f"ANTHROPIC_API_KEY is not set yet: set it in the environment or in {path.parent}/.env.",
        "Start or restart the server to apply changes.",
    ]
    assert mode(path) == 0o600
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    assert written["providers"]["anthropic"] == {
        "id": "anthropic",
        "base_url": "https://api.anthropic.com/v1",
        "protocols": ["anthropic"],
        "routing_priority": 0,
        "auth": {"mode": "api_key", "header": "x-api-key"},
        "headers": [{"name": "anthropic-version", "value": "2023-06-01"}],
        "accounts": [{"name": "anthropic-0001", "api_key_env": "ANTHROPIC_API_KEY"}],
    }
    assert terminal.run("check-config", ANTHROPIC_API_KEY=KEY).code == 0


def test_connect_adds_further_accounts_to_a_file_with_comments(terminal: Terminal) -> None:
    """The second account of a provider gets the next name, or the one that was asked for."""
    text = "# mine\n[providers.openai] # work\nid = 'openai'\nbase_url = 'https://lan.example/v1'\n"
    path = terminal.file("config.toml", text)
    for words in (("--key-env", "A"), ("--key-env", "B"), ("--key-env", "C", "--name", "third")):
        assert terminal.run("connect", "openai", *words, A=KEY, B=KEY, C=KEY).out.count("\n") == 2
    assert path.read_text(encoding="utf-8").startswith(text)
    said = terminal.run("accounts", "list")
    assert said.out.splitlines() == [
        "Configured accounts:",
        "  openai/openai-0001  env:A",
        "  openai/openai-0002  env:B",
        "  openai/third  env:C",
        "Total: 3 accounts",
    ]


def test_connect_takes_any_compatible_provider(terminal: Terminal) -> None:
    """With a URL, an ID of one's own; a provider on the LAN that needs no key gets none."""
    assert (
        terminal.run(
            *("connect", "mine", "--key-env", "K", "--base-url", "http://10.0.0.5:8000/v1"),
            *("--protocol", "anthropic", "--protocol", "openai"),
        ).code
        == 0
    )
    assert terminal.run("connect", "ollama-local", "--base-url", "http://nas.lan:11434/v1").code == 0
    path = terminal.folder / "home/.config/eggpool/config.toml"
    providers = tomllib.loads(path.read_text(encoding="utf-8"))["providers"]
    assert providers["mine"]["protocols"] == ["anthropic", "openai"]
    assert providers["ollama-local"]["base_url"] == "http://nas.lan:11434/v1"
    assert providers["ollama-local"]["auth"] == {"mode": "none"}


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 2, "Missing argument 'ID'"),
        (("openai",), 2, "add --key-env OPENAI_API_KEY"),
        (("mine", "--key-env", "K"), 2, "is not in the catalogue"),
        (("azure-openai", "--key-env", "K"), 2, "needs --base-url"),
        (("a/b", "--key-env", "K", "--base-url", "https://x"), 2, "An ID has at most 64 letters"),
        (("mine", "--key-env", "K", "--base-url", "nonsense"), 2, "must be an absolute http:// or https:// URL"),
        (("openai", "--key-env", KEY), 2, "--key-env takes the name of a variable, not the key itself"),
        (("openai", "--key-env", "K", "--name", "a b"), 2, "expected a name without white space"),
        (("p", "--key-env", "K", "--name", "a"), 2, "'a' is used twice"),
        (("p", "--key-env", "OLD"), 1, "the account p/a uses OLD already"),
        (("p", "--key-env", "K", "--base-url", "https://other.example"), 2, "is configured with another URL"),
    ],
)
def test_connect_refuses_what_would_not_work(
    terminal: Terminal, words: tuple[str, ...], code: int, sentence: str
) -> None:
    """A wrong wish changes nothing and is told in a sentence, without a pasted key."""
    path = terminal.file("config.toml", ACCOUNT + "api_key_env = 'OLD'\n")
    before = path.read_text(encoding="utf-8")
    said = terminal.run("connect", *words)
    assert (said.code, said.out) == (code, "")
    assert sentence in said.err
    assert KEY not in said.err
    assert path.read_text(encoding="utf-8") == before


def test_connect_list_shows_the_catalogue(terminal: Terminal) -> None:
    """A line for each provider with mark, address and notes, and what the marks mean; a broken file is no obstacle."""
    terminal.file("config.toml", "broken = ")
    lines = terminal.run("connect", "list").out.splitlines()
    assert "  * openai: OpenAI (https://api.openai.com/v1) [✓]" in lines
    assert "    ollama-cloud: Ollama Cloud (https://ollama.com/v1) [~]" in lines
    assert any(line.startswith("  * alibaba: ") and " — for another region" in line for line in lines)
    assert re.fullmatch(r"\d+ verified, \d+ experimental, \d+ unverified", lines[-2])
    assert lines[-1].startswith("✓ verified  ~ experimental  ? unverified")
    terminal.file("config.toml", "[providers.openai]\nbase_url = 'https://x.example'\nrouting_priority = 7\n")
    assert "  * openai: OpenAI (https://api.openai.com/v1) [✓] (priority 7)" in terminal.run("connect", "list").out


def test_accounts_list_shows_no_key(terminal: Terminal) -> None:
    """Where each key comes from, and of a key in the file no more than its ends."""
    more = "".join(
        f"[[providers.p.accounts]]\nname = '{name}'\n{key}\n"
        for name, key in (("b", f"api_key = '{KEY}'"), ("c", "api_key = 'shortkey'"), ("d", "enabled = false"))
    )
    terminal.file("config.toml", ACCOUNT + "api_key_env = 'K'\n" + more)
    said = terminal.run("accounts", "list")
    assert said.out.splitlines()[1:-1] == [
        "  p/a  env:K",
        "  p/b  sk-v...6789",
        "  p/c  ****",
        "  p/d  unset  (disabled)",
    ]
