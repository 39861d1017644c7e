"""One logged model call, and how its values are read from whatever a log holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._schema import NUMBERS
from llmrouter.types import Price

ChatText = Callable[[Sequence[Mapping[str, Any]]], str]

QUALITY_KEYS = ("quality", "score", "rating", "feedback")

_GOOD = frozenset({"true", "yes", "good", "up", "thumbs_up", "thumbs up", "positive", "like", "pass", "correct"})
_BAD = frozenset(
    {"false", "no", "bad", "down", "thumbs_down", "thumbs down", "negative", "dislike", "fail", "incorrect"}
)
_NO_VALUE = frozenset({"", "null", "none", "nan", "n/a", "na"})


class BadRowError(DataError):
    """A row of a log is wrong; the message names field, value and remedy."""


class UnusableRowError(DataError):
    """A row of a log is in order, and yet says nothing about a model's answer; the message is the reason."""


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """What one call says: text read by the router, model that answered, and what was observed (None = unknown)."""

    text: str
    model: str
    quality: float | None = None
    cost_usd: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    propensity: float | None = None
    weight: float = 1.0
    task: str | None = None


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How the rows of a log are to be read; see `import_logs`."""

    chat_text: ChatText
    columns: Mapping[str, str] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    default_model: str | None = None
    quality_range: tuple[float, float] = (0.0, 1.0)

    def model_name(self, logged: Any) -> str:
        """Return the table's name of a logged model.

        Raises
        ------
        BadRowError
            If the row names no model and there is no default.
        """
        if logged is None or logged == "":
            logged = self.default_model
        if logged is None:
            raise BadRowError(
                "model is missing; log which model answered, or pass default_model (--default-model NAME)"
            )
        if not isinstance(logged, str):
            raise BadRowError(f"model {shown(logged)} is not text; write the model's name")
        return self.aliases.get(logged, logged)

    def cost(
        self, logged: float | None, model: str, input_tokens: float | None, output_tokens: float | None, cached: float
    ) -> float | None:
        """Return the logged cost, else tokens x price where both are known, else None."""
        price = self.prices.get(model)
        if logged is not None or price is None or input_tokens is None or output_tokens is None:
            return logged
        return price.cost_usd(input_tokens, output_tokens, cached_tokens=min(cached, input_tokens))


def shown(value: Any) -> str:
    """Return `value` for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def decoded(value: Any) -> Any:
    """Return `value`, or what it encodes where it is a string of JSON (many exports nest them)."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def as_object(value: Any) -> Mapping[str, Any]:
    """Return `value` (decoded) where it is an object, else an empty one."""
    value = decoded(value)
    return value if isinstance(value, dict) else {}


def read_number(value: Any, column: str, *, label: str | None = None) -> float | None:
    """Return the number for a table column, None for no value.

    Raises
    ------
    BadRowError
        If it is not a number, or out of the column's bounds.
    """
    name = label or column
    number = _as_number(value)
    if number is None:
        return None
    if isinstance(number, str):
        raise BadRowError(f"{name} {shown(value)} is not a number; write one, or leave it empty where unknown")
    complaint = NUMBERS[column].complaint(number)
    if complaint:
        raise BadRowError(f"{name} {number:g} {complaint}")
    return number


def read_quality(value: Any, *, label: str, bounds: tuple[float, float]) -> float | None:
    """Return a quality in [0, 1] from a number on the scale `bounds`, a verdict in words, or a boolean.

    Raises
    ------
    BadRowError
        If the value is none of these, or outside the scale.
    """
    value = decoded(value)
    if isinstance(value, Mapping):
        inner = next((key for key in (*QUALITY_KEYS, "value") if value.get(key) is not None), None)
        if inner is None:
            raise BadRowError(f"{label} {shown(value)} holds none of {', '.join(QUALITY_KEYS)}, value")
        return read_quality(value[inner], label=f"{label}.{inner}", bounds=bounds)
    if isinstance(value, bool):
        return float(value)
    number = _as_number(value)
    if number is None:
        return None
    if isinstance(number, str):
        verdict = number.strip().casefold()
        if verdict in _GOOD or verdict in _BAD:
            return float(verdict in _GOOD)
        raise BadRowError(f"{label} {shown(value)} is no quality; write a number, true or false, or up or down")
    low, high = bounds
    quality = (number - low) / (high - low)
    if not 0.0 <= quality <= 1.0:
        raise BadRowError(
            f"{label} {number:g} is outside [{low:g}, {high:g}]; mend it, or pass the scale, e.g. "
            "quality_range=(1, 5) (--quality-range 1,5)"
        )
    return quality


def _as_number(value: Any) -> float | str | None:
    """Return a number, None for "no value", or the value as text where it is neither."""
    if isinstance(value, str):
        if value.strip().casefold() in _NO_VALUE:
            return None
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if math.isnan(value) else float(value)
    return None if value is None else repr(value)


def find_quality(places: Sequence[Mapping[str, Any]], bounds: tuple[float, float]) -> float | None:
    """Return the first quality in `places` under one of `QUALITY_KEYS`, None where nobody judged."""
    for place in places:
        for key in QUALITY_KEYS:
            if place.get(key) is not None:
                return read_quality(place[key], label=key, bounds=bounds)
    return None
