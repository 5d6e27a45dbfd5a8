"""Where the control socket is, who may speak on it, and how it comes into being and goes.

It lies beside the database, so that whoever knows the configuration finds it. The address of a Unix socket is short
(108 bytes on Linux, 104 on macOS): where the path is longer, the socket lies in a private folder for temporary files,
and in its place beside the database is a link to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
from pathlib import Path

from eggpool.errors import StartError

LONGEST_ADDRESS = 103  # bytes, the shortest of the platforms' bounds without its closing zero
BACKLOG = 64
PROBE_S = 1.0

_FOLDER_PREFIX = "eggpool-control-"
_SHORT_TEMPORARY = "/tmp"  # noqa: S108 - a folder of our own is made in it

# struct xucred of macOS and FreeBSD: version, user id, and groups that nobody asks about (sys/ucred.h)
_LOCAL_PEERCRED = 1
_XUCRED_BYTES = 76


def socket_path(database: Path) -> Path:
    """Where the socket of the server with this database is, or a link to it."""
    return database.with_name(database.name + ".sock")


def address_of(path: Path) -> str:
    """What to connect to. Raises OSError when nothing is there."""
    return str(path.readlink() if stat.S_ISLNK(os.lstat(path).st_mode) else path)


def may_speak(user: int | None, own: int) -> bool:
    """Whether a peer of that user id may command a server of the user `own`: itself and root. None is not known."""
    return user is not None and user in (0, own)


def user_of(peer: socket.socket) -> int | None:
    """The user id of the process at the other end of a connected socket, None where the system does not tell."""
    if hasattr(socket, "SO_PEERCRED"):  # unix(7): struct ucred of pid, uid, gid
        told = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", told)[1])
    if sys.platform == "darwin" or "bsd" in sys.platform:
        told = peer.getsockopt(0, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(struct.unpack_from("=II", told)[1])
    return None


class Place:
    """A bound socket and the files that belong to it. Whoever binds it also removes it."""

    def __init__(self, path: Path, bound: socket.socket, folder: Path | None) -> None:
        self.path = path
        self.socket = bound
        self._folder = folder
        self._made = os.lstat(path)

    def remove(self) -> None:
        """Close the socket and take its files away, unless somebody else's are there by now."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.path), self._made):
                self.path.unlink()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def bind(database: Path) -> Place:
    """Bind the socket of the server with this database, for its user alone; it does not listen yet.

    What a dead process left is replaced. Raises StartError when another server answers there, and OSError when there
    can be no socket.
    """
    path = socket_path(database)
    _clear(path)
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return Place(path, _bound(str(path)), None)
    folder = _private_folder()
    try:
        address = folder / "socket"
        bound = _bound(str(address))
        try:
            path.symlink_to(address)
            return Place(path, bound, folder)
        except BaseException:
            bound.close()
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _bound(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(address)
        os.chmod(address, 0o600)  # noqa: PTH101 - nobody can connect before it listens, so there is no gap
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def _private_folder() -> Path:
    """A new folder (0700) in which a socket's path is short enough."""
    for parent in (tempfile.gettempdir(), _SHORT_TEMPORARY):
        if len(os.fsencode(parent)) + len(_FOLDER_PREFIX) + 24 <= LONGEST_ADDRESS:
            return Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
    raise OSError("no folder for temporary files has a path that is short enough")


def _clear(path: Path) -> None:
    """Make room for a socket. Raises StartError when a server answers there, OSError for what is not a socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not (stat.S_ISSOCK(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise FileExistsError(f"{path} is not a socket")
    address = address_of(path)
    if _answers(address):
        raise StartError(f"Another eggpool server answers at {path}; stop it, or give this one a [database] path.")
    path.unlink()
    folder = Path(address).parent
    if stat.S_ISLNK(found.st_mode) and folder.name.startswith(_FOLDER_PREFIX):
        with contextlib.suppress(OSError):
            if os.lstat(folder).st_uid == os.geteuid():
                shutil.rmtree(folder)


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(address)
        except TimeoutError:
            return True  # it listens, and is busy
        except OSError:
            return False
        return True
