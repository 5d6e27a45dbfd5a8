"""What an account may use: limits, windows and offsets from every place where they can be written."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
from tests.config.reading import loaded, problems, provider

from eggpool import presets
from eggpool.config.schema import Account, Config, Window
from eggpool.domain import QuotaUnit, WindowKind, WindowSource, WindowSpec

HOUR, DAY = 3600, 24 * 3600
DOLLAR = 1_000_000_000  # in nanodollars
ROLLING, BLOCK, ANCHORED = WindowKind.ROLLING, WindowKind.BLOCK, WindowKind.ANCHORED
MONEY, TOKENS, REQUESTS, PERCENT = QuotaUnit.MONEY, QuotaUnit.TOKENS, QuotaUnit.REQUESTS, QuotaUnit.PERCENT
CONFIG, PRESET, ASSUMED = WindowSource.CONFIG, WindowSource.PRESET, WindowSource.ASSUMED

GO = presets.Preset(
    name="Go",
    base_url="https://p.example/api",
    also_at=("https://q.example/api/",),
    category="plan",
    status="verified",
    id="go",
    billing="plan",
    meter="opencode-go",
    windows=(
        {"name": "five_hour", "kind": "block", "length": "5h", "limit_microdollars": 12_000_000},
        {"name": "weekly", "kind": "anchored", "every": "week", "limit_microdollars": 30_000_000},
    ),
)
CATALOGUE = {"go": GO}
BUNDLED = presets.read((resources.files("eggpool") / "data" / "providers.toml").read_text(encoding="utf-8"))


def account(text: str, **options: Any) -> Account:
    """The account of a file that has one."""
    (found,) = loaded(text, **options).config.providers["p"].accounts
    return found


def window(text: str) -> WindowSpec:
    """The window `w` of the account, written as lines of TOML."""
    found = account(
        provider(account=f"api_key = 'sk-0123456789'\n[[providers.p.accounts.windows]]\nname = 'w'\n{text}")
    )
    return next(one for one in found.quota if one.name == "w")


def shape(found: Account) -> list[tuple[str, WindowKind, int | None, WindowSource, bool]]:
    """What matters of an account's windows, shortest first."""
    windows = sorted(found.quota, key=lambda one: one.length_s)
    return [(one.name, one.kind, one.limit, one.source, one.enforce) for one in windows]


def test_without_a_word_the_general_limits_are_assumed() -> None:
    """Twelve, thirty and sixty dollars in rolling windows that only order."""
    assert account(provider()).quota == (
        WindowSpec("five_hour", ROLLING, MONEY, 12 * DOLLAR, 5 * HOUR, ASSUMED),
        WindowSpec("weekly", ROLLING, MONEY, 30 * DOLLAR, 7 * DAY, ASSUMED),
        WindowSpec("monthly", ROLLING, MONEY, 60 * DOLLAR, 30 * DAY, ASSUMED),
    )


def test_an_account_is_paid_per_token_and_has_no_meter_unless_somebody_says_so() -> None:
    """Nothing is asked of a provider that nobody knows."""
    found = account(provider())
    assert (found.billing, found.meter, found.meter_interval_s, found.organisation) == ("metered", False, 120.0, "p")


def test_the_catalogue_knows_a_provider_by_its_address() -> None:
    """Windows, billing and meter of a preset hold for its addresses, whatever the table is called."""
    found = account(provider(), catalogue=CATALOGUE)
    assert (found.billing, found.meter) == ("plan", "opencode-go")
    assert shape(found) == [
        ("five_hour", BLOCK, 12 * DOLLAR, PRESET, False),
        ("weekly", ANCHORED, 30 * DOLLAR, PRESET, False),
    ]
    assert account(provider().replace("p.example", "Q.example"), catalogue=CATALOGUE) == found


def test_the_catalogue_knows_a_provider_by_its_id_behind_another_address() -> None:
    """A person may reach a known provider by way of something of theirs; another provider's address speaks louder."""
    text = provider().replace("providers.p", "providers.go").replace('id = "p"', 'id = "go"')
    moved = loaded(text.replace("p.example", "proxy.example"), catalogue=CATALOGUE)
    assert moved.config.providers["go"].accounts[0].meter == "opencode-go"
    other = presets.Preset(name="O", base_url="https://o.example", category="direct", status="verified", id="o")
    taken = loaded(text.replace("p.example/api", "o.example"), catalogue={**CATALOGUE, "o": other})
    assert taken.config.providers["go"].accounts[0].meter is False


