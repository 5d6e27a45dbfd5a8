"""The schema as documents: the example configuration, the example environment and the reference page.

Text out, nothing else. Each key's name, default and help come from `schema`; only the one example provider and the
sentences between the tables are written here.
"""

from __future__ import annotations

import json

import msgspec

from eggpool.config.keys import Key, expected, keys_of
from eggpool.config.load import INHERITED
from eggpool.config.retired import RETIRED
from eggpool.config.schema import Account, Config, Provider, Section, Upstream

EXAMPLE_VARIABLE = "OPENCODE_GO_KEY_1"

_EXAMPLES: dict[str, object] = {
    "server.api_key": "ep_...",
    "server.tls_cert": "/etc/ssl/eggpool/chain.pem",
    "server.tls_key": "/etc/ssl/eggpool/key.pem",
    "database.path": "usage.sqlite3",
    "account.api_key_command": "pass show opencode-go",
    "account.proxy": "office",
    "account.proxy_url": "socks5://127.0.0.1:1080",
    "account.proxy_url_env": "OFFICE_PROXY_URL",
    "account.max_concurrency": 4,
    "account.five_hour_offset_microdollars": 0,
    "account.weekly_offset_microdollars": 0,
    "account.monthly_offset_microdollars": 0,
    "account.billing": "plan",
    "account.meter": "opencode-go",
    "account.meter_interval_s": 120.0,
    "account.organisation": "opencode-go",
    "provider.billing": "plan",
    "provider.meter": "opencode-go",
    "provider.organisation": "opencode-go",
    "models.aliases": {"fast": ("glm-5.3", "kimi-k3")},
}
"""What is shown for a key without a default."""

_GIVEN = frozenset({"id", "base_url", "protocols", "routing_priority", "name", "api_key", "api_key_env"})
"""Keys that the example provider and account write out, and the one that it should not suggest."""

_EXAMPLE_PROVIDER = f"""\
# --- Providers and their accounts ------------------------------------------------------------------------------------
# One table for each provider, one [[...accounts]] entry for each key there. `eggpool connect list` names providers,
# `eggpool connect ID --key-env NAME` adds an account to this file.

[providers.opencode-go]
id = "opencode-go"
base_url = "https://opencode.ai/zen/go/v1"
protocols = ["openai", "anthropic"]
routing_priority = 0
{{provider_keys}}
[[providers.opencode-go.accounts]]
name = "first"
api_key_env = "{EXAMPLE_VARIABLE}"
{{account_keys}}
# A second account at the same provider:
# [[providers.opencode-go.accounts]]
# name = "second"
# api_key_env = "OPENCODE_GO_KEY_2"
"""

_EXAMPLE_REST = """\
# --- Optional tables -------------------------------------------------------------------------------------------------

# An outbound proxy that accounts can name with `proxy = "office"`:
# [proxies.office]
# url_env = "OFFICE_PROXY_URL"

# What is known better about a model than its provider's list says:
# [model_overrides."some-model"]
# max_context_tokens = 200000
# input_price_per_1k = "$3 / 1M"
# output_price_per_1k = "$15 / 1M"

# A quota window of each account of a provider, or with [[...accounts.windows]] below an account of that account:
# [[providers.opencode-go.windows]]
# name = "daily"
# kind = "anchored"
# every = "day"
# at = "00:00"
# limit_requests = 1000

# A caller with a key of its own; the hash is "sha256:" and the SHA-256 of the key in hexadecimal digits:
# [[clients]]
# name = "laptop"
# key_hash = "sha256:..."
"""


def config_example() -> str:
    """A configuration that works once its environment variable is set; every other key stands commented out."""
    parts = [
        "# EggPool's configuration. A line of the form '# name = value  # help' shows a default or an example; remove\n"
        "# the first '# ' to change it. `eggpool check-config` tells every mistake at once.\n"
    ]
    for key in keys_of(Config).values():
        if key.holds != "section" or key.section is None:
            continue
        lines = _commented(key.section, key.name)
        if lines:
            parts.append(f"# {key.help}\n[{key.name}]\n{lines}")
    parts.append(
        _EXAMPLE_PROVIDER.format(
            provider_keys=_commented(Provider, "provider", _GIVEN), account_keys=_commented(Account, "account", _GIVEN)
        )
    )
    parts.append(_EXAMPLE_REST)
    return "\n".join(parts)


