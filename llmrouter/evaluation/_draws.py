"""The draws of a protocol: their rows, their evaluation, and their figures gathered into cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._costs import CostAxis
from llmrouter.evaluation._evaluate import evaluate
from llmrouter.evaluation._protocol_result import Cell, ProtocolResult
from llmrouter.evaluation._provenance import log_test_look, table_hash, versions
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray

Rows = npt.NDArray[np.int64]
Routers = Sequence[str] | Mapping[str, str]
Figures = dict[str, dict[str, float]]

REFERENCES = ("best-single", "zero", "oracle")
MOST_FOLDS = 5


@dataclass
class Draws:
    """Evaluates draws and gathers their figures into cells."""

    protocol: str
    table: OutcomeTable
    X: FloatArray
    routers: Routers
    cost: CostAxis
    found: dict[tuple[int, str, str], tuple[list[float], list[int]]] = field(default_factory=dict)
    conditions: list[Mapping[str, Any]] = field(default_factory=list)
    overlaps: dict[int, float] = field(default_factory=dict)

    def evaluate(self, table: OutcomeTable, X: FloatArray, *, seed: int) -> Figures:
        """Return the figures of the routers, and of some references, on one draw."""
        result = evaluate(table, X, routers=self.routers, cost=self.cost, seed=seed, resamples=0)
        zero = result.routers["zero"].aiq
        # The Zero router is no choice of one model: its quality is the best point's, in hindsight.
        quality = {
            name: router.peak_quality if name == "zero" else float(router.curve.mean_quality[0])
            for name, router in result.routers.items()
        }
        return {
            name: {
                "aiq": router.aiq,
                "aiq_minus_zero": router.aiq - zero,
                "quality": quality[name],
                "quality_minus_best_single": quality[name] - quality["best-single"],
            }
            for name, router in result.routers.items()
            if router.kind not in ("baseline", "bound") or name in REFERENCES
        }

    def keep(self, condition: Mapping[str, Any], figures: Figures, *, seed: int, overlap: float = 0.0) -> None:
        """Add the figures of a draw to those of its condition."""
        if condition not in self.conditions:
            self.conditions.append(condition)
        place = self.conditions.index(condition)
        self.overlaps[place] = overlap
        for name, found in figures.items():
            for figure, value in found.items():
                values, seeds = self.found.setdefault((place, name, figure), ([], []))
                values.append(value)
                seeds.append(seed)

    def log_look(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        """Append one line for all draws to the log of looks at the test split."""
        if path is not None:
            log_test_look(path, {"protocol": self.protocol, "data": self.table.name, **self._settings(settings)})

    def result(self, settings: Mapping[str, Any]) -> ProtocolResult:
        """Return everything gathered, ordered by condition."""
        described = {
            "name": self.table.name,
            "sha256": table_hash(self.table),
            "prompts": len(self.table),
            "models": len(self.table.models),
        }
        cells = tuple(
            Cell(name, figure, self.conditions[place], tuple(values), tuple(seeds), self.overlaps[place])
            for (place, name, figure), (values, seeds) in sorted(self.found.items(), key=lambda item: item[0][0])
        )
        return ProtocolResult(self.protocol, described, cells, self._settings(settings), versions())

    def _settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        names = dict(self.routers) if isinstance(self.routers, Mapping) else list(self.routers)
        return {"routers": names, "cost": self.cost, **settings}


def check_rows(table: OutcomeTable, X: FloatArray) -> None:
    """Raise DataError unless X has a row for each prompt of the table."""
    if len(X) != len(table):
        raise DataError(f"X must have {len(table)} rows, one a prompt of the table; got {len(X)}")


def rows_of(table: OutcomeTable, split: str) -> Rows:
    """Return the rows of a split; raise DataError if there are none."""
    table.split(split)  # raises for a split without rows, naming those there are
    return np.flatnonzero(np.array(table.splits) == split)


def as_split(table: OutcomeTable, train: Rows, test: Rows) -> OutcomeTable:
    """Return the table of the train rows followed by the test rows, labelled so."""
    selected = table.select(np.concatenate([train, test]))
    return dataclasses.replace(selected, splits=("train",) * len(train) + ("test",) * len(test))


def stratified(table: OutcomeTable, rows: Rows, test_share: float, seed: int) -> tuple[Rows, Rows]:
    """Return train and test rows: of every task, `test_share` of its prompts, rounded, are tested on."""
    tasks = np.array(["" if table.tasks[row] is None else f"={table.tasks[row]}" for row in rows.tolist()])
    random = np.random.default_rng(seed)
    tested: list[int] = []
    for task in np.unique(tasks):
        of_task = random.permutation(rows[tasks == task])
        tested += of_task[: round(test_share * len(of_task))].tolist()
    test = np.sort(np.array(tested, dtype=np.int64))
    train = np.setdiff1d(rows, test)
    if not test.size or not train.size:
        raise DataError(
            f"{table.name or 'the table'}: test_share {test_share} of {len(rows)} prompts leaves {train.size} to train "
            f"and {test.size} to test on"
        )
    return train, test


def task_groups(
    tasks: npt.NDArray[np.str_], test: Rows, wanted: Sequence[str | Sequence[str]] | None
) -> list[tuple[str, ...]]:
    """Return the groups of tasks to hold out."""
    known = sorted(set(tasks.tolist()) - {""})
    if wanted is not None:
        groups = [(group,) if isinstance(group, str) else tuple(group) for group in wanted]
        unknown = sorted({task for group in groups for task in group} - set(known))
        if unknown or not groups:
            raise ConfigError(f"unknown task(s) {', '.join(unknown) or '(none given)'}; there are {', '.join(known)}")
        return groups
    counts = {task: int((tasks[test] == task).sum()) for task in known}
    tested = sorted((task for task in known if counts[task]), key=lambda task: (-counts[task], task))
    if len(known) < 2 or not tested:
        raise DataError(f"holding tasks out needs two tasks at least, and test prompts of one; there are {len(known)}")
    if len(tested) <= MOST_FOLDS:
        return [(task,) for task in sorted(tested)]
    bins: list[list[str]] = [[] for _ in range(MOST_FOLDS)]
    for task in tested:  # the largest first, each to the smallest group so far
        min(bins, key=lambda group: sum(counts[member] for member in group)).append(task)
    return [tuple(sorted(group)) for group in bins]