def test_what_an_account_says_wins_over_its_provider_and_over_the_catalogue() -> None:
    """Billing, meter, interval and organisation: the nearest place that says something."""
    of_provider = "billing = 'metered'\nmeter = 'zai'\nmeter_interval_s = 60\norganisation = 'a-company'"
    found = account(provider(of_provider), catalogue=CATALOGUE)
    assert (found.billing, found.meter, found.meter_interval_s, found.organisation) == (
        *("metered", "zai", 60.0, "a-company"),
    )
    own = "api_key = 'sk-0123456789'\nbilling = 'plan'\nmeter = false\nmeter_interval_s = 600\norganisation = 'me'"
    found = account(provider(of_provider, own), catalogue=CATALOGUE)
    assert (found.billing, found.meter, found.meter_interval_s, found.organisation) == ("plan", False, 600.0, "me")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (
            "kind = 'rolling'\nlength = '5h'\nlimit_tokens = 7",
            WindowSpec("w", ROLLING, TOKENS, 7, 5 * HOUR, CONFIG),
        ),
        ("kind = 'block'\nlength = 90\nlimit_requests = 7", WindowSpec("w", BLOCK, REQUESTS, 7, 90, CONFIG)),
        (
            "kind = 'rolling'\nlength = '7d'\nlimit_microdollars = 7\noffset = 2\nenforce = true",
            WindowSpec("w", ROLLING, MONEY, 7000, 7 * DAY, CONFIG, offset=2000, enforce=True),
        ),
        (
            "kind = 'anchored'\nevery = 'day'\nat = '08:30'\npercent = true",
            WindowSpec("w", ANCHORED, PERCENT, None, DAY, CONFIG, "day", 0, 8 * HOUR + 1800),
        ),
        (
            "kind = 'anchored'\nevery = 'week'\nweekday = 'sunday'\nlimit_tokens = 7",
            WindowSpec("w", ANCHORED, TOKENS, 7, 7 * DAY, CONFIG, "week", 6),
        ),
        (
            "kind = 'anchored'\nevery = 'month'\nday = 31\nlimit_tokens = 7\noffset = 3",
            WindowSpec("w", ANCHORED, TOKENS, 7, 30 * DAY, CONFIG, "month", 31, offset=3),
        ),
        (
            "kind = 'anchored'\nevery = 'month'\nlimit_tokens = 7",
            WindowSpec("w", ANCHORED, TOKENS, 7, 30 * DAY, CONFIG, "month", 1),
        ),
    ],
)
def test_a_window_as_it_is_written(text: str, spec: WindowSpec) -> None:
    """Each kind with its keys; money in nanodollars, Monday is 0."""
    assert window(text) == spec


@pytest.mark.parametrize(("text", "seconds"), [("60", 60), ("'90m'", 5400), ("'1w'", 7 * DAY), ("'3600s'", 3600)])
def test_a_length_is_text_with_a_unit_or_seconds(text: str, seconds: int) -> None:
    """The usual units."""
    assert window(f"kind = 'block'\nlength = {text}\nlimit_tokens = 1").length_s == seconds