def env_example() -> str:
    """A `.env` to be copied and filled in; it lies beside the configuration."""
    return f"""\
# Copy this file to .env beside config.toml and fill it in. A variable of the environment wins over a line here.
# Values are taken as they are: nothing is interpolated. The placeholders below are refused.

# The key of the first account in config.example.toml:
{EXAMPLE_VARIABLE}=your-opencode-go-key-1

# The key that clients of this pool send. Without one, `eggpool serve` makes it at its first start.
# SERVER_API_KEY=
"""


def reference_page() -> str:
    """All keys as Markdown tables."""
    parts = [
        "# Configuration\n",
        "<!-- Generated from src/eggpool/config by scripts/generate.py. -->\n",
        "The configuration is one TOML file. It is looked for in `--config PATH`, `$EGGPOOL_CONFIG`, `./config.toml`\n"
        "and `~/.config/eggpool/config.toml`, in this order. Variables come from the environment, or from a file\n"
        "`.env` beside the configuration; the environment wins. Money is in microdollars (millionths of a US\n"
        "dollar). An unknown key is an error. `eggpool check-config` lists every problem at once.\n",
        "A key marked *no effect* is accepted for the sake of existing files, and `check-config` says so.\n",
    ]
    done: list[type[Section]] = []
    for key in keys_of(Config).values():
        parts.extend(_chapter(key, _title("", key), done))
    parts.append("## Accounts of old files\n")
    parts.append(
        "A flat `[[accounts]]` list, with the keys of `[[providers.<id>.accounts]]`, is read as the accounts of a\n"
        "provider `opencode-go` at `[upstream] base_url` that speaks `openai` and `anthropic`. A table\n"
        "`[providers.opencode-go]` in the same file takes these accounts over.\n"
    )
    parts.append("## Keys of other versions\n")
    parts.append("These are accepted with a warning, together with everything below them, and have no effect:\n")
    parts.append("\n".join(f"- `{pattern}`" for pattern in RETIRED) + "\n")
    return "\n".join(parts)


def _chapter(key: Key, title: str, done: list[type[Section]]) -> list[str]:
    """The table of a section, then those of the sections inside it that were not described yet."""
    section = key.section
    if section is None or section in done:
        return []
    done.append(section)
    keys = keys_of(section)
    rows = [
        f"## `{title}`\n",
        f"{(section.__doc__ or '').strip()}\n",
        "| key | value | default | meaning |\n| --- | --- | --- | --- |",
    ]
    for one in keys.values():
        effect = " *No effect.*" if one.unused else ""
        rows.append(f"| `{one.name}` | {_values(one)} | {_default_cell(one)} | {_cell(one.help)}{effect} |")
    rows.append("")
    for one in keys.values():
        rows.extend(_chapter(one, _title(title, one), done))
    return rows


def _title(parent: str, key: Key) -> str:
    inside = parent.strip("[]")
    name = f"{inside}.{key.name}" if inside else key.name
    if key.holds == "named":
        return f"[{name}.<{'id' if key.name == 'providers' else 'name'}>]"
    return f"[[{name}]]" if key.holds == "sections" else f"[{name}]"


def _values(key: Key) -> str:
    if key.section is not None:
        return {"section": "a table", "sections": "an array of tables", "named": "named tables"}.get(key.holds, "")
    if key.holds == "lists":
        return "a table of lists of text"
    return _cell(expected(key.type))


def _default_cell(key: Key) -> str:
    if key.required:
        return "required" if key.name != "id" else "the table's name"
    if key.default is None and key.name in INHERITED:
        return "as `[upstream]`"
    if key.default is None or isinstance(key.default, Section) or (key.section is not None and not key.default):
        return ""
    return f"`{_toml(key.default)}`"


def _commented(section: type[Section], place: str, given: frozenset[str] = frozenset()) -> str:
    """Keys with default and help, commented out; without those that have no effect or are `given`."""
    lines: list[str] = []
    for key in keys_of(section).values():
        if key.unused or key.section is not None or key.name in given:
            continue
        example = _EXAMPLES.get(f"{place}.{key.name}", key.default)
        if example is None and key.name in INHERITED:
            example = keys_of(Upstream)[key.name].default
        lines.append(f"# {key.name} = {_toml(example)}  # {key.help}\n")
    return "".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(entry)}" for name, entry in value.items()) + " }" if value else "{}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    return json.dumps(value) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
