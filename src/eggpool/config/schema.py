"""The settings as frozen values: every key, its default, its bounds and one line of help.

This module only describes. `load` turns TOML into these values, `reference` turns these descriptions into the
reference page and the example file, so a key that is not here does not exist. Money in the configuration is in
microdollars; everywhere else in the program it is in nanodollars.

A key whose `Meta` carries `extra={"unused": True}` is accepted for the sake of existing files, and `check-config`
says that it has no effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from eggpool.domain import AccountLabel, Billing, Dialect, MeterName, WindowSpec

UNUSED: dict[str, Any] = {"unused": True}

Protocol = Literal["openai", "anthropic", "responses"]
PROTOCOL_DIALECTS: dict[str, Dialect] = {
    "openai": Dialect.CHAT,
    "anthropic": Dialect.MESSAGES,
    "responses": Dialect.RESPONSES,
}

MeterChoice = Literal[MeterName, False]

# \Z and not $, which would let a trailing line end through.
KEY_PATTERN = r"^[A-Za-z0-9_-]{8,512}\Z"
PROVIDER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z"
ACCOUNT_NAME_PATTERN = r"^[^\s/\x00-\x1f\x7f\ud800-\udfff]{1,64}\Z"
TIME_OF_DAY_PATTERN = r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]\Z"
KEY_HASH_PATTERN = r"^sha256:[0-9a-f]{64}\Z"

Seconds = Annotated[float, Meta(gt=0)]
MicroDollars = Annotated[int, Meta(ge=0)]


class Secret:
    """A key or password. It cannot be printed by accident: `repr` and `str` hide it, only `reveal()` shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one place that sends or compares it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the configuration file."""


class Server(Section, frozen=True, kw_only=True):
    """Where the pool listens and how it treats its callers."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 11300
    api_key: Annotated[Secret | None, Meta(description="The key of the client named default.")] = None
    api_key_env: Annotated[str, Meta(description="Environment variable with that key, when api_key is not set.")] = (
        "SERVER_API_KEY"
    )
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], Meta(description="Least severe level logged.")
    ] = "INFO"
    log_format: Annotated[Literal["text", "json"], Meta(description="Log lines for people or for programs.")] = "text"
    access_log: Annotated[bool, Meta(description="Log one line for each request to the data plane.")] = True
    max_body_bytes: Annotated[int, Meta(gt=0, description="Largest request body taken.")] = 64 * 1024 * 1024
    client_write_timeout_s: Annotated[
        Seconds, Meta(description="How long a client may leave a reply unread before it is cut off.")
    ] = 120.0
    shutdown_grace_s: Annotated[float, Meta(ge=0, description="How long running requests may go on after SIGTERM.")] = (
        30.0
    )
    tls_cert: Annotated[str | None, Meta(description="PEM file with the certificate chain; needs tls_key.")] = None
    tls_key: Annotated[str | None, Meta(description="PEM file with the private key; needs tls_cert.")] = None


class Upstream(Section, frozen=True, kw_only=True):
    """Time-outs and connections towards all providers; a provider may override each of them."""

    base_url: Annotated[
        str, Meta(description="Of old files with [[accounts]] only: where the provider opencode-go is.")
    ] = "https://opencode.ai/zen/go/v1"
    connect_timeout_s: Annotated[Seconds, Meta(description="Until a connection stands.")] = 5.0
    header_timeout_s: Annotated[
        Seconds, Meta(description="Until a streamed reply's headers come, while another account could be tried.")
    ] = 120.0
    first_event_timeout_s: Annotated[
        Seconds, Meta(description="Until a stream's first event comes, while another account could be tried.")
    ] = 120.0
    read_timeout_s: Annotated[Seconds, Meta(description="Longest silence inside a reply.")] = 300.0
    write_timeout_s: Annotated[Seconds, Meta(description="Of old files.", extra=UNUSED)] = 30.0
    pool_timeout_s: Annotated[Seconds, Meta(description="Of old files.", extra=UNUSED)] = 30.0
    keepalive_after_ms: Annotated[
        int, Meta(gt=0, description="Silence after which a waiting stream gets a comment or ping.")
    ] = 10_000
    max_connections: Annotated[int, Meta(ge=0, description="Connections for each provider; 0 sets no bound.")] = 0
    max_keepalive: Annotated[int, Meta(ge=0, description="Of old files.", extra=UNUSED)] = 100
    keepalive_timeout_s: Annotated[
        float, Meta(ge=0, description="How long an idle connection is kept for the next request.")
    ] = 30.0


