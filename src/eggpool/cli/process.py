"""Commands about the running process and its books: serve, migrate."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click

from eggpool import __version__, logs
from eggpool.cli import config_file
from eggpool.config.schema import Config
from eggpool.control.server import open_control
from eggpool.engine import runtime
from eggpool.store import db
from eggpool.web.app import make_app

_log = logging.getLogger(__name__)


@click.command()
@click.pass_context
def serve(context: click.Context) -> None:
    """Run the pool in the foreground until it is stopped."""
    path = config_file.locate(context.obj, os.environ)
    loaded, new_key = config_file.ensure_server_key(path, config_file.read(path, os.environ), os.environ)
    config = loaded.config
    logs.configure(config.server.log_level, config.server.log_format)
    _register_secrets(config)
    for warning in loaded.warnings:
        _log.warning("%s", warning)

    async def attend(running: runtime.Runtime) -> None:
        if new_key is not None:  # stored only now: a start that fails leaves no key behind that nobody noted
            kept = config_file.store_server_key(path, new_key, os.environ)
            click.echo(
                f"This pool had no key yet. Its key is now (shown once, kept in {kept}):\n\n    {new_key.reveal()}\n"
            )
        accounts = len(running.pool.accounts)
        _log.info("EggPool %s listens on %s with %s", __version__, running.url, _counted(accounts, "account"))
        if not accounts:
            _log.warning("no account is set up; add one with: eggpool connect PROVIDER --key-env NAME")
        await asyncio.Event().wait()

    runtime.run(runtime.serve(config, make_app, attend, open_control))


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.pass_context
def migrate(context: click.Context, dry_run: bool) -> None:
    """Bring the database up to this version."""
    config = config_file.read(config_file.locate(context.obj, os.environ), os.environ, upstream_keys=False).config
    names = db.migrate(Path(str(config.database.path)), dry_run=dry_run)
    for name in names:
        click.echo(f"{'Would apply' if dry_run else 'Applied'} {name}")
    pending = f"{_counted(len(names), 'migration')} {'is' if len(names) == 1 else 'are'} pending"
    click.echo(pending if dry_run else "Migrations completed successfully")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _register_secrets(config: Config) -> None:
    """Whatever is secret is taken out of every log line, wherever it comes from."""
    if config.server.api_key is not None:
        logs.register_secret(config.server.api_key.reveal())
    for provider in config.providers.values():
        secrets = [account.api_key for account in provider.accounts] + [one.outbound for one in provider.accounts]
        for secret in [*secrets, *(header.value for header in provider.headers)]:
            if secret is not None:
                logs.register_secret(secret.reveal())
