"""What the documents say is what the code does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from eggpool.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


def check(root: Path) -> subprocess.CompletedProcess[str]:
    """Ask whether the generated files below a root are fresh."""
    script = root / "scripts" / "generate.py"
    return subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=60)


def test_generated_files_are_fresh() -> None:
    """The example files and the reference page say what the schema says; scripts/generate.py writes them."""
    done = check(ROOT)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_command_is_on_its_page() -> None:
    """The page has a row for each command of the table, and the meaning of each exit code."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"\n| `{name}" not in page] == []
    assert [code for code in (0, 1, 2, 3, 130) if f"\n| {code} | " not in page] == []


def test_a_stale_file_is_named(tmp_path: Path) -> None:
    """The check fails for a file that was edited by hand and for one that is missing."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "generate.py", tmp_path / "scripts")
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "reference" / "configuration.md", tmp_path / "docs" / "reference")
    (tmp_path / "config.example.toml").write_text("by hand", encoding="utf-8")
    done = check(tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "stale: config.example.toml",
        "stale: .env.example",
        "stale: docs/reference/commands.md",
    ]
