"""Commands around the configuration: check it, write one, add an account, keys, help and version."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import click

from eggpool import presets
from eggpool.cli import config_file
from eggpool.cli.group import NOT_SO
from eggpool.cli.main import version_text
from eggpool.config import edit, load, reference
from eggpool.config.schema import PROVIDER_ID_PATTERN, Account, Config
from eggpool.errors import ConfigError, EggPoolError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
_KEY = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}\Z|.{40,}\Z")
"""What could be a variable's name and looks more like a key: those of AWS, and whatever is long."""

MARKS = {"verified": "✓", "experimental": "~", "unverified": "?"}
MINIMAL = '[server]\nhost = "127.0.0.1"\nport = 11300\n'


@click.command("check-config")
@click.pass_obj
def check_config(option: str | None) -> None:
    """Check the configuration and tell every problem at once."""
    path = config_file.locate(option, os.environ)
    loaded = config_file.read(path, os.environ)
    config = loaded.config
    click.echo(f"Configuration loaded successfully from {path}")
    click.echo(f"  Server: {config.server.host}:{config.server.port}")
    click.echo(f"  Accounts: {sum(len(provider.accounts) for provider in config.providers.values())}")
    click.echo(f"  Database: {config.database.path}")
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}")


@click.command("init-config")
@click.argument("target", required=False)
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@click.pass_obj
def init_config(option: str | None, target: str | None, *, force: bool) -> int | None:
    """Write an example configuration to TARGET (config.toml here)."""
    path = config_file.named(target or option or "config.toml")
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where the folder cannot be searched
        raise ConfigError((f"{path} is a folder; name the file to write",))
    if os.path.lexists(path) and not force:
        click.echo(
            f"Error: {path} exists already. `eggpool connect` adds an account to it; --force overwrites it.", err=True
        )
        return NOT_SO
    config_file.write(path, reference.config_example())
    click.echo(f"Config written to {path}")
    click.echo(f"Next: set {reference.EXAMPLE_VARIABLE} in the environment or in {path.parent / '.env'}.")
    return None


@click.command("getkey")
@click.pass_obj
def getkey(option: str | None) -> int | None:
    """Print the key that clients send."""
    path = config_file.locate(option, os.environ)
    config = config_file.read(path, os.environ, upstream_keys=False).config
    key = config.server.api_key or (None if config.clients else config_file.stored_server_key(path, os.environ))
    if key is None:
        click.echo("No API key configured. Run `eggpool newkey` to make one.", err=True)
        return NOT_SO
    click.echo(key.reveal(), nl=False)
    return None


@click.command("newkey")
@click.pass_obj
def newkey(option: str | None) -> int | None:
    """Replace the key that clients send by a new one."""
    path = config_file.locate(option, os.environ)
    server = config_file.read(path, os.environ, upstream_keys=False).config.server
    if server.api_key is not None and not config_file.holds_key(config_file.read_text(path)):
        click.echo(
            f"The key comes from the environment variable {server.api_key_env}; change it there. Nothing was written.",
            err=True,
        )
        return NOT_SO
    old = server.api_key or config_file.stored_server_key(path, os.environ)
    key = config_file.new_key()
    where = config_file.store_server_key(path, key, os.environ)
    if old is not None:
        click.echo(f"Old key (expired): {old.reveal()}")
    click.echo(f"New key (use this): {key.reveal()}")
    click.echo(f"Written to {where}. Start or restart the server to apply the new key.")
    return None


@click.command("connect")
@click.argument("provider", metavar="ID")
@click.option("--key-env", metavar="NAME", help="Environment variable that holds the key.")
@click.option("--name", metavar="NAME", help="Name of the account; made up when not given.")
@click.option("--base-url", metavar="URL", help="Where the provider is, if it is not the usual place.")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(["openai", "anthropic", "responses"]),
    help="What a provider outside the catalogue speaks; may be given several times.",
)
@click.pass_obj
def connect(
    option: str | None,
    provider: str,
    key_env: str | None,
    name: str | None,
    base_url: str | None,
    protocols: tuple[str, ...],
) -> int | None:
    """Add an account at the provider ID; `connect list` shows the known ones."""
    if key_env is not None and not _is_variable_name(key_env, os.environ):
        raise click.UsageError("--key-env takes the name of a variable, not the key itself.")
    catalogue = config_file.catalogue()
    path = config_file.locate(option, os.environ)
    if provider == "list":
        _list_providers(catalogue, path)
        return None
    text = config_file.read_text(path, without=MINIMAL)
    before = _loaded(text, path)
    table = _provider_table(provider, base_url, protocols, catalogue, before)
    keyless = _is_keyless(provider, catalogue, before)
    if key_env is None and not keyless:
        preset = catalogue.get(provider)
        hint = preset.api_key_env if preset is not None and preset.api_key_env else "NAME"
        raise click.UsageError(f"The provider needs a key: add --key-env {hint}, the variable that holds it.")
    known = before.providers.get(provider)
    accounts = known.accounts if known is not None else ()
    twin = next((one for one in accounts if key_env is not None and one.api_key_env == key_env), None)
    if twin is not None:
        click.echo(f"Error: the account {twin.label} uses {key_env} already.", err=True)
        return NOT_SO
    account = {"name": name or _free_name(provider, accounts)}
    if key_env is not None:
        account["api_key_env"] = key_env
    after = edit.add_account(text, table, account)
    _loaded(after, path)
    config_file.write(path, after)
    click.echo(f"Added {account['name']} to {provider} in {path}.")
    if known is None and base_url is None and provider in catalogue and catalogue[provider].notes:
        click.echo(f"Note: {catalogue[provider].notes}.")
    if key_env is not None and key_env not in {**config_file.dotenv(path), **os.environ}:
        click.echo(f"{key_env} is not set yet: set it in the environment or in {path.parent / '.env'}.")
    click.echo("Start or restart the server to apply changes.")
    return None


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_command(context: click.Context, command: tuple[str, ...]) -> None:
    """Show the overview, or the help of COMMAND."""
    here = context.find_root()
    for word in command:
        if not isinstance(here.command, click.Group):
            raise click.UsageError(f"'{here.info_name}' has no command '{word}'.")
        inner = here.command.get_command(here, word)
        if inner is None:
            raise click.UsageError(f"No such command '{word}'.")
        here = click.Context(inner, info_name=word, parent=here)
    click.echo(here.get_help())


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def version(*, as_json: bool) -> None:
    """Print the version."""
    click.echo(version_text(as_json=as_json))


