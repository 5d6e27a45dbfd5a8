"""Whatever a file holds: it is loaded, or refused with lines that have a place and no secret."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from eggpool.config.keys import keys_of
from eggpool.config.load import load, settle
from eggpool.config.schema import Config, Section
from eggpool.errors import ConfigError

SECRET = "Zq7secretZq7-0123456789"
ENVIRON = {"HOME": "/home/someone", "SERVER_API_KEY": "ep_0123456789", "K": SECRET}


def names(section: type[Section]) -> Iterator[str]:
    """Each key's name of a section and of those inside it."""
    for key in keys_of(section).values():
        yield key.name
        if key.section is not None:
            yield from names(key.section)


KEYS = st.sampled_from(sorted({*names(Config), "accounts", "aliases", "windows", "backup", "p", "opencode-go"}))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["none", "openai", "K", "https://p.example/v1", "/v1/x", "your-key", "~", SECRET])
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=8), inner, max_size=6),
    max_leaves=30,
)


def shaped(section: type[Section]) -> st.SearchStrategy[dict[str, object]]:
    """Tables that look like a section, with here and there a wrong value or key."""
    parts: dict[str, st.SearchStrategy[object]] = {}
    for key in keys_of(section).values():
        value: st.SearchStrategy[object] = LEAVES
        if key.section is not None:
            inner = shaped(key.section)
            value = {
                "section": inner,
                "sections": st.lists(inner, max_size=3),
                "named": st.dictionaries(st.sampled_from(["p", "q", "opencode-go", "a/b"]), inner, max_size=2),
            }[key.holds]
        parts[key.name] = value | TREES
    return st.fixed_dictionaries({}, optional=parts)


@given(tables=st.dictionaries(KEYS | st.text(max_size=8), TREES, max_size=8) | shaped(Config))
def test_any_tables_are_loaded_or_refused_with_places(tables: dict[str, object]) -> None:
    """ConfigError is the only way to fail, and each of its lines is one line that begins with a place."""
    try:
        settle(tables, ENVIRON, folder="/etc/eggpool", run_command=lambda _: SECRET)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.partition(": ")[2]
            assert "\n" not in problem


@given(text=st.text(max_size=200) | st.text(alphabet="[]{}=\"'.,#\n ab1", max_size=60))
def test_any_text_is_loaded_or_refused(text: str) -> None:
    """A text that is no TOML at all is refused like any other mistake."""
    try:
        load(text, ENVIRON, folder="/etc/eggpool")
    except ConfigError as error:
        assert all("\n" not in problem for problem in error.problems)


SECRET_PLACES = (
    "[server]\napi_key = {}\n",
    "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.accounts]]\nname = 'a'\napi_key = {}\n",
    "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.accounts]]\nname = 'a'\napi_key_env = {}\n",
    "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.accounts]]\nname = 'a'\napi_key_command = {}\n",
    "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.accounts]]\nname = 'a'\nproxy_url = {}\n",
    "[providers.p]\nbase_url = {}\n",
    "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.headers]]\nname = 'x-a'\nvalue = {}\n",
    "[providers.p]\nbase_url = 'https://p.example'\n[[providers.p.headers]]\nname = 'x-a'\nvalue_env = {}\n",
    "[proxies.x]\nurl = {}\n",
    "[proxies.x]\nurl_env = {}\n",
    "[[clients]]\nname = 'c'\nkey_hash = {}\n",
    "[[accounts]]\nname = 'a'\napi_key = {}\n",
    "[server]\nport = {}\n",
    "[server]\nlog_level = {}\n",
    "[server]\nhost = 1\nlog_format = {}\n",
)


@given(
    place=st.sampled_from(SECRET_PLACES),
    before=st.sampled_from(["", "Bearer ", "your-", "http://u:", "ss://", " ", "<", "\\n", "é"]),
    after=st.sampled_from(["", "@h", "@h:1", "\\r\\n", "\\u0000", ">", "#", "?x=1", "é", '", "']),
)
def test_no_problem_or_warning_holds_a_secret(place: str, before: str, after: str) -> None:
    """Wherever a key or password stands, and however broken it is, it is not repeated."""
    value = f'"{before}{SECRET}{after}"' if '", "' not in after else f'["{before}{SECRET}{after}"]'
    try:
        told = load(place.format(value), ENVIRON, folder="/etc/eggpool", run_command=lambda _: SECRET + " x").warnings
    except ConfigError as error:
        told = error.problems
    assert not any(SECRET in line for line in told)


def test_no_value_shows_a_secret() -> None:
    """A loaded configuration can be printed."""
    text = "".join(SECRET_PLACES[number].format(f'"{SECRET}"') for number in (0, 1)) + (
        f"proxy_url = 'http://u:{SECRET}@h:1'\n[[providers.p.headers]]\nname = 'x-a'\nvalue = '{SECRET}'\n"
        f"[proxies.x]\nurl = 'http://u:{SECRET}@h:1'\n"
    )
    assert SECRET not in repr(load(text, ENVIRON, folder="/"))
