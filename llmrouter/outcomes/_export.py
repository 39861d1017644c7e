"""The outcome log as one flat file, Parquet for analysis or JSONL to read by eye; loaded, both are tables again."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.types import Outcome, is_missing

_BATCH = 2_000

_SHARED: Mapping[str, str] = {
    # As in the outcome: name -> kind.
    "time": "number",
    "task": "text",
    "quality": "number",
    "quality_source": "text",
    "quality_time": "number",
    "cost_usd": "number",
    "price_as_of": "text",
    "overhead_cost_usd": "number",
    "input_tokens": "count",
    "cached_tokens": "count",
    "output_tokens": "count",
    "reasoning_tokens": "count",
    "time_to_first_token_s": "number",
    "latency_s": "number",
    "prompt": "text",
    "prompt_sha256": "text",
    "router": "text",
    "artifact_id": "text",
    "policy": "text",
    "explored": "flag",
    "lane": "text",
    "key_id": "text",
    "team": "text",
    "conversation_id": "text",
    "endpoint": "text",
    "stream": "flag",
    "deployment": "text",
    "status": "text",
    "error": "text",
    "cache": "text",
    "finish_reason": "text",
}
_STRUCTURED = ("candidates", "fallbacks", "attempts", "usage", "shadow", "quality_by")
COLUMNS: Mapping[str, str] = {
    "prompt_id": "text",
    "model": "text",
    "chosen": "text",
    "propensity": "number",
    "weight": "number",
    **_SHARED,
    **dict.fromkeys(_STRUCTURED, "text"),
    "embedding": "vector",
}
"""Column -> kind: ``text``, ``number``, ``count``, ``flag`` or ``vector``."""


def export_outcomes(outcomes: Iterable[Outcome], path: str | Path) -> int:
    """Write outcomes to a flat file, one row each, and return how many.

    The file is written beside its place and moved there when it is whole. Memory stays bounded by a batch.

    Parameters
    ----------
    outcomes : iterable of Outcome
        E.g. ``store.scan()``.
    path : str or Path
        ``.parquet`` or ``.jsonl``. A file that is there is replaced.

        Columns are those of `load_table`, ``prompt_id`` being the request's id, ``model`` the one that answered and
        ``weight`` that of the quality; then ``chosen``, the model that was decided on, and the fields of `Outcome`.
        Structured ones are JSON texts. The propensity is null where a fallback answered, since nobody chose it.

    Raises
    ------
    DataError
        If the suffix is another one, there is no outcome, or the file cannot be written.
    MissingExtraError
        If Parquet is asked for without pyarrow.
    """
    target = Path(path)
    writers = {".parquet": _parquet_writer, ".jsonl": _jsonl_writer}
    if target.suffix not in writers:
        raise DataError(f"{target} must end with .parquet or .jsonl")
    staging = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    written = 0
    rows = (_row(outcome) for outcome in outcomes)
    try:
        with writers[target.suffix](staging) as write:
            while batch := list(itertools.islice(rows, _BATCH)):
                write(batch)
                written += len(batch)
        if not written:
            raise DataError(f"no outcome to export; {target} was not written")
        staging.replace(target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written: {error.strerror or error}; check space and permissions"
        ) from error
    finally:
        staging.unlink(missing_ok=True)
    return written


def _row(outcome: Outcome) -> dict[str, Any]:
    served = outcome.served_by or outcome.model
    row: dict[str, Any] = {
        "prompt_id": outcome.request_id,
        "model": served,
        "chosen": outcome.model,
        "propensity": outcome.propensity if served == outcome.model else None,
        "weight": None
        if is_missing(outcome.quality)
        else (1.0 if outcome.quality_weight is None else outcome.quality_weight),
    }
    row |= {name: getattr(outcome, name) for name in _SHARED}
    for name in _STRUCTURED:
        value = getattr(outcome, name)
        row[name] = _json(value) if value else None
    row["embedding"] = None if outcome.embedding is None else [float(value) for value in outcome.embedding]
    # JSON has neither NaN nor infinity.
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _json(value: Any) -> str:
    return orjson.dumps(value, default=dict, option=orjson.OPT_SERIALIZE_NUMPY).decode()


@contextmanager
def _jsonl_writer(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    with path.open("xb") as file:

        def write(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

        yield write
        _sync(file)


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="train", purpose="writing Parquet (.jsonl works without)") from error
    types = {
        "text": pa.string(),
        "number": pa.float64(),
        "count": pa.int64(),
        "flag": pa.bool_(),
        "vector": pa.list_(pa.float32()),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with path.open("xb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        _sync(file)


def _sync(file: IO[bytes]) -> None:
    if not file.closed:
        file.flush()
        os.fsync(file.fileno())
