"""From the text of a configuration to its values: everything resolved and inherited, or every problem at once.

What keys say together is checked here: names that must exist or be unique, URLs, headers, inheritance, old forms.
Nothing here reads a file or the process's environment; both are arguments.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec.structs import replace

from eggpool import presets
from eggpool.config.addresses import base_url, data_file, file_path, outbound_url, repeats_version
from eggpool.config.chains import check_chains
from eggpool.config.credentials import Credentials, RunCommand
from eggpool.config.findings import Findings, at, shown
from eggpool.config.keys import PATTERN_WORDS
from eggpool.config.quota import ProviderQuota
from eggpool.config.schema import (
    PROVIDER_ID_PATTERN,
    Account,
    Auth,
    Config,
    ModelOverride,
    Provider,
    Secret,
    StaticHeader,
    Upstream,
)
from eggpool.config.table import read_list, read_section
from eggpool.domain import AccountLabel
from eggpool.errors import ConfigError

OLD_PROVIDER = "opencode-go"
"""The provider that the flat [[accounts]] of old files belong to."""

INHERITED = (
    "connect_timeout_s",
    "header_timeout_s",
    "first_event_timeout_s",
    "read_timeout_s",
    "max_connections",
    "keepalive_timeout_s",
)
"""Keys of [upstream] that a provider without its own takes over."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_QUOTED = re.compile(r"'([^']*)'")
_TABLE_NAME = re.compile(r"\('[^']*'(?:, '[^']*')*,?\)")  # as the parser writes the parts of a table's name
_MANAGED = frozenset(
    [
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("trailers", "transfer-encoding", "upgrade", "http2-settings"),  # hop by hop
        *("accept-encoding", "content-encoding", "content-length", "expect", "host"),
    ]
)
_OURS = ("x-proxy-", "x-eggpool-")


NO_CATALOGUE: Mapping[str, presets.Preset] = {}

Further = Callable[[Config], Iterable[str]]
"""Problems of a configuration that only its reader can find: prices, files; each begins with its place."""


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that can be used, and what a person should know about it."""

    config: Config
    warnings: tuple[str, ...]


def load(
    text: str,
    environ: Mapping[str, str],
    *,
    folder: str,
    run_command: RunCommand | None = None,
    upstream_keys: bool = True,
    further: Further | None = None,
    catalogue: Mapping[str, presets.Preset] = NO_CATALOGUE,
) -> Loaded:
    """The configuration that a TOML text describes.

    Relative paths begin at `folder`. `upstream_keys` false leaves out what only calls to providers need: variables may
    be unset and no command is run. `further` finds problems of which this package knows nothing. `catalogue` has what
    is known of providers by their ids: their quota windows, how they are paid, and where they tell what is left.
    Raises ConfigError with one line for each problem, each beginning with its place.
    """
    return settle(
        parse(text),
        environ,
        folder=folder,
        run_command=run_command,
        upstream_keys=upstream_keys,
        further=further,
        catalogue=catalogue,
    )


def parse(text: str) -> dict[str, object]:
    """The tables of a TOML text; a ConfigError says in which line it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fault, _, where = str(error).rpartition(" (at ")
        where = where.rstrip(")")
        if not where.startswith("line "):
            where = f"line {text.count(chr(10)) + 1}"
        raise ConfigError((f"{where}: {_syntax(fault)}",)) from None
    except (RecursionError, ValueError):
        raise ConfigError(
            ("line 1: this is not TOML that can be read; something is nested or numbered absurdly",)
        ) from None


def settle(
    tables: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    folder: str,
    run_command: RunCommand | None = None,
    upstream_keys: bool = True,
    further: Further | None = None,
    catalogue: Mapping[str, presets.Preset] = NO_CATALOGUE,
) -> Loaded:
    """As `load`, from tables that have been parsed."""
    findings = Findings()
    credentials = Credentials(environ, run_command, findings, upstream=upstream_keys)
    settling = _Settling(environ, folder, credentials, catalogue, findings)
    config = settling.config(tables)
    if further is not None:
        findings.problems += further(config)
    if findings.problems:
        raise ConfigError(tuple(findings.problems))
    return Loaded(config, tuple(findings.warnings))


