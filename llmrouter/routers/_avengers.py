"""Avengers and Avengers-Pro: the nearest few clusters speak together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import Learned
from llmrouter.routers._calibration import MonotoneMaps
from llmrouter.routers._cluster_router import ClusterRouter
from llmrouter.routers._clusters import cosines, nearest_clusters
from llmrouter.types import FloatArray, IntArray

Score = Literal["mean", "rank", "minmax"]
_RANK_OFFSET = 0.1


class _NearestClustersRouter(ClusterRouter):
    """Clusters nearest to the prompt, and the papers' own scores calibrated back to quality."""

    scoring: Score

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.scoring not in get_args(Score):
            raise ConfigError(f"scoring must be one of {', '.join(get_args(Score))}; got {self.scoring!r}")

    def _refine(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Fit the maps from score to outcome, each half of the prompts scored by the cluster means of the other."""
        if self.scoring == "mean" or not len(X):
            return
        sums = self.total_, self.first_, self.second_
        scores = np.empty(y.shape)
        half = np.arange(len(X)) % 2 == 0
        for scored in (half, ~half):
            self.total_, self.first_, self.second_ = (np.zeros_like(part) for part in sums)
            self._count(X[~scored], y[~scored], weight[~scored])
            self._refresh()
            scores[scored] = self._scores(*self._membership(cosines(X[scored], self.centroids_)))
        self.total_, self.first_, self.second_ = sums
        self._refresh()
        self.maps_ = MonotoneMaps.fit(scores, y, weight, upper=self.upper_)

    def _mixed(self, chosen: IntArray | None, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, std = super()._mixed(chosen, weight)
        if self.scoring == "mean" or not hasattr(self, "maps_"):
            return mean, std
        base = self._base
        expected, error = self.maps_.expected(self._scores(chosen, weight))
        observed = np.isfinite(mean[:, :base])
        mean[:, :base] = np.where(observed, np.clip(expected, self.lower_, self.upper_), np.nan)
        std[:, :base] = np.sqrt(std[:, :base] ** 2 + error**2)
        return mean, std

    def _scores(self, chosen: IntArray | None, weight: FloatArray) -> FloatArray:
        """Return the paper's score of the models known at fit, shape (n, m)."""
        table = np.nan_to_num(self.table_[:, : self._base], nan=-np.inf)
        scored = rank_score(table) if self.scoring == "rank" else minmax_score(table)
        return np.asarray((weight[:, :, None] * (scored[None] if chosen is None else scored[chosen])).sum(axis=1))

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        return arrays | (self.maps_.arrays() if hasattr(self, "maps_") else {}), values

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        if "map.values" in arrays:
            self.maps_ = MonotoneMaps.from_arrays(arrays)


class AvengersRouter(_NearestClustersRouter):
    """Mean outcomes of the nearest clusters, weighted by a softmax of their distances.

    "The Avengers" (arXiv 2505.19797): 64 k-means clusters; a prompt looks at its `top_clusters` = 3 nearest, weighted
    by ``p_c = softmax(-beta * cosine distance)`` over those three with beta = 6, and a model scores
    ``sum_c p_c / (rank_c + 0.1)`` with rank_c its place by accuracy in cluster c, counted from 0. (The paper then lets
    two models vote; that is a flow, not a router.)

    A router here is a regressor, so the estimate is the expected outcome ``sum_c p_c mean_c`` with shrunk cluster
    means. The paper's score keeps only the order of the models in a cluster: that the best is 0.5 points ahead weighs
    as much as 50 points, and no cost can be traded against it. It is offered as ``scoring="rank"``, mapped back to
    quality by a monotone map for each model, fitted on prompts whose own outcome did not enter the ranks.

    Standard errors are those of the cluster means, combined as independent (with that of the map added).

    A new model needs N scored prompts and no gradient: its cluster means are shrunk towards what the known models'
    say (`ClusterRouter`); under another score than ``mean`` its column is still the expected outcome, since ranks
    and ranges of the others must not move.

    Parameters
    ----------
    clusters : int
        K.
    top_clusters : int
        Clusters that speak.
    beta : float
        Sharpness of the softmax, >= 0.
    scoring : {"mean", "rank", "minmax"}
        Expected outcome, or one of the papers' scores calibrated.
    shrinkage : float or None
        Weight of the model's mean, in prompts; None estimates it.
    seed : int
        Of k-means++.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"clusters": count, "top_clusters": top} for count, top in ((25, 3), (64, 3), (64, 8), (120, 8))
    )

    def __init__(
        self,
        clusters: int = 64,
        *,
        top_clusters: int = 3,
        beta: float = 6.0,
        scoring: Score = "mean",
        shrinkage: float | None = None,
        seed: int = 0,
    ) -> None:
        self.clusters = clusters
        self.top_clusters = top_clusters
        self.beta = beta
        self.scoring = scoring
        self.shrinkage = shrinkage
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_top(self.top_clusters)
        if not self.beta >= 0:
            raise ConfigError(f"beta must be >= 0; got {self.beta!r}")

    def _membership(self, similarities: FloatArray) -> tuple[IntArray | None, FloatArray]:
        chosen = nearest_clusters(similarities, self.top_clusters)
        near = np.take_along_axis(similarities, chosen, axis=1)
        likely = np.exp(self.beta * (near - near[:, :1]))
        return chosen, likely / likely.sum(axis=1, keepdims=True)


class AvengersProRouter(_NearestClustersRouter):
    """Mean outcomes of the four nearest of sixty clusters, all speaking alike.

    "Avengers-Pro" (arXiv 2508.12631): 60 k-means clusters; the scores of the 4 nearest are added up, a cluster's score
    being ``alpha * p~ + (1 - alpha) * (1 - q~)`` with p~ and q~ the accuracy and the cost of the models, min-max
    normalised within the cluster; the largest score wins.

    A router here is a regressor of one quantity and the policy trades quality against cost, so the estimate is the
    mean of the four shrunk cluster means, of quality and of cost apart. The paper's p~ is offered as
    ``scoring="minmax"``, mapped back to quality by a monotone map for each model. Min-max normalising within a cluster
    gives every cluster the same say however little its models differ, which in small clusters makes noise as loud as
    signal; in the authors' program a missing cost counts as 0, which makes a model look free, and one dear model
    flattens the costs of the rest. Here nothing is normalised by default, small clusters are shrunk, and what is
    missing is left out.

    Standard errors are those of the cluster means, combined as independent (with that of the map added).

    A new model needs N scored prompts and no gradient: its cluster means are shrunk towards what the known models'
    say (`ClusterRouter`); under another score than ``mean`` its column is still the expected outcome.

    Parameters
    ----------
    clusters : int
        K.
    top_clusters : int
        Clusters that speak.
    scoring : {"mean", "rank", "minmax"}
        Expected outcome, or one of the papers' scores calibrated.
    shrinkage : float or None
        Weight of the model's mean, in prompts; None estimates it.
    seed : int
        Of k-means++.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"clusters": count, "top_clusters": top} for count, top in ((30, 4), (60, 4), (60, 10), (120, 10))
    )

    def __init__(
        self,
        clusters: int = 60,
        *,
        top_clusters: int = 4,
        scoring: Score = "mean",
        shrinkage: float | None = None,
        seed: int = 0,
    ) -> None:
        self.clusters = clusters
        self.top_clusters = top_clusters
        self.scoring = scoring
        self.shrinkage = shrinkage
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_top(self.top_clusters)

    def _membership(self, similarities: FloatArray) -> tuple[IntArray | None, FloatArray]:
        chosen = nearest_clusters(similarities, self.top_clusters)
        return chosen, np.full(chosen.shape, 1.0 / chosen.shape[1])


