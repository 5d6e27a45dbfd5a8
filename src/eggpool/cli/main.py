"""The entry point and the table of commands.

A command's module is imported only when that command runs, and this module imports nothing that is slow: `version` and
the overview are answered without the command-line library, whose import alone takes several times as long as Python's
own start.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from eggpool import __version__
from eggpool.cli.location import config_path

INTERRUPTED = 130

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("eggpool.cli.process:serve", "Run the pool in the foreground."),
    "check-config": ("eggpool.cli.setup:check_config", "Check the configuration; tell every problem at once."),
    "init-config": ("eggpool.cli.setup:init_config", "Write an example configuration."),
    "connect": ("eggpool.cli.setup:connect", "Add an account, or list the known providers."),
    "status": ("eggpool.cli.status:status", "How the running pool stands."),
    "accounts": ("eggpool.cli.accounts:accounts", "The accounts: list them, how they stand, rest and wake them."),
    "explain": ("eggpool.cli.explain:explain", "Where a request for a model would go now, and why."),
    "getkey": ("eggpool.cli.setup:getkey", "Print the key that clients send."),
    "newkey": ("eggpool.cli.setup:newkey", "Replace the key that clients send."),
    "migrate": ("eggpool.cli.process:migrate", "Bring the database up to date."),
    "demo": ("eggpool.cli.demonstrate:demo", "Show the pool at work, without any key."),
    "help": ("eggpool.cli.setup:help_command", "Show this overview, or the help of a command."),
    "version": ("eggpool.cli.setup:version", "Print the version."),
}
"""Name of each command: where it is (module:attribute), and what it does."""


def overview() -> str:
    """What `eggpool` without a command says."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: eggpool [--config PATH] COMMAND [ARGUMENTS]",
            "",
            "Pools many accounts at many LLM providers behind one endpoint.",
            "",
            "Commands:",
            *lines,
            "",
            "`eggpool COMMAND --help` tells more. --config may stand before or after the command.",
            f"Config file: {config_path(None, os.environ)}",
        ]
    )


def version_text(*, as_json: bool) -> str:
    """The version, alone or as a JSON object with what it runs on."""
    if not as_json:
        return __version__
    python = ".".join(map(str, sys.version_info[:3]))
    return f'{{"version": "{__version__}", "python": "{python}", "platform": "{sys.platform}"}}'


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a path need not be text that the terminal can show
    try:
        if words in (["version"], ["--version"], ["version", "--json"]):
            print(version_text(as_json="--json" in words), flush=True)
        elif words in ([], ["help"], ["--help"], ["-h"]):
            print(overview(), flush=True)
        else:
            sys.exit(importlib.import_module("eggpool.cli.group").run(words))
    except KeyboardInterrupt:
        complain("Interrupted.")
        sys.exit(INTERRUPTED)
    except OSError as error:
        sys.exit(failed(error))


def failed(error: OSError) -> int:
    """Tell of what the operating system refused, which may be the output itself; the exit code."""
    if not isinstance(error, BrokenPipeError):  # then who read has left, and wants to hear no more
        where = f": {error.filename}" if isinstance(error.filename, str) else ""
        complain(f"Error: {error.strerror or 'the operating system refused'}{where}")
    _flush("stdout")
    return 1


def complain(text: str) -> None:
    """A line on standard error, if that can be written."""
    try:  # noqa: SIM105 - contextlib would be imported for this alone
        print(text, file=sys.stderr)
    except OSError:
        pass  # it lies in the buffer
    _flush("stderr")


def _flush(name: str) -> None:
    """Write what lies in the buffer of that stream of `sys`; when that cannot be, throw it away.

    Otherwise the interpreter's own flush at its end would fail, complain, and change the exit code.
    """
    stream = getattr(sys, name)
    if stream is None:  # it was closed before the program began
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
