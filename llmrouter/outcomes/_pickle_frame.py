"""The columns of a pickled pandas DataFrame, rebuilt from inert records without pandas.

What pandas and numpy would do on loading is done here for the few shapes that a table of texts and numbers has, with
each size checked against the data at hand before anything is allocated.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.outcomes._unpickle import MAX_BYTES, Stored, read_pickle

_NUMBER_TYPE = re.compile(r"[iu][1248]|f[248]|b1")
_OBJECT_TYPE = re.compile(r"O[48]?")


class PickledFrame:
    """The columns of a pickled DataFrame, decoded when asked for.

    Parameters
    ----------
    path : Path
        Pickle of a `pandas.DataFrame`.
    max_bytes : int
        See `read_pickle`.

    Raises
    ------
    UnsafePickleError, DataError
        If the file is refused, broken, or holds something else than a DataFrame.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        root = read_pickle(path, max_bytes=max_bytes)
        try:
            axes, blocks = _manager(root)
            self.columns: tuple[str, ...] = tuple(_labels(axes[0]))
            self._rows = _axis_length(axes[1])
            self._places = _places(blocks, len(self.columns))
        except Exception as error:  # whatever a record of the wrong shape leads to
            raise self._unreadable("", error) from error

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._rows

    def values(self, column: str) -> list[Any]:
        """Return the values of a column: str, float, int, bool, None, or a list of them.

        Raises
        ------
        DataError
            If there is no such column, or it is stored as something else than texts or numbers.
        """
        if self.columns.count(column) != 1:
            found = "twice" if column in self.columns else "not"
            raise DataError(f"{self._path} has the column {column!r} {found}; it has: {', '.join(self.columns)}")
        try:
            stored, line = self._places[self.columns.index(column)]
            values = _values(stored)
            if values.ndim == 2:
                values = values[line]
            if values.shape != (self._rows,):
                raise _LayoutError(f"{values.shape} values for {self._rows} rows")
        except Exception as error:  # whatever a record of the wrong shape leads to
            raise self._unreadable(f"column {column!r}: ", error) from error
        return [_plain(value) for value in values.tolist()]

    def _unreadable(self, where: str, error: Exception) -> DataError:
        return DataError(
            f"{self._path} is not a pickled DataFrame of texts and numbers ({where}{str(error)[:200]}); load it with "
            "the pandas that wrote it and save it as CSV"
        )


class _LayoutError(Exception):
    """A record is not laid out as pandas or numpy write it."""


def _expect(value: Any, *roles: str) -> Stored:
    if not isinstance(value, Stored) or value.role not in roles:
        found = value.role if isinstance(value, Stored) else type(value).__name__
        raise _LayoutError(f"{found} where {' or '.join(roles)} belongs")
    return value


def _manager(root: Any) -> tuple[Sequence[Any], list[tuple[Any, Any]]]:
    """Return the axes (columns, rows) and the blocks (values, placement) of a DataFrame."""
    state = _expect(root, "DataFrame").state
    if not isinstance(state, Mapping):
        raise _LayoutError("a DataFrame without state")
    manager = _expect(state.get("_mgr", state.get("_data")), "BlockManager")
    if manager.args:
        blocks, axes = manager.args
        found = [_expect(block, "_unpickle_block").args for block in blocks]
        return axes, [(block[0], block[1]) for block in found]
    # pandas 1.0 to 1.2: the state ends in a dictionary by the version that introduced it.
    parts = manager.state[3]["0.14.1"]
    return parts["axes"], [(block["values"], block["mgr_locs"]) for block in parts["blocks"]]


def _places(blocks: list[tuple[Any, Any]], columns: int) -> list[tuple[Any, int]]:
    """Return, column by column, the block that holds it and its line there."""
    places: dict[int, tuple[Any, int]] = {}
    for values, placement in blocks:
        if isinstance(placement, Stored) and placement.role == "slice":
            start, stop, step = placement.args
            positions = range(start, columns if stop is None else stop, step or 1)
        else:
            positions = _values(placement).tolist()
        if len(positions) > columns:
            raise _LayoutError(f"a block of {len(positions)} columns in a table of {columns}")
        for line, position in enumerate(positions):
            places[position] = (values, line)
    return [places[position] for position in range(columns)]


def _axis_length(axis: Any) -> int:
    of, fields = _expect(axis, "_new_Index").args
    if of.role == "RangeIndex":
        return len(range(fields["start"], fields["stop"], fields["step"]))
    return int(_values(fields["data"]).shape[0])


def _labels(axis: Any) -> list[str]:
    _, fields = _expect(axis, "_new_Index").args
    return [_word(label) for label in _values(fields["data"]).tolist()]


def _word(value: Any) -> str:
    """Return a text of the file; anything else must not reach a message: its repr may be endless."""
    if not isinstance(value, str):
        raise _LayoutError(f"{type(value).__name__} where a text belongs")
    return value


