"""Intervals of off-policy estimates from the influence of every row."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._off_policy_moments import Moments
from llmrouter.evaluation._off_policy_scores import Scores
from llmrouter.exceptions import ConfigError
from llmrouter.types import FloatArray

IntervalKind = Literal["auto", "student", "bootstrap", "bernstein"]
_FEWEST_FREEDOM = 4.0
_MOST_SHIFT = 1.0
"""In standard errors; where skewness asks for more, its first order says nothing any more."""
_RESAMPLES = 1000
_CHUNK = 100


def check_interval(kind: str, confidence: float) -> None:
    """Raise ConfigError unless kind and confidence are usable."""
    if kind not in get_args(IntervalKind):
        raise ConfigError(f"interval {kind!r} is unknown; one of {', '.join(get_args(IntervalKind))}")
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence must lie in [0.5, 1); got {confidence:g}")


def interval_of(
    scores: Scores,
    *,
    cluster: npt.NDArray[np.generic] | None,
    kind: IntervalKind,
    confidence: float,
    spread: float,
    largest: float,
    seed: int,
) -> tuple[float, float, float]:
    """Return standard error, low and high end.

    Parameters
    ----------
    scores : Scores
        The estimate.
    cluster : array of shape (n,), optional
        See `LoggedDecisions`.
    kind : str
        "auto": Student's t with the model-assisted variance and, for estimates that are means, a correction for
        skewness, where there are such moments; else "student". "student": the sample variance, with as many degrees
        of freedom as the kurtosis of the influences leaves. "bootstrap": studentised, over clusters. "bernstein": the
        empirical Bernstein bound of Maurer and Pontil (0907.3740), valid for every n if `largest` is, and wide.
    confidence : float
        Two-sided.
    spread, largest : float
        Range of the rewards; largest importance weight that can come up.
    seed : int
        Of the bootstrap.
    """
    if not math.isfinite(scores.value):
        return math.nan, math.nan, math.nan
    sums = _sums(scores.influence, cluster)
    groups, n = len(sums), len(scores.influence)
    sample = float(np.square(sums).sum()) / n**2 * (groups / (groups - 1) if groups > 1 else 1.0)
    moments = scores.moments
    if kind == "auto" and math.isfinite(moments.variance):
        error = math.sqrt(max(moments.variance, 0.0) * _design_effect(scores.influence, sums))
        half = student_quantile((1 + confidence) / 2, max(moments.freedom, _FEWEST_FREEDOM))
        shift = _skew_shift(moments, confidence)
        return error, scores.value - (half + shift) * error, scores.value + (half - shift) * error
    error = math.sqrt(sample)
    if kind == "bernstein":
        log_term = math.log(4 / (1 - confidence))  # two sides
        width = spread * max(largest, 1.0)
        half = math.sqrt(2 * sample * log_term) + 7 * width * log_term / (3 * max(groups - 1, 1))
        return error, scores.value - half, scores.value + half
    if kind == "bootstrap":
        low, high = _studentised(sums, confidence=confidence, seed=seed)
        return error, scores.value - high * error, scores.value - low * error
    half = student_quantile((1 + confidence) / 2, _freedom(sums)) * error
    return error, scores.value - half, scores.value + half


def _skew_shift(moments: Moments, confidence: float) -> float:
    """Return by how many standard errors both ends lie lower (Cornish and Fisher, to the first order in skewness).

    The error over its estimated standard error has mean ``-coupling / 2`` and third cumulant
    ``skewness - 3 * coupling``; for an ordinary sample mean both are the skewness, and this is Johnson's t (1978).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    third = moments.skewness - 3 * moments.coupling
    return float(np.clip(third * (z**2 - 1) / 6 - moments.coupling / 2, -_MOST_SHIFT, _MOST_SHIFT))


def student_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of Student's t by its expansion around the normal (Abramowitz and Stegun 26.7.5).

    Within 0.5% of the exact value from four degrees of freedom on, for probabilities up to 0.995.
    """
    z = NormalDist().inv_cdf(probability)
    v = freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / v + second / v**2 + third / v**3 + fourth / v**4


def _sums(influence: FloatArray, cluster: npt.NDArray[np.generic] | None) -> FloatArray:
    if cluster is None:
        return influence
    _, group = np.unique(cluster, return_inverse=True)
    return np.bincount(group.ravel(), weights=influence)


def _design_effect(influence: FloatArray, sums: FloatArray) -> float:
    """Return how much larger clusters make the variance than independent rows would, at least 1."""
    alone = float(np.square(influence).sum())
    together = float(np.square(sums).sum())
    return max(together / alone, 1.0) if alone > 0 else 1.0


def _freedom(sums: FloatArray) -> float:
    """Return the degrees of freedom of the sample variance, from the kurtosis: few where a few rows carry it."""
    squares = np.square(sums)
    total = float(squares.sum())
    if total <= 0:
        return _FEWEST_FREEDOM
    relative_variance = float(np.square(squares).sum()) / total**2 - 1 / len(sums)
    return max(2 / max(relative_variance, 1e-9), _FEWEST_FREEDOM)


def _studentised(sums: FloatArray, *, confidence: float, seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    groups = len(sums)
    centred = sums - sums.mean()
    ratios = []
    for start in range(0, _RESAMPLES, _CHUNK):
        size = min(_CHUNK, _RESAMPLES - start)
        drawn = centred[random.integers(0, groups, size=(size, groups))]
        deviation = drawn.std(axis=1) / math.sqrt(groups)
        ratios.append(np.divide(drawn.mean(axis=1), deviation, out=np.zeros(size), where=deviation > 0))
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high
