"""The table of commands as click sees it: late imports, `--config` anywhere, exit codes.

A command is a click command named in the table of `main`. It may return its exit code; an EggPoolError that it raises
becomes one sentence on stderr and the code of its kind. The context's `obj` is the path given with `--config`, or None.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import cast

import click

from eggpool.cli.main import COMMANDS, INTERRUPTED, complain, failed, overview
from eggpool.errors import ConfigError, EggPoolError, ServerUnreachable, UpstreamError

NOT_SO = 1
WRONG_USE = 2
UNREACHABLE = 3

EXIT_CODES: tuple[tuple[type[EggPoolError], int], ...] = (
    (ConfigError, WRONG_USE),
    (UpstreamError, UNREACHABLE),
    (ServerUnreachable, UNREACHABLE),
    (EggPoolError, NOT_SO),
)
"""The first kind that an error belongs to gives the exit code."""


class Commands(click.Group):
    """The commands of the table, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, with `--config` among its options."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return _with_config_option(cast(click.Command, getattr(importlib.import_module(module), attribute)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Adds the nearest name to the complaint about a command that does not exist."""
        near = difflib.get_close_matches(args[0], COMMANDS, n=1) if args[0] not in COMMANDS else []
        if near:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview of `main`, so that there is only one."""
        formatter.write(overview() + "\n")


def _config_option() -> click.Option:
    def keep(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.obj = value  # of this context and those made below it

    return click.Option(
        ["--config"], metavar="PATH", expose_value=False, callback=keep, help="The configuration file to use."
    )


def _with_config_option(command: click.Command) -> click.Command:
    if not any("--config" in parameter.opts for parameter in command.params):
        command.params.append(_config_option())
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _with_config_option(inner)
    return command


def root_command() -> Commands:
    """The program as a command."""
    root = Commands(
        "eggpool",
        params=[_config_option()],
        invoke_without_command=True,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @click.pass_context
    def without_command(ctx: click.Context) -> None:
        if ctx.invoked_subcommand is None:
            click.echo(overview())

    root.callback = without_command
    return root


def run(words: Sequence[str]) -> int:
    """Run the command that the words name; the exit code."""
    try:
        code = root_command().main(list(words), prog_name="eggpool", standalone_mode=False)
    except click.ClickException as error:
        _without_arguments(error).show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("Interrupted.")
        return INTERRUPTED
    except EggPoolError as error:
        complain(f"Error: {sentence(error)}")
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except OSError as error:
        return failed(error)
    except UnicodeError:
        complain("Error: an argument or a name holds characters that are not UTF-8 text.")
        return WRONG_USE
    return code if isinstance(code, int) else 0


def _without_arguments(error: click.ClickException) -> click.ClickException:
    """The complaint without the words that were too many: one of them may be a key that was pasted."""
    if not isinstance(error, click.UsageError) or not error.message.startswith("Got unexpected extra argument"):
        return error
    takes_key = error.ctx is not None and any("--key-env" in one.opts for one in error.ctx.command.params)
    hint = "; a key is named by --key-env NAME." if takes_key else "."
    return click.UsageError(f"Got unexpected extra arguments{hint}", error.ctx)


def sentence(error: EggPoolError) -> str:
    """What is told of an error: of a configuration, every problem on a line of its own."""
    if not isinstance(error, ConfigError) or (error.source is None and len(error.problems) == 1):
        return str(error)
    count = len(error.problems)
    what = error.source or "the configuration"
    lines = "".join(f"\n  {problem}" for problem in error.problems)
    return f"{count} problem{'' if count == 1 else 's'} in {what}:{lines}"
