"""The frozen vocabulary that every other module speaks.

Only values live here: no I/O, no clock, no behaviour beyond what a value knows about itself. Token counts are subsets
of one another as written at `Usage`; money is integer nanodollars (10^-9 USD); prices are nanodollars per million
tokens; instants are wall-clock milliseconds since 1970 (`_at_ms`), durations integer microseconds (`_us`).
"""

from __future__ import annotations

import enum
from typing import Literal, NewType

import msgspec

AccountLabel = NewType("AccountLabel", str)
"""`provider/name`: unique in a configuration, shown to users, safe to log."""


Billing = Literal["plan", "metered"]
"""How an account is paid for: prepaid, or for each token."""

MeterName = Literal[
    "opencode-go", "zai", "kimi", "moonshot", "minimax", "synthetic", "chutes", "nano-gpt", "openrouter", "deepseek"
]
"""The usage endpoints that can be read, by the provider whose they are."""


class Dialect(enum.StrEnum):
    """The three request languages. The values are what the books and the pages show."""

    CHAT = "chat"
    MESSAGES = "messages"
    RESPONSES = "responses"


class Exactness(enum.StrEnum):
    """How a cost is known."""

    EXACT = "exact"  # the provider reported the money
    DERIVED = "derived"  # reported tokens times known prices
    ESTIMATED = "estimated"  # a token count or a price had to be assumed
    UNKNOWN = "unknown"  # unpriced: tokens are booked, money is not


class Outcome(enum.StrEnum):
    """How a request ended, in the words of the reference system's books."""

    COMPLETED = "completed"
    CLIENT_ERROR = "client_error"  # the request itself was refused, by us or by the provider
    CANCELLED = "cancelled"  # the client left
    ERROR = "error"  # no account answered, or the answer broke
    INTERRUPTED = "interrupted"  # the process died; booked at the next start


class UsageSource(enum.StrEnum):
    """Where token counts come from."""

    REPORTED = "reported"  # the provider's final report
    PARTIAL = "partial"  # the reply was cut or left; the last report seen
    NONE = "none"  # no report seen


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one reply.

    `cache_read_tokens` and `cache_write_tokens` are parts of `input_tokens`, `cache_write_1h_tokens` is a part of
    `cache_write_tokens`, `reasoning_tokens` is a part of `output_tokens`. `cost_nanodollars` is the money that the
    provider itself reported, where one does.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanodollars: int | None = None


class Price(msgspec.Struct, frozen=True, gc=False):
    """Nanodollars per million tokens; None where the source does not say.

    Above `tier_above_tokens` input tokens, the `tier_*` rates hold for the whole request where they are known.
    `request` is a fee per request in nanodollars.
    """

    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    request: int = 0
    tier_above_tokens: int | None = None
    tier_input: int | None = None
    tier_output: int | None = None
    source: str = ""  # config, provider


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Money of one request; `nanodollars` is None exactly when `exactness` is UNKNOWN."""

    nanodollars: int | None
    exactness: Exactness


class Limits(msgspec.Struct, frozen=True):
    """Token limits of a model; None where nobody says."""

    context: int | None = None
    input: int | None = None
    output: int | None = None


class Capabilities(msgspec.Struct, frozen=True):
    """What a model can take besides text; None where nobody says."""

    images: bool | None = None
    tools: bool | None = None


class Needs(msgspec.Struct, frozen=True):
    """What a request needs of a model."""

    images: bool = False
    tools: bool = False
    input_tokens: int = 0  # roughly, by bytes
    max_output_tokens: int | None = None  # that the client asks for


class ListedModel(msgspec.Struct, frozen=True):
    """One model as a provider's own list (or `static_models`) tells it."""

    id: str
    display_name: str | None = None
    created: int | None = None  # seconds since 1970
    limits: Limits = Limits()
    dialects: frozenset[Dialect] = frozenset()  # empty: the list does not say
    price: Price | None = None
    capabilities: Capabilities = Capabilities()


class ModelCard(msgspec.Struct, frozen=True):
    """One entry of the pool's own model list."""

    id: str  # the name that clients send
    base_model: str  # the provider's name for it
    display_name: str
    created: int  # seconds since 1970; 0 when nobody says
    owned_by: str
    providers: tuple[str, ...]
    collapsed: bool  # one entry for all providers, or one for each
    routing_priority: int  # the highest of its providers
    limits: Limits
    dialects: tuple[Dialect, ...]
    price: Price | None = None
    token_estimate_error: float | None = None  # share by which counts made from bytes were wrong; None: not known


class WindowKind(enum.StrEnum):
    """How a quota window moves on."""

    ROLLING = "rolling"  # what was used within the last `length_s`
    BLOCK = "block"  # begins at the first use, lasts `length_s`, and the next one begins at the next use
    ANCHORED = "anchored"  # begins at fixed instants: each day, week or month


class QuotaUnit(enum.StrEnum):
    """What a quota window counts."""

    MONEY = "money"  # nanodollars
    TOKENS = "tokens"  # input and output
    REQUESTS = "requests"
    PERCENT = "percent"  # only a share is known