class Database(Section, frozen=True, kw_only=True):
    """The books."""

    path: Annotated[
        str | None,
        Meta(description="The SQLite file, from the configuration's folder; else eggpool/ in the user's data folder."),
    ] = None
    busy_timeout_ms: Annotated[int, Meta(gt=0, description="How long one try waits for a locked file.")] = 5000
    wal: Annotated[bool, Meta(description="Write-ahead log: readers never wait for the writer.")] = True
    synchronous: Annotated[Literal["OFF", "NORMAL", "FULL", "EXTRA"], Meta(description="When SQLite syncs.")] = "NORMAL"
    commit_interval_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="Longest time a fact waits to be written; raise it for SD cards.")
    ] = 200


class Models(Section, frozen=True, kw_only=True):
    """Which models there are and under what names."""

    refresh_interval_s: Annotated[
        int, Meta(ge=0, description="How often each account's model list is asked for; 0 never.")
    ] = 300
    startup_refresh: Annotated[bool, Meta(description="Ask for all lists at start.")] = True
    expose_mode: Annotated[
        Literal["union", "intersection", "healthy_union"],
        Meta(
            description="List what any account of a provider has, what all of them have, or what any working one has."
        ),
    ] = "union"
    stale_after_s: Annotated[int, Meta(gt=0, description="Age at which an account's list counts as stale.")] = 7200
    allow_stale_catalog: Annotated[bool, Meta(description="Go on using stale lists when no newer one can be had.")] = (
        True
    )
    ping_retain_days: Annotated[int, Meta(ge=1, description="How long the record of list fetches is kept.")] = 7
    collapse_models: Annotated[bool, Meta(description="One entry for each model instead of one for each provider.")] = (
        False
    )
    aliases: Annotated[
        dict[str, tuple[str, ...]], Meta(description="Names for a model, or for models to be tried in this order.")
    ] = {}
    claude_aliases: Annotated[
        bool,
        Meta(description="List each model for Claude Code under a name that begins with claude, too, and serve it so."),
    ] = False


class Routing(Section, frozen=True, kw_only=True):
    """How accounts are chosen."""

    strategy: Annotated[Literal["quota_fair"], Meta(description="The only strategy.")] = "quota_fair"
    deadline_s: Annotated[Seconds, Meta(description="Longest time a request may take to find an answer.")] = 540.0
    max_wait_ms: Annotated[
        int, Meta(ge=0, description="How long a request may wait when every account rests or is full; 0 answers 429.")
    ] = 0
    max_retries_before_stream: Annotated[
        int, Meta(ge=0, description="Most further accounts tried; 0 tries all that there are.")
    ] = 0
    affinity: Annotated[bool, Meta(description="Keep a conversation on its account, where its prompt is cached.")] = (
        True
    )
    affinity_slack: Annotated[
        float, Meta(ge=0, description="By how much that account's score may be worse than the best one's.")
    ] = 0.3
    affinity_ttl_s: Annotated[
        int, Meta(gt=0, description="How long after its last request a conversation is kept there.")
    ] = 300
    near_tie_epsilon: Annotated[float, Meta(ge=0, description="Of old files.", extra=UNUSED)] = 0.1
    unknown_request_reservation_microdollars: Annotated[
        MicroDollars, Meta(description="Of old files.", extra=UNUSED)
    ] = 1_000_000
    inflight_penalty: Annotated[int, Meta(ge=0, description="Of old files.", extra=UNUSED)] = 100_000
    health_penalty: Annotated[int, Meta(ge=0, description="Of old files.", extra=UNUSED)] = 500_000
    randomize_near_ties: Annotated[bool, Meta(description="Of old files.", extra=UNUSED)] = True
    quota_exhausted_cooldown_seconds: Annotated[float, Meta(ge=0, description="Of old files.", extra=UNUSED)] = 300.0


class Translation(Section, frozen=True, kw_only=True):
    """Requests and replies in the words of another dialect."""

    enabled: Annotated[
        bool, Meta(description="Serve clients of one dialect from accounts that speak another one only.")
    ] = True


