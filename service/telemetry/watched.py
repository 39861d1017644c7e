"""State that lives elsewhere in the gateway, read when metrics are asked for."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from service.telemetry import catalogue
from service.telemetry.catalogue import Family
from service.telemetry.tallies import Gauge, Labels, Tallies

logger = logging.getLogger(__name__)

Read = Callable[[], Any]

_BREAKER = {"closed": 0.0, "half_open": 1.0, "half-open": 1.0, "open": 2.0}

# Field of the state -> its metric. Fields that are not listed, or absent, are left out.
_STATES: Mapping[str, Mapping[str, Family]] = {
    "log": {
        "queued": catalogue.LOG_QUEUED,
        "written": catalogue.LOG_WRITTEN,
        "spooled": catalogue.LOG_SPOOLED,
        "rejected": catalogue.LOG_REJECTED,
        "lost": catalogue.LOG_LOST,
        "trouble": catalogue.LOG_FAILING,
    },
    "admission": {
        "in_flight": catalogue.ADMISSION_IN_FLIGHT,
        "queued": catalogue.ADMISSION_QUEUED,
        "refused": catalogue.ADMISSION_REFUSED,
        "timed_out": catalogue.ADMISSION_TIMED_OUT,
    },
    "redis": {"status": catalogue.REDIS_UP, "failures": catalogue.REDIS_FAILURES},
    "limits": {"fallbacks": catalogue.LIMITS_FALLBACKS},
    "resilience": {
        "retries": catalogue.RETRIES,
        "retries_refused": catalogue.RETRIES_REFUSED,
        "hedges": catalogue.HEDGES,
        "hedges_won": catalogue.HEDGES_WON,
        "hedges_refused": catalogue.HEDGES_REFUSED,
    },
    "explore": {"extra_usd": catalogue.EXPLORE_EXTRA},
    "shadow": {
        "decisions": catalogue.SHADOW_DECISIONS,
        "disagreements": catalogue.SHADOW_DISAGREEMENTS,
        "failures": catalogue.SHADOW_FAILURES,
        "skipped": catalogue.SHADOW_SKIPPED,
        "quality_difference": catalogue.SHADOW_QUALITY,
        "cost_difference_usd": catalogue.SHADOW_COST,
    },
    "canary": {
        "running": catalogue.CANARY_RUNNING,
        "rolled_back": catalogue.CANARY_ROLLED_BACK,
        "failures": catalogue.CANARY_FAILURES,
    },
    "online": {
        "events": catalogue.ONLINE_EVENTS,
        "learned": catalogue.ONLINE_LEARNED,
        "behind_s": catalogue.ONLINE_BEHIND,
        "swaps": catalogue.ONLINE_SWAPS,
    },
    "drift": {"alarms": catalogue.DRIFT_ALARMS, "drifting": catalogue.DRIFTING},
    "cache": {
        "entries": catalogue.CACHE_ENTRIES,
        "bytes": catalogue.CACHE_BYTES,
        "evictions": catalogue.CACHE_EVICTIONS,
    },
}
_PER_MODEL: Mapping[str, Family] = {
    "cooldowns": catalogue.COOLING,
    "breakers": catalogue.BREAKER_STATE,
    "calibration": catalogue.CALIBRATION_ERROR,
    "load_ages": catalogue.LOAD_AGE,
    "load_failures": catalogue.LOAD_FAILURES,
    "load_in_use": catalogue.LOAD_IN_USE,
}
_NUMBERS: Mapping[str, Family] = {"in_flight": catalogue.IN_FLIGHT}

WATCHABLE = (*_STATES, *_PER_MODEL, *_NUMBERS)
"""What can be watched."""


class Watched:
    """Read states and put them into the tallies.

    Parameters
    ----------
    tallies : Tallies
        Where they go.
    """

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._reads: dict[str, Read] = {}
        self._gauges: dict[str, Gauge] = {}
        self._broken: set[str] = set()

    def watch(self, name: str, read: Read) -> None:
        """Read a state with `read` from now on; see `WATCHABLE`.

        Raises
        ------
        ValueError
            If no metric is made of `name`.
        """
        if name not in WATCHABLE:
            raise ValueError(f"nothing is exported of {name!r}; allowed: {', '.join(WATCHABLE)}")
        self._reads[name] = read

    def refresh(self) -> None:
        """Read every state; one that cannot be read is left as it was, and that is logged once."""
        for name, read in list(self._reads.items()):
            try:
                self._take(name, read())
            except Exception:
                if name not in self._broken:
                    self._broken.add(name)
                    logger.exception("the state of %s cannot be read for the metrics", name)
            else:
                self._broken.discard(name)

    def _take(self, name: str, state: Any) -> None:
        if name in _NUMBERS:
            self._gauge(_NUMBERS[name]).put((), _number(state))
        elif name in _PER_MODEL:
            per_model: dict[Labels, float] = {(str(model),): _of_model(name, value) for model, value in state.items()}
            self._gauge(_PER_MODEL[name]).replace(per_model)
        else:
            fields = _fields(state)
            for field, family in _STATES[name].items():
                if field in fields:
                    self._gauge(family).put((), _number(fields[field]))
            if name == "redis":
                # Without Redis the limits are enforced by shares of each replica.
                self._gauge(catalogue.LIMITS_DEGRADED).put((), float(fields["status"] != "ok"))

    def _gauge(self, family: Family) -> Gauge:
        if family.name not in self._gauges:
            self._gauges[family.name] = Gauge(self._tallies, family)
        return self._gauges[family.name]


def _fields(state: Any) -> Mapping[str, Any]:
    if isinstance(state, Mapping):
        return state
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if hasattr(state, "_asdict"):
        fields: Mapping[str, Any] = state._asdict()
        return fields
    raise TypeError(f"a state is a mapping or a dataclass, not {type(state).__name__}")


def _number(value: Any) -> float:
    """Return a state as a number: words of trouble count as 1, ``ok`` as 1 (of "up"), ``failing`` as 0."""
    if isinstance(value, str):
        return 0.0 if value in {"", "failing"} else 1.0
    return float(value)


def _of_model(name: str, value: Any) -> float:
    if name == "breakers":
        return _BREAKER[str(getattr(value, "value", value))]
    return float(value > 0) if name == "cooldowns" else float(value)
