"""Sections and keys: defaults, bounds, unknown and retired keys, syntax errors, paths."""

from __future__ import annotations

import pytest
from tests.config.reading import loaded, problems, provider

from eggpool.config.load import load
from eggpool.config.schema import Config, Secret
from eggpool.domain import Dialect
from eggpool.errors import ConfigError


def test_an_empty_file_means_the_defaults() -> None:
    """Nothing has to be written down; the database lies in the user's data folder."""
    config = loaded("").config
    assert config.server == Config().server
    assert config.database.path == "/home/someone/.local/share/eggpool/usage.sqlite3"


def test_all_problems_are_told_at_once_each_with_its_place() -> None:
    """One run of check-config is enough to mend a file."""
    found = problems(
        '[server]\nprot = 1\nport = 70000\nlog_level = "info"\naccess_log = 1\n'
        "[models]\nrefresh_interval_s = -1\n[routing]\ndeadline_s = 0\n[security]\ncors_origins = [1]\n"
    )
    assert found == [
        "server.prot: unknown key 'prot'; did you mean 'port'?",
        "server.port: expected a whole number from 0 to 65535, got 70000",
        'server.log_level: expected one of "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", got "info"',
        "server.access_log: expected true or false, got 1",
        "models.refresh_interval_s: expected a whole number of at least 0, got -1",
        "routing.deadline_s: expected a number above 0, got 0",
        "security.cors_origins: expected a list of text, got a list",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server = 3", "server: expected a table, got 3"),
        ("serve = {}", "serve: unknown key 'serve'; did you mean 'server'?"),
        ("[server]\ntheme = 'x'", "server.theme: unknown key 'theme'; it belongs in [dashboard]"),
        ("clients = {}", "clients: expected an array of tables, [[clients]], got a table"),
        ("providers = []", "providers: expected named tables, [providers.NAME], got a list"),
        ("[routing]\ndeadline_s = inf", "routing.deadline_s: expected a number above 0, got inf"),
        ("[routing]\ndeadline_s = nan", "routing.deadline_s: expected a number above 0, got nan"),
        ("[server]\nport = 1979-05-27", "server.port: expected a whole number from 0 to 65535, got a date or time"),
        (
            "[server]\nmax_body_bytes = 99999999999999999999",
            "server.max_body_bytes: expected a whole number above 0, got a number that is too large",
        ),
        (
            '[model_overrides."gpt-4.1"]\nprotocol = "chat"',
            'model_overrides."gpt-4.1".protocol: expected one of "openai", "anthropic", "responses", got "chat"',
        ),
        ("[server]\ntls_cert = 'a'", "server: tls_cert and tls_key must be set together"),
        ("[database]\npath = ''", "database.path: must be a path"),
        ("[database]\npath = '~root/x'", "database.path: begins with another user's home; write the path out"),
        (
            "[dashboard]\nstore_request_content = true",
            "dashboard.store_request_content: must be false: prompts are never stored",
        ),
        (
            "[security]\ntrusted_proxies = ['10.0.0.0/8', 'lan']",
            "security.trusted_proxies[1]: expected an address or a network, such as 10.0.0.0/8",
        ),
        (
            "[model_overrides.m]\nmax_context_tokens = 10\nmax_output_tokens = 11",
            "model_overrides.m.max_output_tokens: must not be above max_context_tokens",
        ),
        (
            "[model_overrides.m]\ninput_price_per_1k = -0.5",
            "model_overrides.m.input_price_per_1k: expected a price of at least 0, got -0.5",
        ),
    ],
)
def test_a_fault_is_worded_for_people(text: str, line: str) -> None:
    """A problem names its place, what is expected and what is there."""
    assert problems(text) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nport = \n", "line 2"),
        ("[server\n", "line 1"),
        ("a = 1\nb = 2\na = 3\n", "line 3"),
        ('x = """\n\n', "line 3"),
        ("x = " + "[" * 100_000, "line 1"),
    ],
)
def test_a_syntax_error_is_one_line_with_its_number(text: str, line: str) -> None:
    """Text that is no TOML is refused with the line to look at."""
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_keys_of_other_versions_are_known() -> None:
    """A file of another version loads; what has no effect is named in a warning, with what is below it."""
    warnings = loaded(
        "[server]\nthreads = 1\n[backup]\nenabled = true\n[upstream]\nwrite_timeout_s = 3\n"
        "[routing]\nfairness_mode = 'off'\ninflight_penalty = 3\n[routing.trace]\nmode = 'off'\n"
        + provider('kind = "x"\n[providers.p.stream_timeouts]\nidle = 3')
    ).warnings
    assert {warning.partition(":")[0] for warning in warnings} == {
        "server.threads",
        "backup",
        "upstream.write_timeout_s",
        "routing.fairness_mode",
        "routing.inflight_penalty",
        "routing.trace",
        "providers.p.kind",
        "providers.p.stream_timeouts",
    }
    assert all(warning.endswith("is known but has no effect in this version") for warning in warnings)


def test_aliases_are_lists_of_models() -> None:
    """A name of the user's own stands for models in an order; anything else is told with its place."""
    aliases = loaded('[models.aliases]\nfast = ["a", "b/p"]\n').config.models.aliases
    assert aliases == {"fast": ("a", "b/p")}
    assert [problem.partition(":")[0] for problem in problems("[models]\naliases = ['a']\n")] == ["models.aliases"]


