"""Outcome tables on disk: a folder of prompts, outcomes and models.json, or one flat file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmrouter.exceptions import DataError
from llmrouter.outcomes._assemble import assemble, check_rows, disassemble, split_flat
from llmrouter.outcomes._costs import fill_costs
from llmrouter.outcomes._jsonl import read_jsonl, write_jsonl
from llmrouter.outcomes._models_file import MODELS_FILE, read_models, write_models
from llmrouter.outcomes._parquet import read_parquet, write_parquet
from llmrouter.outcomes._schema import OUTCOME_COLUMNS, PROMPT_COLUMNS, Column, Frame, Problems
from llmrouter.outcomes._table import OutcomeTable

TableFormat = Literal["parquet", "jsonl"]

_SUFFIXES = (".parquet", ".jsonl")
_BEING_WRITTEN = ".being-written"


def load_table(path: str | Path, *, derive_costs: bool = True) -> OutcomeTable:
    """Read an outcome table.

    Parameters
    ----------
    path : str or Path
        A folder with ``prompts``, ``outcomes`` (each ``.parquet`` or ``.jsonl``) and ``models.json``; or one flat
        ``.parquet`` or ``.jsonl`` file whose rows repeat the prompt columns beside each outcome.

        prompts: prompt_id, split, and prompt, query, task where known; the router reads `query` where it is not
        null, else `prompt`. outcomes: prompt_id, model, and quality (or score), cost_usd, input_tokens,
        output_tokens, propensity, weight where known. models.json gives column order and list prices; without it
        the models stand in order of their first outcome.
    derive_costs : bool
        Compute a cost that the source lacks as tokens x list price (`fill_costs`); False leaves it NaN.

    Returns
    -------
    OutcomeTable
        NaN where nothing was observed. Without a propensity column, 1 wherever there is a row.

    Raises
    ------
    RowError
        If rows are wrong: all of them, each with its number, field, value and remedy.
    DataError
        If a file or column is missing, unreadable, empty or of the wrong type.
    MissingExtraError
        If a Parquet file is read without pyarrow.
    """
    place = Path(path)
    if place.is_dir():
        table = _load_folder(place)
    elif place.is_file():
        table = _load_flat(place)
    else:
        raise DataError(f"{place} does not exist; give a folder with prompts, outcomes and {MODELS_FILE}")
    return fill_costs(table) if derive_costs else table


def _load_folder(folder: Path) -> OutcomeTable:
    if (folder / _BEING_WRITTEN).exists():
        raise DataError(
            f"{folder} is being written, or its writer died half way; wait for it, or write the table again "
            f"(to use the files as they are, delete {_BEING_WRITTEN})"
        )
    problems = Problems()
    prompts = _read(_find(folder, "prompts"), PROMPT_COLUMNS, problems)
    outcomes = _read(_find(folder, "outcomes"), OUTCOME_COLUMNS, problems)
    models_file = folder / MODELS_FILE
    name, models = read_models(models_file) if models_file.exists() else (None, None)
    return assemble(
        prompts,
        outcomes,
        models,
        problems=problems,
        source=str(folder),
        name=folder.resolve().name if name is None else name,
    )


def _load_flat(path: Path) -> OutcomeTable:
    if path.suffix not in _SUFFIXES:
        raise DataError(f"{path} is neither .parquet nor .jsonl; turn other logs into a table with `llmrouter import`")
    optional = ("prompt_id", "split")
    columns = {column.name: column for column in (*PROMPT_COLUMNS, *OUTCOME_COLUMNS)}
    columns.update({name: dataclasses.replace(columns[name], required=False) for name in optional})
    problems = Problems()
    flat = _read(path, tuple(columns.values()), problems)
    if not len(flat):
        problems.raise_if_any(str(path))
        raise DataError(f"{path} has no rows; there is nothing to learn from")
    if not {"prompt_id", "prompt", "query"} & set(flat.texts):
        raise DataError(f"{path} has neither 'prompt_id' nor 'prompt' to tell prompts apart; add one of them")
    prompts, outcomes = split_flat(flat, problems)
    return assemble(prompts, outcomes, None, problems=problems, source=str(path), name=path.stem)


def _find(folder: Path, stem: str) -> Path:
    found = [folder / f"{stem}{suffix}" for suffix in _SUFFIXES if (folder / f"{stem}{suffix}").is_file()]
    if not found:
        raise DataError(f"{folder} has no {stem}.parquet or {stem}.jsonl; it is not a folder of outcomes")
    if len(found) > 1:
        raise DataError(f"{folder} has both {found[0].name} and {found[1].name}; keep the one that counts")
    return found[0]


def _read(path: Path, columns: Sequence[Column], problems: Problems) -> Frame:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is an empty file; export it again")
    if path.suffix == ".parquet":
        return read_parquet(path, columns, source=path.name)
    return read_jsonl(path, columns, problems, source=path.name)


def save_table(
    table: OutcomeTable,
    folder: str | Path,
    *,
    format: TableFormat = "parquet",  # noqa: A002 - the word users know
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write `table` so that `load_table` gives the same one back.

    The files are written beside the folder and moved into place, so a reader finds the old table, the new one, or
    (if the writer dies between two moves) a folder that `load_table` refuses; never half of one. Other files of
    the folder are left alone.

    Parameters
    ----------
    table : OutcomeTable
        What to write.
    folder : str or Path
        Where to; created with its parents. A table that is there is replaced, whatever its format.
    format : {"parquet", "jsonl"}
        Parquet is small and fast and needs pyarrow; JSONL can be read by eye.
    provenance : mapping, optional
        Further top-level keys of models.json: where the data comes from, how its split was made.

    Raises
    ------
    RowError
        If the table holds values that `load_table` would refuse.
    DataError
        If it is empty, or the folder cannot be written.
    """
    if format not in ("parquet", "jsonl"):
        raise DataError(f"format {format!r} is unknown; one of parquet, jsonl")
    prompts, outcomes = disassemble(table)
    if not len(prompts) or not len(outcomes):
        raise DataError(f"the table has {len(prompts)} prompts and {len(outcomes)} outcomes; there is nothing to save")
    problems = Problems()
    check_rows(prompts, problems)
    check_rows(outcomes, problems)
    problems.raise_if_any(table.name or "the table")
    target = Path(folder).absolute()
    staging = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        staging.mkdir(parents=True)
        write = write_parquet if format == "parquet" else write_jsonl
        write(staging / f"prompts.{format}", prompts)
        write(staging / f"outcomes.{format}", outcomes)
        write_models(staging / MODELS_FILE, table, provenance=provenance or {})
        _publish(staging, target)
    except OSError as error:
        raise DataError(
            f"{target} cannot be written: {error.strerror or error}; check space and permissions"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, target: Path) -> None:
    names = [file.name for file in staging.iterdir()]
    for name in names:
        _sync(staging / name)
    if not target.exists():
        staging.rename(target)
        _sync(target.parent)
        return
    if not target.is_dir():
        raise NotADirectoryError(20, "it is a file, not a folder")
    marker = target / _BEING_WRITTEN
    marker.touch()
    _sync(target)
    for name in names:
        (staging / name).replace(target / name)
    for stem in ("prompts", "outcomes"):
        for suffix in _SUFFIXES:
            if f"{stem}{suffix}" not in names:
                (target / f"{stem}{suffix}").unlink(missing_ok=True)
    _sync(target)
    marker.unlink()


def _sync(path: Path) -> None:
    """Flush a file, or the names of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
