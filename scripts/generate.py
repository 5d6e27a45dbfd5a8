"""Writes the files that follow from the code; with --check, names those that are stale and exits with 1."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from eggpool.cli.pages import commands_page
from eggpool.config import reference

ROOT = Path(__file__).resolve().parent.parent


def generated() -> dict[str, str]:
    """The text of each generated file, by its path below the root of the project."""
    return {
        "config.example.toml": reference.config_example(),
        ".env.example": reference.env_example(),
        "docs/reference/configuration.md": reference.reference_page(),
        "docs/reference/commands.md": commands_page(),
    }


def stale(root: Path) -> list[str]:
    """The generated files below `root` that are missing or differ from what the code says."""
    return [
        name
        for name, text in generated().items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write, or with --check compare; 0 when all is fresh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is stale")
    check = parser.parse_args().check
    names = stale(ROOT)
    for name in names:
        if not check:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(generated()[name], encoding="utf-8")
        print(f"{'stale' if check else 'written'}: {name}")
    return 1 if check and names else 0


if __name__ == "__main__":
    sys.exit(main())
