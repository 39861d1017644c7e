"""Rows in one byte a value, as FAISS takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmrouter.index._faiss_check import loaded_faiss
from llmrouter.types import FloatArray

# Whole numbers have the range of the widest dimension: too coarse where that is so many times the root mean square.
_WIDEST = 16.0
_BYTE, _NARROWEST = np.float32(127.0), np.float32(1e-30)
# What may be cut off at the ends of ranges, beside what rounding to 256 steps loses; in squares.
_CUT_OFF = 0.1
_BLOCK = 50_000


def takes_integers(faiss: Any) -> bool:
    """Return whether the FAISS index multiplies bytes as whole numbers, twice as fast as bytes with ranges."""
    quantizer = getattr(faiss, "sq", None)
    return quantizer is not None and quantizer.qtype == loaded_faiss().ScalarQuantizer.QT_8bit_direct_signed


def widest_value(rows: FloatArray) -> np.float32 | None:
    """Return the largest absolute value in `rows` (n, d), or None where the other values are too small beside it."""
    widest = max(rows.max(), -rows.min())
    mean_square = float(np.vdot(rows, rows)) / rows.size
    return widest if widest**2 <= _WIDEST**2 * mean_square and widest > 0.0 else None


def as_integers(points: FloatArray, widest: FloatArray | np.float32) -> FloatArray:
    """Return `points` (n, d) scaled so that `widest` is the largest number of a byte, and rounded."""
    scaled: FloatArray = np.rint(points * (_BYTE / np.maximum(widest, _NARROWEST)))
    return scaled


def adopt_ranges(faiss: Any, like: Any, rows: FloatArray) -> None:
    """Give the dimensions of `faiss` the ranges they have in `like`, where `rows` (n, d) fit into them.

    Rows that were decoded from `like` then get the codes that they had there.
    """
    library = loaded_faiss()
    quantizer = getattr(like, "sq", None)
    if quantizer is None or quantizer.qtype != faiss.sq.qtype or quantizer.qtype != library.ScalarQuantizer.QT_8bit:
        return
    ranges = library.vector_to_array(quantizer.trained)
    low, width = np.split(ranges, 2)
    cut_off = 0.0
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        beyond = part - np.clip(part, low, low + width)
        cut_off += float(np.vdot(beyond, beyond))
    rounding = len(rows) * float(np.square(width / 255.0, dtype=np.float64).sum()) / 12.0
    if cut_off <= _CUT_OFF * rounding:
        library.copy_array_to_vector(ranges, faiss.sq.trained)
