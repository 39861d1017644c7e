"""A price file of one's own: YAML or JSON, names of models to prices and what else is known of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

from llmrouter.exceptions import ConfigError
from llmrouter.pool._known_model import KnownModel
from llmrouter.types import Capability, Price, PriceTier

_LABELS = ("as_of", "source")
_PRICE_KEYS = tuple(field.name for field in fields(Price) if field.name not in ("tiers", *_LABELS))
_TIER_KEYS = tuple(field.name for field in fields(PriceTier))
_MODEL_KEYS = ("tiers", *_LABELS, "context_window", "capabilities")
_REQUIRED = ("input", "output")


def read_price_file(path: Path) -> dict[str, KnownModel]:
    """Read a price file.

    ::

        as_of: 2026-11-01              # the date of every price that has none of its own
        models:
          gpt-4o-mini: {input: 0.15, cached_input: 0.075, output: 0.60}
          in-house: {input: 0, output: 0, per_request: 0.002, context_window: 32768, capabilities: [tools]}

    Prices are those of `Price`, in US dollars per million tokens; ``models:`` may be left out where there is no date.

    Raises
    ------
    ConfigError
        If it cannot be read, or holds anything else; the message lists every problem with its path and value.
    """
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the price file {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the price file {path} is neither YAML nor JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"the price file {path} must hold a mapping of models to prices, not {_kind(tree)}")
    problems: list[str] = []
    as_of = None
    if isinstance(tree.get("models"), dict):
        as_of = _date(tree.get("as_of"), "as_of", problems)
        unknown = sorted(str(key) for key in tree.keys() - {"as_of", "models"})
        problems += [f"{key}: unknown key; allowed: as_of, models" for key in unknown]
        tree = tree["models"]
    known = {str(name): _model(str(name), entry, as_of, problems) for name, entry in tree.items()}
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"the price file {path} has {count}", *sorted(problems)]))
    return known


def _model(name: str, entry: Any, as_of: str | None, problems: list[str]) -> KnownModel:
    if not isinstance(entry, dict):
        problems.append(f"{name}: must be a mapping such as {{input: 0.15, output: 0.6}}; got {_kind(entry)}")
        entry = dict.fromkeys(_REQUIRED, 0.0)
    _refuse_unknown(entry, (*_PRICE_KEYS, *_MODEL_KEYS), name, problems)
    problems += [f"{name}.{key}: is required" for key in _REQUIRED if entry.get(key) is None]
    amounts = {key: _amount(entry.get(key), f"{name}.{key}", problems) for key in _PRICE_KEYS if entry.get(key)}
    price = Price(
        **{**dict.fromkeys(_REQUIRED, 0.0), **amounts},
        **_explicit_zeros(entry),
        tiers=_tiers(entry.get("tiers"), f"{name}.tiers", problems),
        as_of=_date(entry.get("as_of"), f"{name}.as_of", problems) or as_of,
        source=str(entry.get("source") or "file"),
    )
    window = entry.get("context_window")
    if window is not None and not (type(window) is int and window > 0):
        problems.append(f"{name}.context_window: must be a whole number above 0; got {window!r}")
    return KnownModel(name, price, window, _capabilities(entry.get("capabilities"), name, problems))


def _explicit_zeros(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the optional prices that are given as nothing: free, which is not the same as unknown."""
    optional = [key for key in _PRICE_KEYS if key not in _REQUIRED]
    return {key: 0.0 for key in optional if entry.get(key) is not None and not entry[key]}


def _tiers(tiers: Any, where: str, problems: list[str]) -> tuple[PriceTier, ...]:
    if tiers is None:
        return ()
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        problems.append(
            f"{where}: must be a list of {{above_tokens: ..., input: ..., output: ...}}; got {_kind(tiers)}"
        )
        return ()
    read = []
    for position, tier in enumerate(tiers):
        place = f"{where}[{position}]"
        _refuse_unknown(tier, _TIER_KEYS, place, problems)
        missing = [key for key in ("above_tokens", *_REQUIRED) if tier.get(key) is None]
        problems += [f"{place}.{key}: is required" for key in missing]
        amounts = {key: _amount(value, f"{place}.{key}", problems) for key, value in tier.items() if value is not None}
        if not missing:
            known = {key: amount for key, amount in amounts.items() if key in _TIER_KEYS and key != "above_tokens"}
            read.append(PriceTier(int(amounts["above_tokens"]), **known))
    return tuple(read)


def _refuse_unknown(entry: Mapping[Any, Any], allowed: tuple[str, ...], where: str, problems: list[str]) -> None:
    named = ", ".join(allowed)
    problems += [f"{where}.{key}: unknown key; allowed: {named}" for key in entry if key not in allowed]


def _amount(value: Any, where: str, problems: list[str]) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value):
        return float(value)
    problems.append(f"{where}: must be a number of at least 0; got {value!r}")
    return 0.0


def _capabilities(names: Any, name: str, problems: list[str]) -> frozenset[Capability] | None:
    if names is None:
        return None
    allowed = [capability.value for capability in Capability]
    if not isinstance(names, list) or any(entry not in allowed for entry in names):
        problems.append(f"{name}.capabilities: must be a list out of {', '.join(allowed)}; got {names!r}")
        return None
    return frozenset(Capability(entry) for entry in names)


def _date(value: Any, where: str, problems: list[str]) -> str | None:
    if value is None:
        return None
    if type(value) is date:  # YAML reads dates by itself
        return value.isoformat()
    try:
        return date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        problems.append(f"{where}: must be a date such as 2026-11-01; got {value!r}")
        return None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
