"""Logged calls to a table: equal prompts become one row, their models its columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmrouter.outcomes._calls import LoggedCall
from llmrouter.outcomes._identity import assign_split, prompt_id
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import Price

_AVERAGED = ("cost_usd", "input_tokens", "output_tokens", "propensity")


class CallCollector:
    """Gathers calls and averages those of the same prompt and model.

    Attributes
    ----------
    calls : int
        Calls added.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._rows: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        self._tasks: list[str | None] = []
        self._cells: dict[tuple[int, int], list[LoggedCall]] = {}

    def add(self, call: LoggedCall) -> None:
        """Add one call."""
        row = self._rows.setdefault(call.text, len(self._rows))
        if row == len(self._tasks):
            self._tasks.append(call.task)
        elif self._tasks[row] is None:
            self._tasks[row] = call.task
        column = self._columns.setdefault(call.model, len(self._columns))
        self._cells.setdefault((row, column), []).append(call)
        self.calls += 1

    @property
    def cells(self) -> int:
        """Distinct pairs of prompt and model."""
        return len(self._cells)

    @property
    def repeats(self) -> int:
        """Calls that repeat the prompt and model of another."""
        return self.calls - len(self._cells)

    def table(self, *, name: str, prices: Mapping[str, Price], test_share: float) -> OutcomeTable:
        """Return the table; rows and columns in order of first appearance."""
        shape = (len(self._rows), len(self._columns))
        arrays = {field: np.full(shape, np.nan) for field in ("quality", "weight", *_AVERAGED)}
        for cell, calls in self._cells.items():
            arrays["quality"][cell], arrays["weight"][cell] = _judged(calls)
            for field in _AVERAGED:
                arrays[field][cell] = _mean([getattr(call, field) for call in calls])
        weight = arrays.pop("weight")
        all_alike = bool((np.isnan(weight) | (weight == 1.0)).all())
        texts = tuple(self._rows)
        return OutcomeTable(
            prompt_ids=tuple(prompt_id(text) for text in texts),
            models=tuple(self._columns),
            texts=texts,
            tasks=tuple(self._tasks),
            splits=tuple(assign_split(text, test_share=test_share) for text in texts),
            prices=tuple(prices.get(model) for model in self._columns),
            name=name,
            weight=None if all_alike else weight,
            **arrays,
        )


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else np.nan


def _judged(calls: list[LoggedCall]) -> tuple[float, float]:
    """Return the weighted mean quality of the judged calls, and their total weight."""
    judged = [(call.quality, call.weight) for call in calls if call.quality is not None]
    total = sum(weight for _, weight in judged)
    if not total:
        return _mean([quality for quality, _ in judged]), 0.0 if judged else np.nan
    mean = sum(quality * weight for quality, weight in judged) / total
    return min(max(mean, 0.0), 1.0), total
