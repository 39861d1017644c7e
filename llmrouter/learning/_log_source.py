"""Outcomes from a store or from an exported file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.outcomes import open_store, outcome_from_json
from llmrouter.types import Outcome

_STRUCTURED = ("candidates", "fallbacks", "attempts", "usage", "shadow", "quality_by")


@contextmanager
def outcomes_of(source: str, *, since: float = -math.inf) -> Iterator[Iterable[Outcome]]:
    """Open a log and give its outcomes, oldest first where it is a store.

    Parameters
    ----------
    source : str
        URL of a store (``sqlite:///outcomes.db``, ``redis://...``), or a ``.jsonl`` or ``.parquet`` file that
        ``llmrouter outcomes export`` wrote.
    since : float
        Leave out older ones, seconds since the epoch.

    Raises
    ------
    ConfigError
        If the URL is malformed or its store unknown.
    DataError
        If the file is missing, or none that the export writes.
    StoreError
        If the store cannot be read.
    """
    if "://" in source:
        path = source.removeprefix("sqlite:///")
        if source.startswith("sqlite:///") and not Path(path).is_file():
            raise DataError(f"{source} does not exist: no gateway has logged there yet (see log.store)")
        store = open_store(source)
        try:
            yield store.scan(max(since, 0.0))
        finally:
            store.close()
        return
    path_ = Path(source)
    if not path_.is_file() or path_.suffix not in (".jsonl", ".parquet"):
        raise DataError(
            f"{source} is neither the URL of a store (sqlite:///outcomes.db) nor a .jsonl or .parquet file of "
            "`llmrouter outcomes export`"
        )
    rows = _jsonl_rows(path_) if path_.suffix == ".jsonl" else _parquet_rows(path_)
    yield (outcome for outcome in (_outcome(row, path_) for row in rows) if outcome.time >= since)


def _jsonl_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield orjson.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: no JSON ({error}); export it again") from error


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="train", purpose="reading Parquet (.jsonl works without)") from error
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); export it again") from error


def _outcome(row: Mapping[str, Any], path: Path) -> Outcome:
    """Return the outcome of an exported row; see `llmrouter.outcomes.export_outcomes`."""
    if not isinstance(row, Mapping) or not {"prompt_id", "model", "chosen", "time"} <= set(row):
        raise DataError(
            f"{path} was not written by `llmrouter outcomes export`: it lacks prompt_id, model, chosen or time; for "
            "other logs: llmrouter import, then llmrouter train --data"
        )
    fields: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
    for name in _STRUCTURED:
        if isinstance(fields.get(name), str):
            fields[name] = orjson.loads(fields[name])
    fields |= {
        "request_id": fields.pop("prompt_id"),
        "served_by": fields.pop("model"),
        "model": fields.pop("chosen"),
        "propensity": row.get("propensity"),
        "quality_weight": fields.pop("weight", None),
    }
    return outcome_from_json(orjson.dumps(fields))
