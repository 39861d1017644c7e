"""The columns of outcome files, and the frame that every file format is read into and written from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llmrouter.exceptions import DataError, RowError
from llmrouter.types import FloatArray

SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an outcome file.

    Attributes
    ----------
    name : str
        As written, and as named in a `Frame`.
    kind : {"text", "number"}
        Type of the values.
    required : bool
        Whether the file must have the column, and every row a value in it (for text: a non-empty one).
    aliases : tuple of str
        Other names under which it is read.
    low, high : float
        Bounds of a number, inclusive; `low_open` excludes the lower one.
    remedy : str
        What to do about a value out of bounds.
    """

    name: str
    kind: Literal["text", "number"]
    required: bool = False
    aliases: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    remedy: str = ""

    def complaint(self, value: float) -> str | None:
        """Return what is wrong with a number and how to mend it, or None if nothing is; NaN is "unknown"."""
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "is infinite; leave the field empty where the value is unknown"
        if value < self.low or (self.low_open and value == self.low):
            return f"is {'not above' if self.low_open else 'below'} {self.low:g}; {self.remedy}"
        if value > self.high:
            return f"is above {self.high:g}; {self.remedy}"
        return None


PROMPT_ID = Column("prompt_id", "text", required=True)

PROMPT_COLUMNS = (
    PROMPT_ID,
    Column("prompt", "text"),
    Column("query", "text"),
    Column("task", "text"),
    Column("split", "text", required=True),
)

NUMBER_COLUMNS = (
    Column(
        "quality",
        "number",
        aliases=("score",),
        low=0.0,
        high=1.0,
        remedy="quality lies in [0, 1]: rescale it",
    ),
    Column("cost_usd", "number", low=0.0, remedy="costs are US dollars per call: leave it empty where unknown"),
    Column("input_tokens", "number", low=0.0, remedy="leave it empty where unknown"),
    Column("output_tokens", "number", low=0.0, remedy="leave it empty where unknown"),
    Column(
        "propensity",
        "number",
        low=0.0,
        high=1.0,
        low_open=True,
        remedy="it is the probability with which the model was chosen, in (0, 1]",
    ),
    Column("weight", "number", low=0.0, remedy="weights are not negative: drop the row instead"),
)
NUMBERS: Mapping[str, Column] = {column.name: column for column in NUMBER_COLUMNS}

OUTCOME_COLUMNS = (PROMPT_ID, Column("model", "text", required=True), *NUMBER_COLUMNS)


@dataclass(frozen=True)
class Frame:
    """The known columns of one file, independent of its format.

    Attributes
    ----------
    source : str
        Name of the file, for messages.
    unit : {"row", "line"}
        What `row_numbers` counts.
    row_numbers : sequence of int, length n
        Where each row stands in the file, from 1.
    texts : mapping of column name to list of (str or None), length n
        Text columns that the file has.
    numbers : mapping of column name to float64 array of shape (n,)
        Number columns that the file has; NaN = no value.
    labels : mapping of column name to str
        What the file itself calls a column, where that differs.
    """

    source: str
    unit: str
    row_numbers: Sequence[int]
    texts: Mapping[str, list[str | None]]
    numbers: Mapping[str, FloatArray]
    labels: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row_numbers)

    def where(self, position: int) -> str:
        """Return the place of the row at `position`, e.g. ``outcomes.jsonl line 7``."""
        return f"{self.source} {self.unit} {self.row_numbers[position]}"

    def label(self, name: str) -> str:
        """Return what the file calls the column `name`."""
        return self.labels.get(name, name)


class Problems:
    """Collects what is wrong with rows, so that a user mends a file once and not row by row."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: str, message: str) -> None:
        """Note a problem of the row at `where`."""
        self.lines.append(f"{where}: {message}")

    def raise_if_any(self, source: str) -> None:
        """Raise `RowError` for `source` if a problem was noted."""
        if self.lines:
            raise RowError(source, self.lines)


def match_columns(present: Sequence[str], columns: Sequence[Column], *, source: str) -> dict[str, str]:
    """Return column name -> name in the file, for the columns that the file has.

    Raises
    ------
    DataError
        If a required column is missing, or one stands there under two names.
    """
    matched: dict[str, str] = {}
    for column in columns:
        names = [name for name in (column.name, *column.aliases) for _ in range(present.count(name))]
        if len(names) > 1:
            raise DataError(f"{source} has both {names[0]!r} and {names[1]!r}, which mean the same; keep one of them")
        if names:
            matched[column.name] = names[0]
        elif column.required:
            found = ", ".join(map(str, present)) or "none"
            raise DataError(f"{source} has no column {column.name!r}; it has: {found}")
    return matched


def is_integral(name: str, values: FloatArray) -> bool:
    """Return whether a column holds token counts that integers keep exactly (means over calls are fractions)."""
    known = values[~np.isnan(values)]
    exact = bool(((known == np.floor(known)) & (np.abs(known) <= 2**53)).all())
    return name.endswith("_tokens") and exact
