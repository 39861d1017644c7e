"""What the known models say about a new one: the Gaussian prior over its profile, and the posterior from few prompts.

A model's profile is a vector of p numbers: its expected outcome in each cluster, or its coefficients. The profiles of
the models known already are read as draws from one population::

    profile = centre + loadings . deviations + offset * level + local

with zero-mean Gaussian loadings, offset and local part. A few scored prompts move the new model's level first, then
its place among the known models, and only many give it a shape of its own: hierarchical shrinkage. How much of each is
weighed by the marginal likelihood of the scored prompts on a small grid.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmrouter.types import FloatArray

_LOADINGS = (0.03, 0.3, 1.0, 3.0)
_LOCALS = (0.01, 0.1, 1.0, 10.0, 100.0)
_USUAL_LOCAL = 0.1
_MOST_OBSERVATIONS = 400
"""More observations than this are thinned out evenly where settings are compared (in cubic time)."""


@dataclass(frozen=True)
class Population:
    """A prior over profiles.

    Attributes
    ----------
    centre : array of shape (p,)
        Mean profile, moved to the new model's scale where models differ by a factor.
    deviations : array of shape (p, q)
        Of the known profiles around it, divided by sqrt(q - 1).
    level : array of shape (p,)
        The direction in which a model is better or worse on every prompt alike.
    offset : float
        Prior variance along `level`.
    local : float
        Prior variance of an entry's own part, before the grid scales it.
    """

    centre: FloatArray
    deviations: FloatArray
    level: FloatArray
    offset: float
    local: float

    @classmethod
    def of(
        cls, profiles: FloatArray, means: FloatArray, level: FloatArray, *, noise: float, new_mean: float | None
    ) -> Self:
        """Describe the known models.

        Parameters
        ----------
        profiles : array of shape (p, m)
            Of the known models; columns with NaN are left out.
        means : array of shape (m,)
            Their mean outcomes.
        level : array of shape (p,)
            Direction of the level.
        noise : float
            Variance of one outcome of the new model; priors are never narrower than a small part of it.
        new_mean : float or None
            Mean outcome of the new model where models differ by a factor (tokens, dollars); None for qualities,
            where they differ by an offset.
        """
        known = np.isfinite(profiles).all(axis=0) & np.isfinite(means)
        profiles, means = profiles[:, known], means[known]
        if not known.any():
            mean = 0.5 if new_mean is None else new_mean
            return cls(level * mean, np.zeros((len(level), 0)), level, max(mean**2, noise), noise)
        if new_mean is not None:
            profiles = profiles / np.maximum(np.abs(means), 1e-12) * new_mean
            means = np.full(len(means), new_mean)
        centre = profiles.mean(axis=1)
        deviations = (profiles - centre[:, None]) / np.sqrt(max(profiles.shape[1] - 1, 1))
        between = float(means.var(ddof=1)) if len(means) > 1 else 0.0
        own = float((deviations**2).sum(axis=1).mean()) or float(centre.var())
        return cls(centre, deviations, level, max(between, 0.2 * noise), max(own, 1e-3 * noise))

    def covariance(self, loading: float, local: float) -> FloatArray:
        """Return the prior covariance, shape (p, p), with the loadings' and the local variance scaled."""
        covariance = loading * (self.deviations @ self.deviations.T) + self.offset * np.outer(self.level, self.level)
        covariance[np.diag_indices(len(covariance))] += local * self.local
        return np.asarray(covariance)

    def fitted_covariance(self, design: FloatArray, target: FloatArray, noise: FloatArray) -> FloatArray:
        """Return the prior covariance, shape (p, p), with scales averaged by how well they explain the observations.

        The average is geometric, over a small grid, weighted by marginal likelihood: of a few prompts the likelihood
        is nearly flat, and its peak would be a matter of luck.

        Parameters
        ----------
        design : array of shape (r, p)
            ``target = design @ profile + noise``.
        target, noise : array of shape (r,)
            Observations and their variances.
        """
        if len(design) > _MOST_OBSERVATIONS:
            pick = np.linspace(0, len(design) - 1, _MOST_OBSERVATIONS).astype(np.int64)
            design, target, noise = design[pick], target[pick], noise[pick]
        residual = target - design @ self.centre
        inner, along = (design @ self.deviations), design @ self.level
        parts = inner @ inner.T, self.offset * np.outer(along, along), self.local * (design @ design.T)
        settings = list(itertools.product(_LOADINGS, _LOCALS))
        evidence = np.empty(len(settings))
        for number, (loading, local) in enumerate(settings):
            factor = np.linalg.cholesky(loading * parts[0] + parts[1] + local * parts[2] + np.diag(noise))
            whitened = np.linalg.solve(factor, residual)
            likelihood = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(factor)).sum())
            # A factor of ten away from a tenth of the known models' spread is one standard deviation of its prior.
            evidence[number] = likelihood - 0.5 * np.log10(local / _USUAL_LOCAL) ** 2
        weight = np.exp(evidence - evidence.max())
        loading, local = np.exp(weight / weight.sum() @ np.log(settings))
        return self.covariance(float(loading), float(local))


def presumed_variance(mean: FloatArray, variance: FloatArray, upper: float) -> FloatArray:
    """Return the variance, shape (m,), that one more prompt is presumed to have.

    The observed `variance` where outcomes differ; else a quarter for outcomes in [0, 1] (the most possible), the
    squared mean for amounts: so many equal outcomes do not make certain, and costs in dollars that happen to lie in
    [0, 1] keep their scale.
    """
    unit = np.full(np.shape(mean), 0.25) if np.isfinite(upper) else np.maximum(np.nan_to_num(mean) ** 2, 1e-12)
    return np.where(np.nan_to_num(variance) > 0, variance, unit)


def prudent_variance(variance: FloatArray, mean: FloatArray, count: FloatArray, upper: float) -> FloatArray:
    """Return a variance (m,) over `count` prompts with one presumed prompt added: never 0, however equal they were."""
    return np.asarray((count * variance + presumed_variance(mean, variance, upper)) / (count + 1.0))