class _Settling:
    """One pass over a configuration whose keys have been read one by one."""

    def __init__(
        self,
        environ: Mapping[str, str],
        folder: str,
        credentials: Credentials,
        catalogue: Mapping[str, presets.Preset],
        findings: Findings,
    ) -> None:
        self._environ = environ
        self._folder = folder
        self._credentials = credentials
        self._catalogue = catalogue
        self._findings = findings

    def config(self, tables: Mapping[str, object]) -> Config:
        current = {name: value for name, value in tables.items() if name != "accounts"}
        read = read_section(Config, current, self._findings) or Config()
        providers, placed = self._with_old_accounts(read, tables)
        server = replace(
            read.server,
            api_key=self._credentials.server_key(read.server, "server"),
            tls_cert=self._file(read.server.tls_cert, "server.tls_cert"),
            tls_key=self._file(read.server.tls_key, "server.tls_key"),
        )
        if (server.tls_cert is None) != (server.tls_key is None):
            self._findings.problem("server", "tls_cert and tls_key must be set together")
        path = self._file(read.database.path, "database.path")
        config = replace(
            read,
            server=server,
            database=replace(read.database, path=path or data_file("usage.sqlite3", self._folder, self._environ)),
            dashboard=replace(read.dashboard, themes_dir=self._file(read.dashboard.themes_dir, "dashboard.themes_dir")),
        )
        check_chains(config.models.aliases, "models.aliases", self._findings)
        self._check_clients(config)
        self._check_networks(config.security.trusted_proxies)
        self._check_overrides(config.model_overrides, "model_overrides")
        proxies = self._proxies(config, (account for accounts in placed.values() for _, account in accounts))
        settled = {
            name: self._provider(name, provider, placed[name], config, proxies) for name, provider in providers.items()
        }
        config = replace(config, providers=settled)
        if not any(account.enabled for one in settled.values() if one.enabled for account in one.accounts):
            self._findings.warning("providers", "there is no enabled account, so no request can be answered")
        return config

    def _with_old_accounts(
        self, read: Config, tables: Mapping[str, object]
    ) -> tuple[dict[str, Provider], dict[str, list[tuple[str, Account]]]]:
        """The providers and, by provider, each account with its place; flat [[accounts]] join opencode-go."""
        providers = dict(read.providers)
        placed = {
            name: list(
                zip(
                    self._findings.places(at(at("providers", name), "accounts"), len(provider.accounts)),
                    provider.accounts,
                    strict=True,
                )
            )
            for name, provider in providers.items()
        }
        if "accounts" not in tables:
            upstream = tables.get("upstream")
            if isinstance(upstream, Mapping) and "base_url" in upstream:
                self._findings.warning("upstream.base_url", "has no effect without [[accounts]] of the old form")
            return providers, placed
        old = read_list(Account, tables["accounts"], self._findings, place="accounts", trail=("accounts",))
        if OLD_PROVIDER not in providers:
            providers[OLD_PROVIDER] = Provider(
                id=OLD_PROVIDER, base_url=read.upstream.base_url, protocols=("openai", "anthropic")
            )
        placed.setdefault(OLD_PROVIDER, []).extend(old)
        return providers, placed

    def _provider(
        self,
        name: str,
        provider: Provider,
        placed: list[tuple[str, Account]],
        config: Config,
        proxies: Mapping[str, Secret | None],
    ) -> Provider:
        old = name not in config.providers  # made from flat [[accounts]]: it has no table of its own
        place = at("providers", name)
        if not re.match(PROVIDER_ID_PATTERN, name):
            self._findings.problem(place, f"the name of a provider has {PATTERN_WORDS[PROVIDER_ID_PATTERN]}")
        elif provider.id != name:
            self._findings.problem(at(place, "id"), f"must be equal to the table's name, '{shown(name)}'")
        url = provider.base_url
        try:
            url = base_url(url)
        except ConfigError as error:
            self._findings.problem("upstream.base_url" if old else at(place, "base_url"), str(error))
        self._check_paths(provider, url, place)
        self._check_overrides(provider.model_overrides, at(place, "model_overrides"), provider)
        auth_header = self._auth_header(provider.auth, at(place, "auth"))
        headers = self._headers(provider, auth_header, place)
        preset = presets.preset_of(self._catalogue, name, url)
        quota = ProviderQuota(provider, place, config.limits, preset, self._findings)
        names: set[str] = set()
        variables: set[str] = set()
        accounts: list[Account] = []
        for here, account in placed:
            if account.name in names:
                self._findings.problem(at(here, "name"), f"'{shown(account.name)}' is used twice at this provider")
            names.add(account.name)
            if account.enabled and account.api_key_env:
                if account.api_key_env in variables:
                    self._findings.warning(at(here, "api_key_env"), "another account of this provider has the same key")
                variables.add(account.api_key_env)
            accounts.append(quota.of(self._account(account, here, provider, proxies), here))
        if provider.enabled and not placed:
            self._findings.warning(place, "has no accounts")
        return replace(
            provider, base_url=url, headers=headers, accounts=tuple(accounts), **_inherited(provider, config.upstream)
        )

    def _account(
        self, account: Account, place: str, provider: Provider, proxies: Mapping[str, Secret | None]
    ) -> Account:
        needed = provider.enabled and account.enabled
        key = account.api_key
        if provider.auth.mode != "none":
            key = self._credentials.account_key(account, place, needed=needed)
        return replace(
            account,
            label=AccountLabel(f"{provider.id}/{account.name}"),
            api_key=key,
            outbound=self._outbound(account, place, proxies, needed=needed),
        )

    def _outbound(
        self, account: Account, place: str, proxies: Mapping[str, Secret | None], *, needed: bool
    ) -> Secret | None:
        ways = [way for way in (account.proxy, account.proxy_url, account.proxy_url_env) if way is not None]
        if not ways:
            return None
        if len(ways) > 1:
            self._findings.problem(place, "must have at most one of proxy, proxy_url and proxy_url_env")
            return None
        if account.proxy is not None:
            if account.proxy not in proxies:
                self._findings.problem(at(place, "proxy"), f"there is no table [proxies.{shown(account.proxy)}]")
            return proxies.get(account.proxy)
        found = self._credentials.account_proxy_url(account, place, needed=needed)
        return self._outbound_url(*found) if found is not None else None

    def _proxies(self, config: Config, accounts: Iterable[Account]) -> dict[str, Secret | None]:
        used = {account.proxy for account in accounts if account.enabled}
        urls: dict[str, Secret | None] = {}
        for name, proxy in config.proxies.items():
            found = self._credentials.proxy_url(proxy, at("proxies", name), needed=name in used)
            urls[name] = self._outbound_url(*found) if found is not None else None
        return urls

    def _outbound_url(self, place: str, url: Secret) -> Secret | None:
        try:
            return Secret(outbound_url(url.reveal()))
        except ConfigError as error:
            self._findings.problem(place, f"the proxy URL {error}")
            return None

    def _auth_header(self, auth: Auth, place: str) -> str | None:
        """The lower-case name of the header that carries the key."""
        for key, value in (("header", auth.header), ("scheme", auth.scheme)):
            if value is not None and not _TOKEN.match(value):
                self._findings.problem(at(place, key), "expected a word that a header can carry")
        if auth.mode == "none":
            return None
        name = (auth.header or ("x-api-key" if auth.mode == "api_key" else "authorization")).lower()
        if _is_managed(name):
            self._findings.problem(at(place, "header"), f"'{shown(name)}' is set by the pool itself")
        return name

    def _headers(self, provider: Provider, auth_header: str | None, place: str) -> tuple[StaticHeader, ...]:
        found: list[StaticHeader] = []
        seen: set[str] = set()
        places = self._findings.places(at(place, "headers"), len(provider.headers))
        for here, header in zip(places, provider.headers, strict=True):
            name = header.name.lower()
            if not _TOKEN.match(name):
                self._findings.problem(at(here, "name"), "is not a header name")
            elif _is_managed(name):
                self._findings.problem(at(here, "name"), f"'{shown(header.name)}' is set by the pool itself")
            elif name == auth_header:
                self._findings.problem(at(here, "name"), f"'{shown(header.name)}' carries the key already")
            elif name in seen:
                self._findings.problem(at(here, "name"), f"'{shown(header.name)}' is set twice")
            seen.add(name)
            value = self._credentials.header_value(header, here, needed=provider.enabled)
            found.append(replace(header, value=value))
        return tuple(found)

    def _check_paths(self, provider: Provider, url: str, place: str) -> None:
        paths = {name: getattr(provider, name) for name in ("openai_path", "anthropic_path", "responses_path")}
        if provider.models_endpoint is not None:
            paths["models_endpoint.path"] = provider.models_endpoint.path
        else:
            paths["models_path"] = provider.models_path
        for model, override in provider.model_overrides.items():
            if override.path is not None:
                paths[at(at("model_overrides", model), "path")] = override.path
        for name, path in paths.items():
            if repeats_version(url, path):
                self._findings.problem(
                    f"{place}.{name}", "begins with a version, and base_url ends in one already; keep one of them"
                )

    def _check_overrides(
        self, overrides: Mapping[str, ModelOverride], place: str, provider: Provider | None = None
    ) -> None:
        for model, override in overrides.items():
            here = at(place, model)
            context, output = override.max_context_tokens, override.max_output_tokens
            if context is not None and output is not None and output > context:
                self._findings.problem(at(here, "max_output_tokens"), "must not be above max_context_tokens")
            for name in ("input_price_per_1k", "output_price_per_1k"):
                price = getattr(override, name)
                if isinstance(price, (int, float)) and price < 0:
                    self._findings.problem(at(here, name), f"expected a price of at least 0, got {price}")
            if provider is not None and override.protocol not in (None, *provider.protocols):
                self._findings.warning(at(here, "protocol"), "is not one of the provider's protocols")

    def _check_clients(self, config: Config) -> None:
        names: set[str] = set()
        hashes: set[str] = set()
        places = self._findings.places("clients", len(config.clients))
        for place, client in zip(places, config.clients, strict=True):
            if client.name in names:
                self._findings.problem(at(place, "name"), f"'{shown(client.name)}' is used twice")
            if client.name == "default" and config.server.api_key is not None:
                self._findings.problem(
                    at(place, "name"), "'default' is the client of [server] api_key; take another name"
                )
            if client.key_hash in hashes:
                self._findings.problem(at(place, "key_hash"), "is used twice; each client needs a key of its own")
            names.add(client.name)
            hashes.add(client.key_hash)

    def _check_networks(self, networks: tuple[str, ...]) -> None:
        for number, network in enumerate(networks):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                place = at("security.trusted_proxies", number)
                self._findings.problem(place, "expected an address or a network, such as 10.0.0.0/8")

    def _file(self, text: str | None, place: str) -> str | None:
        if text is None:
            return None
        try:
            return file_path(text, self._folder, self._environ)
        except ConfigError as error:
            self._findings.problem(place, str(error))
            return None


def _inherited(provider: Provider, upstream: Upstream) -> dict[str, object]:
    return {name: getattr(upstream, name) for name in INHERITED if getattr(provider, name) is None}


def _is_managed(name: str) -> bool:
    return name in _MANAGED or name.startswith(_OURS)


def _syntax(fault: str) -> str:
    """A parser's complaint as the end of our line, shortened: it may quote a piece of the file."""
    words = _TABLE_NAME.sub(lambda name: "[" + ".".join(_QUOTED.findall(name[0])) + "]", fault[:1].lower() + fault[1:])
    return words if len(words) <= 120 else words[:117] + "..."
