"""Parquet files to frames and back. pyarrow is imported when a file is touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.outcomes._schema import Column, Frame, is_integral, match_columns
from llmrouter.types import FloatArray


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow", extra="train", purpose="reading and writing Parquet (JSONL works without)"
        ) from error
    return pa, pq


def read_parquet(path: Path, columns: Sequence[Column], *, source: str) -> Frame:
    """Read the known columns of a Parquet file; others are ignored.

    Raises
    ------
    DataError
        If the file is not readable Parquet, lacks a required column, or a column has another type.
    MissingExtraError
        If pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            matched = match_columns(file.schema_arrow.names, columns, source=source)
            data = file.read(columns=list(matched.values()))
        kinds = {column.name: column.kind for column in columns}
        texts: dict[str, list[str | None]] = {}
        numbers: dict[str, FloatArray] = {}
        for name, label in matched.items():
            if kinds[name] == "text":
                texts[name] = _texts(pyarrow, data.column(label), label, source)
            else:
                numbers[name] = _numbers(pyarrow, data.column(label), label, source)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not readable Parquet ({error}); it may be truncated: copy or export it again"
        ) from error
    return Frame(source, "row", range(1, data.num_rows + 1), texts, numbers, matched)


def _texts(pyarrow: Any, column: Any, label: str, source: str) -> list[str | None]:
    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)
    if not (is_text or pyarrow.types.is_null(kind)):
        raise DataError(f"{source}: column {label!r} has type {column.type}; it must hold text: write it as strings")
    values: list[str | None] = column.to_pylist()
    return values


def _numbers(pyarrow: Any, column: Any, label: str, source: str) -> FloatArray:
    kind = column.type
    if pyarrow.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not (pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_decimal(kind)):
        raise DataError(f"{source}: column {label!r} has type {kind}; it must hold numbers: convert it")
    values: FloatArray = column.cast(pyarrow.float64(), safe=False).to_numpy()
    return values


def write_parquet(path: Path, frame: Frame) -> None:
    """Write a frame, whole numbers as integers."""
    pyarrow, parquet = _pyarrow()
    arrays = {name: pyarrow.array(values, type=pyarrow.string()) for name, values in frame.texts.items()}
    for name, values in frame.numbers.items():
        mask = np.isnan(values)
        if is_integral(name, values):
            arrays[name] = pyarrow.array(np.where(mask, 0, values).astype(np.int64), mask=mask)
        else:
            arrays[name] = pyarrow.array(values, mask=mask)
    parquet.write_table(pyarrow.table(arrays), path, compression="zstd")