class QuotaLimits(Section, frozen=True, kw_only=True):
    """What an account may spend in a window where nobody knows better; a guess, which orders accounts."""

    five_hour_microdollars: Annotated[int, Meta(ge=0, description="In any five hours; 0 sets no limit.")] = 12_000_000
    weekly_microdollars: Annotated[int, Meta(ge=0, description="In any seven days; 0 sets no limit.")] = 30_000_000
    monthly_microdollars: Annotated[int, Meta(ge=0, description="In any thirty days; 0 sets no limit.")] = 60_000_000
    enforce: Annotated[
        bool, Meta(description="Refuse beyond these limits, in place of what is known of a provider's own.")
    ] = False
    offset_five_hour_microdollars: Annotated[MicroDollars, Meta(description="Spent outside the pool.")] = 0
    offset_weekly_microdollars: Annotated[MicroDollars, Meta(description="Spent outside the pool.")] = 0
    offset_monthly_microdollars: Annotated[MicroDollars, Meta(description="Spent outside the pool.")] = 0


class OwnLimits(Section, frozen=True, kw_only=True):
    """What an account may spend in place of [limits] and of what is known of its provider; orders accounts."""

    five_hour_microdollars: Annotated[int | None, Meta(ge=0, description="In five hours; 0 sets no limit.")] = None
    weekly_microdollars: Annotated[int | None, Meta(ge=0, description="In a week; 0 sets no limit.")] = None
    monthly_microdollars: Annotated[int | None, Meta(ge=0, description="In a month; 0 sets no limit.")] = None
    enforce: Annotated[bool | None, Meta(description="Refuse beyond these limits.")] = None
    offset_five_hour_microdollars: Annotated[int | None, Meta(ge=0, description="Spent outside the pool.")] = None
    offset_weekly_microdollars: Annotated[int | None, Meta(ge=0, description="Spent outside the pool.")] = None
    offset_monthly_microdollars: Annotated[int | None, Meta(ge=0, description="Spent outside the pool.")] = None


class Window(Section, frozen=True, kw_only=True):
    """A quota window. It has exactly one of limit_microdollars, limit_tokens, limit_requests and percent = true."""

    name: Annotated[
        str, Meta(pattern=ACCOUNT_NAME_PATTERN, description="Unique there; five_hour, weekly, monthly where it is one.")
    ]
    kind: Annotated[
        Literal["rolling", "block", "anchored"],
        Meta(description="The last hours; hours that begin at the first use; or from a fixed time on."),
    ]
    length: Annotated[str | int | None, Meta(description='Of a rolling window or a block: "5h", "7d", or seconds.')] = (
        None
    )
    every: Annotated[Literal["day", "week", "month"] | None, Meta(description="How often an anchored one begins.")] = (
        None
    )
    weekday: Annotated[
        Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] | None,
        Meta(description="When a week begins; by default on Monday."),
    ] = None
    day: Annotated[
        int | None, Meta(ge=1, le=31, description="When a month begins, or on its last day; by default on the first.")
    ] = None
    at: Annotated[
        str | None, Meta(pattern=TIME_OF_DAY_PATTERN, description="When that day begins, UTC; by default 00:00.")
    ] = None
    limit_microdollars: Annotated[int | None, Meta(gt=0, description="Money.")] = None
    limit_tokens: Annotated[int | None, Meta(gt=0, description="Tokens, input and output.")] = None
    limit_requests: Annotated[int | None, Meta(gt=0, description="Requests.")] = None
    percent: Annotated[bool, Meta(description="Only the provider knows the limit, and tells a share.")] = False
    offset: Annotated[int, Meta(ge=0, description="Used outside the pool, in the unit of the limit.")] = 0
    enforce: Annotated[bool, Meta(description="Refuse beyond the limit.")] = False


