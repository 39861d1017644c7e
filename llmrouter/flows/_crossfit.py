"""Answer models whose scores are held out: each prompt is scored by a model that did not see it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.flows._answer_fit import fit_answer_model, random_calls
from llmrouter.flows._answers import AnswerModel, own_evidence, revealed_by
from llmrouter.flows._table import FlowTable
from llmrouter.types import FloatArray

FOLDS = 5
# Random sets of calls on which evidence is put to the test.
_TRIALS = 4
# Each model of the pool is tested twice: at one standard error several would pass by chance.
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class CrossFit:
    """One answer model fitted on all prompts, and one a fold.

    Attributes
    ----------
    model : AnswerModel
        Fitted on everything: to be used on new prompts.
    held_out : tuple of AnswerModel
        Fitted without the prompts of each fold.
    fold : array of shape (n,)
        Fold of each training prompt.
    """

    model: AnswerModel
    held_out: tuple[AnswerModel, ...]
    fold: npt.NDArray[np.int64]

    def score(self, table: FlowTable, *, called: npt.NDArray[np.bool_]) -> FloatArray:
        """Return held-out probabilities (n, m) that answers of the training table are good, see `AnswerModel.score`."""
        found = np.empty(table.quality.shape)
        revealed = revealed_by(table)
        for number, model in enumerate(self.held_out):
            rows = np.flatnonzero(self.fold == number)
            mask = called if called.ndim == 1 else called[rows]
            found[rows] = model.score(
                table.expected_quality[rows], table.expected_std[rows], revealed=revealed[rows], called=mask
            )
        return found

    def update(self, table: FlowTable, *, called: npt.NDArray[np.bool_]) -> FloatArray:
        """Return held-out updates (n, m) of the router's estimates, see `AnswerModel.update`."""
        found = np.empty(table.quality.shape)
        revealed = revealed_by(table)
        for number, model in enumerate(self.held_out):
            rows = np.flatnonzero(self.fold == number)
            mask = called if called.ndim == 1 else called[rows]
            found[rows] = model.update(table.expected_quality[rows], revealed=revealed[rows], called=mask)
        return found


def cross_fit(table: FlowTable, *, max_calls: int = 3, seed: int = 0) -> CrossFit:
    """Fit answer models in five folds and on everything; keep only evidence that helps on held-out prompts.

    What calls reveal is often worth nothing, and weights fitted to noise would pass for information: a flow would then
    pay for calls that tell it nothing. So for each predicted model the evidence of other models' calls, and then its
    own, is dropped unless it lowers the held-out log loss by more than two standard errors.

    Parameters
    ----------
    table : FlowTable
        n training prompts whose estimates were held out.
    max_calls : int
        Largest set of calls.
    seed : int
        Of folds and sets of calls.

    Raises
    ------
    DataError
        If no quality was observed.
    """
    n = len(table)
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    model = fit_answer_model(table, max_calls=max_calls, seed=seed)
    parts = [table.select(np.flatnonzero(fold != number)) for number in range(FOLDS)]
    held_out = tuple(
        fit_answer_model(part, max_calls=max_calls, seed=seed) if np.isfinite(part.quality).any() else model
        for part in parts
    )
    found = CrossFit(model, held_out, fold)
    level = _useful_evidence(found, table, max_calls=max_calls, seed=seed)
    return _restrict(found, table, level)


def _useful_evidence(found: CrossFit, table: FlowTable, *, max_calls: int, seed: int) -> npt.NDArray[np.int64]:
    """Return for each model whether to keep no evidence (0), that of its own calls (1), or all (2)."""
    random = np.random.default_rng(seed + 1)
    m = len(table.models)
    level = np.zeros(m, dtype=np.int64)
    losses = np.zeros((3, *table.quality.shape))
    own_only = _restrict(found, None, np.ones(m, dtype=np.int64))
    for _ in range(_TRIALS):
        called = random_calls(random, table, max_calls=max_calls)
        for candidate, judged in ((1, own_only), (2, found)):
            losses[candidate] += _log_loss(judged.update(table, called=called), table.quality) / _TRIALS
        losses[0] += _log_loss(table.expected_quality, table.quality) / _TRIALS
    for candidate in (1, 2):
        for j in range(m):
            gain = losses[level[j], :, j] - losses[candidate, :, j]
            gain = gain[np.isfinite(gain)]
            if len(gain) > 1 and gain.mean() > _STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)):
                level[j] = candidate
    return level


def _log_loss(probability: FloatArray, quality: FloatArray) -> FloatArray:
    p = np.clip(probability, 1e-3, 1 - 1e-3)
    return np.asarray(-(quality * np.log(p) + (1 - quality) * np.log(1 - p)))


def _restrict(found: CrossFit, table: FlowTable | None, level: npt.NDArray[np.int64]) -> CrossFit:
    """Return the fit with the evidence each model keeps, and (given the table) the held-out movement of each."""
    m = len(level)
    keep = (level[:, None] == 2) | ((level[:, None] == 1) & np.eye(m, dtype=bool))

    def cut(model: AnswerModel) -> AnswerModel:
        return dataclasses.replace(model, evidence_weights=model.evidence_weights * keep[:, :, None])

    held_out = tuple(cut(model) for model in found.held_out)
    restricted = CrossFit(cut(found.model), held_out, found.fold)
    if table is None:
        return restricted
    movement = _movement(restricted, table)
    return CrossFit(
        dataclasses.replace(restricted.model, movement=movement),
        tuple(dataclasses.replace(model, movement=movement) for model in held_out),
        found.fold,
    )


def _movement(found: CrossFit, table: FlowTable) -> FloatArray:
    """Return the standard deviation (m,) by which a model's own call moves its log-odds on held-out prompts."""
    revealed = revealed_by(table)
    moved = np.empty(table.quality.shape)
    for number, model in enumerate(found.held_out):
        rows = np.flatnonzero(found.fold == number)
        moved[rows] = own_evidence(model, revealed[rows])
    moved[np.isnan(table.quality)] = np.nan
    known = np.isfinite(moved)
    count = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, moved, 0.0).sum(axis=0) / count
    return np.asarray(np.sqrt(np.where(known, (moved - centre) ** 2, 0.0).sum(axis=0) / count))
