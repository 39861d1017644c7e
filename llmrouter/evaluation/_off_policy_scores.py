"""Off-policy estimators as sums over logged decisions: each a value and the influence of every row on it.

A *contrast* C (n, m) is what the models' expected rewards are weighted with: the target's probabilities, or those of
the target less those of another policy. Its value is the mean of ``sum_a C_ia E[reward | prompt i, model a]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llmrouter.evaluation._logged_decisions import LoggedDecisions
from llmrouter.evaluation._off_policy_moments import Moments, assisted
from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray, IntArray

_GRID = 24


@dataclass(frozen=True)
class Scores:
    """One estimate.

    Attributes
    ----------
    value : float
        The estimate.
    influence : array of shape (n,)
        How each row moves it; means zero, the row weights are in it.
    moments : Moments
        Of `value`, model-assisted; its variance is NaN where the log lacks the propensities that it needs.
    threshold : float
        Largest importance weight used; inf for all but switch-DR.
    bias_bound : float
        The most that ignoring larger weights can move the value.
    """

    value: float
    influence: FloatArray
    moments: Moments
    threshold: float = np.inf
    bias_bound: float = 0.0


@dataclass(frozen=True)
class Contrast:
    """A contrast on usable logged decisions, with what all estimators need of it.

    `log` holds n usable rows, `weights` are the contrast's (n, m), `model` the expected rewards (n, m) or None. `sides`
    are the contrasts of the two policies whose difference it is, None for that of one policy.
    """

    log: LoggedDecisions
    weights: FloatArray
    model: FloatArray | None = None
    sides: tuple[Contrast, Contrast] | None = None

    @cached_property
    def rows(self) -> IntArray:
        """Row numbers, shape (n,)."""
        return np.arange(len(self.log))

    @cached_property
    def share(self) -> FloatArray:
        """Weight of each row in means, shape (n,), mean 1."""
        if self.log.weight is None:
            return np.ones(len(self.log))
        share: FloatArray = self.log.weight / self.log.weight.mean()
        return share

    @cached_property
    def importance(self) -> FloatArray:
        """Contrast over propensity of the model that was asked, shape (n,)."""
        ratio: FloatArray = self.weights[self.rows, self.log.chosen] / self.log.propensity
        return ratio

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where every model's propensity is known, shape (n,)."""
        if self.log.propensities is None:
            return np.zeros(len(self.log), dtype=bool)
        return np.asarray(np.isfinite(self.log.propensities).all(axis=1), dtype=bool)

    @cached_property
    def all_ratios(self) -> FloatArray:
        """Size of contrast over propensity of every model, (known rows, m); 0 where it cannot have been asked."""
        if self.log.propensities is None:
            raise DataError("the log does not hold every model's propensity")
        full = self.log.propensities[self.known]
        size = np.abs(self.weights[self.known])
        ratios: FloatArray = np.divide(size, full, out=np.zeros_like(full), where=full > 0)
        return ratios

    @cached_property
    def entries(self) -> Mapping[int, tuple[IntArray, FloatArray, FloatArray]]:
        """Positive (1) and negative (-1) entries on known rows: row among these, size over propensity, and size."""
        found = {}
        for sign in (1, -1):
            size = np.maximum(sign * self.weights[self.known], 0.0)
            row, column = np.nonzero((size > 0) & (self.all_ratios > 0))
            found[sign] = (row, self.all_ratios[row, column], size[row, column])
        return found

    @cached_property
    def expected(self) -> FloatArray:
        """The contrast's value in the reward model, row by row, shape (n,)."""
        if self.model is None:
            return np.zeros(len(self.log))
        value: FloatArray = (self.weights * self.model).sum(axis=1)
        return value

    @cached_property
    def residual(self) -> FloatArray:
        """Reward less what the model expected of it, shape (n,)."""
        if self.model is None:
            return self.log.reward
        left: FloatArray = self.log.reward - self.model[self.rows, self.log.chosen]
        return left

    def mean(self, values: FloatArray) -> float:
        """Return the weighted mean of row values."""
        return float((self.share * values).mean())


def inverse_propensity(contrast: Contrast) -> Scores:
    """Return the IPS estimate: the mean of importance weight times reward (Horvitz and Thompson)."""
    scored = contrast.importance * contrast.log.reward
    value = contrast.mean(scored)
    moments = assisted(contrast, contrast.log.reward, np.zeros(len(scored)))
    moments = replace(moments, variance=moments.variance - value**2 / len(scored))
    return Scores(value, contrast.share * (scored - value), moments)