class Dashboard(Section, frozen=True, kw_only=True):
    """The pages."""

    enabled: Annotated[bool, Meta(description="Serve the pages.", extra=UNUSED)] = True
    public: Annotated[bool, Meta(description="Open without login, on a loopback address only.", extra=UNUSED)] = False
    theme: Annotated[str, Meta(description="Name of a theme.", extra=UNUSED)] = "Cyber Red"
    themes_dir: Annotated[str | None, Meta(description="Folder with more themes.", extra=UNUSED)] = None
    retain_request_stats_days: Annotated[int, Meta(gt=0, description="How long requests are kept.")] = 30
    retain_event_days: Annotated[int, Meta(gt=0, description="How long events are kept.")] = 90
    store_request_content: Annotated[Literal[False], Meta(description="Prompts are never stored.")] = False
    refresh_interval_s: Annotated[int, Meta(gt=0, description="How often a page renews itself.", extra=UNUSED)] = 60


class Security(Section, frozen=True, kw_only=True):
    """Who may call, and what may be kept about it."""

    allowed_hosts: Annotated[tuple[str, ...], Meta(description="Host headers taken; empty takes any.")] = ()
    cors_origins: Annotated[tuple[str, ...], Meta(description="Web origins that may call.")] = ()
    redact_headers: Annotated[tuple[str, ...], Meta(description="Reply headers of providers not passed on.")] = (
        "authorization",
        "x-api-key",
    )
    persist_redacted_error_detail: Annotated[
        bool, Meta(description="Keep the redacted text of providers' errors in the books.")
    ] = False
    trusted_proxies: Annotated[
        tuple[str, ...], Meta(description="Addresses or networks whose X-Forwarded-For is believed.")
    ] = ()


class ModelOverride(Section, frozen=True, kw_only=True):
    """What is known better about a model than its provider's list says."""

    protocol: Annotated[Protocol | None, Meta(description="The dialect it is served in.")] = None
    path: Annotated[str | None, Meta(pattern="^/", description="Endpoint path below the base URL.")] = None
    max_context_tokens: Annotated[int | None, Meta(gt=0, description="Context window.")] = None
    max_input_tokens: Annotated[int | None, Meta(gt=0, description="Longest input.")] = None
    max_output_tokens: Annotated[int | None, Meta(gt=0, description="Longest output.")] = None
    enforce_context_limit: Annotated[
        bool, Meta(description="Refuse what is surely longer than the window, so that agents compact.")
    ] = True
    input_price_per_1k: Annotated[
        float | str | None, Meta(description='Dollars per thousand tokens, or text such as "$3 / 1M".')
    ] = None
    output_price_per_1k: Annotated[float | str | None, Meta(description="The same for output.")] = None
    cache_read_per_million_microdollars: Annotated[
        int | None, Meta(ge=0, description="Microdollars per million tokens read from a prompt cache.")
    ] = None
    cache_write_per_million_microdollars: Annotated[
        int | None, Meta(ge=0, description="Microdollars per million tokens written to a prompt cache.")
    ] = None


class Auth(Section, frozen=True, kw_only=True):
    """How a provider wants its key."""

    mode: Annotated[
        Literal["bearer", "api_key", "raw_authorization", "none"],
        Meta(description="Authorization: Bearer, a header of its own, the bare key as Authorization, or no key."),
    ] = "bearer"
    header: Annotated[str | None, Meta(description="Header name; by default Authorization, or x-api-key.")] = None
    scheme: Annotated[str | None, Meta(description="Word before the key; by default Bearer.")] = None


class StaticHeader(Section, frozen=True, kw_only=True):
    """A header added to each request to a provider."""

    name: Annotated[str, Meta(min_length=1, description="Header name.")]
    value: Annotated[Secret | None, Meta(description="Its value.")] = None
    value_env: Annotated[str | None, Meta(description="Environment variable with its value.")] = None


class Verify(Section, frozen=True, kw_only=True):
    """How the script verify_upstream_auth.py checks a provider."""

    probe_model: Annotated[str | None, Meta(description="Model to ask.")] = None
    probe_protocol: Annotated[Protocol, Meta(description="Dialect to ask in.")] = "openai"
    require_models: Annotated[bool, Meta(description="An empty model list is a failure.")] = True


class ModelsEndpoint(Section, frozen=True, kw_only=True):
    """Where a provider lists its models, when `models_path` cannot say it."""

    method: Annotated[Literal["GET", "POST", "DISABLED"], Meta(description="How to ask.")] = "GET"
    path: Annotated[str, Meta(pattern="^/", description="Path below the base URL.")] = "/models"
    body: Annotated[dict[str, Any] | None, Meta(description="JSON body of a POST.")] = None
    query: Annotated[dict[str, str] | None, Meta(description="Query parameters.")] = None
    required: Annotated[bool, Meta(description="A failure is worth an event.")] = True