def _loaded(text: str, path: Path) -> Config:
    """What a text means at its place; keys of providers may be missing."""
    try:
        variables = {**config_file.dotenv(path), **os.environ}
        variables.setdefault("HOME", os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises without one
        return load.load(text, variables, folder=str(path.parent), upstream_keys=False).config
    except ConfigError as error:
        raise ConfigError(error.problems, source=str(path)) from None


def _provider_table(
    provider: str,
    base_url: str | None,
    protocols: tuple[str, ...],
    catalogue: dict[str, presets.Preset],
    config: Config,
) -> dict[str, object]:
    known, preset = config.providers.get(provider), catalogue.get(provider)
    if known is not None:
        if base_url is not None and base_url.rstrip("/") != known.base_url:
            raise click.UsageError(f"'{provider}' is configured with another URL; edit the file or take another ID.")
        if protocols and set(protocols) != set(known.protocols):
            raise click.UsageError(f"'{provider}' is configured with other protocols; edit them in the file.")
        return {"id": provider}
    if preset is not None:
        if protocols:
            raise click.UsageError(f"--protocol is for providers outside the catalogue, and '{provider}' is in it.")
        if not preset.base_url and base_url is None:
            raise click.UsageError(f"'{provider}' needs --base-url: {preset.notes}.")
        return preset.table(base_url)
    if not re.match(PROVIDER_ID_PATTERN, provider):
        raise click.UsageError("An ID has at most 64 letters, digits, '-' and '_', and begins with a letter or digit.")
    if base_url is None:
        near = difflib.get_close_matches(provider, catalogue, n=1)
        hint = f"did you mean '{near[0]}'? Else" if near else "`eggpool connect list` shows it;"
        what = f"'{provider}'" if len(provider) <= 20 else "That ID"  # a longer one may be a key that was pasted
        raise click.UsageError(f"{what} is not in the catalogue; {hint} add --base-url URL.")
    return {"id": provider, "base_url": base_url, "protocols": list(protocols or ("openai",)), "routing_priority": 0}


def _is_variable_name(name: str, environ: Mapping[str, str]) -> bool:
    """Whether it is the name of a variable, and not a key that was pasted in its place."""
    return bool(_VARIABLE.match(name)) and (name in environ or not _KEY.match(name))


def _is_keyless(provider: str, catalogue: dict[str, presets.Preset], config: Config) -> bool:
    if provider in config.providers:
        return config.providers[provider].auth.mode == "none"
    return provider in catalogue and catalogue[provider].auth.mode == "none"


def _free_name(provider: str, taken: tuple[Account, ...]) -> str:
    names = {account.name for account in taken}
    number = 1
    while f"{provider}-{number:04d}" in names:
        number += 1
    return f"{provider}-{number:04d}"


def _list_providers(catalogue: dict[str, presets.Preset], path: Path) -> None:
    try:
        configured = config_file.read(path, os.environ, upstream_keys=False).config.providers
    except EggPoolError:
        configured = {}  # the catalogue can be read without a configuration, or with a broken one
    for preset in catalogue.values():
        star = "*" if preset.recommended else " "
        priority = f" (priority {configured[preset.id].routing_priority})" if preset.id in configured else ""
        notes = f" — {preset.notes}" if preset.notes else ""
        click.echo(
            f"  {star} {preset.id}: {preset.name} ({preset.base_url or 'your own URL'})"
            f" [{MARKS[preset.status]}]{priority}{notes}"
        )
    counts = {status: sum(preset.status == status for preset in catalogue.values()) for status in MARKS}
    click.echo()
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items()))
    click.echo("  ".join(f"{mark} {status}" for status, mark in MARKS.items()) + "  * recommended")
