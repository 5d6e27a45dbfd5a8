"""The configuration as a file: replaced in one step, and given a server key."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from eggpool.cli.config_file import ensure_server_key, read, store_server_key, stored_server_key, write
from eggpool.config.schema import Secret
from eggpool.errors import ConfigError, StartError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home of its own."""
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """An empty configuration that can be read but not written."""
    if os.geteuid() == 0:
        # Root may write any file on a disk. The kernel's list of our child processes is an empty file that nobody may.
        return Path(f"/proc/self/task/{os.getpid()}/children")
    path = tmp_path / "config.toml"
    path.write_text("", encoding="utf-8")
    path.chmod(0o400)
    return path


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def key_file(home: Path, path: Path) -> Path:
    """Where the key of a configuration lies that cannot be written."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return home / "home" / ".local" / "state" / "eggpool" / f"server_key-{name}"


def test_a_file_keeps_its_mode_and_a_new_one_is_private(tmp_path: Path) -> None:
    """Secrets are readable by their owner only, unless the owner said otherwise."""
    path = tmp_path / "folder" / "config.toml"
    write(path, "a = 1\n")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    path.chmod(0o640)
    inode = path.stat().st_ino
    write(path, "a = 2\n")
    assert (mode(path), path.read_text(encoding="utf-8")) == (0o640, "a = 2\n")
    assert path.stat().st_ino != inode
    assert [file.name for file in path.parent.iterdir()] == ["config.toml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What is written through a link lands in its target."""
    target = tmp_path / "dotfiles" / "eggpool.toml"
    write(target, "a = 1\n")
    link = tmp_path / "config.toml"
    link.symlink_to(Path("dotfiles") / "eggpool.toml")
    write(link, "a = 2\n")
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == "a = 2\n"


def test_line_ends_are_written_as_they_are(tmp_path: Path) -> None:
    """A file with CRLF line ends keeps them."""
    write(tmp_path / "x", "a = 1\r\n")
    assert (tmp_path / "x").read_bytes() == b"a = 1\r\n"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """A folder or a pipe under that name is refused in a sentence and left alone."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "pipe" / "config.toml"):
        with pytest.raises(StartError, match="cannot write"):
            write(path, "x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pipe"]


def test_a_key_is_made_once_and_written_into_the_file(tmp_path: Path, environ: dict[str, str]) -> None:
    """The first start makes the key and can show it; the next one finds it."""
    path = tmp_path / "config.toml"
    path.write_text("# mine\n[server] # here\nport = 1\n", encoding="utf-8")
    loaded, made = ensure_server_key(path, read(path, environ), environ)
    assert made is not None
    assert loaded.config.server.api_key == made
    assert "api_key" not in path.read_text(encoding="utf-8")  # nothing is written before it is used
    assert store_server_key(path, made, environ) == path
    key = made.reveal()
    assert path.read_text(encoding="utf-8") == f'# mine\n[server] # here\nport = 1\napi_key = "{key}"\n'
    again, nothing = ensure_server_key(path, read(path, environ), environ)
    assert (again.config.server.api_key, nothing) == (made, None)


def test_a_key_in_the_configuration_ends_the_one_that_was_kept(tmp_path: Path, environ: dict[str, str]) -> None:
    """A key of the state folder does not come back when its successor is taken out of the file."""
    path = tmp_path / "config.toml"
    path.write_text("", encoding="utf-8")
    kept = key_file(tmp_path, path)
    write(kept, "ep_kept-before\n")
    assert stored_server_key(path, environ) == Secret("ep_kept-before")
    assert store_server_key(path, Secret("ep_new-0000"), environ) == path
    assert not kept.exists()


def test_characters_that_are_no_text_are_not_written(tmp_path: Path) -> None:
    """What cannot be encoded is refused in a sentence, and nothing is left behind."""
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        write(tmp_path / "x", "a = '\udcff'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("[server]\napi_key = 'ep_0123456789'", {}),
        ("", {"SERVER_API_KEY": "ep_0123456789"}),
        (f"[[clients]]\nname = 'a'\nkey_hash = 'sha256:{'0' * 64}'", {}),
    ],
)
def test_no_key_is_made_where_there_is_one(
    tmp_path: Path, environ: dict[str, str], text: str, variable: dict[str, str]
) -> None:
    """A key in the file, in the environment, or clients with keys of their own are enough."""
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    loaded = read(path, environ | variable)
    assert ensure_server_key(path, loaded, environ | variable) == (loaded, None)
    assert path.read_text(encoding="utf-8") == text


def test_a_read_only_configuration_puts_the_key_into_the_state_folder(
    tmp_path: Path, read_only: Path, environ: dict[str, str]
) -> None:
    """Where the file cannot be written, the key is kept in the state folder, private, and found again."""
    state = key_file(tmp_path, read_only)
    _, made = ensure_server_key(read_only, read(read_only, environ), environ)
    assert made is not None
    assert (store_server_key(read_only, made, environ), mode(state)) == (state, 0o600)
    again, nothing = ensure_server_key(read_only, read(read_only, environ), environ)
    assert (again.config.server.api_key, nothing) == (made, None)
    assert stored_server_key(tmp_path / "other.toml", environ) is None
    state.write_text("a b", encoding="utf-8")
    with pytest.raises(ConfigError, match="remove the file"):
        ensure_server_key(read_only, read(read_only, environ), environ)
