"""A person at a terminal: the real command in a folder of its own, with a clean environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

COMMAND = Path(sys.executable).with_name("eggpool")


class Said(msgspec.Struct, frozen=True):
    """What a command answered."""

    code: int
    out: str
    err: str


class Terminal:
    """Runs commands in `folder`; nothing of the caller's environment or home is seen by them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"}

    def run(self, *words: str, **variables: str) -> Said:
        """One command with these further variables."""
        done = subprocess.run(
            [COMMAND, *words],
            cwd=self.folder,
            env=self.environ | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def file(self, name: str, text: str) -> Path:
        """A file in the folder, with this text."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path