class OutboundProxy(Section, frozen=True, kw_only=True):
    """A proxy towards the providers, named by accounts."""

    url: Annotated[Secret | None, Meta(description="http://, socks4:// or socks5:// URL.")] = None
    url_env: Annotated[str | None, Meta(description="Environment variable with it.")] = None


class Account(Section, frozen=True, kw_only=True):
    """One key at one provider."""

    label: AccountLabel = AccountLabel("")  # provider/name; set by the loader
    name: Annotated[str, Meta(pattern=ACCOUNT_NAME_PATTERN, description="Unique at its provider.")]
    api_key: Annotated[Secret | None, Meta(description="The key itself; better is api_key_env.")] = None
    api_key_env: Annotated[str | None, Meta(description="Environment variable with the key.")] = None
    api_key_command: Annotated[str | None, Meta(description="Command that prints the key (a password store).")] = None
    enabled: Annotated[bool, Meta(description="false leaves it out without removing it.")] = True
    weight: Annotated[float, Meta(gt=0, description="How much it takes compared with its siblings.")] = 1.0
    proxy: Annotated[str | None, Meta(description="Name of a table under [proxies].")] = None
    proxy_url: Annotated[Secret | None, Meta(description="Outbound proxy URL.")] = None
    proxy_url_env: Annotated[str | None, Meta(description="Environment variable with it.")] = None
    limits: Annotated[OwnLimits | None, Meta(description="Its own [limits].")] = None
    windows: Annotated[tuple[Window, ...], Meta(description="Its own quota windows.")] = ()
    five_hour_offset_microdollars: Annotated[
        int | None, Meta(ge=0, description="Spent outside the pool in the last five hours.")
    ] = None
    weekly_offset_microdollars: Annotated[
        int | None, Meta(ge=0, description="Spent outside the pool in the last week.")
    ] = None
    monthly_offset_microdollars: Annotated[
        int | None, Meta(ge=0, description="Spent outside the pool in the last month.")
    ] = None
    max_concurrency: Annotated[int | None, Meta(gt=0, description="Most requests at once.")] = None
    billing: Annotated[
        Billing | None,
        Meta(description="Prepaid, or paid per token; by default as its provider."),
    ] = None
    meter: Annotated[
        MeterChoice | None,
        Meta(description="Usage endpoint to ask, false for none; by default as its provider."),
    ] = None
    meter_interval_s: Annotated[
        float | None,
        Meta(ge=10, description="How often it is asked; by default as its provider."),
    ] = None
    organisation: Annotated[
        str | None,
        Meta(min_length=1, description="Where signed and encrypted content belongs; by default as its provider."),
    ] = None

    quota: tuple[WindowSpec, ...] = ()  # all its windows, wherever they were written; set by the loader
    outbound: Secret | None = None  # the proxy URL that holds, wherever it was written; set by the loader


