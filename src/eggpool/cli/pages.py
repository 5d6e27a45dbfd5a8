"""The commands as a document: the reference page, read off the commands themselves. Text out, nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import click

from eggpool.cli.group import NOT_SO, UNREACHABLE, WRONG_USE, root_command
from eggpool.cli.main import INTERRUPTED

EXITS = {
    0: "Done. For `serve` and `demo` also: stopped by Ctrl-C or SIGTERM once they listened, which is a clean end.",
    NOT_SO: "It is not so, or cannot be done: no key to print, no such account, a port in use, nothing that runs.",
    WRONG_USE: "Wrong use, or a configuration that cannot be used; each problem is told.",
    UNREACHABLE: "The running server, or a provider, cannot be reached.",
    INTERRUPTED: "Interrupted by Ctrl-C; of `serve` and `demo`, before they listened.",
}
"""What each exit code means."""


def commands_page() -> str:
    """Every command with its options, and the exit codes, as Markdown."""
    parts = [
        "# Commands\n",
        "<!-- Generated from src/eggpool/cli by scripts/generate.py. -->\n",
        "`--config PATH` names the configuration and may stand before or after each command; `-h` or `--help`\n"
        "explains it. What a command answers goes to standard output, errors and logs go to standard error.\n",
        "| command | what it does | options |\n| --- | --- | --- |",
        *(_row(usage, command) for usage, command in _commands()),
        "\n## Exit codes\n",
        "| code | meaning |\n| --- | --- |",
        *(f"| {code} | {meaning} |" for code, meaning in EXITS.items()),
    ]
    return "\n".join(parts) + "\n"


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, with its words and arguments; one of a group after the group's name."""
    root = root_command()
    context = click.Context(root, info_name="eggpool")
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if isinstance(command, click.Group):
            for inner, below in command.commands.items():
                yield _usage(f"{name} {inner}", below, context), below
        elif command is not None:
            yield _usage(name, command, context), command


def _usage(name: str, command: click.Command, context: click.Context) -> str:
    arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
    return " ".join([name, *arguments])


def _row(usage: str, command: click.Command) -> str:
    options: list[str] = []
    for one in command.params:
        if not isinstance(one, click.Option) or "--config" in one.opts:
            continue
        kind = one.type
        value = (
            ""
            if one.is_flag
            else f" {one.metavar or ('|'.join(kind.choices) if isinstance(kind, click.Choice) else 'N')}"
        )
        options.append(f"`{one.opts[0]}{value}` {_cell(one.help or '')}".replace("|", "\\|"))
    return f"| `{usage}` | {_cell(command.get_short_help_str(200))} | {'<br>'.join(options)} |"


def _cell(text: str) -> str:
    return text.replace("<", "&lt;")
