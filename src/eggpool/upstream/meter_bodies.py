"""What usage endpoints answer, one small function for each provider: decoded JSON in, what was told out.

None of the shapes is promised: what is missing or odd is left out, and whatever was sent, nothing is raised. Shares are
parts of the limit. Where a provider counts in a basis of its own (prices, weighted requests), only the share is told,
in percent, because our own counts would not add up with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from eggpool.domain import QuotaReport, QuotaUnit, WindowKind
from eggpool.routing.reset_times import instant_ms
from eggpool.wire import fields

HOUR_S, DAY_S = 3600, 86_400
FIVE_HOURS_S, WEEK_S, MONTH_S = 5 * HOUR_S, 7 * DAY_S, 30 * DAY_S
_NANO = 1_000_000_000
_LARGEST_SHARE = 10.0
_LARGEST_SUM = 10_000_000  # dollars: more is no balance


class Told(msgspec.Struct, frozen=True):
    """What one answer says: windows, and the money that is left where accounts are paid in advance."""

    reports: tuple[QuotaReport, ...] = ()
    balance_nanodollars: int | None = None


Read = Callable[[object, int], Told | None]
"""From a decoded answer and the moment it was asked for (milliseconds since 1970) to what it says; None when it is no
answer of the kind that is known."""


def opencode_go(payload: object, at_ms: int) -> Told | None:
    """OpenCode Go, `GET /zen/go/v1/usage` (anomalyco/opencode, pull request 16513).

    `usage.{rolling,weekly,monthly}` with a whole percentage, a status (ok, rate-limited) and the reset.
    """
    kinds = (
        ("rolling", "five_hour", WindowKind.BLOCK, FIVE_HOURS_S),
        ("weekly", "weekly", WindowKind.ANCHORED, WEEK_S),
        ("monthly", "monthly", WindowKind.ANCHORED, MONTH_S),
    )
    usage = fields.mapping(fields.mapping(payload).get("usage"))
    reports = []
    for key, name, kind, length_s in kinds:
        window = fields.mapping(usage.get(key))
        reports += _window(
            name,
            at_ms,
            _percent(window.get("percent")),
            resets=window.get("resetsAt"),
            kind=kind,
            length_s=length_s,
            exhausted={"ok": False, "rate-limited": True}.get(str(window.get("status"))),
        )
    return _windows(reports)


def zai(payload: object, at_ms: int) -> Told | None:
    """Z.ai and BigModel coding plans, `GET /api/monitor/usage/quota/limit` (as their own plugins ask it).

    `data.limits[]`: TOKENS_LIMIT and CREDIT_LIMIT are windows of `number` hours (`unit` 3), weeks (6) or months (5).
    TIME_LIMIT counts searches of their tools, which no request of ours makes.
    """
    reports = []
    for entry in fields.items(fields.mapping(fields.mapping(payload).get("data")).get("limits")):
        limit = fields.mapping(entry)
        if limit.get("type") not in ("TOKENS_LIMIT", "CREDIT_LIMIT"):
            continue
        unit_s = {3: HOUR_S, 5: MONTH_S, 6: WEEK_S}.get(fields.count(limit.get("unit")))
        number = fields.count(limit.get("number")) or 1
        if unit_s is None or number > 1000:
            continue
        length_s = unit_s * number
        reports += _window(
            _name(length_s),
            at_ms,
            _percent(limit.get("percentage")),
            resets=limit.get("nextResetTime"),
            kind=WindowKind.BLOCK,
            length_s=length_s,
        )
    return _windows(reports)


def kimi(payload: object, at_ms: int) -> Told | None:
    """Kimi's coding plan, `GET /coding/v1/usages` (as MoonshotAI/kimi-cli asks it).

    `usage` is the week, `limits[]` are windows with a length, both in numbers that are written as text; newer answers
    have `usages.limit_5h` and `limit_month_*` with a ratio.
    """
    told = fields.mapping(payload)
    reports = []
    for key, entry in fields.mapping(told.get("usages")).items():
        name, length_s = {
            "limit_5h": ("five_hour", FIVE_HOURS_S),
            "limit_7d": ("weekly", WEEK_S),
            "limit_week": ("weekly", WEEK_S),
            "limit_month_total": ("monthly", MONTH_S),
            "limit_month_code": ("monthly_code", MONTH_S),
        }.get(key, ("", 0))
        window = fields.mapping(entry)
        if name:
            reports += _window(
                name,
                at_ms,
                _share(window.get("used_ratio")),
                resets=window.get("reset_time"),
                kind=WindowKind.BLOCK,
                length_s=length_s,
            )
    units = {"TIME_UNIT_MINUTE": 60, "TIME_UNIT_HOUR": HOUR_S, "TIME_UNIT_DAY": DAY_S, "TIME_UNIT_WEEK": WEEK_S}
    windows: list[tuple[int, dict[str, object]]] = [(WEEK_S, fields.mapping(told.get("usage")))]
    for entry in fields.items(told.get("limits")):
        limit = fields.mapping(entry)
        length = fields.mapping(limit.get("window"))
        length_s = units.get(str(length.get("timeUnit")), 0) * fields.count(length.get("duration"))
        if 0 < length_s <= 366 * DAY_S:
            windows.append((length_s, fields.mapping(limit.get("detail"))))
    names = {report.window for report in reports}
    for length_s, window in windows:
        if _name(length_s) not in names:
            reports += _window(
                _name(length_s),
                at_ms,
                _used_of(window),
                resets=window.get("resetTime"),
                kind=WindowKind.BLOCK,
                length_s=length_s,
            )
    return _windows(reports)


def minimax(payload: object, at_ms: int) -> Told | None:
    """MiniMax plans, `GET /v1/token_plan/remains` and its forerunner `coding_plan/remains` (platform.minimax.io/docs).

    `model_remains[]` has a window of some hours and one of a week for each kind of model; only those for text count
    here. Plans that count tell what remains, even under the name of `usage_count`, and a percentage is newer.
    """
    told = fields.mapping(payload)
    if fields.count(fields.mapping(told.get("base_resp")).get("status_code")):
        return None
    reports: list[QuotaReport] = []
    for entry in fields.items(told.get("model_remains")):
        remains = fields.mapping(entry)
        name = str(remains.get("model_name") or "general").lower()
        if not name.startswith(("general", "minimax-m", "text")):
            continue
        starts_ms, ends_ms = fields.count(remains.get("start_time")), fields.count(remains.get("end_time"))
        length_s = (ends_ms - starts_ms) // 1000 if 0 < starts_ms < ends_ms else FIVE_HOURS_S
        left_ms = fields.count(remains.get("remains_time"))
        reports += _window(
            "daily" if length_s == DAY_S else "five_hour",
            at_ms,
            _used_of_remaining(remains, "current_interval"),
            resets=ends_ms or (at_ms + left_ms if left_ms else None),
            kind=WindowKind.BLOCK,
            length_s=length_s if HOUR_S <= length_s <= DAY_S else FIVE_HOURS_S,
        )
        share = _used_of_remaining(remains, "current_weekly")
        reports += _window(
            "weekly",
            at_ms,
            share if share is not None else _used_of_remaining(remains, "weekly"),
            resets=remains.get("weekly_end_time") or remains.get("current_weekly_end_time"),
            kind=WindowKind.BLOCK,
            length_s=WEEK_S,
        )
    return _windows(reports)


def synthetic(payload: object, at_ms: int) -> Told | None:
    """Synthetic, `GET /v2/quotas` (synthetic-lab/octofriend, source/utils/quota.ts).

    Both limits come back bit by bit, so that none has a reset: `rollingFiveHourLimit` in requests, `weeklyTokenLimit`
    in percent. Older answers have `subscription` with a renewal.
    """
    told = fields.mapping(payload)
    short, week = fields.mapping(told.get("rollingFiveHourLimit")), fields.mapping(told.get("weeklyTokenLimit"))
    reports = _window(
        "five_hour",
        at_ms,
        _used_of(short),
        kind=WindowKind.ROLLING,
        length_s=FIVE_HOURS_S,
        exhausted=True if short.get("limited") is True else None,
    )
    left = _percent(week.get("percentRemaining"))
    reports += _window(
        "weekly", at_ms, None if left is None else max(1.0 - left, 0.0), kind=WindowKind.ROLLING, length_s=WEEK_S
    )
    old = fields.mapping(told.get("subscription"))
    if not reports:
        reports += _window(
            "five_hour",
            at_ms,
            _used_of(old),
            resets=old.get("renewsAt"),
            kind=WindowKind.BLOCK,
            length_s=FIVE_HOURS_S,
        )
    return _windows(reports)


def chutes_subscription(payload: object, at_ms: int) -> Told | None:
    """Chutes, `GET /users/me/subscription_usage`: windows by name, each with what is used and its cap."""
    kinds = {
        "four_hour": ("4_hour", WindowKind.ROLLING, 4 * HOUR_S),
        "daily": ("daily", WindowKind.ANCHORED, DAY_S),
        "weekly": ("weekly", WindowKind.ANCHORED, WEEK_S),
        "monthly": ("monthly", WindowKind.ANCHORED, MONTH_S),
    }
    told = fields.mapping(payload)
    reports = []
    for key, (name, kind, length_s) in kinds.items():
        window = fields.mapping(told.get(key))
        resets = window.get("reset_at") or window.get("resets_at")
        reports += _window(name, at_ms, _used_of(window), resets=resets, kind=kind, length_s=length_s)
    return _windows(reports)


def chutes_quota(payload: object, at_ms: int) -> Told | None:
    """Chutes, `GET /users/me/quota_usage/me`: requests of the day, which ends at 00:00 UTC."""
    share, resets = _used_of(fields.mapping(payload)), _next(at_ms, "daily")
    return _windows(_window("daily", at_ms, share, resets=resets, kind=WindowKind.ANCHORED, length_s=DAY_S))


def nano_gpt(payload: object, at_ms: int) -> Told | None:
    """NanoGPT, `GET /api/subscription/v1/usage` (docs.nano-gpt.com/api-reference/endpoint/subscription-usage).

    `daily` and `monthly` with what is used, what remains, a fraction named `percentUsed`, and the reset in
    milliseconds. Without a running subscription requests are paid from the balance, and the windows say nothing.
    """
    told = fields.mapping(payload)
    if told.get("active") is False and told.get("state") != "grace":
        return Told()
    reports = []
    for key, length_s in (("daily", DAY_S), ("weekly", WEEK_S), ("monthly", MONTH_S)):
        if key == "daily" and told.get("enforceDailyLimit") is False:
            continue
        window = fields.mapping(told.get(key))
        share = _used_of(window)
        reports += _window(
            key,
            at_ms,
            share if share is not None else _share(window.get("percentUsed")),
            resets=window.get("resetAt"),
            kind=WindowKind.ANCHORED,
            length_s=length_s,
        )
    return _windows(reports)


def openrouter_key(payload: object, at_ms: int) -> Told | None:
    """OpenRouter, `GET /api/v1/key` (openrouter.ai/docs/api/api-reference/api-keys/get-current-key).

    The key's own limit in dollars, which may come back each UTC day, week (from Monday) or month, or never.
    """
    key = fields.mapping(fields.mapping(payload).get("data"))
    limit, left = fields.nanodollars(key.get("limit")), fields.number(key.get("limit_remaining"))
    if not limit or left is None:
        return Told() if "limit" in key else None
    period = str(key.get("limit_reset") or "")
    length_s = {"daily": DAY_S, "weekly": WEEK_S, "monthly": MONTH_S}.get(period)
    used = max(limit - round(min(max(left, -_LARGEST_SUM), _LARGEST_SUM) * _NANO), 0)
    return Told(
        (
            QuotaReport(
                window=period if length_s else "key",
                at_ms=at_ms,
                unit=QuotaUnit.MONEY,
                used_share=min(used / limit, _LARGEST_SHARE),
                used=used,
                limit=limit,
                resets_at_ms=_next(at_ms, period) if length_s else None,
                length_s=length_s,
                kind=WindowKind.ANCHORED if length_s else None,
            ),
        )
    )


def openrouter_credits(payload: object, _: int) -> Told | None:
    """OpenRouter, `GET /api/v1/credits`: what was bought and what was used, at most a minute old."""
    told = fields.mapping(fields.mapping(payload).get("data"))
    bought, used = _money(told.get("total_credits")), _money(told.get("total_usage"))
    return None if bought is None or used is None else Told(balance_nanodollars=bought - used)


def deepseek(payload: object, at_ms: int) -> Told | None:
    """DeepSeek, `GET /user/balance` (api-docs.deepseek.com/api/get-user-balance).

    `is_available` says whether calls can be made at all; balances in yuan are not converted.
    """
    told = fields.mapping(payload)
    available = told.get("is_available")
    if not isinstance(available, bool):
        return None
    infos = [fields.mapping(entry) for entry in fields.items(told.get("balance_infos"))]
    sums = [_money(info.get("total_balance")) for info in infos if info.get("currency") == "USD"]
    return Told(() if available else _empty(at_ms), next((one for one in sums if one is not None), None))


def moonshot(payload: object, at_ms: int) -> Told | None:
    """Moonshot, `GET /v1/users/me/balance` (platform.moonshot.ai/docs/api/balance), in dollars.

    At 0 no request is answered.
    """
    balance = _money(fields.mapping(fields.mapping(payload).get("data")).get("available_balance"))
    return None if balance is None else Told(_empty(at_ms) if balance <= 0 else (), balance)


def moonshot_in_yuan(payload: object, at_ms: int) -> Told | None:
    """Moonshot in China (platform.moonshot.cn/docs/api/balance): the same in yuan, which are not converted."""
    told = moonshot(payload, at_ms)
    return None if told is None else Told(told.reports)


def distinct(reports: tuple[QuotaReport, ...]) -> tuple[QuotaReport, ...]:
    """One report for each window: of several the one with the most used."""
    found: dict[tuple[str, str | None], QuotaReport] = {}
    for report in reports:
        before = found.get((report.window, report.model))
        if before is None or (report.used_share or 0.0) > (before.used_share or 0.0):
            found[report.window, report.model] = report
    return tuple(found.values())


def decode(body: bytes) -> object:
    """The JSON of an answer; None when it is none."""
    try:
        payload: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return payload


def _windows(reports: list[QuotaReport]) -> Told | None:
    return Told(tuple(reports)) if reports else None


def _window(
    name: str,
    at_ms: int,
    share: float | None,
    *,
    resets: object = None,
    kind: WindowKind,
    length_s: int,
    exhausted: bool | None = None,
) -> list[QuotaReport]:
    """One report in percent; none when the share is not known."""
    if share is None:
        return []
    return [
        QuotaReport(
            window=name,
            at_ms=at_ms,
            unit=QuotaUnit.PERCENT,
            used_share=share,
            resets_at_ms=instant_ms(resets, at_ms),
            length_s=length_s,
            kind=kind,
            exhausted=exhausted,
        )
    ]


def _empty(at_ms: int) -> tuple[QuotaReport, ...]:
    """The provider's word that nothing is left on the account."""
    return (QuotaReport(window="balance", at_ms=at_ms, unit=QuotaUnit.MONEY, exhausted=True),)