def _values(stored: Any) -> np.ndarray[Any, Any]:
    record = _expect(stored, "_reconstruct", "_frombuffer", "StringArray")
    if record.role == "StringArray":
        return _string_array(record)
    if record.role == "_frombuffer":
        buffer, dtype, shape, order, *axis_order = record.args
        kept_axes = order == "K" and axis_order and axis_order[0]
        values = _array(_bytes(buffer), dtype, shape, "F" if order == "F" else "C")
        return values.transpose(kept_axes) if kept_axes else values
    _, shape, dtype, is_fortran, data = record.state
    return _array(data if isinstance(data, list) else _bytes(data), dtype, shape, "F" if is_fortran else "C")


def _array(data: bytes | list[Any], dtype: Any, shape: Any, order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    if len(shape) not in (1, 2) or any(not isinstance(length, int) or length < 0 for length in shape):
        raise _LayoutError("an array that is neither a line nor a table")
    count = math.prod(shape)
    code = _word(_expect(dtype, "dtype").args[0])
    if isinstance(data, list):
        if not _OBJECT_TYPE.fullmatch(code) or len(data) != count:
            raise _LayoutError(f"{len(data)} objects for an array {shape} of {code}")
        flat = np.empty(count, dtype=object)
        flat[:] = data
    else:
        if not _NUMBER_TYPE.fullmatch(code):
            raise _LayoutError(f"bytes for an array of {code}")
        kind = np.dtype(code).newbyteorder(">" if _expect(dtype, "dtype").state[1] == ">" else "<")
        if len(data) != count * kind.itemsize:
            raise _LayoutError(f"{len(data)} bytes for an array {shape} of {code}")
        flat = np.frombuffer(data, dtype=kind)
    return flat.reshape(shape, order=order)


def _bytes(value: Any) -> bytes:
    """Return raw bytes, however the protocol of the file had to write them."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    record = _expect(value, "encode", "bytearray")
    if record.role == "bytearray":
        return _bytes(record.args[0])
    text, encoding = record.args
    if _word(encoding) != "latin1":
        raise _LayoutError(f"bytes encoded as {encoding[:20]!r}")
    return _word(text).encode("latin1")


def _string_array(record: Stored) -> np.ndarray[Any, Any]:
    state = record.state
    if isinstance(state, tuple):  # (dtype, object array), and an empty dictionary in some versions
        return _values(next(part for part in state if isinstance(part, Stored) and part.role != "StringDtype"))
    if "_ndarray" in state:
        return _values(state["_ndarray"])
    arrow = _expect(state.get("_pa_array", state.get("_data")), "_restore_array", "chunked_array")
    chunks = arrow.args[0] if arrow.role == "chunked_array" else [arrow]
    texts = [text for chunk in chunks for text in _arrow_texts(_expect(chunk, "_restore_array"))]
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    return values


def _arrow_texts(array: Stored) -> list[str | None]:
    """Return the texts of an Arrow string array: a bitmap of what is there, offsets, and UTF-8 bytes."""
    kind, length, _, offset, buffers, *_ = array.args[0]
    alias = _word(_expect(kind, "type_for_alias").args[0])
    if alias not in ("string", "large_string"):
        raise _LayoutError(f"an Arrow array of {alias!r}")
    valid, places, text = (None if part is None else _bytes(_expect(part, "py_buffer").args[0]) for part in buffers)
    wide = np.dtype("<i8" if alias == "large_string" else "<i4")
    if length < 0 or offset < 0 or places is None or len(places) < (offset + length + 1) * wide.itemsize:
        raise _LayoutError(f"offsets for fewer than {length} texts")
    ends = np.frombuffer(places, dtype=wide)[offset : offset + length + 1].tolist()
    there = [True] * length
    if valid is not None:
        bits = np.unpackbits(np.frombuffer(valid, dtype=np.uint8), bitorder="little")
        there = bits[offset : offset + length].astype(bool).tolist()
    if len(there) != length:
        raise _LayoutError(f"a bitmap for {len(there)} of {length} texts")
    data = text or b""
    if any(end < start for start, end in itertools.pairwise([0, *ends, len(data)])):
        raise _LayoutError("texts that overlap")  # each would be a copy of the whole
    pairs = zip(ends[:-1], ends[1:], there, strict=True)
    return [data[start:end].decode() if present else None for start, end, present in pairs]


def _plain(value: Any) -> Any:
    """Return a cell as a plain value; a numpy number that pandas kept as an object is decoded."""
    if isinstance(value, type):  # pandas.NA, which is written as a bare name
        return None
    if isinstance(value, Stored):
        dtype, data = _expect(value, "scalar").args
        return _array(_bytes(data), dtype, (1,), "C").tolist()[0]
    return value
