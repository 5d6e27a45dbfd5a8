"""The commands `accounts ...`: what the configuration says of them, how they stand, what is done to them by hand."""

from __future__ import annotations

import os
import re

import click
import msgspec

from eggpool.cli import config_file
from eggpool.cli.running import WORDS, ask, clock_time, duration, rest_words, table
from eggpool.config.schema import Account
from eggpool.control.protocol import Rest, SetUsed, Status, Wake
from eggpool.engine.insight import AccountStatus, PoolStatus, Rested, WindowStatus, Woken

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_REST_S = 31 * 86_400

_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) ?%", re.ASCII)
_LONGEST_REST = "31 days"


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The seconds of a length of time such as 90s, 10m, 2h or 1d12h."""
    if value is None:
        return None
    parts = _DURATION.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise click.BadParameter("A duration is written like 90s, 10m, 2h or 1d12h.", ctx, param)
    seconds = sum(int(number) * SECONDS[unit] for number, unit in parts)
    if not 1 <= seconds <= LONGEST_REST_S:
        raise click.BadParameter(f"A rest lasts from a second to {_LONGEST_REST}.", ctx, param)
    return seconds


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """How much of something is used: 0.43 for "43%"."""
    found = _SHARE.fullmatch(value)
    if found is None or float(found[1]) > 100:
        raise click.BadParameter("It is written as a percentage from 0% to 100%, such as 43%.", ctx, param)
    return float(found[1]) / 100


@click.group("accounts", invoke_without_command=True)
@click.pass_context
def accounts(context: click.Context) -> None:
    """The accounts: list them, see how they stand, rest and wake them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@accounts.command("list")
@click.pass_obj
def list_accounts(option: str | None) -> None:
    """List the accounts and where their keys come from."""
    path = config_file.locate(option, os.environ)
    config = config_file.read(path, os.environ, upstream_keys=False).config
    found = [(account, provider) for provider in config.providers.values() for account in provider.accounts]
    if not found:
        click.echo("No configured accounts. Run `eggpool connect` to add one.")
        return
    click.echo("Configured accounts:")
    for account, provider in found:
        source = "no key needed" if provider.auth.mode == "none" else _key_source(account)
        click.echo(f"  {account.label}  {source}{'' if account.enabled else '  (disabled)'}")
    click.echo(f"Total: {len(found)} account{'' if len(found) == 1 else 's'}")


@accounts.command("status")
@click.option("--json", "as_json", is_flag=True, help="As a JSON array.")
@click.pass_obj
def show_status(option: str | None, *, as_json: bool) -> None:
    """How the accounts of the running pool stand: at work, resting and why, last used."""
    told = ask(option, Status(), PoolStatus)
    if as_json:
        click.echo(msgspec.json.encode(told.accounts))
        return
    if not told.accounts:
        click.echo("No configured accounts. Run `eggpool connect` to add one.")
        return
    names = tuple(dict.fromkeys(window.name for account in told.accounts for window in account.windows))
    head = ("ACCOUNT", "STATE", "IN FLIGHT", "LAST USED", *(name.upper() for name in names), "RESTS")
    table(head, [line for account in told.accounts for line in _lines(account, names, told.now_ms)])


@accounts.command("rest")
@click.argument("name")
@click.option("--for", "for_s", callback=_seconds, metavar="DURATION", help="How long, such as 10m or 2h.")
@click.pass_obj
def rest(option: str | None, name: str, *, for_s: int | None) -> None:
    """Let the account (or provider) NAME take no requests, until it is woken or the time is over."""
    told = ask(option, Rest(name, for_s), Rested)
    ends = f"for {duration(told.left_s)}" if for_s is not None else f"until it is woken, {_LONGEST_REST} at most"
    click.echo(f"{told.name} rests {ends}. `eggpool accounts wake {told.name}` ends that.")


@accounts.command("wake")
@click.argument("name")
@click.pass_obj
def wake(option: str | None, name: str) -> None:
    """End every rest of the account (or provider) NAME, whoever began it."""
    told = ask(option, Wake(name), Woken)
    if not told.woken:
        click.echo(f"Nothing of {told.name} rested.")
    for one in told.woken:
        whose = one.account or f"the provider {one.name}"
        model = f" for {one.name}" if one.scope == "model" else ""
        why = "by hand" if one.kind == "by_hand" else f"on {WORDS[one.word]} ({one.kind})"
        click.echo(f"Woken: {whose}, which rested{model} {why}.")
    for one in told.still:
        if one.scope != "provider":
            click.echo(f"{one.name} still takes nothing: {rest_words(one)}. The configuration says so.")
            continue
        click.echo(f"Its provider still rests: {rest_words(one)}. `eggpool accounts wake {one.name}/` ends that.")


@accounts.command("set-used")
@click.argument("name")
@click.argument("window")
@click.argument("share", callback=_share, metavar="SHARE")
@click.pass_obj
def set_used(option: str | None, name: str, window: str, share: float) -> None:
    """Say how far WINDOW of the account NAME is used in truth, such as 43%; that holds until the window resets."""
    ask(option, SetUsed(name, window, share), dict[str, object])
    click.echo(f"The window {window} of {name} is {share:.6%} used.".replace(".000000%", "%"))


def _lines(account: AccountStatus, windows: tuple[str, ...], now_ms: int) -> list[tuple[str, ...]]:
    """An account's line, and one more for each further rest."""
    rests = [rest_words(rest) for rest in account.rests]
    if account.more_rests:
        rests.append(f"and {account.more_rests} more")
    used = "" if account.last_used_ms is None else f"{duration((now_ms - account.last_used_ms) / 1000)} ago"
    known = {window.name: _window(window, now_ms) for window in account.windows}
    bound = "" if account.max_concurrency is None else f" of {account.max_concurrency}"
    first = (
        account.account,
        account.state.replace("_", " "),
        f"{account.in_flight}{bound}",
        used,
        *(known.get(name, "") for name in windows),
        rests[0] if rests else "",
    )
    return [first, *(("",) * (len(first) - 1) + (text,) for text in rests[1:])]


def _window(window: WindowStatus, now_ms: int) -> str:
    used = "?" if window.used_share is None else f"{window.used_share:.0%}"
    resets = "" if window.resets_at_ms is None else f", resets {clock_time(window.resets_at_ms, now_ms)}"
    full = "" if window.full_at_ms is None else f", full {clock_time(window.full_at_ms, now_ms)}"
    return f"{used}{resets}{full}"


def _key_source(account: Account) -> str:
    """Where a key comes from; of a key in the file no more than its ends."""
    if account.api_key_env:
        return f"env:{account.api_key_env}" if account.api_key_env.isupper() else "env:****"
    if account.api_key_command:
        return "command"
    if account.api_key is None:
        return "unset"
    key = account.api_key.reveal()
    return f"{key[:4]}...{key[-4:]}" if len(key) >= 24 else "****"
