"""Which files a published benchmark consists of, and their rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._named_columns import long_fields
from llmrouter.outcomes._schema import Problems

_SPLIT = re.compile(r"(?:^|[_.-])(train|test|validation|valid|val|dev)(?=[_.-]|$)", re.IGNORECASE)


def list_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return `path`, or the files below it that end in one of `suffixes`, in order of their paths.

    Raises
    ------
    DataError
        If there is none, or one is empty.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(tuple(suffixes)) and file.is_file())
        if not files:
            raise DataError(f"{path} holds no {', '.join(suffixes)} files; name the folder that does")
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"{path} does not exist; name a file or a folder of the benchmark")
    for file in files:
        if file.stat().st_size == 0:
            raise DataError(f"{file} is an empty file; download it again, or leave it out")
    return files


def split_in_name(stem: str) -> tuple[str, str | None]:
    """Return a file's name without its split, and the split: validation data count as train; None where it names none.

    ``gsm8k-train`` is ``("gsm8k", "train")``, ``validation-00000-of-00001`` is ``("00000-of-00001", "train")``.
    """
    found = _SPLIT.search(stem)
    if found is None:
        return stem, None
    rest = (stem[: found.start()] + stem[found.end() :]).strip("_.-")
    return rest, "test" if found[1].lower() == "test" else "train"


def check_columns(present: Sequence[str], wanted: Sequence[str], *, source: str, layout: str) -> None:
    """Raise `DataError` with the columns found and those expected if one of `wanted` is not among `present`."""
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(
            f"{source} is not in the layout of {layout}: it lacks {', '.join(missing)}. "
            f"Expected columns: {', '.join(wanted)}; found: {_listed(present)}"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(str(name)[:60] for name in names[:40]) or "none"
    return shown if len(names) <= 40 else f"{shown}, ... ({len(names)} in all)"


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file.

    Raises
    ------
    DataError
        If it is not CSV in UTF-8, or has one name twice.
    """
    return next(_csv_values(path))[1]


def csv_rows(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, values by column) of each row; note the rows with another number of fields than the header.

    Raises
    ------
    DataError
        If it is not CSV in UTF-8, or has one name twice.
    """
    rows = _csv_values(path)
    _, header = next(rows)
    for line, values in rows:
        where = f"{path.name} line {line}"
        if len(values) != len(header):
            problems.add(where, f"{len(values)} fields under a header of {len(header)}; quote fields that hold commas")
        else:
            yield where, dict(zip(header, values, strict=True))


def _csv_values(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then each row that is not blank, with the line it starts on."""
    try:
        with long_fields(), path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise DataError(f"{path} has the column {twice[0]!r} twice; rename one of them")
            yield 1, header
            line = rows.line_num + 1
            for values in rows:
                if values:
                    yield line, values
                line = rows.line_num + 1
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not CSV in UTF-8 ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error


def json_value(data: bytes, *, source: str) -> Any:
    """Return the JSON value of a file's content.

    Raises
    ------
    DataError
        If it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON ({error}); download it again") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error
