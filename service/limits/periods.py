"""Calendar periods of budgets, in UTC. The script for Redis counts them in the same way."""

from __future__ import annotations

import datetime as dt
import math

from service.limits.settings import BudgetPeriod

_DAY_S = 86_400
# 1 January 1970 was a Thursday; weeks begin on Monday.
_DAYS_INTO_WEEK = 3


def period_id(kind: BudgetPeriod, now: float) -> str:
    """Return the name of the period that `now` (seconds since the epoch) is in."""
    days = math.floor(now / _DAY_S)
    if kind == "day":
        return f"d{days}"
    if kind == "week":
        return f"w{(days + _DAYS_INTO_WEEK) // 7}"
    if kind == "month":
        date = _date(days)
        return f"m{date.year * 12 + date.month - 1}"
    return "t"


def period_end(kind: BudgetPeriod, now: float) -> float | None:
    """Return when the period that `now` is in ends, in seconds since the epoch; None for one without an end."""
    days = math.floor(now / _DAY_S)
    if kind == "day":
        return float((days + 1) * _DAY_S)
    if kind == "week":
        return float(((days + _DAYS_INTO_WEEK) // 7 * 7 + 7 - _DAYS_INTO_WEEK) * _DAY_S)
    if kind == "month":
        date = _date(days)
        following = dt.datetime(date.year + date.month // 12, date.month % 12 + 1, 1, tzinfo=dt.UTC)
        return following.timestamp()
    return None


def as_text(moment: float) -> str:
    """Return a moment in ISO 8601, UTC."""
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _date(days: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=days)
