"""EmbedLLM (arXiv 2410.02223): CSV with a row for every prompt and model, right or wrong, without costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmrouter.exceptions import DataError
from llmrouter.outcomes._benchmark_files import check_columns, csv_header, csv_rows, list_files, split_in_name
from llmrouter.outcomes._benchmark_grid import BenchmarkGrid, BenchmarkPrompt

SUFFIXES = (".csv",)

_COLUMNS = ("prompt_id", "prompt", "model_name", "label")
_ORDERS = ("question_order", "model_order")
_HUB_FILES = ("train.csv", "val.csv", "test.csv")


def is_embedllm(columns: Sequence[str]) -> bool:
    """Return whether a CSV file with these columns is EmbedLLM's."""
    return {*_COLUMNS, "category"} <= set(columns)


def read_embedllm(path: Path, grid: BenchmarkGrid) -> None:
    """Read ``train.csv``, ``val.csv`` and ``test.csv`` (columns prompt_id, prompt, model_name, label, category).

    `label` is 1 where the model answered rightly; `category` is the benchmark (several columns of the source, such as
    model_id, are not needed). val.csv counts as train. ``question_order.csv`` and ``model_order.csv``, which only list
    what the others hold, are passed over.

    Parameters
    ----------
    path : Path
        A file, or the folder of all.
    grid : BenchmarkGrid
        Filled.

    Raises
    ------
    DataError
        If a file has other columns, or there is none.
    """
    files = [file for file in list_files(path, SUFFIXES) if file.stem not in _ORDERS]
    if not files:
        raise DataError(f"{path} holds only the order files of EmbedLLM; add train.csv and test.csv")
    for file in files:
        check_columns(csv_header(file), _COLUMNS, source=str(file), layout="EmbedLLM")
        split = split_in_name(file.stem)[1]
        for where, row in csv_rows(file, grid.problems):
            key, model = row["prompt_id"].strip(), row["model_name"].strip()
            if not model:
                grid.problems.add(where, "model_name is empty; give it a value")
                continue
            prompt = BenchmarkPrompt(row["prompt"], row.get("category", "").strip() or "unknown", split)
            if grid.find_or_add(key, prompt, where=where):
                grid.add_cell(key, model, {"quality": row["label"]}, where=where, label="label")
    if any(split_in_name(file.stem)[0] == "" and "val" in file.stem.lower() for file in files):
        grid.notes.append("validation data count as train")


def embedllm_files(names: Sequence[str]) -> list[str]:
    """Return which files of the hub repository to fetch.

    Raises
    ------
    DataError
        If one is not there.
    """
    missing = [name for name in _HUB_FILES if name not in names]
    if missing:
        raise DataError(f"the repository has no {missing[0]}; it has: {', '.join(names)}")
    return list(_HUB_FILES)
