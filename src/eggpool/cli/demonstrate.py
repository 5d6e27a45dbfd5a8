"""The command `demo`."""

from __future__ import annotations

import click

from eggpool import demo as demonstration
from eggpool import logs
from eggpool.cli.group import NOT_SO
from eggpool.errors import StartError


@click.command("demo")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the pool; without it a free one.")
@click.option("--once", is_flag=True, help="Send a dozen requests of each kind, check everything, and end.")
def demo(*, port: int, once: bool) -> int | None:
    """Show the pool at work, without any key: a scripted provider, three accounts, a little traffic."""
    logs.configure("WARNING", "text")
    try:
        return None if demonstration.run(click.echo, port=port, once=once) else NOT_SO
    except StartError as error:
        raise StartError(str(error).replace("in [server] port", "with --port")) from None
