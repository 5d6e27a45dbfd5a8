"""The configuration as a file: found, read together with `.env`, changed in one step, and given a server key.

What the text means is `config.load`'s, how it is edited `config.edit`'s.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from msgspec.structs import replace

from eggpool import presets
from eggpool.cli.certificates import certificate_problems
from eggpool.cli.location import absolute, config_path, state_path
from eggpool.config import edit
from eggpool.config.dotenv import parse_dotenv, scan_dotenv
from eggpool.config.load import Loaded, load, parse
from eggpool.config.schema import KEY_PATTERN, Config, Secret
from eggpool.engine.prices import price_problems
from eggpool.errors import ConfigError, StartError

COMMAND_LIMIT_S = 10.0


def locate(option: str | None, environ: Mapping[str, str]) -> Path:
    """The configuration that a command uses, whether or not it exists.

    `--config`, then $EGGPOOL_CONFIG; else ./config.toml when there is one; else the user's own.
    """
    _check_home(option or environ.get("EGGPOOL_CONFIG") or "")
    return Path(config_path(option, environ))


def named(path: str) -> Path:
    """The absolute path that a person wrote; a ConfigError says when it begins in nobody's home."""
    _check_home(path)
    return Path(absolute(path))


def _check_home(path: str) -> None:
    if path.startswith("~") and os.path.expanduser(path).startswith("~"):  # noqa: PTH111 - Path.expanduser raises
        raise ConfigError((f"'{path.split('/')[0]}' is no user's home; write the path out",))


def read(path: Path, environ: Mapping[str, str], *, upstream_keys: bool = True) -> Loaded:
    """The configuration in a file, with the variables of `.env` beside it; `environ` wins over them.

    `upstream_keys` false is for commands that need no provider's key: none is looked up then. Raises ConfigError with
    every problem.
    """
    text = read_text(path)
    found, problems = scan_dotenv(_dotenv_text(path), place=str(path.parent / ".env"))
    variables = {**found, **environ}
    variables.setdefault("HOME", os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises without one

    def run_command(command: str) -> str:
        return _printed_by(command, environ, path.parent)

    def further(config: Config) -> list[str]:
        return price_problems(config) + (certificate_problems(config.server) if upstream_keys else [])

    try:
        loaded = load(
            text,
            variables,
            folder=str(path.parent),
            run_command=run_command,
            upstream_keys=upstream_keys,
            further=further,
            catalogue=catalogue(),
        )
    except ConfigError as error:
        raise ConfigError((*problems, *error.problems), source=str(path)) from None
    if problems:
        raise ConfigError(problems, source=str(path))
    return loaded


def catalogue() -> dict[str, presets.Preset]:
    """The bundled catalogue of providers, by id."""
    return presets.read((resources.files("eggpool") / "data" / "providers.toml").read_text(encoding="utf-8"))


def read_text(path: Path, *, without: str | None = None) -> str:
    """The text of a configuration, its line ends as they are; `without` when there is no such file.

    Raises ConfigError, which says what to do.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if without is not None:
            return without
        raise ConfigError(
            (f"there is no configuration at {path}; `eggpool connect` or `eggpool init-config` makes one",)
        ) from None
    except UnicodeDecodeError:
        raise ConfigError((f"{path} is not UTF-8 text",)) from None
    except IsADirectoryError:
        raise ConfigError((f"{path} is a folder; name the file in it, such as {path / 'config.toml'}",)) from None
    except OSError as error:
        raise ConfigError((f"cannot read {path}: {_reason(path, error)}",)) from None


def dotenv(path: Path) -> dict[str, str]:
    """The variables of the `.env` beside a configuration; none when there is no such file."""
    return parse_dotenv(_dotenv_text(path), place=str(path.parent / ".env"))


def _dotenv_text(path: Path) -> str:
    beside = path.parent / ".env"
    try:
        return beside.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError:
        raise ConfigError((f"{beside} is not UTF-8 text",)) from None
    except OSError as error:
        raise ConfigError((f"cannot read {beside}: {error.strerror}",)) from None


def write(path: Path, text: str) -> None:
    """Replace a file, or make it, in one step; through a link, its target.

    A new file has mode 0600, an old one keeps its mode and owner. Raises StartError when that cannot be done.
    """
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(("what is to be written holds characters that are not UTF-8 text",)) from None
    target = _target(path)
    scratch: str | None = None
    try:
        old = target.stat() if target.exists() else None
        if old is not None and (not stat.S_ISREG(old.st_mode) or not os.access(target, os.W_OK)):
            raise StartError(f"cannot write {target}: it is read-only or no regular file")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(prefix=".eggpool-", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encoded)
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
        raise StartError(f"cannot write {target}: {_reason(target, error)}") from None
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                Path(scratch).unlink()


def _target(path: Path) -> Path:
    """The file that a path names in the end. Raises StartError when its links lead nowhere."""
    try:
        target = path.resolve()
    except (RuntimeError, OSError):  # the first of them is what a circle was before Python 3.13
        target = None
    # From 3.13 on, a circle is given back as the link that it is.
    if target is None or os.path.islink(target):  # noqa: PTH114 - Path.is_symlink raises for what cannot be looked at
        raise StartError(f"cannot write {path}: its symbolic links lead in a circle, or cannot be followed")
    return target


def new_key() -> Secret:
    """A fresh server key: `ep_` and 64 hexadecimal digits."""
    return Secret("ep_" + secrets.token_hex(32))


def ensure_server_key(path: Path, loaded: Loaded, environ: Mapping[str, str]) -> tuple[Loaded, Secret | None]:
    """The configuration with a server key, and that key when it had to be made and must still be stored.

    One is made when there is none in the file, the environment or the state folder, and no [[clients]] either.
    """
    if loaded.config.server.api_key is not None or loaded.config.clients:
        return loaded, None
    key = stored_server_key(path, environ)
    if key is not None:
        return _with_key(loaded, key), None
    key = new_key()
    return _with_key(loaded, key), key


def stored_server_key(path: Path, environ: Mapping[str, str]) -> Secret | None:
    """The key that is kept in the state folder because this configuration could not be written."""
    file = _key_file(path, environ)
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
    """Write a server key into the configuration; where it went.

    When that cannot be written and holds no key itself, the key goes into the state folder. Raises StartError when
    there is no place for it.
    """
    text = read_text(path)
    kept = _key_file(path, environ)
    try:
        write(path, edit.set_value(text, "server.api_key", key.reveal()))
    except StartError:
        if holds_key(text):  # the file wins over the state folder, so a key there would be none
            raise StartError(
                f"the key stands in {path}, which is read-only; change it there. Nothing was written."
            ) from None
        write(kept, key.reveal() + "\n")
        return kept
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        kept.unlink()  # it would come back when the key is taken out of the configuration again
    return path


def holds_key(text: str) -> bool:
    """Whether a configuration's text itself sets the server's key."""
    table = parse(text).get("server", {})
    return isinstance(table, dict) and "api_key" in table


def _key_file(path: Path, environ: Mapping[str, str]) -> Path:
    """Where the key of this configuration, and of no other, is kept when the configuration cannot be written."""
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    return Path(state_path(f"server_key-{name}", environ))


def _reason(path: Path, error: OSError) -> str:
    """Why a file cannot be used, in words about the file."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        wrong = next((one for one in path.parents if os.path.lexists(one) and not os.path.isdir(one)), None)  # noqa: PTH112 - Path.is_dir may raise
        if wrong is not None:
            return f"{wrong} is not a folder"
    return error.strerror or "the operating system refused"


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