def test_paths_begin_at_the_folder_of_the_file_or_at_the_home() -> None:
    """Relative paths do not depend on where the program is started, and ~ is the user's home."""
    config = loaded("[database]\npath = 'books/x.db'\n[server]\ntls_cert = '~/c.pem'\ntls_key = '/k.pem'\n").config
    assert config.database.path == "/etc/eggpool/books/x.db"
    assert (config.server.tls_cert, config.server.tls_key) == ("/home/someone/c.pem", "/k.pem")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_DATA_HOME": "/data", "HOME": "/h"}, "/data/eggpool/usage.sqlite3"),
        ({"XDG_DATA_HOME": "data", "HOME": "/h"}, "/h/.local/share/eggpool/usage.sqlite3"),
        ({}, "/etc/eggpool/usage.sqlite3"),
    ],
)
def test_the_default_database_follows_the_environment(environ: dict[str, str], path: str) -> None:
    """$XDG_DATA_HOME when absolute, else the home, else beside the configuration."""
    assert load("", environ, folder="/etc/eggpool").config.database.path == path


def test_the_server_key_comes_from_the_file_else_from_the_variable() -> None:
    """[server] api_key wins; SERVER_API_KEY stands in; neither is no problem."""
    environ = {"SERVER_API_KEY": "ep_environment", "OTHER": "ep_other_one"}
    assert loaded("", environ).config.server.api_key == Secret("ep_environment")
    assert loaded("[server]\napi_key = 'ep_from_file'", environ).config.server.api_key == Secret("ep_from_file")
    assert loaded("[server]\napi_key_env = 'OTHER'", environ).config.server.api_key == Secret("ep_other_one")
    assert loaded("").config.server.api_key is None


def test_a_server_key_must_have_the_form_of_one() -> None:
    """What clients cannot send as a key is refused, wherever it was written."""
    form = "must have 8 to 512 letters, digits, '-' and '_'"
    assert problems("[server]\napi_key = 'short'") == [f"server.api_key: the key {form}"]
    assert problems("", {"SERVER_API_KEY": "a.b.c.d.e.f"}) == [
        f"server.api_key_env: the key in the environment variable SERVER_API_KEY {form}"
    ]


def test_clients_have_names_and_keys_of_their_own() -> None:
    """Names and hashes are unique, and "default" is the client of the server's own key."""
    one, two = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    clients = "".join(
        f"[[clients]]\nname = '{name}'\nkey_hash = '{value}'\n"
        for name, value in (("x", one), ("x", two), ("default", two))
    )
    assert problems("[server]\napi_key = 'ep_0123456789'\n" + clients) == [
        "clients[1].name: 'x' is used twice",
        "clients[2].name: 'default' is the client of [server] api_key; take another name",
        "clients[2].key_hash: is used twice; each client needs a key of its own",
    ]
    assert problems("[[clients]]\nname = 'a b'\nkey_hash = 'ep_the_key_itself'") == [
        "clients[0].name: expected a name without white space and '/', of at most 64 characters, got other text",
        "clients[0].key_hash: expected 'sha256:' and 64 hexadecimal digits, got other text",
    ]


def test_old_files_become_the_provider_opencode_go() -> None:
    """A flat [[accounts]] list is read as accounts of one provider at [upstream] base_url."""
    text = "[upstream]\nbase_url = 'https://old.example/v1/'\n[[accounts]]\nname = 'one'\napi_key_env = 'KEY'\n"
    config = loaded(text, {"KEY": "sk-0123456789"}).config
    provider = config.providers["opencode-go"]
    assert provider.base_url == "https://old.example/v1"
    assert provider.dialects == {Dialect.CHAT, Dialect.MESSAGES}
    assert [account.label for account in provider.accounts] == ["opencode-go/one"]


def test_an_old_list_and_a_new_table_are_merged() -> None:
    """With both, the table says where the provider is, and names must not clash; each problem keeps its place."""
    table = (
        "[providers.opencode-go]\nid = 'opencode-go'\nbase_url = 'https://new.example'\n"
        "[[providers.opencode-go.accounts]]\nname = 'one'\napi_key = 'sk-0123456789'\n"
    )
    old = "[[accounts]]\nname = '{}'\napi_key = 'sk-9876543210'\n"
    provider = loaded(table + old.format("two")).config.providers["opencode-go"]
    assert provider.base_url == "https://new.example"
    assert [account.name for account in provider.accounts] == ["one", "two"]
    assert problems(table + old.format("one")) == ["accounts[0].name: 'one' is used twice at this provider"]


def test_an_entry_that_cannot_be_used_does_not_shift_the_others() -> None:
    """The number in a place is the number in the file."""
    found = problems("[[accounts]]\nnam = 'a'\n[[accounts]]\nname = 'b'\n")
    assert found[-1] == "accounts[1]: has no key; set api_key_env, api_key_command or api_key"
    broken = "[[providers.q.accounts]]\nname = 1\n[[providers.q.accounts]]\nname = 'b'\n"
    assert problems("[providers.q]\nbase_url = 'https://q.example'\n" + broken) == [
        "providers.q.accounts[0].name: expected a name without white space and '/', of at most 64 characters, got 1",
        "providers.q.accounts[1]: has no key; set api_key_env, api_key_command or api_key",
    ]


def test_a_refused_file_raises_one_error_that_can_be_printed() -> None:
    """The error's text is its lines."""
    with pytest.raises(ConfigError) as caught:
        load("a = 1\nb = 2", {}, folder="/")
    assert str(caught.value).splitlines() == list(caught.value.problems)
