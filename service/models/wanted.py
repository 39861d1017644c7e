"""What is wanted of the pool, from a request or a card file: checked, each error naming field, value and remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import ConfigError
from service.config_problems import nearest

if TYPE_CHECKING:
    from llmrouter.learning import PublicCard
    from service.models.records import Wanted

CARD_FIELDS = ("family", "siblings", "scores", "known_scores", "quality")
_VARIABLE = re.compile(r"\$\{([^}:]*)[^}]*\}?")
_LONGEST = 256


def card_of(given: Mapping[str, Any]) -> PublicCard:
    """Return the public card that a mapping describes.

    Raises
    ------
    ConfigError
        If a field is unknown or not of its type.
    """
    from llmrouter.learning import PublicCard

    for key in given:
        if key not in CARD_FIELDS:
            raise ConfigError(
                f"unknown; allowed: {', '.join(CARD_FIELDS)}{nearest(key, CARD_FIELDS)}", path=f"card.{key}"
            )
    family, siblings = given.get("family"), given.get("siblings") or []
    if family is not None and not isinstance(family, str):
        raise ConfigError(f"must be a string; got {family!r:.80}", path="card.family")
    if not isinstance(siblings, list | tuple) or not all(isinstance(one, str) for one in siblings):
        raise ConfigError(f"must be a list of pool names; got {siblings!r:.80}", path="card.siblings")
    known = given.get("known_scores") or {}
    if not isinstance(known, Mapping):
        raise ConfigError(f"must be a mapping of pool names to scores; got {known!r:.80}", path="card.known_scores")
    quality = given.get("quality")
    return PublicCard(
        family=family,
        siblings=tuple(siblings),
        scores=_scores(given.get("scores"), "card.scores"),
        known_scores={str(name): _scores(own, f"card.known_scores.{name}") for name, own in known.items()},
        quality=None if quality is None else _share(quality, "card.quality"),
    )


def _scores(given: Any, path: str) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"must be a mapping of benchmarks to scores in [0, 1]; got {given!r:.80}", path=path)
    return {str(name): _share(value, f"{path}.{name}") for name, value in given.items()}


def _share(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 1):
        raise ConfigError(f"must be a number in [0, 1]; got {value!r:.80}", path=path)
    return float(value)


# Requests

FIELDS = (
    *("model", "name", "replaces", "how", "prompts", "max_usd", "max_output_tokens", "concurrency", "seed", "scorer"),
    *("references", "scores", "card", "std", "apply"),
)
"""What ``POST /admin/models`` takes."""
HOW = ("profile", "zero-shot", "scores", "log")
_NUMBERS = {
    "prompts": (1, 10_000, True),
    "max_usd": (0, 1_000_000, False),
    "max_output_tokens": (1, 1_000_000, True),
    "concurrency": (1, 64, True),
    "seed": (0, 2**32 - 1, True),
    "std": (0.001, 1, False),
}
MOST_ROWS = 10_000
DEFAULT_MAX_USD = 1.0


def check_body(body: Mapping[str, Any], *, variables: Sequence[str]) -> None:
    """Check what a request wants, as far as that needs no configuration.

    Parameters
    ----------
    body : mapping
        Parsed JSON.
    variables : sequence of str
        Environment variables that the entry may name.

    Raises
    ------
    ConfigError
        With the field as its path.
    """
    for key in body:
        if key not in FIELDS:
            raise ConfigError(f"unknown; allowed: {', '.join(FIELDS)}{nearest(key, FIELDS)}", path=key)
    entry, name = body.get("model"), body.get("name")
    if (entry is None) == (name is None):
        raise ConfigError(
            "give either model (an entry of the pool) or name (a model that is in the pool)", path="model"
        )
    if name is not None:
        _text(name, "name")
    if entry is not None:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ConfigError("must be an entry of the pool with a name", path="model")
        _check_variables(entry, variables, "model")
    if body.get("replaces") is not None:
        _text(body["replaces"], "replaces")
        if entry is None:
            raise ConfigError("the model that replaces another is new: describe it", path="model")
    if body.get("how") is not None and body["how"] not in HOW:
        raise ConfigError(f"must be one of {', '.join(HOW)}; got {body['how']!r:.80}", path="how")
    for field, (least, most, whole) in _NUMBERS.items():
        _check_number(body.get(field), field, least, most, whole=whole)
    if body.get("scorer") is not None:
        _text(body["scorer"], "scorer")
    for field in ("references", "scores"):
        rows = body.get(field)
        if rows is not None and (not isinstance(rows, list) or len(rows) > MOST_ROWS):
            raise ConfigError(f"must be a list of at most {MOST_ROWS} objects", path=field)
    if body.get("card") is not None:
        if not isinstance(body["card"], Mapping):
            raise ConfigError(f"must be an object; got {body['card']!r:.80}", path="card")
        card_of(body["card"])
    if body.get("apply") is not None and not isinstance(body["apply"], bool):
        raise ConfigError(f"must be true or false; got {body['apply']!r:.80}", path="apply")


def check_price(price: Mapping[str, Any]) -> None:
    """Refuse variables in a price; the rest is for the configuration to check.

    Raises
    ------
    ConfigError
        With the field as its path.
    """
    _check_variables(price, (), "price")


def wanted_of(action: str, name: str, body: Mapping[str, Any]) -> Wanted:
    """Return what a checked request wants.

    Parameters
    ----------
    action : str
        ``add``, ``replace``, ``remove`` or ``reprice``.
    name : str
        See `Wanted`.
    body : mapping
        As `check_body` took it; with ``reprice`` the price.
    """
    from llmrouter.learning import ProfileSettings
    from service.models.records import UPGRADE_STD, Wanted

    if action == "remove":
        return Wanted(action, name)
    if action == "reprice":
        return Wanted(action, name, price=body["price"])
    given = {
        field: body[field]
        for field in ("prompts", "max_usd", "max_output_tokens", "concurrency", "seed")
        if body.get(field) is not None
    }
    return Wanted(
        action,
        name,
        entry=body.get("model"),
        how=body.get("how") or "profile",
        profile=ProfileSettings(**given),
        card=None if body.get("card") is None else card_of(body["card"]),
        rows=body.get("scores") or (),
        std=float(body.get("std") or UPGRADE_STD),
    )


def _text(value: Any, path: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise ConfigError(f"must be a string of 1 to {_LONGEST} characters; got {value!r:.80}", path=path)


def _check_number(value: Any, path: str, least: float, most: float, *, whole: bool) -> None:
    if value is None:
        return
    kinds: Any = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        what = "a whole number" if whole else "a number"
        raise ConfigError(f"must be {what} in [{least:g}, {most:g}]; got {value!r:.80}", path=path)


def _check_variables(value: Any, allowed: Sequence[str], path: str) -> None:
    """Refuse variables that are not allowed: the gateway's environment is not for every administrator to read."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            _check_variables(one, allowed, f"{path}.{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            _check_variables(one, allowed, f"{path}[{number}]")
    elif isinstance(value, str):
        for match in _VARIABLE.finditer(value.replace("$$", "")):
            if match[1] not in allowed:
                raise ConfigError(
                    f"may name only the environment variables in learning.models.variables "
                    f"({', '.join(allowed) or 'none'}); got {match[0]:.80}",
                    path=path,
                )
