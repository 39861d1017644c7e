"""Which files a log consists of, what format each has, and the JSON values in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._calls import ReadingOptions, shown
from llmrouter.outcomes._jsonl import read_objects
from llmrouter.outcomes._litellm_log import is_litellm
from llmrouter.outcomes._named_columns import check_header
from llmrouter.outcomes._openai_log import is_openai
from llmrouter.outcomes._schema import Problems

_CSV_SUFFIXES = (".csv", ".tsv")
_NO_LOGS = {
    ".parquet": "a table of outcomes goes to --data as it is, other Parquet is to be written as CSV or JSONL",
    ".gz": "unpack it",
    ".zip": "unpack it",
}
_LOG_SUFFIXES = (*_CSV_SUFFIXES, ".jsonl", ".ndjson", ".json")


def find_logs(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files at `path`, the log files of a folder in order of their names.

    Raises
    ------
    DataError
        If there are none, or one is empty.
    """
    found: list[Path] = []
    for place in [Path(path)] if isinstance(path, str | Path) else [Path(item) for item in path]:
        if place.is_dir():
            inside = sorted(file for file in place.iterdir() if file.suffix in _LOG_SUFFIXES and file.is_file())
            if not inside:
                raise DataError(f"{place} holds no {', '.join(_LOG_SUFFIXES)} files; name the files to import")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"{place} does not exist; name a log file or a folder of them")
    if not found:
        raise DataError("no files to import; name at least one")
    for file in found:
        if file.suffix in _NO_LOGS:
            raise DataError(
                f"{file} is no log that is read: {_NO_LOGS[file.suffix]}; logs are {', '.join(_LOG_SUFFIXES)} files"
            )
        if file.stat().st_size == 0:
            raise DataError(f"{file} is an empty file; export it again, or leave it out")
    return found


def detect(file: Path, options: ReadingOptions) -> str:
    """Return the format of a file, by its name or its first object.

    Raises
    ------
    DataError
        If the first object is a flat row without a prompt or a model.
    """
    if file.suffix in _CSV_SUFFIXES:
        return "csv"
    if options.columns:
        return "jsonl"
    record = next((record for _, record in read_json(file, Problems())), {})
    if is_litellm(record):
        return "litellm"
    if is_openai(record):
        return "openai"
    if record:
        check_header(list(record), options, source=file.name)
    return "jsonl"


def read_json(file: Path, problems: Problems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, object) of a JSONL file, or of a ``.json`` file that is one array or object."""
    whole = _whole_json(file) if file.suffix == ".json" else None
    if whole is None:
        for number, record in read_objects(file, problems, source=file.name):
            yield f"{file.name} line {number}", record
        return
    for number, item in enumerate(whole, start=1):
        place = f"{file.name} item {number}"
        if isinstance(item, Mapping):
            yield place, item
        else:
            problems.add(place, f"{shown(item)} is not an object; log one object a call")


def _whole_json(file: Path) -> list[Any] | None:
    """Return the items of a file that is one JSON value, None if it holds a value a line."""
    try:
        value = orjson.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; check its permissions") from error
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, list) else [value]