def _name(length_s: int) -> str:
    """The name of a window that is known by its length only."""
    usual = {FIVE_HOURS_S: "five_hour", DAY_S: "daily", WEEK_S: "weekly", MONTH_S: "monthly"}
    if length_s in usual:
        return usual[length_s]
    return f"{length_s // HOUR_S}_hour" if length_s >= HOUR_S else f"{length_s // 60}_minute"


def _share(value: object) -> float | None:
    number = fields.number(value)
    return None if number is None or number < 0 else min(number, _LARGEST_SHARE)


def _percent(value: object) -> float | None:
    number = fields.number(value)
    return None if number is None else _share(number / 100)


def _used_of(window: dict[str, object]) -> float | None:
    """The used share from a limit and what is used or what remains, under the names that providers have for them."""
    limit = next(_numbers(window, "limit", "max", "cap", "quota"), None)
    if not limit or limit < 0:
        remaining, used = next(_numbers(window, "remaining"), None), next(_numbers(window, "used"), None)
        limit = None if remaining is None or used is None else remaining + used
    if not limit or limit < 0:
        return None
    used = next(_numbers(window, "used", "usage", "requests"), None)
    if used is None:
        remaining = next(_numbers(window, "remaining"), None)
        used = None if remaining is None else max(limit - remaining, 0.0)
    return None if used is None else _share(used / limit)


