"""Fit the acceptance score of the flows: two logistic regressions a model, with random sets of calls revealed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.flows._answers import AnswerModel, feature_names, logit, own_evidence, revealed_by
from llmrouter.flows._table import FlowTable
from llmrouter.types import FloatArray

# Random sets of calls a prompt, fewer on large tables: at most so many rows are fitted, if every prompt is seen once.
_REPEATS, _ROWS = 3, 20_000


def fit_answer_model(
    table: FlowTable, *, max_calls: int = 3, regularisation: float = 1.0, seed: int = 0
) -> AnswerModel:
    """Fit two logistic regressions a model, with random sets of up to `max_calls` calls revealed.

    Parameters
    ----------
    table : FlowTable
        n training prompts whose estimates were held out.
    max_calls : int
        Largest set of calls.
    regularisation : float
        Scikit-learn's C, the inverse of the penalty's strength.
    seed : int
        Of the sets of calls.

    Raises
    ------
    DataError
        If no quality was observed.
    """
    if not np.isfinite(table.quality).any():
        raise DataError("no quality was observed, so no acceptance score can be learned; add scored outcomes")
    base = _unfitted(table, revealed_by(table))
    random = np.random.default_rng(seed)
    repeats = max(1, min(_REPEATS, _ROWS // max(len(table), 1)))
    masks = [random_calls(random, table, max_calls=max_calls) for _ in range(repeats)]
    m = len(table.models)
    found = [[_regress(j, table, base, masks, regularisation, own=own) for j in range(m)] for own in (False, True)]
    weights = np.array([[each for _, each in side] for side in found])
    fitted = dataclasses.replace(
        base,
        intercept=np.array([[intercept for intercept, _ in side] for side in found]),
        logit_weights=weights[:, :, :m],
        std_weights=weights[:, :, m],
        evidence_weights=weights[:, :, m + 1 :].reshape(base.evidence_weights.shape),
    )
    return dataclasses.replace(fitted, movement=own_evidence(fitted, revealed_by(table)).std(axis=0))


def _regress(
    j: int,
    table: FlowTable,
    base: AnswerModel,
    masks: Sequence[npt.NDArray[np.bool_]],
    regularisation: float,
    *,
    own: bool,
) -> tuple[float, FloatArray]:
    """Return intercept and weights (m + 1 + m f,) of model j's regression, with its own call seen or not."""
    rows = np.flatnonzero(np.isfinite(table.quality[:, j]))
    revealed = revealed_by(table)[rows]
    logits = np.nan_to_num((logit(table.expected_quality[rows]) - base.logit_mean) / base.logit_scale)
    spread = np.nan_to_num((table.expected_std[rows, j] - base.std_mean[j]) / base.std_scale[j])
    blocks = []
    for mask in masks:
        called = mask[rows].copy()
        called[:, j] = own
        evidence = base.scaled_evidence(revealed, called).reshape(len(rows), base.evidence_mean.size)
        blocks.append(np.concatenate([logits, spread[:, None], evidence], axis=1))
    target = np.tile(table.quality[rows, j], len(masks))
    return _logistic(np.concatenate(blocks), target, regularisation / len(masks))


def random_calls(random: np.random.Generator, table: FlowTable, *, max_calls: int) -> npt.NDArray[np.bool_]:
    """Return a random set of up to `max_calls` calls for each prompt, (n, m) bool, among the observed outcomes."""
    shape = table.quality.shape
    size = random.integers(0, min(max_calls, shape[1]) + 1, size=(shape[0], 1))
    rank = random.random(shape).argsort(axis=1).argsort(axis=1)
    return np.asarray((rank < size) & np.isfinite(table.quality))


def _unfitted(table: FlowTable, revealed: FloatArray) -> AnswerModel:
    """Return a model with the standardisation of a table and weights of zero."""
    m, f = revealed.shape[1:]
    logit_mean, logit_scale = _standard(logit(table.expected_quality))
    std_mean, std_scale = _standard(table.expected_std)
    evidence_mean, evidence_scale = _standard(revealed)
    return AnswerModel(
        models=table.models,
        features=feature_names(table),
        logit_mean=logit_mean,
        logit_scale=logit_scale,
        std_mean=std_mean,
        std_scale=std_scale,
        evidence_mean=evidence_mean,
        evidence_scale=evidence_scale,
        intercept=np.zeros((2, m)),
        logit_weights=np.zeros((2, m, m)),
        std_weights=np.zeros((2, m)),
        evidence_weights=np.zeros((2, m, m, f)),
        movement=np.zeros(m),
    )


def _standard(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation along the first axis over what is known; 0 and 1 where nothing varies."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    scale = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    return mean, np.where(scale > 1e-9, scale, 1.0)


def _logistic(X: FloatArray, y: FloatArray, regularisation: float) -> tuple[float, FloatArray]:
    """Return intercept and weights (d,) of a logistic regression on targets in [0, 1].

    A score between 0 and 1 counts as that share of a good and the rest of a bad answer.
    """
    from sklearn.linear_model import LogisticRegression

    if len(y) == 0:
        return 0.0, np.zeros(X.shape[1])
    if y.min() == y.max():
        return float(logit(y[:1])[0]), np.zeros(X.shape[1])
    label = np.repeat([1, 0], len(y))
    weight = np.concatenate([y, 1 - y])
    used = weight > 0
    fitted = LogisticRegression(C=regularisation, solver="newton-cholesky", max_iter=200)
    fitted.fit(np.concatenate([X, X])[used], label[used], sample_weight=weight[used])
    return float(fitted.intercept_[0]), fitted.coef_[0]