LENGTH = 'length: expected "5h", "7d", or seconds, from a minute to 366 days'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kind = 'rolling'\nlength = '5h'", " needs exactly one of limit_microdollars, limit_tokens, limit_requests"),
        ("kind = 'rolling'\nlength = '5h'\nlimit_tokens = 1\nlimit_requests = 1", " needs exactly one of"),
        ("kind = 'rolling'\nlength = '5h'\nlimit_tokens = 1\npercent = true", " needs exactly one of"),
        ("kind = 'rolling'\nlength = '5h'\npercent = true\nenforce = true", "enforce: needs a limit"),
        ("kind = 'rolling'\nlimit_tokens = 1", "length: is missing"),
        ("kind = 'rolling'\nlength = '5 hours'\nlimit_tokens = 1", LENGTH),
        ("kind = 'rolling'\nlength = '0h'\nlimit_tokens = 1", LENGTH),
        ("kind = 'rolling'\nlength = 59\nlimit_tokens = 1", LENGTH),
        ("kind = 'rolling'\nlength = -3600\nlimit_tokens = 1", LENGTH),
        ("kind = 'rolling'\nlength = '999999999w'\nlimit_tokens = 1", LENGTH),
        ("kind = 'rolling'\nlength = true\nlimit_tokens = 1", "length: expected text or a whole number, got true"),
        ("kind = 'block'\nlength = '5h'\nat = '08:00'\nlimit_tokens = 1", 'at: is for windows of the kind "anchored"'),
        ("kind = 'block'\nlength = '5h'\nevery = 'day'\nlimit_tokens = 1", "every: is for windows of the kind"),
        ("kind = 'anchored'\nlimit_tokens = 1", "every: is missing"),
        ("kind = 'anchored'\nevery = 'day'\nlength = '1d'\nlimit_tokens = 1", "length: is not for windows of the kind"),
        ("kind = 'anchored'\nevery = 'day'\nweekday = 'monday'\nlimit_tokens = 1", 'weekday: needs every = "week"'),
        ("kind = 'anchored'\nevery = 'week'\nday = 3\nlimit_tokens = 1", 'day: needs every = "month"'),
        ("kind = 'anchored'\nevery = 'month'\nday = 32\nlimit_tokens = 1", "day: expected a whole number from 1 to 31"),
        ("kind = 'anchored'\nevery = 'day'\nat = '24:00'\nlimit_tokens = 1", "at: expected a time of day"),
        (
            "kind = 'block'\nlength = '5h'\nlimit_tokens = 'many'",
            "limit_tokens: expected a whole number above 0, got text",
        ),
        ("kind = 'fixed'\nlength = '5h'\nlimit_tokens = 1", "kind: expected one of"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(text: str, fault: str) -> None:
    """One line with its place for each fault."""
    (found,) = problems(provider("[[providers.p.windows]]\nname = 'w'\n" + text))
    place = "providers.p.windows[0]"
    assert found.startswith(f"{place}:{fault}" if fault.startswith(" ") else f"{place}.{fault}")


def test_names_of_windows_are_unique_where_they_are_written() -> None:
    """Two of one name cannot be told apart."""
    twice = "[[providers.p.windows]]\nname = 'w'\nkind = 'block'\nlength = '5h'\nlimit_tokens = 1\n" * 2
    assert problems(provider(twice)) == ["providers.p.windows[1].name: 'w' is used twice"]


def test_each_layer_takes_the_place_of_the_one_below() -> None:
    """Account before provider before limits before catalogue, by name or by length; the rest stays."""
    text = provider(
        "limits = { monthly_microdollars = 9_000_000 }\n"
        "[[providers.p.windows]]\nname = 'short'\nkind = 'rolling'\nlength = '5h'\nlimit_tokens = 5\n"
        "[[providers.p.windows]]\nname = 'weekly'\nkind = 'rolling'\nlength = '6d'\nlimit_tokens = 6\n",
        "api_key = 'sk-0123456789'\n"
        "[[providers.p.accounts.windows]]\nname = 'short'\nkind = 'rolling'\nlength = '4h'\nlimit_requests = 4\n",
    )
    assert shape(account(text, catalogue=CATALOGUE)) == [
        ("short", ROLLING, 4, CONFIG, False),
        ("weekly", ROLLING, 6, CONFIG, False),
        ("monthly", ROLLING, 9 * DOLLAR, CONFIG, False),
    ]


def test_own_limits_are_other_sums_in_the_providers_own_windows() -> None:
    """Half of a plan is still counted as the plan is."""
    text = provider("limits = { five_hour_microdollars = 6_000_000 }")
    assert shape(account(text, catalogue=CATALOGUE)) == [
        ("five_hour", BLOCK, 6 * DOLLAR, CONFIG, False),
        ("weekly", ANCHORED, 30 * DOLLAR, PRESET, False),
    ]


def test_limits_of_an_account_win_over_those_of_its_provider() -> None:
    """Key by key; 0 takes a limit away."""
    text = provider(
        "limits = { five_hour_microdollars = 1_000_000, weekly_microdollars = 2_000_000, enforce = true }",
        "api_key = 'sk-0123456789'\nlimits = { five_hour_microdollars = 3_000_000, monthly_microdollars = 0 }",
    )
    assert shape(account(text)) == [
        ("five_hour", ROLLING, 3 * DOLLAR, CONFIG, True),
        ("weekly", ROLLING, 2 * DOLLAR, CONFIG, True),
    ]
    assert shape(account(provider(), catalogue=CATALOGUE))[0][0] == "five_hour"
    none = account(provider("limits = { five_hour_microdollars = 0 }"), catalogue=CATALOGUE)
    assert [one.name for one in none.quota] == ["weekly"]
    assert account("[limits]\nweekly_microdollars = 0\n" + provider()).quota == tuple(
        one for one in account(provider()).quota if one.name != "weekly"
    )


def test_general_limits_that_are_enforced_hold_everywhere() -> None:
    """They are the user's own ceiling then, in place of what the catalogue says; an account may be let off."""
    text = "[limits]\nenforce = true\nweekly_microdollars = 5_000_000\n"
    assert shape(account(text + provider(), catalogue=CATALOGUE)) == [
        ("five_hour", BLOCK, 12 * DOLLAR, ASSUMED, True),
        ("weekly", ANCHORED, 5 * DOLLAR, ASSUMED, True),
        ("monthly", ROLLING, 60 * DOLLAR, ASSUMED, True),
    ]
    assert [one.enforce for one in account(text + provider()).quota] == [True, True, True]
    let_off = provider(account="api_key = 'sk-0123456789'\nlimits = { enforce = false }")
    assert [one.enforce for one in account(text + let_off).quota] == [False, False, False]


def test_enforcing_without_a_sum_enforces_what_is_known() -> None:
    """The plan's own limits become the ceiling."""
    found = account(provider("limits = { enforce = true }"), catalogue=CATALOGUE)
    assert shape(found) == [
        ("five_hour", BLOCK, 12 * DOLLAR, PRESET, True),
        ("weekly", ANCHORED, 30 * DOLLAR, PRESET, True),
    ]


def test_offsets_count_what_was_spent_outside() -> None:
    """The account's own key, then its limits, its provider's, the general ones."""
    text = (
        "[limits]\noffset_five_hour_microdollars = 1\noffset_weekly_microdollars = 2\noffset_monthly_microdollars = 3\n"
        + provider(
            "limits = { offset_weekly_microdollars = 20, offset_monthly_microdollars = 30 }",
            "api_key = 'sk-0123456789'\nmonthly_offset_microdollars = 300",
        )
    )
    assert {one.name: one.offset for one in account(text).quota} == {
        "five_hour": 1000,
        "weekly": 20_000,
        "monthly": 300_000,
    }


def test_an_offset_in_money_is_told_where_money_is_not_counted() -> None:
    """It would be lost in silence."""
    text = provider(
        account="api_key = 'sk-0123456789'\nfive_hour_offset_microdollars = 5\n"
        "[[providers.p.accounts.windows]]\nname = 'five_hour'\nkind = 'block'\nlength = '5h'\nlimit_tokens = 1"
    )
    assert loaded(text).warnings == (
        "providers.p.accounts[0]: the offset of five_hour has no effect: that window does not count money",
    )


@pytest.mark.parametrize("name", [name for name, preset in BUNDLED.items() if preset.windows])
def test_the_bundled_windows_load_and_are_all_that_an_account_has(name: str) -> None:
    """No guess is left beside a plan's own windows."""
    preset = BUNDLED[name]
    for url in (preset.base_url, *preset.also_at):
        found = account(provider().replace("https://p.example/api", url), catalogue=BUNDLED)
        assert len(found.quota) == len(preset.windows)
        assert all(one.source is PRESET for one in found.quota)
        assert found.billing == "plan"
        assert (found.meter or None) == preset.meter


def test_the_limits_of_opencode_go() -> None:
    """Twelve dollars in a block of five hours, thirty from Monday 00:00 UTC on, sixty in the subscription's month."""
    text = provider().replace("https://p.example/api", "https://opencode.ai/zen/go/v1")
    assert account(text, catalogue=BUNDLED).quota == (
        WindowSpec("five_hour", BLOCK, MONEY, 12 * DOLLAR, 5 * HOUR, PRESET),
        WindowSpec("weekly", ANCHORED, MONEY, 30 * DOLLAR, 7 * DAY, PRESET, "week", 0),
        WindowSpec("monthly", ANCHORED, MONEY, 60 * DOLLAR, 30 * DAY, PRESET, "month", 1),
    )


def test_old_accounts_have_quotas_too() -> None:
    """The flat form is read as any other account."""
    config = loaded("[[accounts]]\nname = 'a'\napi_key = 'sk-0123456789'\n", catalogue=BUNDLED).config
    (found,) = config.providers["opencode-go"].accounts
    assert (len(found.quota), found.billing, found.meter) == (3, "plan", "opencode-go")


def test_windows_say_what_they_are() -> None:
    """A table without windows has none, and the reading of one costs nobody a default."""
    assert Config().limits.five_hour_microdollars == 12_000_000
    assert Window(name="w", kind="block").percent is False
