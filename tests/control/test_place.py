"""Where the control socket lies, who may speak on it, and what is replaced."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from eggpool.control import place
from eggpool.errors import StartError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short on every platform."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def speaks(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(place.address_of(path))
        except OSError:
            return False
        return True


@pytest.mark.parametrize(
    ("user", "own", "allowed"),
    [(1000, 1000, True), (0, 1000, True), (0, 0, True), (1001, 1000, False), (1000, 0, False), (None, 0, False)],
)
def test_who_may_speak(user: int | None, own: int, *, allowed: bool) -> None:
    """The server's own user and root may; nobody else, and nobody whose user is not known."""
    assert place.may_speak(user, own) is allowed


def test_the_system_tells_who_speaks() -> None:
    """The user at the other end is the one that the system names."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert place.user_of(ours) == os.geteuid()


def test_nobody_else_may_open_it(folder: Path) -> None:
    """The socket lies beside the database and is for its user alone."""
    found = place.bind(folder / "usage.sqlite3")
    try:
        assert found.path == folder / "usage.sqlite3.sock"
        mode = found.path.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    finally:
        found.remove()
    assert list(folder.iterdir()) == []


def test_a_long_path_is_a_link_to_a_private_folder(folder: Path) -> None:
    """Where an address would be too long, the socket lies in a folder of its own (0700) that goes with it."""
    deep = folder / ("x" * 120)
    deep.mkdir()
    found = place.bind(deep / "usage.sqlite3")
    target = found.path.readlink()
    try:
        found.socket.listen()
        assert speaks(found.path)
        assert stat.S_IMODE(target.lstat().st_mode) == 0o600
        assert stat.S_IMODE(target.parent.lstat().st_mode) == 0o700
    finally:
        found.remove()
    assert not target.parent.exists()
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("depth", [1, 120])
def test_what_a_dead_process_left_is_replaced(folder: Path, depth: int) -> None:
    """A socket on which nobody listens any more is in nobody's way, nor is the folder that it lay in."""
    deep = folder / ("x" * depth)
    deep.mkdir()
    dead = place.bind(deep / "usage.sqlite3")
    dead.socket.close()
    left = dead.path.readlink().parent if dead.path.is_symlink() else None
    found = place.bind(deep / "usage.sqlite3")
    try:
        found.socket.listen()
        assert speaks(found.path)
        assert left is None or not left.exists()
    finally:
        found.remove()


def test_a_link_to_nowhere_is_replaced(folder: Path) -> None:
    """A link whose folder a cleaner took away is in nobody's way."""
    (folder / "usage.sqlite3.sock").symlink_to(folder / "gone" / "socket")
    place.bind(folder / "usage.sqlite3").remove()


@pytest.mark.parametrize("depth", [1, 120])
def test_a_live_server_is_not_replaced(folder: Path, depth: int) -> None:
    """A second server is refused in a sentence, and the first goes on listening."""
    deep = folder / ("x" * depth)
    deep.mkdir()
    first = place.bind(deep / "usage.sqlite3")
    try:
        first.socket.listen()
        with pytest.raises(StartError, match=r"Another eggpool server answers at .*; stop it, or give this one"):
            place.bind(deep / "usage.sqlite3")
        assert speaks(first.path)
    finally:
        first.remove()


def test_a_file_of_the_user_is_left_alone(folder: Path) -> None:
    """What is no socket was not made by a server, so it stays."""
    (folder / "usage.sqlite3.sock").write_text("mine")
    with pytest.raises(OSError, match="is not a socket"):
        place.bind(folder / "usage.sqlite3")
    assert (folder / "usage.sqlite3.sock").read_text() == "mine"


def test_another_server_s_socket_is_not_taken_away(folder: Path) -> None:
    """Who comes late to remove its socket leaves the one that somebody else has put there since."""
    first = place.bind(folder / "usage.sqlite3")
    first.path.unlink()
    second = place.bind(folder / "usage.sqlite3")
    second.socket.listen()
    first.remove()
    try:
        assert speaks(second.path)
    finally:
        second.remove()
