"""What a person does to accounts by hand: rest, wake. And which account a person means by a name."""

from __future__ import annotations

import difflib

import msgspec

from eggpool.config.schema import Config
from eggpool.domain import AccountLabel
from eggpool.engine.insight import Rested, Woken
from eggpool.engine.pool import Pool
from eggpool.engine.status import quota_rest, rest_status
from eggpool.errors import BadRequest, CommandRefused, NotFound
from eggpool.routing.health import LONGEST_TOLD_S, ScopeKey, account_scope, provider_scope

LONGEST_S = LONGEST_TOLD_S  # 31 days: also what a rest without an end is, so that none is for ever


class Named(msgspec.Struct, frozen=True):
    """What a name means: an account, or a provider with all its accounts when `account` is None."""

    provider: str
    account: AccountLabel | None = None

    @property
    def scope(self) -> ScopeKey:
        """What rests when this does."""
        return account_scope(self.account) if self.account else provider_scope(self.provider)


def find(config: Config, name: str) -> Named:
    """The account or provider of that name.

    An account is `provider/name`, or its name alone where only one has it; a provider is its id, or `id/` where an
    account is called the same. Raises NotFound with near names, BadRequest for a name that means several.
    """
    labels = {account.label: provider.id for provider in config.providers.values() for account in provider.accounts}
    exact = AccountLabel(name)
    if exact in labels:
        return Named(labels[exact], exact)
    if name.endswith("/") and name[:-1] in config.providers:
        return Named(name[:-1])
    meant = [Named(provider, label) for label, provider in labels.items() if label.partition("/")[2] == name]
    if name in config.providers:
        meant.append(Named(name))
    if len(meant) == 1:
        return meant[0]
    if meant:
        full = sorted(one.account or f"{one.provider}/ for the provider" for one in meant)
        raise BadRequest(f"'{name}' can mean {' or '.join(full)}: write it in full.", code="ambiguous_name")
    bare = {label.partition("/")[2]: label for label in labels}
    near = difflib.get_close_matches(name, [*labels, *bare, *config.providers], n=3)
    shown = dict.fromkeys(str(bare.get(one, one)) for one in near)
    hint = f" Near it: {', '.join(shown)}." if near else " `eggpool accounts list` shows them."
    raise NotFound(f"No account or provider is called '{name}'.{hint}", code="unknown_name")


def rest(pool: Pool, name: str, for_s: float | None) -> Rested:
    """Let an account, or all of a provider, take no request for that time in seconds or until it is woken.

    No rest is longer than 31 days. Raises what `find` raises.
    """
    named = find(pool.config, name)
    began = pool.resting_scopes.rest_by_hand(named.scope, LONGEST_S if for_s is None else for_s)
    left_s = began.until - pool.clock.now()
    return Rested(named.account or name, pool.clock.wall_ms() + round(left_s * 1000), round(left_s, 3))


def wake(pool: Pool, name: str) -> Woken:
    """End every rest of an account and its models, whoever began it; of a provider also those of its accounts.

    That a window has nothing left is forgotten too, until the provider says so again; a ceiling of the user's own
    stands. Raises what `find` raises.
    """
    named = find(pool.config, name)
    scopes = [scope for scope in pool.rests if _belongs(scope, named)]
    woken = [rest_status(pool, scope) for scope in scopes]
    pool.resting_scopes.wake(scopes)
    above = provider_scope(named.provider)
    still = [rest_status(pool, above)] if above in pool.rests else []
    for label, account in pool.accounts.items():
        if label == named.account or (named.account is None and account.provider == named.provider):
            before = quota_rest(account, pool.clock.wall_ms())
            account.quota.forget_full()
            account.changed = True
            after = quota_rest(account, pool.clock.wall_ms())
            woken += [before] if before is not None and after is None else []
            still += [after] if after is not None else []
    pool.line.wake()
    return Woken(named.account or name, tuple(woken), tuple(still))


def set_used(pool: Pool, name: str, window: str, share: float) -> dict[str, object]:
    """Say how far a window of an account is used in truth; that holds until it resets.

    Raises what `find` raises, and CommandRefused for what has no such window.
    """
    named = find(pool.config, name)
    live = pool.accounts.get(named.account) if named.account is not None else None
    if named.account is None or live is None:
        raise CommandRefused(f"'{name}' is no account that is switched on, so it has no window.", reason="no_account")
    if not pool.set_used(named.account, window, share):
        windows = ", ".join(dict.fromkeys(one.spec.name for one in live.quota.windows)) or "none"
        raise CommandRefused(
            f"{named.account} has no window '{window}'; it has: {windows}.",
            reason="unknown_window",
        )
    return {"account": named.account, "window": window, "used_share": share}


def _belongs(scope: ScopeKey, named: Named) -> bool:
    kind, owner = scope[0], scope[1]
    if named.account is not None:
        return kind != "provider" and owner == named.account
    return owner == named.provider if kind == "provider" else owner.partition("/")[0] == named.provider
