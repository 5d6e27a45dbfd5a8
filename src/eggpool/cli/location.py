"""Where files of the user are looked for.

The overview of commands shows one of them, so this is part of the quick way through `main`: no pathlib, whose import
takes as long as the rest of that way.
"""

# ruff: noqa: PTH100, PTH111, PTH113, PTH117, PTH118

from __future__ import annotations

import os.path
from collections.abc import Mapping


def config_path(option: str | None, environ: Mapping[str, str]) -> str:
    """The absolute path of the configuration that a command uses, whether or not it exists.

    `--config`, then $EGGPOOL_CONFIG; else ./config.toml when there is one; else the user's own.
    """
    chosen = option or environ.get("EGGPOOL_CONFIG")
    if chosen:
        return absolute(chosen)
    if os.path.isfile("config.toml"):
        return absolute("config.toml")
    return os.path.join(_folder("XDG_CONFIG_HOME", ".config", environ), "config.toml")


def absolute(path: str) -> str:
    """A path from the root of the file system; `~` is the user's home.

    Raises FileNotFoundError when a relative path begins in a folder that was removed.
    """
    try:
        return os.path.abspath(os.path.expanduser(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "the working directory does not exist any more") from None


def state_path(name: str, environ: Mapping[str, str]) -> str:
    """A file in the user's state folder."""
    return os.path.join(_folder("XDG_STATE_HOME", ".local/state", environ), name)


def _folder(variable: str, fallback: str, environ: Mapping[str, str]) -> str:
    base = environ.get(variable, "")
    if not os.path.isabs(base):  # a relative one is to be ignored (XDG Base Directory Specification)
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), fallback)
    return os.path.join(base, "eggpool")