def _used_of_remaining(remains: dict[str, object], start: str) -> float | None:
    left = _percent(remains.get(f"{start}_remaining_percent"))
    if left is not None:
        return max(1.0 - left, 0.0)
    total = fields.number(remains.get(f"{start}_total_count"))
    names = (f"{start}_remaining_count", f"{start}_remains_count", f"{start}_usage_count")
    remaining = next(_numbers(remains, *names), None)
    return None if not total or total < 0 or remaining is None else _share(max(1.0 - remaining / total, 0.0))


def _numbers(table: dict[str, object], *names: str) -> Iterator[float]:
    return (number for name in names if (number := fields.number(table.get(name))) is not None)


def _money(value: object) -> int | None:
    """Dollars as nanodollars, below zero for debts; None when it is no sum."""
    dollars = fields.number(value)
    return None if dollars is None or abs(dollars) > _LARGEST_SUM else round(dollars * _NANO)


def _next(at_ms: int, period: str) -> int:
    """When the next UTC day, week (from Monday) or month begins, in milliseconds since 1970."""
    day = datetime.fromtimestamp(at_ms // 1000, UTC).replace(hour=0, minute=0, second=0)
    if period == "monthly":
        begins = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    else:
        begins = day + timedelta(days=7 - day.weekday() if period == "weekly" else 1)
    return int(begins.timestamp()) * 1000