def rank_score(table: FloatArray) -> FloatArray:
    """Return ``1 / (rank + 0.1)`` of each model in each cluster, ranks from 0, for cluster means (K, m).

    Equal means share their mean rank, so that a tie is not decided by the order of the models.
    """
    above = (table[:, None, :] > table[:, :, None]).sum(axis=2)
    equal = (table[:, None, :] == table[:, :, None]).sum(axis=2)
    return np.asarray(1.0 / (above + 0.5 * (equal - 1) + _RANK_OFFSET))


def minmax_score(table: FloatArray) -> FloatArray:
    """Return cluster means (K, m) normalised to [0, 1] within each cluster; 0.5 where all are equal, 0 for -inf."""
    finite = np.isfinite(table)
    lowest = np.where(finite, table, np.inf).min(axis=1, keepdims=True)
    span = np.where(finite, table, -np.inf).max(axis=1, keepdims=True) - lowest
    apart = np.isfinite(span) & (span > 0)
    scaled = (np.where(finite, table, lowest) - np.where(apart, lowest, 0.0)) / np.where(apart, span, 1.0)
    return np.where(finite, np.where(apart, scaled, 0.5), 0.0)


def _check_top(top_clusters: int) -> None:
    if not isinstance(top_clusters, int | np.integer) or top_clusters < 1:
        raise ConfigError(f"top_clusters must be a whole number >= 1; got {top_clusters!r}")
