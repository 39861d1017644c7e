"""k nearest neighbours over logged outcomes, in the utility form."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import Neighbors
from llmrouter.routers._neighbours import NeighbourRouter
from llmrouter.types import FloatArray


class KNNRouter(NeighbourRouter):
    """Predict each model's outcome as the mean over the k most similar stored prompts.

    The utility form of "Rethinking Predictive Modeling for LLM Routing" (arXiv 2505.12601) and RouterBench
    (arXiv 2403.12031): quality and cost are separate unweighted neighbour means, and the policy combines them. Small
    neighbourhoods are noisy, so the mean is shrunk towards the model's mean over all training prompts:
    ``(sum of observed neighbours + shrinkage * model mean) / (observed neighbours + shrinkage)``.

    The variance of the neighbourhood is shrunk towards the model's overall variance by ``shrinkage + 1`` prompts: a
    handful of equal outcomes does not make an estimate certain.

    Against outcomes that somebody planted (AgentPoison, arXiv 2407.12784: a few entries own a region where nobody else
    is) `trim` cuts the highest and the lowest outcomes off, and `cutoff` leaves out neighbours that are none: far from
    all training prompts the estimate is the model's mean. Of outcomes that are 0 or 1 trimming only widens the
    distance to the middle, which changes no order; it is for graded scores. Who sent an outcome is not known here; see
    `llmrouter.learning.TrustPolicy` for what is.

    A new model needs the embeddings of N scored prompts; its column is a Gaussian process over what the known models
    are expected to do (`add_column`). `partial_fit` appends prompts to the index.

    Parameters
    ----------
    k : int
        Neighbours; cut to the number of training prompts.
    shrinkage : float
        Weight of the model's own mean, in units of prompts; 0 is the plain neighbour mean.
    trim : float
        Share of the neighbours' weight cut off at each end, in [0, 0.5); outcomes in [0, 1] only, amounts are kept.
    cutoff : float
        Smallest cosine similarity of a neighbour, in [-1, 1]. Needs ``shrinkage`` > 0 to leave the mean gradually.
    index : str
        Name of the vector index (registry kind ``index``) or ``auto``.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"k": k, "shrinkage": shrinkage}
        for k, shrinkage in itertools.product((5, 10, 20, 40, 60, 100, 150, 200, 300), (0.0, 5.0, 20.0))
    )

    def __init__(
        self, k: int = 40, *, shrinkage: float = 0.0, trim: float = 0.0, cutoff: float = -1.0, index: str = "auto"
    ) -> None:
        self.k = k
        self.shrinkage = shrinkage
        self.trim = trim
        self.cutoff = cutoff
        self.index = index

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0; got {self.shrinkage!r}")
        if not 0 <= self.trim < 0.5:
            raise ConfigError(f"trim must be in [0, 0.5); got {self.trim!r}")
        if not -1 <= self.cutoff <= 1:
            raise ConfigError(f"cutoff must be a cosine similarity in [-1, 1]; got {self.cutoff!r}")

    def _mean(self, X: FloatArray) -> FloatArray:
        return self._shrunk_mean(*self._near(self._search(X)))

    def _near(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return outcomes and weights of the neighbours that count, each (n, k, m)."""
        values, weight = self._gather(found)
        if self.cutoff > -1:
            weight = weight * (found.similarities[:, : self.k, None] >= self.cutoff)
        if self.trim > 0 and np.isfinite(self.upper_):
            weight = trimmed(values, weight, self.trim)
        return values, weight

    def _estimate_found(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        values, weight = self._near(found)
        mean = self._shrunk_mean(values, weight)
        total = weight.sum(axis=1)
        squares = (weight * (values - mean[:, None, :]) ** 2).sum(axis=1)
        prior = self.shrinkage + 1.0
        variance = (squares + prior * self.variance_) / (total + prior)
        return mean, np.sqrt(variance / np.maximum(total + self.shrinkage, 1.0))

    def _shrunk_mean(self, values: FloatArray, weight: FloatArray) -> FloatArray:
        summed = (weight * values).sum(axis=1)
        strength = weight.sum(axis=1)
        if self.shrinkage:
            summed += self.shrinkage * np.nan_to_num(self.mean_)
            strength += self.shrinkage
        mean: FloatArray = np.where(strength > 0, summed / np.where(strength > 0, strength, 1.0), self.mean_)
        mean[:, ~np.isfinite(self.mean_)] = np.nan
        return mean


def trimmed(values: FloatArray, weight: FloatArray, share: float) -> FloatArray:
    """Return the weights (n, k, m) without the lowest and the highest `share` of each column's weight."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(weight, order, axis=1)
    after = np.cumsum(ordered, axis=1)
    total = after[:, -1:]
    left = np.minimum(after, (1.0 - share) * total) - np.maximum(after - ordered, share * total)
    kept = np.empty_like(weight)
    np.put_along_axis(kept, order, np.maximum(left, 0.0), axis=1)
    return kept
