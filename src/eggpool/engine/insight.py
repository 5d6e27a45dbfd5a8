"""What people and programs are shown of a running pool: values only, made elsewhere in this package.

The command line reads them too, and starts quickly only because nothing else is imported here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from eggpool.domain import AccountLabel, Billing, Dialect
from eggpool.routing.affinity import Tally

AccountState = Literal["ready", "resting", "last_resort", "on_trial", "disabled"]
"""Can be tried; refused for now; tried when no other is left; being tried again; switched off in the configuration."""

Word = Literal["provider", "guess", "user"]
"""Who says that something rests: its provider and the user refuse, a guess of ours only puts it last."""


class RestStatus(msgspec.Struct, frozen=True):
    """What rests of an account, why, and for how long. `left_s` is 0 when the end is past and nobody has tried yet."""

    scope: Literal["model", "account", "provider"]
    name: str  # the model, the account's label, or the provider's id
    account: AccountLabel | None  # None when the provider rests
    kind: str  # "by_hand", a kind of routing/verdict.py, or a reason of routing/quota.py: a window that is used up
    word: Word
    state: Literal["resting", "due", "trial"]
    until_ms: int
    left_s: float
    failures: int  # in a row


class WindowStatus(msgspec.Struct, frozen=True):
    """How far a quota window is used. `full_at_ms` is when it will be full at the present pace."""

    name: str
    used_share: float | None
    resets_at_ms: int | None
    full_at_ms: int | None
    source: str  # who says so
    pressure: float | None = None  # how far it is ahead of its time
    drift_last: float = 0.0  # how far the provider's last report lay above what was estimated, in shares
    drift_mean: float = 0.0


class AccountStatus(msgspec.Struct, frozen=True):
    """One account as it stands. `more_rests` counts the rests of models that are left out."""

    account: AccountLabel
    provider: str
    enabled: bool
    state: AccountState
    in_flight: int
    max_concurrency: int | None
    last_used_ms: int | None  # since the server started
    rests: tuple[RestStatus, ...] = ()
    more_rests: int = 0
    windows: tuple[WindowStatus, ...] = ()
    billing: Billing | None = None  # None when it is switched off
    balance_nanodollars: int | None = None  # where the provider tells
    affinity: Tally = Tally()


class PoolStatus(msgspec.Struct, frozen=True):
    """The running server and its accounts."""

    version: str
    pid: int
    url: str
    started_at_ms: int
    uptime_s: float
    now_ms: int
    database: str
    books_lag_ms: int
    ready: bool  # at least one account can be tried
    in_flight: int
    models: int
    accounts: tuple[AccountStatus, ...]


class Considered(msgspec.Struct, frozen=True):
    """An account that a request would try, at its place from 1; `why` is what put it there, in the plan's own terms."""

    place: int
    account: AccountLabel
    model: str  # the provider's name for it
    why: dict[str, object]


class PassedOver(msgspec.Struct, frozen=True):
    """An account that a request would not try. `until_ms` is None when that has no known end."""

    account: AccountLabel
    reason: str
    until_ms: int | None
    left_s: float | None


class Explanation(msgspec.Struct, frozen=True):
    """Where a request for `model` would go at this moment. `candidates` stand in the order in which they are tried."""

    model: str
    dialect: Dialect
    conversation: str | None
    binding: str  # what became of the conversation's binding, in the words of routing/plan.py
    bound_to: AccountLabel | None
    now_ms: int
    would_go_to: AccountLabel | None
    candidates: tuple[Considered, ...]
    refused: tuple[PassedOver, ...]
    retry_after_s: float | None


class Rested(msgspec.Struct, frozen=True):
    """What was put to rest by hand."""

    name: str  # the account's label, or the provider as it was asked for
    until_ms: int
    left_s: float


class Woken(msgspec.Struct, frozen=True):
    """What was woken by hand, and what still keeps the account from work: its provider's rest, a ceiling."""

    name: str  # the account's label, or the provider as it was asked for
    woken: tuple[RestStatus, ...]
    still: tuple[RestStatus, ...]
