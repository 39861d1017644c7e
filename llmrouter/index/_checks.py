"""What every index accepts, checked before anything is changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llmrouter.exceptions import VectorIndexError
from llmrouter.types import FloatArray, IntArray

# Products of longer rows may leave the range of single precision.
_MAX_LENGTH = 1e15
_MAX_HALF = float(np.finfo(np.float16).max)


def checked_dimension(dimension: int) -> int:
    """Return `dimension` if it is an integer >= 1."""
    if isinstance(dimension, bool) or not isinstance(dimension, int | np.integer) or dimension < 1:
        raise VectorIndexError(f"dimension must be an integer >= 1, not {dimension!r}")
    return int(dimension)


def checked_rows(rows: Any, dimension: int, *, name: str) -> FloatArray:
    """Return `rows` as a C-ordered float32 array of shape (n, dimension) of finite values."""
    try:
        if np.iscomplexobj(rows):
            raise TypeError("complex numbers are not taken")
        if getattr(rows, "dtype", None) == np.float32:
            array = np.ascontiguousarray(rows)
        else:
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise VectorIndexError(f"{name} must be numbers of shape (n, {dimension}): {error}") from error
    if array.ndim != 2 or array.shape[1] != dimension:
        raise VectorIndexError(f"{name} must have the shape (n, {dimension}), not {array.shape}")
    if array.size and max(array.max(), -array.min()) <= _MAX_LENGTH:  # NaN is not
        return array
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise VectorIndexError(f"{name}[{bad}] has NaN or infinite values; vectors must be finite")
    if array.size:
        raise VectorIndexError(f"{name} has values above {_MAX_LENGTH:g}; scale the rows to unit length")
    return array


def check_half_precision(rows: FloatArray) -> None:
    """Raise `VectorIndexError` where values of `rows` (n, d) become infinite in half precision."""
    if rows.size and max(rows.max(), -rows.min()) > _MAX_HALF:
        bad = int(np.flatnonzero((np.abs(rows) > _MAX_HALF).any(axis=1))[0])
        raise VectorIndexError(
            f"vectors[{bad}] has values above {_MAX_HALF:g}, which half precision does not hold; scale the rows to "
            "unit length, or choose another kind than fp16"
        )


def checked_ids(ids: Any) -> IntArray:
    """Return `ids` as an int64 array of shape (n,) without duplicates."""
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise VectorIndexError(f"ids must be integers of shape (n,), not {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise VectorIndexError(f"ids must fit in 64 bits with sign; got {array.max()}")
    array = array.astype(np.int64)
    values, counts = np.unique(array, return_counts=True)
    if (counts > 1).any():
        raise VectorIndexError(f"ids must not repeat; {values[counts > 1][0]} occurs {counts[counts > 1][0]} times")
    return array


def checked_addition(ids: Any, vectors: Any, *, dimension: int, stored: IntArray) -> tuple[IntArray, FloatArray]:
    """Return `ids` and `vectors` ready to be added to an index that holds the ids `stored`."""
    rows = checked_rows(vectors, dimension, name="vectors")
    new = checked_ids(ids)
    if len(new) != len(rows):
        raise VectorIndexError(f"ids and vectors must be equally many, not {len(new)} and {len(rows)}")
    known = np.isin(new, stored)
    if known.any():
        raise VectorIndexError(f"id {new[known][0]} is in the index already; remove it first")
    return new, rows


def checked_removal(ids: Any, *, stored: IntArray) -> IntArray:
    """Return `ids` if every one is among `stored`."""
    gone = checked_ids(ids)
    unknown = ~np.isin(gone, stored)
    if unknown.any():
        raise VectorIndexError(f"id {gone[unknown][0]} is not in the index")
    return gone


def checked_k(k: Any) -> int:
    """Return `k` if it is an integer >= 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise VectorIndexError(f"k must be an integer >= 1, not {k!r}")
    return int(k)


def checked_times(times: Any, count: int) -> FloatArray:
    """Return `times`, one for all or one a row, as a float64 array of shape (count,) of finite values."""
    try:
        array = np.array(np.broadcast_to(np.asarray(times, dtype=np.float64), (count,)))
    except (TypeError, ValueError) as error:
        raise VectorIndexError(f"times must be a number or numbers of shape ({count},): {error}") from error
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise VectorIndexError(f"times[{bad}] is {array[bad]}; times must be finite seconds since 1970")
    return array


def checked_number(name: str, value: Any) -> float:
    """Return `value` if it is a finite number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise VectorIndexError(f"{name} must be a finite number of seconds, not {value!r}")
    return float(value)
