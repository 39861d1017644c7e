"""What a protocol found: one figure of one router under one condition, draw by draw."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.evaluation._format import number
from llmrouter.evaluation._plain import plain
from llmrouter.evaluation._text import format_table
from llmrouter.exceptions import DataError

FORMAT = "llmrouter-protocol/1"


@dataclass(frozen=True)
class Cell:
    """One figure of one router under one condition.

    Attributes
    ----------
    router : str
        As asked for.
    figure : str
        E.g. ``aiq``, ``aiq_minus_zero`` (paired within each draw), ``quality`` (at cost weight 0).
    condition : mapping of str to value
        What is varied, e.g. ``{"train_prompts": 100}``; JSON values.
    values : tuple of float
        One a draw; NaN where undefined.
    seeds : tuple of int
        Of the draws.
    overlap : float
        Test prompts by train prompts where draws are random splits of the same prompts, else 0.
    """

    router: str
    figure: str
    condition: Mapping[str, Any]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    overlap: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over the draws in which the figure is defined; NaN if there is none."""
        known = self._known()
        return float(np.mean(known)) if known else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN below two draws.

        Random splits share prompts, so their figures are correlated and the plain standard error is too small: the
        variance of the mean is then ``(1 / draws + test / train) x variance`` (Nadeau and Bengio, "Inference for the
        Generalization Error", Machine Learning 52, 2003).
        """
        known = self._known()
        if len(known) < 2:
            return math.nan
        return math.sqrt((1 / len(known) + self.overlap) * float(np.var(known, ddof=1)))

    def _known(self) -> list[float]:
        return [value for value in self.values if not math.isnan(value)]


@dataclass(frozen=True)
class ProtocolResult:
    """All figures of one protocol on one data set.

    Attributes
    ----------
    protocol : str
        ``splits``, ``new-models``, ``ood``, ``learning-curve`` or ``missing``.
    data : mapping
        Name and hash of the table, counts.
    cells : tuple of Cell
        In the order conditions, routers, figures.
    settings, versions : mapping
        How the figures were made.
    notes : tuple of str
        Things to know.
    """

    protocol: str
    data: Mapping[str, Any]
    cells: tuple[Cell, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def find(self, router: str, figure: str, **condition: Any) -> Cell:
        """Return the cell of a router and a figure whose condition holds the given values.

        Raises
        ------
        DataError
            If there is none, or more than one.
        """
        found = [
            cell
            for cell in self.cells
            if cell.router == router
            and cell.figure == figure
            and all(cell.condition.get(name) == value for name, value in condition.items())
        ]
        if len(found) != 1:
            raise DataError(f"{len(found)} figures {figure!r} of {router!r} under {condition}; give one condition")
        return found[0]


def protocol_as_json(result: ProtocolResult) -> dict[str, Any]:
    """Return the result as JSON values; what is NaN or infinite becomes null."""
    cells = [
        {
            "router": cell.router,
            "figure": cell.figure,
            "condition": cell.condition,
            "mean": cell.mean,
            "standard_error": cell.standard_error,
            "values": cell.values,
            "seeds": cell.seeds,
            "overlap": cell.overlap,
        }
        for cell in result.cells
    ]
    document: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "protocol": result.protocol,
            "data": result.data,
            "cells": cells,
            "settings": result.settings,
            "versions": result.versions,
            "notes": result.notes,
        }
    )
    return document


def write_protocol(result: ProtocolResult, folder: Path) -> Path:
    """Write ``protocol-<name>.json`` into a folder, made if absent, and return its path.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    path = folder / f"protocol-{result.protocol}.json"
    text = json.dumps(protocol_as_json(result), indent=1, allow_nan=False, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
    return path


def read_protocol(path: Path) -> ProtocolResult:
    """Read what `write_protocol` wrote, e.g. to show it in a report.

    Raises
    ------
    DataError
        If the file is missing, or is not such a file.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}, expected {FORMAT!r}")
        cells = tuple(
            Cell(
                router=cell["router"],
                figure=cell["figure"],
                condition=cell["condition"],
                values=tuple(math.nan if value is None else float(value) for value in cell["values"]),
                seeds=tuple(cell["seeds"]),
                overlap=float(cell["overlap"]),
            )
            for cell in document["cells"]
        )
        return ProtocolResult(
            document["protocol"],
            document["data"],
            cells,
            document["settings"],
            document["versions"],
            tuple(document["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not the result of a protocol ({error!r}); make one with llmrouter eval --protocol"
        ) from error


def format_protocol(result: ProtocolResult) -> str:
    """Return the result as a text table: a row for each condition and router, a column for each figure."""
    figures = list(dict.fromkeys(cell.figure for cell in result.cells))
    names = list(dict.fromkeys(name for cell in result.cells for name in cell.condition))
    rows: dict[tuple[str, ...], dict[str, Cell]] = {}
    for cell in result.cells:
        key = (*(_text(cell.condition.get(name)) for name in names), cell.router)
        rows.setdefault(key, {})[cell.figure] = cell
    header = [*(name.replace("_", " ") for name in names), "router", "draws", *figures]
    body = [
        [*key, str(max(len(cell.values) for cell in cells.values())), *(_figure(cells.get(name)) for name in figures)]
        for key, cells in rows.items()
    ]
    title = f"{result.data.get('name') or 'unnamed data'}, protocol {result.protocol}: mean +- standard error"
    return "\n".join([title, "", format_table(header, body), *(f"note: {note}" for note in result.notes)]) + "\n"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure(cell: Cell | None) -> str:
    if cell is None:
        return ""
    error = cell.standard_error
    return number(cell.mean) if math.isnan(error) else f"{number(cell.mean)} +- {number(error)}"
