"""Edits: the change is there, everything else is as it was."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.config.edit import add_account, set_value, split_path
from eggpool.errors import ConfigError

FILE = """\
# my pool
[providers.a] # the first
id = "a"   # as the table
base_url = "https://a.example"

[[providers.a.accounts]] # work
name = "x"
# a comment at the end

[server] # where
port = 1   # the port

[providers.b]
base_url = "https://b.example"
accounts = [{ name = "z" }] # inline

[providers.a.auth]
mode = "none"

[providers.c]
base_url = "https://c.example"
# last words"""


def comments(text: str) -> list[str]:
    """What stands after `#`, in order."""
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("server.port", 11300),
        ("server.host", "::1"),
        ("routing.affinity", False),
        ("providers.a.auth.scheme", "Key"),
        ("providers.a.accounts[0].weight", 2.5),
        ("providers.b.accounts[0].name", "y"),
        ('model_overrides."gpt-4.1".protocol', "openai"),
        ("security.allowed_hosts", ["a", "b"]),
    ],
)
def test_one_value_is_set_and_the_rest_stays(path: str, value: str | int | bool | float | list[str], ends: str) -> None:
    """Comments, order and line ends survive; the file means what it meant plus the change."""
    text = FILE.replace("\n", ends)
    changed = set_value(text, path, value)
    found: object = tomllib.loads(changed)
    for part in split_path(path):
        found = found[part]  # type: ignore[index]
    assert found == value
    assert comments(changed) == comments(FILE)
    assert changed.count("\r\n") == (changed.count("\n") if ends == "\r\n" else 0)
    after = iter(changed.splitlines())
    assert all(line in after for line in FILE.splitlines() if not line.startswith(("port", "accounts")))


def test_a_value_keeps_the_comment_behind_it() -> None:
    """The line of a value that changes is otherwise the same."""
    assert "port = 2   # the port" in set_value(FILE, "server.port", 2)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_an_account_is_added_to_a_provider_that_is_there(name: str) -> None:
    """Array of tables, inline array or no account yet: the new one comes last, the provider is left alone."""
    changed = add_account(FILE, {"id": name, "base_url": "https://other.example"}, {"name": "n", "api_key_env": "K"})
    before, after = tomllib.loads(FILE), tomllib.loads(changed)
    before["providers"][name].setdefault("accounts", []).append({"name": "n", "api_key_env": "K"})
    assert after == before
    assert comments(changed) == comments(FILE)


def test_accounts_that_stand_apart_get_one_more_at_the_end() -> None:
    """A file whose accounts of one provider are not in one place can be extended too."""
    text = "[[providers.a.accounts]]\nname = '1'\n[server]\n[[providers.a.accounts]]\nname = '2'\n"
    changed = add_account(text, {"id": "a"}, {"name": "3"})
    assert [account["name"] for account in tomllib.loads(changed)["providers"]["a"]["accounts"]] == ["1", "2", "3"]
    assert changed.startswith(text)


@pytest.mark.parametrize("text", [FILE, "", "[server]\r\nport = 1", "providers = {}\n"])
def test_a_new_provider_gets_its_table(text: str) -> None:
    """The table is written with its priority, so that one sees where to change it."""
    table = {"id": "d", "base_url": "https://d.example", "headers": [{"name": "x", "value": "y"}]}
    if text.startswith("providers"):
        with pytest.raises(ConfigError, match="by hand"):
            add_account(text, table, {"name": "n"})
        return
    after = tomllib.loads(add_account(text, table, {"name": "n"}))
    expected = tomllib.loads(text)
    expected.setdefault("providers", {})["d"] = {**table, "routing_priority": 0, "accounts": [{"name": "n"}]}
    assert after == expected


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "a b", "a[0", 'a."b', "a[x]"])
def test_what_is_no_path_is_refused(path: str) -> None:
    """A key that cannot be read as a path is told as such."""
    with pytest.raises(ConfigError, match="must be a path"):
        set_value(FILE, path, 1)


@pytest.mark.parametrize("path", ["server.port.x", "providers.a.accounts[1].name", "providers[0].id", "server[0]"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    """A value is no table, and a list ends."""
    with pytest.raises(ConfigError):
        set_value(FILE, path, 1)


def test_a_file_that_is_no_toml_is_refused_with_its_line() -> None:
    """Nothing is changed in a file that cannot be read."""
    with pytest.raises(ConfigError, match="line 2"):
        set_value("a = 1\nb = \n", "server.port", 1)


SECTIONS = st.lists(
    st.sampled_from(
        [
            "[server]\nport = 1 # p\n",
            "[providers.a] # a\nid = 'a'\n",
            "[providers.b]\n",
            "[[providers.a.accounts]] # one\nname = '1'\n",
            "[[providers.b.accounts]]\nname = '2'\n# tail\n",
            "[providers.a.auth]\nmode = 'none'\n",
            "# lonely\n",
            "\n",
            "[models]\r\ncollapse_models = true\r\n",
        ]
    ),
    unique=True,
)


@given(parts=SECTIONS, provider=st.sampled_from("abc"))
def test_an_edit_says_what_was_wanted_or_that_it_cannot(parts: list[str], provider: str) -> None:
    """In whatever order a file has its tables, an account is added and nothing else changes."""
    text = "".join(parts)
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    changed = add_account(text, {"id": provider}, {"name": "n"})
    fresh = {} if provider in expected.get("providers", {}) else {"id": provider, "routing_priority": 0}
    home = expected.setdefault("providers", {}).setdefault(provider, fresh)
    home.setdefault("accounts", []).append({"name": "n"})
    assert tomllib.loads(changed) == expected
    assert sorted(comments(changed)) == sorted(comments(text))
    assert tomllib.loads(set_value(changed, "server.port", 2))["server"]["port"] == 2