class WindowSource(enum.StrEnum):
    """Who says that a window exists; in the order of trust."""

    PROVIDER = "provider"  # its headers, its usage endpoint, its error bodies
    CONFIG = "config"  # the account's or its provider's `windows` and `limits`
    PRESET = "preset"  # the bundled catalogue of providers
    ASSUMED = "assumed"  # the general `[limits]`: they only order, unless the user enforces them


class WindowSpec(msgspec.Struct, frozen=True):
    """A quota window of an account, as it is configured or known beforehand."""

    name: str  # unique at an account: "five_hour", "weekly", "monthly", or the user's own
    kind: WindowKind
    unit: QuotaUnit
    limit: int | None  # in `unit`; None when only a provider's report can say
    length_s: int  # of an anchored window: a day, a week, or 30 days
    source: WindowSource
    every: Literal["day", "week", "month"] | None = None  # of an anchored window
    anchor_day: int = 0  # weekday (Monday is 0), or day of the month (1 to 31, the last day where a month is shorter)
    anchor_s: int = 0  # seconds after midnight UTC
    offset: int = 0  # used outside the pool within the window, in `unit`
    enforce: bool = False  # refuse beyond the limit instead of only ordering by it


class QuotaReport(msgspec.Struct, frozen=True):
    """What a provider itself said about one window of an account, at one moment. Whatever it did not say is None."""

    window: str  # a stable name at that provider, "five_hour", "weekly" and "monthly" where they are those
    at_ms: int
    unit: QuotaUnit
    used_share: float | None = None  # 0.0 to 1.0, and above where a provider says so
    used: int | None = None  # in `unit`
    limit: int | None = None  # in `unit`
    resets_at_ms: int | None = None
    length_s: int | None = None
    kind: WindowKind | None = None
    model: str | None = None  # None: of the account as a whole
    exhausted: bool | None = None  # the provider's own word that nothing is left


class Refusal(msgspec.Struct, frozen=True):
    """Why an account was passed over for a request. `until_at_ms` when that has a known end."""

    account: AccountLabel
    reason: str  # a code of routing/plan.py, such as "resting_rate" or "disabled"
    until_at_ms: int | None = None


class AttemptRecord(msgspec.Struct, frozen=True, gc=False):
    """One try at one account, as it is booked."""

    request_id: int
    number: int  # from 1
    account: AccountLabel
    model: str  # the provider's name for it
    dialect: Dialect
    started_at_ms: int
    status: int | None = None  # HTTP status of the provider, None when there was none
    error_class: str | None = None  # a kind of routing/verdict.py; None for a success
    error_detail: str | None = None  # redacted text, kept only when the operator allows it
    scope: str | None = None  # what was put to rest: request, model, account, provider
    rest_ms: int | None = None
    connect_us: int | None = None
    first_byte_us: int | None = None
    total_us: int | None = None
    upstream_request_id: str | None = None
    bytes_received: int = 0  # from the provider


class RequestBegun(msgspec.Struct, frozen=True, gc=False):
    """A lease was taken: what is known before the provider has answered."""

    id: int
    client: str
    account: AccountLabel
    model: str
    dialect: Dialect
    streamed: bool
    started_at_ms: int
    reserved_nanodollars: int = 0


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, as it is booked when it has ended."""

    id: int
    client: str
    client_address: str
    dialect: Dialect
    path: str  # `/v1/...` without the query
    model_asked: str
    streamed: bool
    outcome: Outcome
    status: int  # as the client saw it; 499 when it left before one was sent
    started_at_ms: int
    ended_at_ms: int
    total_us: int
    attempts: int = 0
    account: AccountLabel | None = None  # the one whose answer was passed on
    model_served: str | None = None
    upstream_dialect: Dialect | None = None
    error_class: str | None = None
    usage: Usage = Usage()
    usage_source: UsageSource = UsageSource.NONE
    cost: Cost = Cost(None, Exactness.UNKNOWN)
    price: Price | None = None  # that the cost was computed with; kept so that it can be computed again
    reserved_nanodollars: int = 0
    queue_us: int | None = None  # arrival to first attempt
    connect_us: int | None = None  # of the attempt that was passed on
    first_byte_us: int | None = None  # arrival to first byte from the provider
    first_event_us: int | None = None  # arrival to commit: the first content
    bytes_received: int = 0  # request body
    bytes_emitted: int = 0  # reply body
    upstream_request_id: str | None = None
    decision: str | None = None  # compact JSON: who was considered, who was refused and why


class PingRecord(msgspec.Struct, frozen=True, gc=False):
    """One fetch of an account's model list."""

    account: AccountLabel
    at_ms: int
    latency_us: int
    status: int | None
    model_count: int | None
    error: str | None = None


class EventRecord(msgspec.Struct, frozen=True, gc=False):
    """Something that a person may want to know about: an account rests, a list failed, books lag."""

    at_ms: int
    kind: str  # such as "account_resting", "catalog_failed"
    detail: str
    account: AccountLabel | None = None


def provider_of(account: AccountLabel) -> str:
    """The provider's id in an account's label (a provider id has no slash, so the first one ends it)."""
    return account.partition("/")[0]
