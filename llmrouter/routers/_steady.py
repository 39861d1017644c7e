"""Take the luck of the draw out of a new model's scores, by what the known models did on the same prompts."""

from __future__ import annotations

import numpy as np

from llmrouter.types import FloatArray

_PRIOR_PROMPTS = 20.0
_LEAST = 1e-12


def steadied(y: FloatArray, weight: FloatArray, known: FloatArray, expected: FloatArray) -> FloatArray:
    """Return a new model's outcomes less what is explained by how hard the prompts turned out to be.

    Known models' residuals (outcome less expectation) have mean zero over all prompts, and correlate with the new
    model's: a prompt on which most known models fail against expectation is hard in a way that its embedding does not
    show. They are control variates: ``y - residuals . beta`` has the same expectation as y at every embedding and less
    variance. ``beta`` is fitted by ridge regression around the mean of the known models' own such coefficient, beside
    an intercept and the known models' mean expectation.

    Parameters
    ----------
    y : array of shape (N,)
        Outcomes of the new model.
    weight : array of shape (N,)
        Weights > 0.
    known, expected : array of shape (N, m)
        Outcomes of the known models, NaN where not observed, and what the router expects of them.

    Returns
    -------
    array of shape (N,)
        May leave [0, 1].
    """
    unit = np.maximum(np.abs(np.nanmean(np.where(np.isfinite(expected), expected, np.nan), axis=0)), _LEAST)
    own_unit = max(abs(float(np.average(y, weights=weight))), _LEAST)
    residual = np.nan_to_num((known - expected) / unit)
    usable = (residual**2).sum(axis=0) > _LEAST
    if not usable.any():
        return y
    residual = residual[:, usable]
    level = np.nan_to_num(expected / unit)[:, usable].mean(axis=1)
    design = np.stack([np.ones(len(y)), level], axis=1)
    root = np.sqrt(weight)[:, None]
    prior = np.full(residual.shape[1], _typical_slope(residual) / residual.shape[1])
    strength = _PRIOR_PROMPTS * float((residual**2).mean())
    target = y / own_unit - residual @ prior
    columns = np.concatenate([design, residual], axis=1) * root
    penalty = np.diag([_LEAST, 1e-3 * strength, *np.full(residual.shape[1], strength)])
    slopes = np.linalg.solve(columns.T @ columns + penalty, columns.T @ (target * root[:, 0]))
    explained: FloatArray = residual @ (slopes[2:] + prior)
    return np.asarray(y - own_unit * explained)


def _typical_slope(residual: FloatArray) -> float:
    """Return the mean slope of one known model's residual on the mean residual of the others; 0 for a single model."""
    models = residual.shape[1]
    if models < 2:
        return 0.0
    others = (residual.sum(axis=1, keepdims=True) - residual) / (models - 1)
    slope = (others * residual).sum(axis=0) / np.maximum((others**2).sum(axis=0), _LEAST)
    return float(np.clip(slope.mean(), 0.0, 1.0))
