"""Prompts and outcomes of a published benchmark, gathered cell by cell into a table."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.outcomes._calls import BadRowError, read_number
from llmrouter.outcomes._costs import fill_costs
from llmrouter.outcomes._identity import assign_split
from llmrouter.outcomes._schema import SPLITS, Problems
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import FloatArray, Price

_FIELDS = ("quality", "cost_usd", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class BenchmarkPrompt:
    """One prompt: what the router reads (None where the source has no text), its benchmark, its split (None = none)."""

    text: str | None
    task: str
    split: str | None = None


@dataclass(slots=True)
class BenchmarkGrid:
    """What the readers of benchmark files fill.

    Attributes
    ----------
    problems : Problems
        Bad rows and cells.
    skipped : Counter
        Reason -> outcomes left out for it.
    notes : list of str
        What a reader wants to be known about the result.
    seen : int
        Cells offered, good or bad.
    """

    problems: Problems = field(default_factory=Problems)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seen: int = 0
    _prompts: dict[str, BenchmarkPrompt] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)
    _models: dict[str, int] = field(default_factory=dict)
    _cell_rows: array[int] = field(default_factory=lambda: array("q"))
    _cell_models: array[int] = field(default_factory=lambda: array("q"))
    _values: tuple[array[float], ...] = field(default_factory=lambda: tuple(array("d") for _ in _FIELDS))

    def add_prompt(self, key: str, prompt: BenchmarkPrompt, *, where: str) -> bool:
        """Add a prompt that a source holds once; note a repeated or empty id, or an empty text, and return False."""
        if not key:
            self.problems.add(where, "the prompt's id is empty; give it a value")
        elif prompt.text is not None and not prompt.text.strip():
            self.problems.add(where, f"the prompt {key!r} is empty; a row needs the text that was sent")
        elif key in self._rows:
            self.problems.add(where, f"the prompt id {key!r} repeats an earlier row's; ids are unique: keep one")
        else:
            self._rows[key] = len(self._rows)
            self._prompts[key] = prompt
            return True
        return False

    def find_or_add(self, key: str, prompt: BenchmarkPrompt, *, where: str) -> bool:
        """Add a prompt that a source repeats with every outcome; note it and return False where its text changed."""
        known = self._prompts.get(key)
        if known is None:
            return self.add_prompt(key, prompt, where=where)
        if known == prompt:
            return True
        part = next(name for name in ("text", "task", "split") if getattr(known, name) != getattr(prompt, name))
        self.problems.add(
            where, f"the {part} of prompt {key!r} differs from that in an earlier row; give different prompts other ids"
        )
        return False

    def add_cell(self, key: str, model: str, values: Mapping[str, Any], *, where: str, label: str = "") -> None:
        """Add what one model did on a prompt; a bad value is noted, and nothing of its cell is kept.

        Parameters
        ----------
        key, model : str
            The prompt's id and the model's name.
        values : mapping of field to value
            quality, cost_usd, input_tokens, output_tokens; numbers, texts that hold one, or None (unknown).
        where, label : str
            Place of the row, and what to call the value there (default: the field).
        """
        self.seen += 1
        try:
            numbers = [_number(values.get(name), name, label) for name in _FIELDS]
        except BadRowError as error:
            self.problems.add(where, str(error))
            return
        self._cell_rows.append(self._rows[key])
        self._cell_models.append(self._models.setdefault(model, len(self._models)))
        for column, number in zip(self._values, numbers, strict=True):
            column.append(number)

    def table(
        self, *, name: str, prices: Mapping[str, Price], test_share: float, unpriced_zero: bool = False
    ) -> OutcomeTable:
        """Return the table; a row for each distinct (task, text) with at least one score.

        Parameters
        ----------
        name : str
            Of the table.
        prices : mapping of model to Price
            List prices; a cell with tokens and without cost is costed as tokens x price.
        test_share : float
            For prompts without a split of the source.
        unpriced_zero : bool
            A model whose every cost is 0 was not priced: make them NaN, and say so.

        Raises
        ------
        DataError
            If no outcome is left.
        """
        cells = self._arrays()
        rows = self._kept_rows(np.isfinite(cells["quality"]))
        if not len(rows):
            first = f" (first: {self.problems.lines[0]})" if self.problems.lines else ""
            raise DataError(f"{name}: no prompt has a score; there is nothing to learn from{first}")
        if unpriced_zero:
            self._unprice(cells["cost_usd"])
        keys = list(self._rows)
        prompts = [self._prompts[key] for key in keys]
        table = OutcomeTable(
            prompt_ids=tuple(keys),
            models=tuple(self._models),
            texts=tuple(prompt.text for prompt in prompts),
            tasks=tuple(prompt.task for prompt in prompts),
            splits=tuple(
                prompt.split or assign_split(key if prompt.text is None else prompt.text, test_share=test_share)
                for key, prompt in zip(keys, prompts, strict=True)
            ),
            propensity=np.where(np.isfinite(cells["quality"]), 1.0, np.nan),
            prices=tuple(prices.get(model) for model in self._models),
            name=name,
            **cells,
        ).select(rows)
        self._describe(table, [prompts[row] for row in rows])
        return fill_costs(table)

    def _arrays(self) -> dict[str, FloatArray]:
        """Return the cells as arrays; note the cells that an earlier one contradicts."""
        shape = (len(self._rows), len(self._models))
        at = (np.asarray(self._cell_rows, dtype=np.int64), np.asarray(self._cell_models, dtype=np.int64))
        arrays: dict[str, FloatArray] = {}
        repeated = len(at[0]) - len(np.unique(at[0] * max(shape[1], 1) + at[1]))
        if repeated:
            self.skipped["repeats the prompt and model of an earlier outcome"] += repeated
        for field_name, column in zip(_FIELDS, self._values, strict=True):
            arrays[field_name] = np.full(shape, np.nan)
            # Backwards, so that of several outcomes of one cell the first one stays.
            arrays[field_name][at[0][::-1], at[1][::-1]] = np.asarray(column, dtype=np.float64)[::-1]
        return arrays

    def _kept_rows(self, observed: npt.NDArray[np.bool_]) -> list[int]:
        """Return the scored rows, one for each task and text: a test row before a train row, then the first."""
        scored = np.asarray(observed.any(axis=1))
        unscored = int((~scored).sum())
        if unscored:
            self.skipped["prompt without any score"] += unscored
        chosen: dict[tuple[str, str], int] = {}
        prompts = list(self._prompts.values())
        for row in np.flatnonzero(scored).tolist():
            prompt = prompts[row]
            identity = (prompt.task, f"\0{row}" if prompt.text is None else prompt.text)
            other = chosen.setdefault(identity, row)
            if other != row:
                self.skipped["prompt that repeats another's text in its task"] += 1
                if prompt.split == "test" and prompts[other].split == "train":
                    chosen[identity] = row
        return sorted(chosen.values())

    def _unprice(self, costs: FloatArray) -> None:
        free = np.nanmax(costs, axis=0, initial=0.0) == 0.0
        names = [model for model, is_free in zip(self._models, free.tolist(), strict=True) if is_free]
        if names:
            costs[:, free] = np.nan
            self.notes.append(f"cost 0 throughout is not a price, so unknown: {len(names)} models ({', '.join(names)})")

    def _describe(self, table: OutcomeTable, prompts: list[BenchmarkPrompt]) -> None:
        counts = {split: table.splits.count(split) for split in SPLITS}
        given = sum(prompt.split is not None for prompt in prompts)
        origin = "assigned by a hash of the text" if not given else "the source's own"
        if 0 < given < len(prompts):
            origin = f"the source's own for {given} prompts, assigned by a hash of the text for the others"
        self.notes.insert(0, f"split: {counts['train']} train, {counts['test']} test, {origin}")
        observed, cells = int(table.observed.sum()), table.quality.size
        self.notes.insert(
            0, f"{len(table)} prompts in {len(set(table.tasks))} tasks, {len(table.models)} models, "
            f"{observed} of {cells} cells scored"
        )  # fmt: skip
        self.notes += [
            f"no prompt is in the {split} split; import the file that holds it too, or one without a split"
            for split, count in counts.items()
            if not count
        ]
        textless = sum(text is None for text in table.texts)
        if textless:
            self.notes.append(f"{textless} prompts have no text: only routers and bounds that read none can use them")


def note_missing_costs(table: OutcomeTable) -> tuple[str, ...]:
    """Return a note on the scored cells without a cost, if there are any."""
    missing = int((table.observed & ~np.isfinite(table.cost_usd)).sum())
    if not missing:
        return ()
    return (f"{missing} scored cells have no cost: the source has none, and tokens or list price are unknown",)


def _number(value: Any, name: str, label: str) -> float:
    """Return a value of a cell as a number, NaN where it is unknown; a verdict counts 1 or 0."""
    if value is None:
        return math.nan
    shown = name if not label else label if name == "quality" else f"{name} of {label}"
    number = read_number(float(value) if isinstance(value, bool) else value, name, label=shown)
    return math.nan if number is None else number
