"""The command `status`."""

from __future__ import annotations

import click
import msgspec

from eggpool.cli.group import NOT_SO
from eggpool.cli.running import ask, duration
from eggpool.control.protocol import Status
from eggpool.engine.insight import PoolStatus
from eggpool.errors import NotRunning


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
@click.pass_obj
def status(option: str | None, *, as_json: bool) -> int | None:
    """Whether the pool runs, where it listens, and how its accounts stand."""
    try:
        told = ask(option, Status(), PoolStatus)
    except NotRunning as error:
        if as_json:
            click.echo('{"running":false}')
        click.echo(str(error), err=True)
        return NOT_SO
    if as_json:
        click.echo(msgspec.json.encode({"running": True, **msgspec.to_builtins(told)}))
        return None
    states = [account.state for account in told.accounts if account.enabled]
    counts = ", ".join(
        f"{states.count(state)} {words}"
        for state, words in (
            ("ready", "ready"),
            ("on_trial", "being tried again"),
            ("last_resort", "a last resort"),
            ("resting", "resting"),
        )
        if state in states
    )
    click.echo(f"EggPool {told.version} runs at {told.url} (process {told.pid}, up {duration(told.uptime_s)}).")
    click.echo(f"  Accounts: {counts or 'none that is enabled'}")
    click.echo(f"  Models: {told.models}")
    click.echo(f"  Requests in flight: {told.in_flight}")
    click.echo(f"  Database: {told.database}")
    if told.books_lag_ms >= 5000:
        click.echo(f"  The books lag {duration(told.books_lag_ms / 1000)} behind: is the database locked?")
    return None
