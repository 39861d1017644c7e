"""JSONL files to frames and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._schema import Column, Frame, Problems, is_integral, match_columns
from llmrouter.types import FloatArray

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MALFORMED = "the line may be cut off: export it again, or delete it"
_NOT_JSON = re.compile(rb":\s*-?(NaN|Infinity)\b")
_NO_NUMBER = "NaN and Infinity are no JSON: write null, or leave the field out"


def read_objects(path: Path, problems: Problems, *, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSONL file; bad lines go to `problems`, blank ones are passed over.

    Raises
    ------
    DataError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if not line.strip():
                    continue
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    remedy = _NO_NUMBER if _NOT_JSON.search(line) else _MALFORMED
                    problems.add(f"{source} line {number}", f"malformed JSON ({error.msg}); {remedy}")
                    continue
                if isinstance(value, dict):
                    yield number, value
                else:
                    problems.add(
                        f"{source} line {number}", f"a {type(value).__name__}, not an object; write one {{...}} a line"
                    )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error


def read_jsonl(path: Path, columns: Sequence[Column], problems: Problems, *, source: str) -> Frame:
    """Read the known columns of a JSONL file; an absent key is "no value", unknown keys are ignored.

    Rows with a problem (malformed line, value of another type) are noted in `problems`.

    Raises
    ------
    DataError
        If the file cannot be opened or lacks a required column.
    """
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    for number, value in read_objects(path, problems, source=source):
        lines.append(number)
        objects.append(value)
    present = dict.fromkeys(key for value in objects for key in value)
    matched = match_columns(tuple(present), columns, source=source) if objects else {}
    frame = Frame(source, "line", lines, {}, {}, matched)
    texts: dict[str, list[str | None]] = {}
    numbers: dict[str, FloatArray] = {}
    for column in columns:
        if column.name not in matched:
            continue
        values = [value.get(matched[column.name]) for value in objects]
        if column.kind == "text":
            texts[column.name] = _typed(values, (str,), column, frame, problems)
        else:
            known = _typed(values, (float, int), column, frame, problems)
            numbers[column.name] = np.asarray([np.nan if v is None else float(v) for v in known], dtype=np.float64)
    return Frame(source, "line", lines, texts, numbers, matched)


def _typed(values: list[Any], types: tuple[type, ...], column: Column, frame: Frame, problems: Problems) -> list[Any]:
    """Return `values` with those of another type noted and replaced by None. bool is not a number here."""
    if set(map(type, values)) <= {*types, type(None)}:
        return values
    kept: list[Any] = []
    wanted = "text" if column.kind == "text" else "a number"
    for position, value in enumerate(values):
        if value is None or type(value) in types:
            kept.append(value)
        else:
            kept.append(None)
            shown = orjson.dumps(value).decode()[:80]
            problems.add(
                frame.where(position),
                f"{frame.label(column.name)} {shown} is a {type(value).__name__}; it must be {wanted}",
            )
    return kept


def write_jsonl(path: Path, frame: Frame) -> None:
    """Write a frame, one object a line; every key stands in every line, so that an empty column is not lost."""
    columns: list[tuple[str, list[Any]]] = [(name, values) for name, values in frame.texts.items()]
    for name, values in frame.numbers.items():
        convert = int if is_integral(name, values) else float
        columns.append((name, [None if np.isnan(v) else convert(v) for v in values.tolist()]))
    with path.open("wb") as file:
        for position in range(len(frame)):
            record = {name: values[position] for name, values in columns}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
