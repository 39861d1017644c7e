"""Logs with one named value a column: CSV, and JSONL with flat rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmrouter.exceptions import DataError
from llmrouter.outcomes._calls import (
    QUALITY_KEYS,
    BadRowError,
    LoggedCall,
    ReadingOptions,
    read_number,
    read_quality,
)
from llmrouter.outcomes._chat import request_text
from llmrouter.outcomes._schema import Problems

# The first of these that has a value in the row is taken; `query` comes before `prompt` as in outcome files.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("query", "prompt", "question", "input", "messages", "text"),
    "model": ("model", "llm", "model_name"),
    "quality": QUALITY_KEYS,
    "cost_usd": ("cost_usd", "cost"),
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
    "cached_tokens": ("cached_tokens",),
    "propensity": ("propensity",),
    "weight": ("weight",),
    "task": ("task",),
}

_FIELD_LIMIT = 2**31 - 1


def check_mapping(columns: Mapping[str, str]) -> None:
    """Raise `DataError` if a key of `columns` is not a field of a logged call."""
    unknown = [name for name in columns if name not in FIELDS]
    if unknown:
        raise DataError(f"columns maps {unknown[0]!r}, which is not a field; the fields are {', '.join(FIELDS)}")


def check_header(present: Sequence[str], options: ReadingOptions, *, source: str) -> None:
    """Raise `DataError` if a mapped column, or every column for prompt or model, is missing."""
    found = ", ".join(present) or "none"
    for name, column in options.columns.items():
        if column not in present:
            raise DataError(f"{source} has no column {column!r}, mapped to {name!r}; it has: {found}")
    for name in ("prompt", "model"):
        if name in options.columns or (name == "model" and options.default_model):
            continue
        if not any(column in present for column in FIELDS[name]):
            raise DataError(
                f"{source} has no column for the {name} (looked for {', '.join(FIELDS[name])}); it has: {found}. "
                f"Name it, e.g. columns={{{name!r}: {present[0] if present else 'COLUMN'!r}}}"
            )


def read_named(record: Mapping[str, Any], options: ReadingOptions) -> LoggedCall:
    """Return the call of one row.

    Raises
    ------
    BadRowError, UnusableRowError
        If the row is wrong, or has no prompt text.
    """

    def label(name: str) -> str:
        if name in options.columns:
            return options.columns[name]
        return next((column for column in FIELDS[name] if record.get(column) not in (None, "")), name)

    def number(name: str, bounds_of: str | None = None) -> float | None:
        return read_number(record.get(label(name)), bounds_of or name, label=label(name))

    prompt = record.get(label("prompt"))
    if prompt in (None, ""):
        raise BadRowError(f"{label('prompt')} is empty; a row needs the text that was sent")
    model = options.model_name(record.get(label("model")))
    input_tokens, output_tokens = number("input_tokens"), number("output_tokens")
    cached = number("cached_tokens", "input_tokens") or 0.0
    weight = number("weight")
    task = record.get(label("task"))
    is_chat = isinstance(prompt, list) or label("prompt") == "messages"
    return LoggedCall(
        text=request_text({"messages" if is_chat else "prompt": prompt}, options.chat_text),
        model=model,
        quality=read_quality(record.get(label("quality")), label=label("quality"), bounds=options.quality_range),
        cost_usd=options.cost(number("cost_usd"), model, input_tokens, output_tokens, cached),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        propensity=number("propensity"),
        weight=1.0 if weight is None else weight,
        task=task if isinstance(task, str) and task else None,
    )


def read_csv(
    path: Path, options: ReadingOptions, problems: Problems, *, source: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place of its start, values by column) of a CSV (or ``.tsv``) file with a header.

    Raises
    ------
    DataError
        If the file cannot be read as UTF-8 CSV, or lacks the columns for prompt and model.
    """
    try:
        with long_fields(), path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
            header = [name.strip() for name in next(rows, [])]
            repeated = {name for name in header if header.count(name) > 1}
            if repeated:
                raise DataError(f"{source} has the column {sorted(repeated)[0]!r} twice; rename one of them")
            check_header(header, options, source=source)
            place = f"{source} line {rows.line_num + 1}"
            for values in rows:
                if values and len(values) != len(header):
                    expected = f"under a header of {len(header)}; quote fields that hold commas"
                    problems.add(place, f"{len(values)} fields {expected}")
                elif values:
                    yield place, dict(zip(header, values, strict=True))
                place = f"{source} line {rows.line_num + 1}"
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not CSV in UTF-8 ({error}); export it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its permissions") from error


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the csv module's limit on a field: it is process-wide, and smaller than a long prompt."""
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)
