"""What to train on where only the chosen model's answer was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning._reward_model import DEFAULT_ROUTER, FOLDS, cross_fitted
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import BaseRouter, Router
from llmrouter.types import FloatArray

Missing = Literal["none", "direct", "ipw", "dr"]
MISSING: tuple[Missing, ...] = get_args(Missing)
MOST_WEIGHT = 20.0


@dataclass(frozen=True)
class Completion:
    """What a quality router is fitted on.

    Attributes
    ----------
    quality : array of shape (n, m)
        Outcomes, with pseudo-outcomes where the method makes them; NaN elsewhere.
    weight : array of shape (n,)
        Sample weights.
    clipped : int
        Rows whose inverse propensity was cut to the largest weight.
    """

    quality: FloatArray
    weight: FloatArray
    clipped: int = 0


def complete_arms(
    table: OutcomeTable,
    X: FloatArray,
    *,
    method: Missing,
    weight: FloatArray | None = None,
    router: str = DEFAULT_ROUTER,
    most_weight: float = MOST_WEIGHT,
    folds: int = FOLDS,
    seed: int = 0,
) -> Completion:
    """Make a one-sided log fit for training.

    Parameters
    ----------
    table : OutcomeTable
        n requests; NaN where not observed; propensities where the log has them.
    X : array of shape (n, d)
        Embeddings.
    method : {"none", "direct", "ipw", "dr"}
        "none": the router sees what was observed, and nothing else. "direct": what was not observed is filled with
        expectations of `router`, cross-fitted. "ipw": what was observed counts by its inverse propensity, so that a
        model's prompts stand for all prompts and not for those it is given; a model's weights sum to the number of
        its answers. "dr": every cell is the expectation, corrected by the weighted residual where it was observed
        (Dudik et al., arXiv 1103.4601).
    weight : array of shape (n,), optional
        How much each request counts, e.g. by the trust in its judgement.
    router : str
        Registry spec of the regressor that fills.
    most_weight : float
        Inverse propensities are cut here, >= 1: a bounded bias for much less variance. Pseudo-outcomes of "dr" lie
        outside [0, 1] all the same (cut there they would be those of "direct"), so that the router must be a regressor
        of any amounts; `fit_completed` sets the bounds of its estimates.
    folds, seed : int
        Of the cross-fitting.

    Raises
    ------
    ConfigError
        If the method is unknown or `most_weight` below 1.
    DataError
        If nothing was observed, or the method needs propensities and the log has none.
    """
    if method not in MISSING:
        raise ConfigError(f"missing must be one of {', '.join(MISSING)}; got {method!r}")
    if not most_weight >= 1:
        raise ConfigError(f"most_weight must be at least 1; got {most_weight!r}")
    observed = table.observed
    if not observed.any():
        raise DataError(f"{table.name or 'the table'} has no judged answer; nothing can be learned from it")
    once = np.ones(len(table)) if weight is None else np.asarray(weight, dtype=np.float64)
    if method == "none":
        return Completion(table.quality, once)
    known = observed & np.isfinite(table.propensity)
    if method in ("ipw", "dr") and not known.any():
        raise DataError(
            f"{table.name or 'the table'} has no propensities, which missing={method!r} needs; take 'direct' or 'none'"
        )
    raw = np.divide(1.0, table.propensity, out=np.ones(observed.shape), where=known)
    inverse = np.minimum(raw, most_weight)
    clipped = int((raw > most_weight).any(axis=1).sum())
    if method == "ipw":
        return Completion(table.quality, once * _normalised(inverse, observed), clipped)
    expected = cross_fitted(X, table.quality, router=router, weight=once, groups=table.texts, folds=folds, seed=seed)
    if method == "direct":
        return Completion(np.where(observed, table.quality, expected), once)
    residual = np.where(observed, table.quality - expected, 0.0)
    pseudo = expected + np.where(observed, inverse, 0.0) * residual
    return Completion(pseudo, once, clipped)


def _normalised(inverse: FloatArray, observed: FloatArray) -> FloatArray:
    """Return row weights: those of a model sum to the number of its answers."""
    weights = np.where(observed, inverse, 0.0)
    counts = observed.sum(axis=0)
    totals = weights.sum(axis=0)
    scaled = weights * np.divide(counts, totals, out=np.zeros(len(totals)), where=totals > 0)
    per_row: FloatArray = scaled.sum(axis=1) / np.maximum(observed.sum(axis=1), 1)
    return np.where(observed.any(axis=1), per_row, 1.0)


def fit_completed(router: Router, X: FloatArray, completed: Completion) -> Router:
    """Fit a quality router on completed outcomes; rows of weight 0 are left out, estimates are bounded by [0, 1]."""
    kept = completed.weight > 0
    router.fit(X[kept], completed.quality[kept], completed.weight[kept])
    if isinstance(router, BaseRouter):
        router.lower_, router.upper_ = max(router.lower_, 0.0), min(router.upper_, 1.0)
    return router