class Provider(Section, frozen=True, kw_only=True):
    """Where a provider is, what it speaks, and the accounts there."""

    id: Annotated[str, Meta(pattern=PROVIDER_ID_PATTERN, description="Equal to the table's name.")]
    base_url: Annotated[str, Meta(description="Absolute URL below which its endpoints are.")]
    enabled: Annotated[bool, Meta(description="false leaves it out without removing it.")] = True
    protocols: Annotated[
        tuple[Protocol, ...], Meta(min_length=1, description="What it speaks: openai, anthropic, responses.")
    ] = ("openai",)
    openai_path: Annotated[str, Meta(pattern="^/", description="Chat Completions endpoint.")] = "/chat/completions"
    anthropic_path: Annotated[str, Meta(pattern="^/", description="Messages endpoint.")] = "/messages"
    responses_path: Annotated[str, Meta(pattern="^/", description="Responses endpoint.")] = "/responses"
    models_method: Annotated[Literal["GET", "POST"], Meta(description="How its models are asked for.")] = "GET"
    models_path: Annotated[str, Meta(pattern="^/", description="Where its models are asked for.")] = "/models"
    models_endpoint: Annotated[ModelsEndpoint | None, Meta(description="The same with body and query.")] = None
    static_models: Annotated[tuple[str, ...], Meta(description="Models it has, whether or not its list says so.")] = ()
    routing_priority: Annotated[int, Meta(ge=0, description="Higher is used first.")] = 0
    auth: Annotated[Auth, Meta(description="How it wants its key.")] = Auth()
    headers: Annotated[tuple[StaticHeader, ...], Meta(description="Headers added to each request.")] = ()
    verify: Annotated[Verify, Meta(description="How it is checked.")] = Verify()
    model_overrides: Annotated[dict[str, ModelOverride], Meta(description="By model name.")] = {}
    limits: Annotated[OwnLimits | None, Meta(description="The [limits] of its accounts.")] = None
    windows: Annotated[tuple[Window, ...], Meta(description="The quota windows of each of its accounts.")] = ()
    billing: Annotated[
        Billing | None, Meta(description="Prepaid, or paid per token; by default as the catalogue says, else metered.")
    ] = None
    meter: Annotated[
        MeterChoice | None,
        Meta(description="Usage endpoint to ask, false for none; by default as the catalogue says."),
    ] = None
    meter_interval_s: Annotated[float, Meta(ge=10, description="How often each account's usage is asked for.")] = 120.0
    organisation: Annotated[
        str | None, Meta(min_length=1, description="Where signed and encrypted content belongs; by default its id.")
    ] = None
    connect_timeout_s: Annotated[float | None, Meta(gt=0, description="Its own value for the key of [upstream].")] = (
        None
    )
    header_timeout_s: Annotated[float | None, Meta(gt=0, description="Its own value for the key of [upstream].")] = None
    first_event_timeout_s: Annotated[
        float | None, Meta(gt=0, description="Its own value for the key of [upstream].")
    ] = None
    read_timeout_s: Annotated[float | None, Meta(gt=0, description="Its own value for the key of [upstream].")] = None
    write_timeout_s: Annotated[float | None, Meta(gt=0, description="Of old files.", extra=UNUSED)] = None
    pool_timeout_s: Annotated[float | None, Meta(gt=0, description="Of old files.", extra=UNUSED)] = None
    max_connections: Annotated[int | None, Meta(ge=0, description="Its own value for the key of [upstream].")] = None
    max_keepalive: Annotated[int | None, Meta(ge=0, description="Of old files.", extra=UNUSED)] = None
    keepalive_timeout_s: Annotated[float | None, Meta(ge=0, description="Its own value for the key of [upstream].")] = (
        None
    )
    accounts: Annotated[tuple[Account, ...], Meta(description="The keys there.")] = ()

    @property
    def dialects(self) -> frozenset[Dialect]:
        """What it speaks, in the vocabulary of the program."""
        return frozenset(PROTOCOL_DIALECTS[protocol] for protocol in self.protocols)


class ClientKey(Section, frozen=True, kw_only=True):
    """One caller: everything is kept by client."""

    name: Annotated[str, Meta(pattern=ACCOUNT_NAME_PATTERN, description="Shown in statistics.")]
    key_hash: Annotated[
        str, Meta(pattern=KEY_HASH_PATTERN, description='"sha256:" and the SHA-256 of the key, hexadecimal.')
    ]


class Config(Section, frozen=True, kw_only=True):
    """A whole configuration, every reference resolved and every inherited value filled in."""

    server: Server = Server()
    upstream: Upstream = Upstream()
    database: Database = Database()
    models: Models = Models()
    routing: Routing = Routing()
    translation: Translation = Translation()
    limits: QuotaLimits = QuotaLimits()
    dashboard: Dashboard = Dashboard()
    security: Security = Security()
    proxies: dict[str, OutboundProxy] = {}
    model_overrides: dict[str, ModelOverride] = {}
    providers: dict[str, Provider] = {}
    clients: tuple[ClientKey, ...] = ()

    def account(self, label: AccountLabel) -> Account | None:
        """The account with that label, enabled or not."""
        for provider in self.providers.values():
            for account in provider.accounts:
                if account.label == label:
                    return account
        return None

    def override(self, provider_id: str, model: str) -> tuple[ModelOverride | None, ModelOverride | None]:
        """The provider's and the general override of a model; where both say something, the first one holds."""
        provider = self.providers.get(provider_id)
        return (provider.model_overrides.get(model) if provider else None, self.model_overrides.get(model))
