"""Checks on the parameters of policies, with messages that name the field, the value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from llmrouter.exceptions import ConfigError


def require(
    name: str, value: float, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> float:
    """Return `value`, or raise ConfigError unless it is a finite number within the limits."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    fits = number and not (
        (least is not None and value < least)
        or (above is not None and value <= above)
        or (most is not None and value > most)
    )
    if not fits:
        limits = [
            f"{sign} {limit:g}" for sign, limit in ((">=", least), (">", above), ("<=", most)) if limit is not None
        ]
        raise ConfigError(
            f"{name} must be a finite number{' ' + ' and '.join(limits) if limits else ''}; got {value!r}"
        )
    return value


def require_count(name: str, value: int, *, least: int = 1) -> int:
    """Return `value`, or raise ConfigError unless it is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}; got {value!r}")
    return value


def require_shares(name: str, shares: Mapping[str, float]) -> dict[str, float]:
    """Return a copy of a mapping of model to a share in [0, 1], or raise ConfigError."""
    if not isinstance(shares, Mapping) or not shares:
        raise ConfigError(f"{name} must map at least one model to a share in [0, 1]; got {shares!r}")
    return {model: require(f"{name}.{model}", share, least=0, most=1) for model, share in shares.items()}
