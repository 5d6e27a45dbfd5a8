"""The bundled catalogue of providers: what it says of each, and the provider table that follows from it.

The text (`data/providers.toml`) comes from the caller. Nothing here knows the configuration's types; what `table`
returns is what a person would write under `[providers.<id>]`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from eggpool.domain import Billing, MeterName
from eggpool.errors import ConfigError

Status = Literal["verified", "experimental", "unverified"]
Category = Literal["direct", "aggregator", "plan", "local", "custom"]


class PresetAuth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a provider wants its key, where that is not `Authorization: Bearer`."""

    mode: Literal["bearer", "api_key", "raw_authorization", "none"] = "bearer"
    header: str | None = None
    scheme: str | None = None


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One provider of the catalogue. An empty `base_url` means that the user gives it."""

    name: str
    base_url: str
    category: Category
    status: Status
    id: str = ""  # the table's name
    protocols: tuple[Literal["openai", "anthropic", "responses"], ...] = ("openai",)
    api_key_env: str | None = None  # None: it needs no key
    auth: PresetAuth = PresetAuth()
    headers: dict[str, str] = {}
    models_method: Literal["GET", "POST"] = "GET"
    models_path: str = "/models"
    openai_path: str | None = None
    anthropic_path: str | None = None
    responses_path: str | None = None
    recommended: bool = False
    notes: str = ""
    also_at: tuple[str, ...] = ()  # further base URLs of the same accounts
    billing: Billing = "metered"
    meter: MeterName | None = None
    windows: tuple[dict[str, object], ...] = ()  # as `windows` of a provider; all that the plan is limited by

    def table(self, base_url: str | None = None) -> dict[str, object]:
        """The provider table for a configuration, with what differs from the defaults only."""
        found: dict[str, object] = {
            "id": self.id,
            "base_url": base_url or self.base_url,
            "protocols": list(self.protocols),
            "routing_priority": 0,
        }
        if self.models_method != "GET":
            found["models_method"] = self.models_method
        if self.models_path != "/models":
            found["models_path"] = self.models_path
        for key in ("openai_path", "anthropic_path", "responses_path"):
            if getattr(self, key) is not None:
                found[key] = getattr(self, key)
        if self.auth != PresetAuth():
            auth = {"mode": self.auth.mode, "header": self.auth.header, "scheme": self.auth.scheme}
            found["auth"] = {key: value for key, value in auth.items() if value is not None}
        if self.headers:
            found["headers"] = [{"name": name, "value": value} for name, value in self.headers.items()]
        return found


def preset_of(catalogue: Mapping[str, Preset], provider: str, base_url: str) -> Preset | None:
    """What the catalogue knows of a provider, by its address or else by its id.

    An id alone tells as long as the address is not that of another one: a person may reach a known provider by way of
    a proxy of theirs.
    """
    wanted = _address(base_url)
    for preset in catalogue.values():
        if preset.base_url and wanted in (_address(url) for url in (preset.base_url, *preset.also_at)):
            return preset
    return catalogue.get(provider)


def _address(url: str) -> tuple[str, str]:
    """What makes two base URLs the same: host with port, and path."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ("", url)
    return (parts.netloc.lower(), parts.path.rstrip("/"))


def read(text: str) -> dict[str, Preset]:
    """The catalogue by id, in its order. Raises ConfigError when the text is no catalogue."""
    try:
        found = msgspec.convert(tomllib.loads(text), dict[str, Preset])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError((f"the catalogue of providers cannot be read: {error}",)) from None
    return {name: msgspec.structs.replace(preset, id=name) for name, preset in found.items()}
