"""Frames of prompts and outcomes to a table and back, with every row checked on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.outcomes._identity import assign_split, prompt_id
from llmrouter.outcomes._schema import NUMBERS, SPLITS, Frame, Problems
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import FloatArray, IntArray, Price

_CELLS = ("cost_usd", "input_tokens", "output_tokens")


def assemble(
    prompts: Frame,
    outcomes: Frame,
    models: Sequence[tuple[str, Price | None]] | None,
    *,
    problems: Problems,
    source: str,
    name: str,
) -> OutcomeTable:
    """Return the table of a prompts and an outcomes frame.

    Parameters
    ----------
    prompts, outcomes : Frame
        As read from the files.
    models : sequence of (name, price), optional
        The columns of the table; without it, the models in order of their first outcome, and no prices.
    problems : Problems
        What was found while reading; what is found here is added.
    source, name : str
        The folder or file for messages, and the name of the table.

    Raises
    ------
    RowError
        If rows are wrong; it lists all of them.
    DataError
        If a file has no rows, or the two do not belong together.
    """
    check_rows(prompts, problems)
    check_rows(outcomes, problems)
    if not problems.lines:
        for frame in (prompts, outcomes):
            if not len(frame):
                raise DataError(f"{source}: {frame.source} has no rows; there is nothing to learn from")
    rows = _prompt_rows(prompts, outcomes, problems, source)
    logged = [model for model in outcomes.texts.get("model", []) if model]
    known = [(model, None) for model in dict.fromkeys(logged)] if models is None else list(models)
    columns = _model_columns(outcomes, [model for model, _ in known], problems)
    _check_repeats(outcomes, rows, columns, problems)
    problems.raise_if_any(source)
    shape = (len(prompts), len(known))
    cells = {field: _spread(outcomes.numbers.get(field), rows, columns, shape) for field in ("quality", *_CELLS)}
    # Without the column every prompt was shown to every model that has a row: a benchmark.
    propensity = outcomes.numbers.get("propensity", np.ones(len(outcomes)))
    weight = outcomes.numbers.get("weight")
    return OutcomeTable(
        prompt_ids=tuple(text or "" for text in prompts.texts["prompt_id"]),
        models=tuple(model for model, _ in known),
        texts=_router_texts(prompts),
        tasks=tuple(prompts.texts.get("task") or [None] * len(prompts)),
        splits=tuple(text or "" for text in prompts.texts["split"]),
        prices=tuple(price for _, price in known),
        propensity=_spread(propensity, rows, columns, shape),
        weight=None if weight is None else _spread(weight, rows, columns, shape),
        name=name,
        **cells,
    )


def check_rows(frame: Frame, problems: Problems) -> None:
    """Note every value of a frame that is missing, out of bounds or not text that a file can hold."""
    for name, values in frame.texts.items():
        label = frame.label(name)
        for position, value in enumerate(values):
            if not value:
                if name in ("prompt_id", "model", "split"):
                    problems.add(frame.where(position), f"{label} is empty; give it a value")
            elif name == "split" and value not in SPLITS:
                problems.add(frame.where(position), f"{label} {value!r} is neither 'train' nor 'test'")
            elif not value.isascii() and not _is_unicode(value):
                problems.add(frame.where(position), f"{label} holds half a surrogate pair; decode the text properly")
    for name, numbers in frame.numbers.items():
        column = NUMBERS[name]
        lowest = column.low if not column.low_open else np.nextafter(column.low, np.inf)
        suspect = (numbers < lowest) | (numbers > column.high) | np.isinf(numbers)
        for position in np.flatnonzero(suspect).tolist():
            number = float(numbers[position])
            problems.add(frame.where(position), f"{frame.label(name)} {number:g} {column.complaint(number)}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _prompt_rows(prompts: Frame, outcomes: Frame, problems: Problems, source: str) -> IntArray:
    """Return the prompt row of each outcome, -1 where it has none; note repeated and unknown ids."""
    first: dict[str, int] = {}
    for position, identity in enumerate(prompts.texts.get("prompt_id", [])):
        if identity and first.setdefault(identity, position) != position:
            problems.add(
                prompts.where(position),
                f"prompt_id {identity!r} repeats {prompts.unit} {prompts.row_numbers[first[identity]]}; ids are unique",
            )
    wanted = outcomes.texts.get("prompt_id", [])
    rows = np.asarray([first.get(identity or "", -1) for identity in wanted], dtype=np.int64)
    strangers = [position for position in np.flatnonzero(rows < 0).tolist() if wanted[position]]
    if strangers and len(strangers) == len(wanted) and first:
        raise DataError(
            f"{source}: none of the {len(wanted)} outcomes has a prompt_id of {prompts.source} (e.g. "
            f"{wanted[strangers[0]]!r}); the two files belong to different data sets"
        )
    if strangers:
        problems.add(
            outcomes.where(strangers[0]),
            f"prompt_id {wanted[strangers[0]]!r} is not in {prompts.source} ({len(strangers)} outcomes are without "
            "their prompt); add the prompts or drop the outcomes",
        )
    return rows


def _model_columns(outcomes: Frame, names: Sequence[str], problems: Problems) -> IntArray:
    column_of = {name: column for column, name in enumerate(names)}
    logged = outcomes.texts.get("model", [])
    columns = np.asarray([column_of.get(model or "", -1) for model in logged], dtype=np.int64)
    for position in np.flatnonzero(columns < 0).tolist():
        if logged[position]:
            problems.add(
                outcomes.where(position),
                f"model {logged[position]!r} is not in models.json ({', '.join(names)}); add it there or mend the name",
            )
    return columns


def _check_repeats(outcomes: Frame, rows: IntArray, columns: IntArray, problems: Problems) -> None:
    usable = np.flatnonzero((rows >= 0) & (columns >= 0))
    cells = rows[usable] * (int(columns.max(initial=0)) + 1) + columns[usable]
    _, firsts, group = np.unique(cells, return_index=True, return_inverse=True)
    first_of = usable[firsts[group]]
    repeats = usable != first_of
    for position, first in zip(usable[repeats].tolist(), first_of[repeats].tolist(), strict=True):
        problems.add(
            outcomes.where(position),
            f"prompt_id {outcomes.texts['prompt_id'][position]!r} with model {outcomes.texts['model'][position]!r} "
            f"repeats {outcomes.unit} {outcomes.row_numbers[first]}; keep one, or their mean",
        )


def _spread(values: FloatArray | None, rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> FloatArray:
    cells = np.full(shape, np.nan)
    if values is not None:
        cells[rows, columns] = values
    return cells


def _router_texts(prompts: Frame) -> tuple[str | None, ...]:
    nothing: list[str | None] = [None] * len(prompts)
    pairs = zip(prompts.texts.get("query", nothing), prompts.texts.get("prompt", nothing), strict=True)
    return tuple(prompt if query is None else query for query, prompt in pairs)


def disassemble(table: OutcomeTable) -> tuple[Frame, Frame]:
    """Return the prompts and the outcomes frame of a table; a cell in which nothing is known has no row."""
    prompts = Frame(
        source="prompts",
        unit="row",
        row_numbers=range(1, len(table) + 1),
        texts={
            "prompt_id": list(table.prompt_ids),
            "prompt": list(table.texts),
            "task": list(table.tasks),
            "split": list(table.splits),
        },
        numbers={},
    )
    arrays = {field: getattr(table, field) for field in ("quality", *_CELLS, "propensity")}
    if table.weight is not None:
        arrays["weight"] = table.weight
    known = np.logical_or.reduce([~np.isnan(array) for array in arrays.values()])
    rows, columns = np.nonzero(known)
    outcomes = Frame(
        source="outcomes",
        unit="row",
        row_numbers=range(1, len(rows) + 1),
        texts={
            "prompt_id": [table.prompt_ids[row] for row in rows.tolist()],
            "model": [table.models[column] for column in columns.tolist()],
        },
        numbers={field: array[rows, columns].astype(np.float64) for field, array in arrays.items()},
    )
    return prompts, outcomes


def split_flat(flat: Frame, problems: Problems) -> tuple[Frame, Frame]:
    """Return the prompts and outcomes frames of a file that repeats the prompt in every outcome.

    A prompt is told by its `prompt_id`, or by its text where the file has no such column; without a `split` column
    it is assigned (`assign_split`). Two rows of one prompt must agree in text, task and split.
    """
    texts = dict(flat.texts)
    nothing: list[str | None] = [None] * len(flat)
    shown = _router_texts(flat)
    texts.setdefault("prompt_id", [prompt_id(text) if text else None for text in shown])
    texts.setdefault("split", [assign_split(text or "") for text in shown])
    described = ("prompt", "query", "task", "split")
    first: dict[str | None, int] = {}
    for position, identity in enumerate(texts["prompt_id"]):
        original = first.setdefault(identity, position)
        for name in described:
            values = texts.get(name, nothing)
            if values[position] != values[original]:
                problems.add(
                    flat.where(position),
                    f"{flat.label(name)} differs from {flat.unit} {flat.row_numbers[original]}, which has the same "
                    f"prompt_id {identity!r}; give different prompts different ids",
                )
    kept = [position for identity, position in first.items() if identity]
    prompts = dataclasses.replace(
        flat,
        row_numbers=[flat.row_numbers[position] for position in kept],
        texts={
            name: [texts[name][position] for position in kept] for name in ("prompt_id", *described) if name in texts
        },
        numbers={},
    )
    return prompts, dataclasses.replace(flat, texts={name: texts[name] for name in ("prompt_id", "model")})
