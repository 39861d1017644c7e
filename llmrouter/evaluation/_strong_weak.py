"""RouteLLM's metrics of two models: how much of the gap between a weak and a strong one a share of strong calls closes.

A router gives every prompt a score; the prompts above a threshold go to the strong model. Moving the threshold gives a
curve of (share of strong calls, mean quality) from (0, weak) to (1, strong) [1]_.

References
----------
.. [1] Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data", arXiv:2406.18665.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray

_SAME_QUALITY = 1e-12


class StrongCalls(NamedTuple):
    """Points of a curve in ascending order of the share of strong calls, from 0 to 1; empty if a score is unknown.

    Attributes
    ----------
    share : array of shape (p,)
        Share of the prompts sent to the strong model.
    quality : array of shape (p,)
        Mean quality at that share.
    """

    share: FloatArray
    quality: FloatArray


def strong_calls(
    score: FloatArray, weak_quality: FloatArray, *, strong_quality: FloatArray, quantiles: int | None = None
) -> StrongCalls:
    """Return the curve of sending the prompts of the highest scores to the strong model.

    Parameters
    ----------
    score : array of shape (n,)
        Higher means rather the strong model; equal scores are never told apart.
    weak_quality, strong_quality : array of shape (n,)
        Outcomes of the two models on each prompt.
    quantiles : int, optional
        Thresholds at that many quantiles of the scores, as RouteLLM's code sets them (10); without it at every score.

    Raises
    ------
    DataError
        If the shapes differ.
    """
    score, weak_quality, strong_quality = (
        np.asarray(values, dtype=np.float64) for values in (score, weak_quality, strong_quality)
    )
    if score.ndim != 1 or not score.shape == weak_quality.shape == strong_quality.shape:
        raise DataError(
            "score, weak_quality and strong_quality must be 1-d of one length; got "
            f"{score.shape}, {weak_quality.shape}, {strong_quality.shape}"
        )
    if not score.size or not np.isfinite(np.concatenate([score, weak_quality, strong_quality])).all():
        return StrongCalls(np.empty(0), np.empty(0))
    ascending = np.argsort(score, kind="stable")
    gain = np.append(0.0, np.cumsum((strong_quality - weak_quality)[ascending][::-1]))
    edges = score if quantiles is None else np.quantile(score, np.linspace(0, 1, quantiles + 1))
    at_or_above = len(score) - np.searchsorted(score[ascending], np.unique(edges), side="left")
    # RouteLLM's code sends what is strictly above its last threshold, the maximum: nothing.
    inner = at_or_above if quantiles is None else at_or_above[:-1]
    counts = np.unique(np.concatenate([inner, [0, len(score)]]))
    return StrongCalls(counts / len(score), weak_quality.mean() + gain[counts] / len(score))


def performance_gap_recovered(quality: FloatArray, *, weak: float, strong: float) -> FloatArray:
    """Return PGR, the share of the gap between the weak and the strong model that is closed; NaN without a gap."""
    values = np.asarray(quality, dtype=np.float64)
    gap = strong - weak
    if not abs(gap) > _SAME_QUALITY:
        return np.full(values.shape, np.nan)
    return np.asarray((values - weak) / gap)


def apgr(curve: StrongCalls, *, weak: float, strong: float) -> float:
    """Return the average performance gap recovered: the mean of PGR over the share of strong calls.

    The trapezoid rule over the points of the curve, divided by the length of the shares they span, which is what
    RouteLLM's code does by normalising with two constant curves on the same grid. On the curve of all thresholds it is
    the exact integral; a random router has 0.5.

    Returns
    -------
    float
        NaN where the curve is empty or a single point, or the strong model is no better than the weak one.
    """
    if curve.share.size < 2 or not strong - weak > _SAME_QUALITY:
        return math.nan
    recovered = performance_gap_recovered(curve.quality, weak=weak, strong=strong)
    widths = np.diff(curve.share)
    return float((widths * (recovered[1:] + recovered[:-1])).sum() / 2 / widths.sum())


def call_performance_threshold(curve: StrongCalls, level: float, *, weak: float, strong: float) -> float:
    """Return CPT(level): the smallest share of strong calls, interpolated, at which PGR reaches `level`.

    RouteLLM's code interpolates the share over the quality, which has no meaning where the quality falls along the
    curve; here the first crossing counts. On a rising curve both agree.

    Returns
    -------
    float
        inf if never reached; NaN where `apgr` is.
    """
    if math.isnan(apgr(curve, weak=weak, strong=strong)):
        return math.nan
    recovered = performance_gap_recovered(curve.quality, weak=weak, strong=strong)
    reached = np.flatnonzero(recovered >= level - _SAME_QUALITY)
    if not reached.size:
        return math.inf
    first = int(reached[0])
    if first == 0:
        return float(curve.share[0])
    ends = slice(first - 1, first + 1)
    return float(np.interp(level, recovered[ends], curve.share[ends]))
