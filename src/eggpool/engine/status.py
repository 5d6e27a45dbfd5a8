"""How the running pool stands, as values for people and programs. Reads, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable

from eggpool import __version__
from eggpool.config.schema import Account
from eggpool.domain import AccountLabel, provider_of
from eggpool.engine.insight import AccountState, AccountStatus, PoolStatus, RestStatus, WindowStatus, Word
from eggpool.engine.leases import AccountState as Live
from eggpool.engine.pool import Pool
from eggpool.engine.runtime import Runtime
from eggpool.routing import health
from eggpool.routing.health import BY_HAND, Rest, ScopeKey
from eggpool.routing.quota import Quota

MOST_RESTS_SHOWN = 20  # of one account: callers name the models, so there could be any number


def pool_status(runtime: Runtime) -> PoolStatus:
    """The server and all accounts of its configuration, those that are switched off too."""
    pool, clock = runtime.pool, runtime.clock
    now_ms, uptime_s = clock.wall_ms(), clock.now() - runtime.started
    return PoolStatus(
        version=__version__,
        pid=os.getpid(),
        url=runtime.url,
        started_at_ms=now_ms - round(uptime_s * 1000),
        uptime_s=round(uptime_s, 3),
        now_ms=now_ms,
        database=str(runtime.database.path),
        books_lag_ms=runtime.database.lag_ms,
        ready=pool.ready,
        in_flight=pool.in_flight,
        models=len(pool.catalog.offers),
        accounts=accounts(pool),
    )


def accounts(pool: Pool) -> tuple[AccountStatus, ...]:
    """Every account of the configuration, in its order."""
    by_account: dict[AccountLabel, list[RestStatus]] = {}
    by_provider: dict[str, RestStatus] = {}
    for scope in pool.rests:
        shown = rest_status(pool, scope)
        if shown.scope == "provider":
            by_provider[shown.name] = shown
        else:
            by_account.setdefault(AccountLabel(scope[1]), []).append(shown)
    return tuple(
        _account(
            pool,
            account,
            enabled=provider.enabled and account.enabled,
            rests=[
                *([by_provider[provider.id]] if provider.id in by_provider else []),
                *sorted(by_account.get(account.label, ()), key=lambda rest: (rest.scope, -rest.left_s, rest.name)),
            ],
        )
        for provider in pool.config.providers.values()
        for account in provider.accounts
    )


def rest_status(pool: Pool, scope: ScopeKey) -> RestStatus:
    """One rest of those that the pool knows."""
    rest, now, kind = pool.rests[scope], pool.clock.now(), scope[0]
    left_s = max(0.0, rest.until - now)
    stands = health.status(rest, now)
    return RestStatus(
        scope="model" if kind == "model" else "account" if kind == "account" else "provider",
        name=scope[-1],
        account=None if kind == "provider" else AccountLabel(scope[1]),
        kind=rest.kind,
        word=_word(rest),
        state="trial" if stands == "trial" else "resting" if stands == "resting" else "due",
        until_ms=pool.clock.wall_ms() + round((rest.until - now) * 1000),
        left_s=round(left_s, 3),
        failures=rest.failures,
    )


def quota_rest(live: Live, now_ms: int) -> RestStatus | None:
    """What of an account's quota refuses, as a rest: a window with nothing left, or a ceiling of the user's."""
    refusal = live.quota.refusal(now_ms)
    if refusal is None:
        return None
    return RestStatus(
        scope="account",
        name=live.label,
        account=live.label,
        kind=refusal.reason,
        word="user" if refusal.reason.startswith("ceiling") else "provider",
        state="resting",
        until_ms=refusal.until_ms,
        left_s=round(max(0.0, (refusal.until_ms - now_ms) / 1000), 3),
        failures=0,
    )


def _account(pool: Pool, account: Account, *, enabled: bool, rests: list[RestStatus]) -> AccountStatus:
    live, clock = pool.accounts.get(account.label), pool.clock
    spent = quota_rest(live, clock.wall_ms()) if live else None
    rests = [spent, *rests] if spent is not None else rests
    used = live is not None and live.last_used > 0
    return AccountStatus(
        account=account.label,
        provider=provider_of(account.label),
        enabled=enabled,
        state=_state(rests) if enabled else "disabled",
        in_flight=live.in_flight if live else 0,
        max_concurrency=account.max_concurrency,
        last_used_ms=clock.wall_ms() - round((clock.now() - live.last_used) * 1000) if live and used else None,
        rests=tuple(rests[:MOST_RESTS_SHOWN]),
        more_rests=max(0, len(rests) - MOST_RESTS_SHOWN),
        windows=_windows(live.quota, clock.wall_ms()) if live else (),
        billing=live.billing if live else None,
        balance_nanodollars=live.balance_nanodollars if live else None,
        affinity=pool.affinity.tally(account.label),
    )


def _windows(quota: Quota, now_ms: int) -> tuple[WindowStatus, ...]:
    """The windows of an account as a whole; those of single models are the providers' rate limits, and pass quickly."""
    return tuple(
        WindowStatus(
            name=one.name,
            used_share=one.used_share,
            resets_at_ms=one.resets_at_ms,
            full_at_ms=one.full_at_ms,
            source=one.source.value,
            pressure=one.pressure,
            drift_last=one.drift.last,
            drift_mean=one.drift.mean,
        )
        for one in quota.view(now_ms)
        if one.model is None
    )


def _state(rests: Iterable[RestStatus]) -> AccountState:
    """How an account stands as a whole; what rests of its models only concerns requests for those."""
    whole = [rest for rest in rests if rest.scope != "model" and rest.state != "due"]
    if any(rest.word != "guess" and rest.state == "resting" for rest in whole):
        return "resting"
    if any(rest.state == "trial" for rest in whole):
        return "on_trial"
    return "last_resort" if whole else "ready"


def _word(rest: Rest) -> Word:
    if rest.kind == BY_HAND:
        return "user"
    return "provider" if rest.on_providers_word else "guess"
