"""What an account may use, put together from every place where that can be written.

`[limits]`, the catalogue of providers, a provider's and an account's own `limits` and `windows`, and what was spent
outside the pool become one tuple of `WindowSpec`. Only that happens here: how a window is counted is `routing.quota`'s.
Money comes in microdollars and leaves in nanodollars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec.structs import replace

from eggpool.config.findings import Findings, at, shown
from eggpool.config.schema import Account, MeterChoice, OwnLimits, Provider, QuotaLimits, Section, Window
from eggpool.config.table import read_list
from eggpool.domain import Billing, QuotaUnit, WindowKind, WindowSource, WindowSpec
from eggpool.presets import Preset

HOUR_S = 3600
DAY_S = 24 * HOUR_S
FIVE_HOURS_S = 5 * HOUR_S
WEEK_S = 7 * DAY_S
MONTH_S = 30 * DAY_S

LENGTHS_S: dict[str, int] = {"five_hour": FIVE_HOURS_S, "weekly": WEEK_S, "monthly": MONTH_S}
"""The windows that `limits` speak of: `<name>_microdollars` and `offset_<name>_microdollars`."""

_SHORTEST_S = 60
_LONGEST_S = 366 * DAY_S
_LENGTH = re.compile(r"([1-9][0-9]{0,8})([smhdw]?)\Z")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": HOUR_S, "d": DAY_S, "w": WEEK_S}
_PERIOD_S = {"day": DAY_S, "week": WEEK_S, "month": MONTH_S}
_WEEKDAYS = {
    day: number
    for number, day in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
}
_UNITS = {
    "limit_microdollars": QuotaUnit.MONEY,
    "limit_tokens": QuotaUnit.TOKENS,
    "limit_requests": QuotaUnit.REQUESTS,
}
_NANODOLLARS = 1000  # in a microdollar


class ProviderQuota:
    """What holds for each account of a provider; `of` adds what one account has of its own."""

    def __init__(
        self, provider: Provider, place: str, general: QuotaLimits, preset: Preset | None, findings: Findings
    ) -> None:
        self._provider = provider
        self._general = general
        self._findings = findings
        self._own = read_windows(provider.windows, at(place, "windows"), findings)
        self._known = preset_windows(preset) if preset is not None else ()
        self._billing: Billing = provider.billing or (preset.billing if preset is not None else "metered")
        self._meter: MeterChoice = False
        if provider.meter is not None:
            self._meter = provider.meter
        elif preset is not None and preset.meter is not None:
            self._meter = preset.meter

    def of(self, account: Account, place: str) -> Account:
        """The account with `quota`, `billing`, `meter`, `meter_interval_s` and `organisation` filled in."""
        own = read_windows(account.windows, at(place, "windows"), self._findings)
        return replace(
            account,
            quota=self._windows(account, own, place),
            billing=account.billing or self._billing,
            meter=self._meter if account.meter is None else account.meter,
            meter_interval_s=account.meter_interval_s or self._provider.meter_interval_s,
            organisation=account.organisation or self._provider.organisation or self._provider.id,
        )

    def _windows(self, account: Account, own: tuple[WindowSpec, ...], place: str) -> tuple[WindowSpec, ...]:
        """Each layer takes the place of what lies below it under the same name or with the same length."""
        limits = [one for one in (account.limits, self._provider.limits) if one is not None]
        enforce = next((one.enforce for one in limits if one.enforce is not None), self._general.enforce)
        layers: list[Iterable[WindowSpec]] = [
            # The general limits are a guess: where a provider's windows are known, they say nothing more.
            () if self._known else _general(self._general, enforce=enforce),
            self._known,
            _ceilings(self._general, limits, self._known, enforce=enforce),
            self._own,
            own,
        ]
        found: list[WindowSpec] = []
        for layer in layers:
            upper = list(layer)
            names = {window.name for window in upper}
            lengths = {window.length_s for window in upper}
            found = [window for window in found if window.name not in names and window.length_s not in lengths] + upper
        none = {name for name in LENGTHS_S if _nearest(limits, f"{name}_microdollars") == 0}
        spared = [
            window
            for window in found
            if window.name not in none or window.source is WindowSource.CONFIG  # 0 takes away what was not asked for
        ]
        return tuple(self._with_offset(window, account, limits, place) for window in spared)

    def _with_offset(self, window: WindowSpec, account: Account, limits: list[OwnLimits], place: str) -> WindowSpec:
        if window.name not in LENGTHS_S or window.offset:
            return window
        offset: int | None = getattr(account, f"{window.name}_offset_microdollars")
        if offset is None:
            offset = _nearest([*limits, self._general], f"offset_{window.name}_microdollars")
        if not offset:
            return window
        if window.unit is not QuotaUnit.MONEY:
            self._findings.warning(
                place, f"the offset of {window.name} has no effect: that window does not count money"
            )
            return window
        return replace(window, offset=offset * _NANODOLLARS)


def preset_windows(preset: Preset) -> tuple[WindowSpec, ...]:
    """The windows that the catalogue knows of a provider. Raises ValueError when it is wrong about them."""
    findings = Findings()
    tables = [dict(window) for window in preset.windows]
    windows = tuple(one for _, one in read_list(Window, tables, findings, place=preset.id, trail=()))
    found = read_windows(windows, preset.id, findings, source=WindowSource.PRESET)
    if findings.problems:
        raise ValueError("; ".join(findings.problems))
    return found


def read_windows(
    windows: tuple[Window, ...], place: str, findings: Findings, source: WindowSource = WindowSource.CONFIG
) -> tuple[WindowSpec, ...]:
    """The windows of one list, checked; those with a fault are left out."""
    names: set[str] = set()
    found: list[WindowSpec] = []
    for here, window in zip(findings.places(place, len(windows)), windows, strict=True):
        spec = _spec(window, here, findings, source)
        if window.name in names:
            findings.problem(at(here, "name"), f"'{shown(window.name)}' is used twice")
        names.add(window.name)
        if spec is not None:
            found.append(spec)
    return tuple(found)


def _spec(window: Window, place: str, findings: Findings, source: WindowSource) -> WindowSpec | None:
    if findings.faulty(place):
        return None  # what is missing then may only have been misspelt
    limits = [(key, getattr(window, key)) for key in _UNITS if getattr(window, key) is not None]
    if len(limits) + window.percent != 1:
        findings.problem(place, f"needs exactly one of {', '.join(_UNITS)} and percent = true")
    if window.percent and window.enforce:
        findings.problem(at(place, "enforce"), "needs a limit, which percent has not")
    length_s = _anchored_s(window, place, findings) if window.kind == "anchored" else _length_s(window, place, findings)
    if findings.faulty(place):
        return None
    unit, limit, scale = QuotaUnit.PERCENT, None, 1
    if limits:
        key, limit = limits[0]
        unit = _UNITS[key]
        scale = _NANODOLLARS if unit is QuotaUnit.MONEY else 1
    hours, _, minutes = (window.at or "00:00").partition(":")
    return WindowSpec(
        name=window.name,
        kind=WindowKind(window.kind),
        unit=unit,
        limit=None if limit is None else limit * scale,
        length_s=length_s,
        source=source,
        every=window.every,
        anchor_day=_anchor_day(window),
        anchor_s=int(hours) * HOUR_S + int(minutes) * 60,
        offset=window.offset * scale,
        enforce=window.enforce,
    )


def _anchor_day(window: Window) -> int:
    if window.every == "week":
        return _WEEKDAYS[window.weekday or "monday"]
    return (window.day or 1) if window.every == "month" else 0


def _length_s(window: Window, place: str, findings: Findings) -> int:
    """The length of a rolling window or a block, in seconds; 0 with a fault."""
    for key in ("every", "weekday", "day", "at"):
        if getattr(window, key) is not None:
            findings.problem(at(place, key), 'is for windows of the kind "anchored"')
    if window.length is None:
        findings.problem(at(place, "length"), 'is missing; expected "5h", "7d", or seconds')
        return 0
    told = _LENGTH.match(str(window.length))
    length_s = int(told[1]) * _UNIT_S[told[2]] if told else 0
    if not _SHORTEST_S <= length_s <= _LONGEST_S:
        findings.problem(at(place, "length"), 'expected "5h", "7d", or seconds, from a minute to 366 days')
    return length_s


def _anchored_s(window: Window, place: str, findings: Findings) -> int:
    if window.length is not None:
        findings.problem(at(place, "length"), 'is not for windows of the kind "anchored", which have every')
    if window.every is None:
        findings.problem(at(place, "every"), 'is missing; expected one of "day", "week", "month"')
        return 0
    for key, period in (("weekday", "week"), ("day", "month")):
        if getattr(window, key) is not None and window.every != period:
            findings.problem(at(place, key), f'needs every = "{period}"')
    return _PERIOD_S[window.every]


def _general(general: QuotaLimits, *, enforce: bool) -> Iterable[WindowSpec]:
    for name in LENGTHS_S:
        limit = getattr(general, f"{name}_microdollars")
        if limit:
            yield _money(name, limit, WindowSource.ASSUMED, enforce=enforce)


def _ceilings(
    general: QuotaLimits, limits: list[OwnLimits], known: tuple[WindowSpec, ...], *, enforce: bool
) -> Iterable[WindowSpec]:
    """The windows of `limits`; where they are to be enforced and no sum is named, the general or the known ones."""
    by_name = {window.name: window for window in known if window.unit is QuotaUnit.MONEY}
    for name in LENGTHS_S:
        limit, source = _nearest(limits, f"{name}_microdollars"), WindowSource.CONFIG
        if limit is None and enforce and general.enforce:
            limit, source = getattr(general, f"{name}_microdollars"), WindowSource.ASSUMED
        if limit is None and enforce and name in by_name:
            yield replace(by_name[name], enforce=True)
        elif limit and name in by_name:  # another sum, but the provider's own way of counting
            yield replace(by_name[name], limit=limit * _NANODOLLARS, source=source, enforce=enforce)
        elif limit:
            yield _money(name, limit, source, enforce=enforce)


def _money(name: str, microdollars: int, source: WindowSource, *, enforce: bool) -> WindowSpec:
    return WindowSpec(
        name=name,
        kind=WindowKind.ROLLING,
        unit=QuotaUnit.MONEY,
        limit=microdollars * _NANODOLLARS,
        length_s=LENGTHS_S[name],
        source=source,
        enforce=enforce,
    )


def _nearest(sections: Iterable[Section], key: str) -> int | None:
    """The first value among sections, the nearest first."""
    return next((value for one in sections if (value := getattr(one, key)) is not None), None)
