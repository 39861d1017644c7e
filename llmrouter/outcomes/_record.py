"""One outcome as one line of JSON: in Redis, in spools and in exports."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._sqlite_rows import storable_text
from llmrouter.types import Outcome

_DEFAULTS: Mapping[str, Any] = {
    field.name: field.default for field in dataclasses.fields(Outcome) if field.default is not dataclasses.MISSING
}
_REQUIRED = object()
_NAMES = tuple(field.name for field in dataclasses.fields(Outcome))
_PLAIN = tuple(name for name in _NAMES if name not in ("candidates", "embedding"))
_COUNTS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_SINGLE = np.dtype("<f4")
_LARGEST = 2**63


def to_record(outcome: Outcome) -> bytes:
    """Return an outcome as JSON without line breaks; fields that say nothing are left out.

    The embedding is kept in single precision, as base64 of little-endian bytes. JSON has neither infinity nor NaN:
    they become null. What UTF-8 cannot hold (half a surrogate pair) becomes a question mark.

    Raises
    ------
    DataError
        If a token count does not fit into 64 bits.
    """
    fields = {name: value for name in _PLAIN if (value := getattr(outcome, name)) != _DEFAULTS.get(name, _REQUIRED)}
    if outcome.candidates:
        fields["candidates"] = outcome.candidates
    if outcome.embedding is not None:
        fields["embedding"] = base64.b64encode(np.asarray(outcome.embedding, dtype=_SINGLE).tobytes()).decode()
    try:
        return orjson.dumps(fields, default=dict, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # half a surrogate pair, a number beyond 64 bits, or a value that is no JSON
        for name in _COUNTS:
            if abs(fields.get(name) or 0) >= _LARGEST:
                raise DataError(
                    f"outcome.{name} {fields[name]!r} of request {outcome.request_id!r} does not fit into 64 bits; "
                    "leave it out"
                ) from None
        return orjson.dumps(_plain(fields))


def from_record(record: bytes | str) -> Outcome:
    """Return the outcome of a record; fields that only a later version knows are left out.

    Raises
    ------
    DataError
        If it is none.
    """
    try:
        given = orjson.loads(record)
        if not isinstance(given, dict):
            raise TypeError("not an object")
        return from_fields(given)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"a record is no outcome ({error}); it may be cut off") from error


def from_fields(given: Mapping[str, Any]) -> Outcome:
    """Return the outcome of the fields of a record.

    Raises
    ------
    ValueError, TypeError, AttributeError
        If they are none.
    """
    for name in ("request_id", "model"):
        if not isinstance(given.get(name), str):
            raise TypeError(f"{name} is missing")
    fields = {name: given[name] for name in _NAMES if given.get(name) is not None}
    fields["time"] = float(given["time"] if "time" in fields else "missing")
    for name, read in _READERS.items():
        if name in given:
            fields[name] = read(given[name])
    return Outcome(**fields)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _candidates(stored: Mapping[str, Mapping[str, float | None]] | None) -> dict[str, dict[str, float]]:
    return {model: {key: _number(v) for key, v in expected.items()} for model, expected in (stored or {}).items()}


def _embedding(value: str | Sequence[float] | None) -> tuple[float, ...] | None:
    if value is None or not isinstance(value, str):  # a list, as spools of earlier versions have it
        return None if value is None else tuple(map(float, value))
    return tuple(np.frombuffer(base64.b64decode(value, validate=True), dtype=_SINGLE).tolist())


def _tuple(value: Sequence[Any] | None) -> tuple[Any, ...]:
    return tuple(value or ())


# Fields whose null says something, or whose JSON is not their value.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "propensity": _number,
    "candidates": _candidates,
    "embedding": _embedding,
    "fallbacks": _tuple,
    "attempts": _tuple,
    "quality_by": _tuple,
}


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a value."""
    if isinstance(value, str):
        return storable_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _LARGEST else float(min(max(value, -(10**300)), 10**300))
    if isinstance(value, float | np.floating | np.integer):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {storable_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set | np.ndarray) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    return storable_text(str(value))
