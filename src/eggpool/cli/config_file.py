"""The configuration as a file: found, read together with `.env`, changed in one step, and given a server key.

What the text means is `config.load`'s, how it is edited `config.edit`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from eggpool.cli.location import config_path, state_path
from eggpool.config import edit
from eggpool.config.dotenv import parse_dotenv
from eggpool.config.load import Loaded, load
from eggpool.config.schema import KEY_PATTERN, Secret
from eggpool.engine.prices import check_prices
from eggpool.errors import ConfigError, StartError

COMMAND_LIMIT_S = 10.0


class NewKey(msgspec.Struct, frozen=True):
    """A server key that has just been made, to be shown once, and the file that it was written to."""

    key: str
    path: Path

    def __repr__(self) -> str:
        return f"NewKey(key=***, path={self.path!r})"


def locate(option: str | None, environ: Mapping[str, str]) -> Path:
    """The configuration that a command uses, whether or not it exists.

    `--config`, then $EGGPOOL_CONFIG; else ./config.toml when there is one; else the user's own.
    """
    return Path(config_path(option, environ))


def read(path: Path, environ: Mapping[str, str], *, upstream_keys: bool = True) -> Loaded:
    """The configuration in a file, with the variables of `.env` beside it; `environ` wins over them.

    `upstream_keys` false is for commands that need no provider's key: none is looked up then. Raises ConfigError with
    every problem.
    """
    text = read_text(path)
    variables = {**dotenv(path), **environ}
    variables.setdefault("HOME", os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises without one

    def run_command(command: str) -> str:
        return _printed_by(command, environ, path.parent)

    try:
        loaded = load(text, variables, folder=str(path.parent), run_command=run_command, upstream_keys=upstream_keys)
        check_prices(loaded.config)
    except ConfigError as error:
        raise ConfigError(error.problems, source=str(path)) from None
    return loaded


def read_text(path: Path) -> str:
    """The text of a configuration; a ConfigError says what to do when there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            (f"there is no configuration at {path}; `eggpool connect` or `eggpool init-config` makes one",)
        ) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{path} is not UTF-8 text",)) from None
    except OSError as error:
        raise ConfigError((f"cannot read {path}: {error.strerror}",)) from None


def dotenv(path: Path) -> dict[str, str]:
    """The variables of the `.env` beside a configuration; none when there is no such file."""
    beside = path.parent / ".env"
    try:
        return parse_dotenv(beside.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except UnicodeDecodeError:
        raise ConfigError((f"{beside} is not UTF-8 text",)) from None
    except OSError as error:
        raise ConfigError((f"cannot read {beside}: {error.strerror}",)) from None


def write(path: Path, text: str) -> None:
    """Replace a file, or make it, in one step; through a link, its target.

    A new file has mode 0600, an old one keeps its mode and owner. Raises StartError when that cannot be done.
    """
    target = path.resolve()
    scratch: str | None = None
    try:
        old = target.stat() if target.exists() else None
        if old is not None and (not stat.S_ISREG(old.st_mode) or not os.access(target, os.W_OK)):
            raise StartError(f"cannot write {target}: it is read-only or no regular file")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(prefix=".eggpool-", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            if old is not None:
                made = os.fstat(file.fileno())
                if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            os.fsync(file.fileno())
        Path(scratch).replace(target)
        scratch = None
    except OSError as error:
        raise StartError(f"cannot write {target}: {error.strerror}") from None
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                Path(scratch).unlink()


def new_key() -> Secret:
    """A fresh server key: `ep_` and 64 hexadecimal digits."""
    return Secret("ep_" + secrets.token_hex(32))


def ensure_server_key(
    path: Path, loaded: Loaded, environ: Mapping[str, str] = os.environ
) -> tuple[Loaded, NewKey | None]:
    """The configuration with a server key, and that key when it had to be made.

    One is made when there is none in the file, the environment or the state folder, and no [[clients]] either.
    """
    if loaded.config.server.api_key is not None or loaded.config.clients:
        return loaded, None
    key = stored_server_key(environ)
    if key is not None:
        return _with_key(loaded, key), None
    key = new_key()
    return _with_key(loaded, key), NewKey(key.reveal(), store_server_key(path, key, environ))


def stored_server_key(environ: Mapping[str, str]) -> Secret | None:
    """The key that was kept in the state folder because the configuration could not be written."""
    file = Path(state_path("server_key", environ))
    try:
        key = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise ConfigError((f"cannot read the server key in {file}; remove the file to have a new one made",)) from None
    if not re.match(KEY_PATTERN, key):
        raise ConfigError((f"{file} holds no server key; remove the file to have a new one made",))
    return Secret(key)


def store_server_key(path: Path, key: Secret, environ: Mapping[str, str]) -> Path:
    """Write a server key into the configuration or, when that is read-only, into the state folder; where it went."""
    text = edit.set_value(read_text(path), "server.api_key", key.reveal())
    try:
        write(path, text)
    except StartError:
        file = Path(state_path("server_key", environ))
        write(file, key.reveal() + "\n")
        return file
    return path


def _with_key(loaded: Loaded, key: Secret) -> Loaded:
    config = replace(loaded.config, server=replace(loaded.config.server, api_key=key))
    return replace(loaded, config=config)


def _printed_by(command: str, environ: Mapping[str, str], folder: Path) -> str:
    """The first line that a command prints; StartError, without its output, when it fails."""
    try:
        words = shlex.split(command)
        if not words:
            raise StartError("the command is empty")
        done = subprocess.run(  # noqa: S603 - the owner of the configuration asked for it; no shell is involved
            words,
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartError(f"the command did not end within {COMMAND_LIMIT_S:.0f} seconds") from None
    except FileNotFoundError:
        raise StartError("the command's program was not found") from None
    except (OSError, ValueError):
        raise StartError("the command cannot be run; check its quotes and its program") from None
    if done.returncode != 0:
        raise StartError(f"the command ended with exit code {done.returncode}")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return lines[0].strip() if lines else ""