def doubly_robust(contrast: Contrast) -> Scores:
    """Return the DR estimate: the model's expectation, corrected by weighted residuals (Dudik et al., 1103.4601)."""
    scored = contrast.expected + contrast.importance * contrast.residual
    value = contrast.mean(scored)
    moments = assisted(contrast, contrast.residual, contrast.expected)
    return Scores(value, contrast.share * (scored - value), moments)


def self_normalised(contrast: Contrast, *, robust: bool) -> Scores:
    """Return SNIPS (Swaminathan and Joachims 2015), or with `robust` the self-normalised DR, of one policy.

    Weighted rewards (residuals) are divided by the mean importance weight, which is 1 in expectation.
    """
    weight = contrast.importance
    norm = contrast.mean(weight)
    if not norm > 0:  # no logged decision is one that the policy would make
        return Scores(np.nan, np.full(len(weight), np.nan), Moments(np.nan))
    amount = contrast.residual if robust else contrast.log.reward
    expected = contrast.expected if robust else np.zeros(len(weight))
    ratio = contrast.mean(weight * amount) / norm
    base = contrast.mean(expected)
    influence = contrast.share * (expected - base + weight * (amount - ratio) / norm)
    return Scores(base + ratio, influence, _unskewed(assisted(contrast, amount - ratio, expected)))


def self_normalised_difference(target: Contrast, baseline: Contrast, between: Contrast, *, robust: bool) -> Scores:
    """Return the difference of two self-normalised estimates on the same rows."""
    first, second = self_normalised(target, robust=robust), self_normalised(baseline, robust=robust)
    amount = between.residual if robust else between.log.reward
    centre = 0.0 if robust else (first.value + second.value) / 2
    expected = between.expected if robust else np.zeros(len(amount))
    moments = _unskewed(assisted(between, amount - centre, expected))
    return Scores(first.value - second.value, first.influence - second.influence, moments)


def _unskewed(moments: Moments) -> Moments:
    """Return them without skewness: that of the sums is not that of their ratio, which takes much of it away."""
    return replace(moments, skewness=0.0, coupling=0.0)


def switch(contrast: Contrast) -> Scores:
    """Return the switch-DR estimate (Wang et al., 1612.01205).

    Residuals correct the model only where the importance weight is at most a threshold; elsewhere the model alone
    speaks. The threshold is the one of least estimated variance plus squared bound of the bias, in which a reward is
    wrong by its whole range.
    """
    spread = float(contrast.log.reward.max() - contrast.log.reward.min())
    size = np.abs(contrast.importance)
    best, least = None, np.inf
    for threshold in _thresholds(contrast):
        kept = np.where(size <= threshold, contrast.importance, 0.0)
        scored = contrast.expected + kept * contrast.residual
        value = contrast.mean(scored)
        bound = spread * _mass_beyond(contrast, threshold)
        moments = assisted(contrast, contrast.residual, contrast.expected, threshold=threshold)
        influence = contrast.share * (scored - value)
        used = float(influence.var()) / len(influence) if np.isnan(moments.variance) else moments.variance
        if used + bound**2 < least:
            best, least = Scores(value, influence, moments, threshold, bound), used + bound**2
    if best is None:
        raise DataError("no threshold gives a finite switch-DR estimate; check the rewards and the model for NaN")
    return best


def _thresholds(contrast: Contrast) -> list[float]:
    ratios = contrast.all_ratios if contrast.known.any() else np.abs(contrast.importance)
    ratios = ratios[ratios > 0]
    if not ratios.size:
        return [np.inf]
    grid = np.unique(np.quantile(ratios, np.linspace(0.0, 1.0, _GRID)))
    return [np.inf, *grid[::-1].tolist()[1:], 0.0]  # of equals the one that ignores least


def _mass_beyond(contrast: Contrast, threshold: float) -> float:
    """Return how much of the contrast has larger weights: exactly where the log says all, else estimated."""
    if contrast.known.any():
        size = np.abs(contrast.weights[contrast.known])
        return float(np.where(contrast.all_ratios > threshold, size, 0.0).sum(axis=1).mean())
    size = np.abs(contrast.importance)
    return contrast.mean(np.where(size > threshold, size, 0.0))
