"""Limits and budgets of keys, teams and models, and how many requests a process works on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.limits.admission import Admission, AdmissionState, OverloadedError, Slot
    from service.limits.build import build_limiter, check_workers
    from service.limits.cooldown_share import RedisCooldownShare
    from service.limits.grant import NOTHING_LIMITED, Grant, Limiter
    from service.limits.local import LocalLimiter
    from service.limits.redis_limiter import RedisLimiter
    from service.limits.refusals import LimitExceededError
    from service.limits.resilient import ResilientLimiter
    from service.limits.settings import AdmissionSettings, Limits, LimitsSettings, RedisSettings
    from service.limits.subjects import Subject, Subjects

_PLACES = {
    "NOTHING_LIMITED": "grant",
    "Admission": "admission",
    "AdmissionSettings": "settings",
    "AdmissionState": "admission",
    "Grant": "grant",
    "LimitExceededError": "refusals",
    "Limiter": "grant",
    "Limits": "settings",
    "LimitsSettings": "settings",
    "LocalLimiter": "local",
    "OverloadedError": "admission",
    "RedisCooldownShare": "cooldown_share",
    "RedisLimiter": "redis_limiter",
    "RedisSettings": "settings",
    "ResilientLimiter": "resilient",
    "Slot": "admission",
    "Subject": "subjects",
    "Subjects": "subjects",
    "build_limiter": "build",
    "check_workers": "build",
}

__all__ = [
    "NOTHING_LIMITED",
    "Admission",
    "AdmissionSettings",
    "AdmissionState",
    "Grant",
    "LimitExceededError",
    "Limiter",
    "Limits",
    "LimitsSettings",
    "LocalLimiter",
    "OverloadedError",
    "RedisCooldownShare",
    "RedisLimiter",
    "RedisSettings",
    "ResilientLimiter",
    "Slot",
    "Subject",
    "Subjects",
    "build_limiter",
    "check_workers",
]


def __getattr__(name: str) -> Any:
    """Import on first use: the settings are read by programs that need no web framework."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
