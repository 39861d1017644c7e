"""Answers kept for the same question."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.cache.cache import Cache, CacheState
    from service.cache.entry import Entry, Hit
    from service.cache.plan import CachePlan
    from service.cache.recorder import StreamRecorder
    from service.cache.replaying import replay
    from service.cache.settings import CacheSettings, SemanticSettings

_PLACES = {
    "Cache": "cache",
    "CachePlan": "plan",
    "CacheSettings": "settings",
    "CacheState": "cache",
    "Entry": "entry",
    "Hit": "entry",
    "SemanticSettings": "settings",
    "StreamRecorder": "recorder",
    "replay": "replaying",
}

__all__ = [
    "Cache",
    "CachePlan",
    "CacheSettings",
    "CacheState",
    "Entry",
    "Hit",
    "SemanticSettings",
    "StreamRecorder",
    "replay",
]


def __getattr__(name: str) -> Any:
    """Import on first use: the settings are read by programs that need no web framework."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
