"""SPROUT (CARROT, arXiv 2502.03261): Parquet with a struct column a model: score and token counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.outcomes._benchmark_files import check_columns, list_files, split_in_name
from llmrouter.outcomes._benchmark_grid import BenchmarkGrid, BenchmarkPrompt
from llmrouter.types import Price

SUFFIXES = (".parquet",)

# US dollars per million tokens, from somerstep/CARROT, carrot/constants.py (SPROUT_COSTS); o3-mini, which came later,
# is not listed there.
PRICES: Mapping[str, Price] = {
    "aws-claude-3-5-sonnet-v1": Price(3.0, 15.0),
    "aws-titan-text-premier-v1": Price(0.8, 3.2),
    "openai-gpt-4o": Price(2.5, 10.0),
    "openai-gpt-4o-mini": Price(0.15, 0.6),
    "wxai-granite-3-2b-instruct-8k-max-tokens": Price(0.1, 0.1),
    "wxai-granite-3-8b-instruct-8k-max-tokens": Price(0.2, 0.2),
    "wxai-llama-3-1-70b-instruct": Price(0.9, 0.9),
    "wxai-llama-3-1-8b-instruct": Price(0.2, 0.2),
    "wxai-llama-3-2-1b-instruct": Price(0.06, 0.06),
    "wxai-llama-3-2-3b-instruct": Price(0.06, 0.06),
    "wxai-llama-3-3-70b-instruct": Price(0.9, 0.9),
    "wxai-mixtral-8x7b-instruct-v01": Price(0.6, 0.6),
    "wxai-llama-3-405b-instruct": Price(3.5, 3.5),
}

_FIELDS = {"quality": "score", "input_tokens": "num_input_tokens", "output_tokens": "num_output_tokens"}
_ROWS_AT_ONCE = 4096


def read_sprout(path: Path, grid: BenchmarkGrid) -> None:
    """Read the Parquet files of CARROT-LLM-Routing/SPROUT: prompt, dataset, key, and a struct a model.

    A struct holds score (a judge's, in [0, 1]), num_input_tokens and num_output_tokens; the responses beside them are
    not read. Files are split as their names say; validation data count as train, as in the authors' evaluation.

    Parameters
    ----------
    path : Path
        A file, or the folder of all.
    grid : BenchmarkGrid
        Filled.

    Raises
    ------
    DataError
        If a file is not readable Parquet, or has no such columns.
    MissingExtraError
        If pyarrow is not installed.
    """
    files = list_files(path, SUFFIXES)
    for file in files:
        split = split_in_name(file.stem)[1]
        for position, (models, row) in enumerate(_rows(file), start=1):
            where = f"{file.name} row {position}"
            text = row["prompt"]
            key = row.get("key")
            identity = f"{file.stem}:{position}" if key in (None, "") else str(key)
            prompt = BenchmarkPrompt("" if text is None else str(text), str(row.get("dataset") or "unknown"), split)
            if grid.add_prompt(identity, prompt, where=where):
                for model in models:
                    cell = row[model] or {}
                    values = {name: cell.get(theirs) for name, theirs in _FIELDS.items()}
                    grid.add_cell(identity, model, values, where=where, label=model)
    if any(file.stem.startswith("val") for file in files):
        grid.notes.append("validation data count as train")


def struct_models(file: Path) -> list[str]:
    """Return the columns of a Parquet file that hold a struct with a score.

    Raises
    ------
    DataError
        If it is not readable Parquet.
    """
    pyarrow, parquet = _pyarrow()
    try:
        schema = parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is not readable Parquet ({error}); download it again") from error
    kinds = {name: schema.field(name).type for name in schema.names}
    return [
        name for name, kind in kinds.items() if pyarrow.types.is_struct(kind) and kind.get_field_index("score") >= 0
    ]


def _rows(file: Path) -> Iterator[tuple[Sequence[str], Mapping[str, Any]]]:
    pyarrow, parquet = _pyarrow()
    models = struct_models(file)
    try:
        with parquet.ParquetFile(file) as source:
            names = source.schema_arrow.names
            wanted = ["prompt", *(models or ["<model>: struct of score, num_input_tokens, num_output_tokens"])]
            check_columns(names, wanted, source=str(file), layout="SPROUT")
            parts = [f"{model}.{theirs}" for model in models for theirs in _FIELDS.values()]
            columns = ["prompt", *(name for name in ("key", "dataset") if name in names), *parts]
            for batch in source.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    yield models, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is not readable Parquet ({error}); download it again") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="train", purpose="reading SPROUT's Parquet files") from error
    return pa, pq


def sprout_files(names: Sequence[str]) -> list[str]:
    """Return which files of the hub repository to fetch: all Parquet files.

    Raises
    ------
    DataError
        If there is none.
    """
    wanted = [name for name in names if name.endswith(".parquet")]
    if not wanted:
        raise DataError(f"the repository has no Parquet files; it has: {', '.join(names)}")
    return wanted
