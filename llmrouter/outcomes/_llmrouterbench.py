"""LLMRouterBench (arXiv 2601.07206): a JSON file of records for each data set and model, or one CSV without texts."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes._benchmark_files import (
    check_columns,
    csv_header,
    csv_rows,
    json_value,
    list_files,
    read_bytes,
    split_in_name,
)
from llmrouter.outcomes._benchmark_grid import BenchmarkGrid, BenchmarkPrompt

ARCHIVES = (".tar.gz", ".tgz", ".tar")
SUFFIXES = (".json", ".csv", *ARCHIVES)

_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_CSV_COLUMNS = ("dataset", "prompt_id", "model", "score", "cost", "prompt_tokens", "completion_tokens")
_TIME = re.compile(r"(\d{8}_\d{6})\.json$")
_FIELDS = {
    "quality": "score",
    "cost_usd": "cost",
    "input_tokens": "prompt_tokens",
    "output_tokens": "completion_tokens",
}


def is_llmrouterbench(value: Any) -> bool:
    """Return whether a JSON value is a result file: records, and whose they are."""
    return isinstance(value, dict) and isinstance(value.get("records"), list) and "performance" in value


def is_llmrouterbench_csv(columns: Sequence[str]) -> bool:
    """Return whether a CSV file with these columns is the text-free sample."""
    return set(_CSV_COLUMNS) <= set(columns)


def read_llmrouterbench(path: Path, grid: BenchmarkGrid) -> None:
    """Read result files, a folder or ``.tar.gz`` of them, or a CSV with one row an outcome.

    Result files stand at ``<data set>/<split>/<model>/<name>-<time>.json`` (or without the split) and hold
    ``{"dataset_name", "split", "model_name", "demo", "records": [{"index", "origin_query", "prompt", "score", "cost",
    "prompt_tokens", "completion_tokens", ...}]}``. Of several files for one data set, split and model the newest
    counts, and none whose `demo` is true. A record's `index` says which prompt of the data set it is; the router reads
    origin_query, else prompt. The source's splits are parts of the benchmarks, not train and test.

    The CSV has the columns dataset, prompt_id, model, score, cost, prompt_tokens and completion_tokens, and no text.

    Parameters
    ----------
    path : Path
        A file, a folder, or an archive (which is read in place, never unpacked).
    grid : BenchmarkGrid
        Filled.

    Raises
    ------
    DataError
        If a file is broken or laid out otherwise.
    """
    files = list_files(path, SUFFIXES)
    tables = [file for file in files if file.suffix == ".csv"]
    for file in tables:
        _read_csv(file, grid)
    newest: dict[tuple[str, str, str], tuple[str, str, Mapping[str, Any]]] = {}
    demos = older = 0
    for name, data in _contents([file for file in files if file not in tables], path):
        result = json_value(data, source=name)
        if not is_llmrouterbench(result):
            found = list(result) if isinstance(result, dict) else [type(result).__name__]
            wanted = ["performance", "records", "dataset_name", "split", "model_name"]
            check_columns(found, wanted, source=name, layout="LLMRouterBench")
            raise DataError(f"{name} is not in the layout of LLMRouterBench: records must be a list")
        if result.get("demo"):
            demos += 1
            continue
        owner = _owner(name, result)
        time = found_time[1] if (found_time := _TIME.search(name)) else ""
        older += owner in newest
        if owner not in newest or (time, name) > newest[owner][:2]:
            newest[owner] = (time, name, _slim(result))
    for (dataset, part, model), (_, name, result) in sorted(newest.items()):
        _read_records(result["records"], grid, task=dataset, part=part, model=model, name=name)
    if demos:
        grid.notes.append(f"{demos} result files are demonstrations and were left out")
    if older:
        grid.notes.append(f"{older} result files are older than another of their data set and model and were left out")


def _contents(files: Sequence[Path], root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the JSON files, those inside archives too; nothing is written to the disk."""
    for file in files:
        if not file.name.endswith(_ARCHIVES):
            yield (file.relative_to(root).as_posix() if root.is_dir() else str(file)), read_bytes(file)
            continue
        try:
            with tarfile.open(file, mode="r:*") as archive:
                for member in archive:
                    handle = archive.extractfile(member) if member.name.endswith(".json") and member.isreg() else None
                    if handle is not None:
                        yield f"{file.name}/{member.name}", handle.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} is not a readable archive ({error}); download it again") from error


def _owner(name: str, result: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return data set, split and model of a result file, by its own fields, else by its place."""
    folders = PurePosixPath(name).parts[:-1]
    place = dict(zip(("model_name", "split", "dataset_name"), reversed(folders[-3:]), strict=False))
    if "split" not in result and len(folders) >= 2:  # <data set>/<model>/<file>
        place = {"model_name": folders[-1], "dataset_name": folders[-2]}
    found = {key: result.get(key) or place.get(key) for key in ("dataset_name", "split", "model_name")}
    if not found["dataset_name"] or not found["model_name"]:
        raise DataError(
            f"{name} names neither its data set nor its model (fields dataset_name, model_name); put it at "
            "<data set>/<split>/<model>/<file>.json"
        )
    return str(found["dataset_name"]), str(found["split"] or ""), str(found["model_name"])


def _slim(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the records without the answers, which are most of a file."""
    kept = ("index", "origin_query", "prompt", *_FIELDS.values())
    records = [
        {key: record[key] for key in kept if key in record} if isinstance(record, dict) else record
        for record in result["records"]
    ]
    return {"records": records}


def _read_records(records: Sequence[Any], grid: BenchmarkGrid, *, task: str, part: str, model: str, name: str) -> None:
    for position, record in enumerate(records, start=1):
        where = f"{name} record {position}"
        if not isinstance(record, dict) or record.get("index") is None:
            grid.problems.add(where, "no object with an 'index'; without it a record belongs to no prompt")
            continue
        key = "/".join(filter(None, (task, part, str(record["index"]))))
        text = _text(record.get("origin_query")) or _text(record.get("prompt")) or None
        if grid.find_or_add(key, BenchmarkPrompt(text, task), where=where):
            values = {field: record.get(theirs) for field, theirs in _FIELDS.items()}
            grid.add_cell(key, model, values, where=where, label="score")


def _text(value: Any) -> str:
    """Return a query as text; some are lists or objects."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else orjson.dumps(value).decode()


def _read_csv(file: Path, grid: BenchmarkGrid) -> None:
    check_columns(csv_header(file), _CSV_COLUMNS, source=str(file), layout="LLMRouterBench")
    split = split_in_name(file.stem)[1]
    for where, row in csv_rows(file, grid.problems):
        key, model, task = row["prompt_id"].strip(), row["model"].strip(), row["dataset"].strip() or "unknown"
        if not model:
            grid.problems.add(where, "model is empty; give it a value")
            continue
        text = row.get("prompt", "").strip() or None
        if grid.find_or_add(key, BenchmarkPrompt(text, task, split), where=where):
            values = {field: row[theirs] for field, theirs in _FIELDS.items()}
            grid.add_cell(key, model, values, where=where, label="score")


def llmrouterbench_files(names: Sequence[str]) -> list[str]:
    """Return which files of the hub repository to fetch: the archive of the results.

    Raises
    ------
    DataError
        If there is none.
    """
    wanted = [name for name in names if name.endswith(_ARCHIVES)]
    if not wanted:
        raise DataError(f"the repository has no archive of results; it has: {', '.join(names)}")
    return wanted
