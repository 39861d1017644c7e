"""Outcomes as rows of a relational table, one column a field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import orjson

from llmrouter.types import Outcome

_SINGLE = np.dtype("<f4")


class _Field(NamedTuple):
    """How a field of `Outcome` is stored."""

    sql_type: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def storable_text(value: str) -> str:
    """Replace what UTF-8 cannot hold (half a surrogate pair): one odd prompt must not lose a batch of outcomes."""
    return value.encode("utf-8", "replace").decode()


def _to_json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=dict, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    except TypeError:  # half a surrogate pair, a number beyond 64 bits, or a value that is no JSON
        return storable_text(json.dumps(value, default=str, ensure_ascii=False))


def _names_to_json(names: Sequence[str]) -> str:
    return _to_json(list(names)) if names else "[]"


def _records_to_json(records: Sequence[Mapping[str, Any]]) -> str | None:
    return _to_json(list(records)) if records else None


def _json_tuple(text: str) -> tuple[Any, ...]:
    return tuple(orjson.loads(text))


def _candidates(text: str) -> dict[str, dict[str, float]]:
    stored: Mapping[str, Mapping[str, float | None]] = orjson.loads(text)
    return {
        model: {key: math.nan if value is None else value for key, value in expected.items()}
        for model, expected in stored.items()
    }


def _pack(values: Sequence[float]) -> bytes:
    return np.asarray(values, dtype=_SINGLE).tobytes()


def _unpack(blob: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(blob, dtype=_SINGLE).tolist())


def _count(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


_TEXT = _Field("TEXT", storable_text, str)
_REAL = _Field("REAL", float, float)
_INTEGER = _Field("INTEGER", _count, int)
_FLAG = _Field("INTEGER", int, bool)
_CANDIDATES = _Field("TEXT", _to_json, _candidates)
_EMBEDDING = _Field("BLOB", _pack, _unpack)
_NAMES = _Field("TEXT", _names_to_json, _json_tuple)
_OBJECT = _Field("TEXT", _to_json, orjson.loads)
_RECORDS = _Field("TEXT", _records_to_json, _json_tuple)

_FIELDS: Mapping[str, _Field] = {
    "request_id": _Field("TEXT NOT NULL PRIMARY KEY", storable_text, str),
    "time": _Field("REAL NOT NULL", float, float),
    "model": _Field("TEXT NOT NULL", storable_text, str),
    "router": _TEXT,
    "artifact_id": _TEXT,
    "policy": _TEXT,
    "propensity": _REAL,
    "candidates": _CANDIDATES,
    "key_id": _TEXT,
    "conversation_id": _TEXT,
    "prompt": _TEXT,
    "prompt_sha256": _TEXT,
    "embedding": _EMBEDDING,
    "task": _TEXT,
    "served_by": _TEXT,
    "fallbacks": _NAMES,
    "status": _TEXT,
    "error": _TEXT,
    "input_tokens": _INTEGER,
    "cached_tokens": _INTEGER,
    "output_tokens": _INTEGER,
    "reasoning_tokens": _INTEGER,
    "cost_usd": _REAL,
    "time_to_first_token_s": _REAL,
    "latency_s": _REAL,
    "quality": _REAL,
    "quality_source": _TEXT,
    "quality_weight": _REAL,
    "quality_time": _REAL,
    # Added by version 2 of the schema.
    "endpoint": _TEXT,
    "stream": _FLAG,
    "usage": _OBJECT,
    "price_as_of": _TEXT,
    "overhead_cost_usd": _REAL,
    "cache": _TEXT,
    "deployment": _TEXT,
    "team": _TEXT,
    "attempts": _RECORDS,
    # Added by version 3.
    "explored": _FLAG,
    "lane": _TEXT,
    "shadow": _OBJECT,
    "quality_by": _NAMES,
    "finish_reason": _TEXT,
}

COLUMN_NAMES = tuple(_FIELDS)
COLUMN_DEFINITIONS = ", ".join(f'"{name}" {field.sql_type}' for name, field in _FIELDS.items())
_FIRST_OF_VERSION = {2: "endpoint", 3: "explored"}
_STARTS = {version: COLUMN_NAMES.index(name) for version, name in _FIRST_OF_VERSION.items()}
ADDED_COLUMNS = {
    version: tuple(
        f'"{name}" {_FIELDS[name].sql_type}' for name in COLUMN_NAMES[start : _STARTS.get(version + 1, len(_FIELDS))]
    )
    for version, start in _STARTS.items()
}
"""Version of the schema -> definitions of the columns that it added."""

# What SQLite has no value for, and what rows older than a column stand for.
_WHERE_NULL: Mapping[str, Any] = {
    "propensity": math.nan,
    "endpoint": "",
    "cache": "",
    "attempts": (),
    "explored": False,
    "lane": "",
    "quality_by": (),
}

_values = attrgetter(*COLUMN_NAMES)
_STRUCTURED = tuple(
    (position, field.encode)
    for position, field in enumerate(_FIELDS.values())
    if field in (_CANDIDATES, _EMBEDDING, _NAMES, _OBJECT, _RECORDS)
)


def to_row(outcome: Outcome) -> list[Any]:
    """Return the values of a row, taking for granted that texts are UTF-8 and numbers Python's own.

    SQLite refuses what is not, and `to_checked_row` mends it; an outcome of the gateway never is.
    """
    values = list(_values(outcome))
    for position, encode in _STRUCTURED:
        value = values[position]
        if value is not None:
            values[position] = encode(value)
    return values


def to_checked_row(outcome: Outcome) -> list[Any]:
    """Return the values of a row, each converted to what SQLite takes.

    An embedding is kept in single precision; JSON has no infinity: it becomes NaN.
    """
    values = zip(_FIELDS.values(), _values(outcome), strict=True)
    return [None if value is None else field.encode(value) for field, value in values]


def from_row(row: Sequence[Any]) -> Outcome:
    """Return the outcome of a row of `COLUMN_NAMES`."""
    values: dict[str, Any] = {
        name: _WHERE_NULL.get(name) if value is None else field.decode(value)
        for (name, field), value in zip(_FIELDS.items(), row, strict=True)
    }
    return Outcome(**values)
