"""Outcomes as rows of a relational table, one column a field."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    return orjson.dumps(value, default=dict, option=orjson.OPT_SERIALIZE_NUMPY).decode()


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

_FIELDS: Mapping[str, _Field] = {
    "request_id": _Field("TEXT NOT NULL PRIMARY KEY", storable_text, str),
    "time": _Field("REAL NOT NULL", float, float),
    "model": _Field("TEXT NOT NULL", storable_text, str),
    "router": _TEXT,
    "artifact_id": _TEXT,
    "policy": _TEXT,
    "propensity": _REAL,
    "candidates": _Field("TEXT", _to_json, _candidates),
    "key_id": _TEXT,
    "conversation_id": _TEXT,
    "prompt": _TEXT,
    "prompt_sha256": _TEXT,
    "embedding": _Field("BLOB", _pack, _unpack),
    "task": _TEXT,
    "served_by": _TEXT,
    "fallbacks": _Field("TEXT", lambda names: _to_json(list(names)), lambda text: tuple(orjson.loads(text))),
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
}

COLUMN_NAMES = tuple(_FIELDS)
COLUMN_DEFINITIONS = ", ".join(f'"{name}" {field.sql_type}' for name, field in _FIELDS.items())


def to_row(outcome: Outcome) -> tuple[Any, ...]:
    """Return the values of a row. An embedding is kept in single precision; JSON has no infinity: it becomes NaN."""
    values = ((field, getattr(outcome, name)) for name, field in _FIELDS.items())
    return tuple(None if value is None else field.encode(value) for field, value in values)


def from_row(row: Sequence[Any]) -> Outcome:
    """Return the outcome of a row of `COLUMN_NAMES`."""
    values: dict[str, Any] = {
        name: None if value is None else field.decode(value)
        for (name, field), value in zip(_FIELDS.items(), row, strict=True)
    }
    if values["propensity"] is None:  # SQLite has no NaN and keeps NULL for it
        values["propensity"] = math.nan
    return Outcome(**values)
