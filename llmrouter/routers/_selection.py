"""The selection form of the neighbour router: which model was best how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import Neighbors, VectorIndex
from llmrouter.routers._base import Learned
from llmrouter.routers._calibration import MonotoneMaps
from llmrouter.routers._neighbours import NeighbourRouter
from llmrouter.types import FloatArray

_MOST_CALIBRATION = 2000
"""Training prompts whose neighbours are looked up to fit the maps; more are thinned out evenly."""


class KNNSelectRouter(NeighbourRouter):
    """Predict each model's outcome from the share of neighbours on which it was the best.

    The selection form of "Rethinking Predictive Modeling for LLM Routing" (arXiv 2505.12601): at a fixed trade-off
    every stored prompt names its best model, ``argmax (quality - lambda * cost)``, and a new prompt takes the most
    frequent one among its k neighbours. The paper calls the evaluation of this form less reliable: the trade-off is
    baked in at training, so a curve needs one router a point; and the label keeps only who was best and not by how
    much, so that on correctness data, where most prompts have many best models, it is mostly a matter of how ties
    are broken. (Programs that give a tie to the first model learn the order of the models.)

    Ours: ties share the vote; a prompt's vote counts among the models that were observed on it; vote shares are
    shrunk towards the model's overall share by `shrinkage` prompts; and a monotone map for each model, fitted on
    training prompts that do not vote for themselves, turns the share into expected quality, so that the router stands
    on the same cost-quality curve as the others. The trade-off is in `penalties` (lambda times the model's mean
    cost); none by default. In a log with one model a prompt every vote is unanimous and each model's mean remains.

    Standard errors combine that of the map with that of the vote share.

    A new model needs the embeddings of N scored prompts; its column is a Gaussian process over what the known models
    are expected to do (`add_column`). `partial_fit` appends votes and leaves the maps. Cost is left to ``knn``.

    Parameters
    ----------
    k : int
        Neighbours; cut to the number of training prompts.
    penalties : sequence of float, optional
        Subtracted from each model's outcome before the best is named, one for each model.
    shrinkage : float
        Weight of the model's overall share, in prompts.
    index : str
        Name of the vector index (registry kind ``index``) or ``auto``.
    """

    shares_index: ClassVar[bool] = False
    cost_router: ClassVar[str | None] = "knn"
    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"k": k} for k in (10, 40, 100, 200))

    def __init__(
        self,
        k: int = 100,
        *,
        penalties: Sequence[float] | None = None,
        shrinkage: float = 5.0,
        index: str = "auto",
    ) -> None:
        self.k = k
        self.penalties = penalties
        self.shrinkage = shrinkage
        self.index = index

    def fit_shared(self, index: VectorIndex, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Refuse: the maps need the embeddings themselves.

        Raises
        ------
        DataError
            Always.
        """
        del index, y, sample_weight
        raise DataError("knn-select cannot be fitted over an index alone, its maps need the embeddings; call fit")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0; got {self.shrinkage!r}")

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        if self.penalties is not None and np.shape(self.penalties) != (y.shape[1],):
            raise ConfigError(f"penalties must be {y.shape[1]} numbers, one for each model; got {self.penalties!r}")
        super()._learn(X, y, weight)
        rows = np.unique(np.linspace(0, len(X) - 1, min(len(X), _MOST_CALIBRATION)).astype(np.int64))
        found = self.index_.search(X[rows], self.k + 1)
        scores = self._shares(_without_itself(found, rows))[0]
        self.maps_ = MonotoneMaps.fit(scores, y[rows], weight[rows], upper=self.upper_)

    def _store(self, index: VectorIndex, y: FloatArray, weight: FloatArray) -> None:
        super()._store(index, y, weight)
        self.votes_ = _votes(y - (0.0 if self.penalties is None else np.asarray(self.penalties, dtype=np.float64)))
        observed = np.isfinite(y)
        total = weight @ observed
        summed = weight @ np.where(observed, self.votes_, 0.0)
        self.mean_share_ = np.where(total > 0, summed / np.where(total > 0, total, 1.0), 0.0)

    def _shares(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        """Return shrunk vote shares and their standard errors, each (n, m)."""
        ids = found.ids[:, : self.k]
        votes = self.votes_[ids]
        observed = np.isfinite(votes)
        weight = self.weight_[ids][:, :, None] * observed
        summed = (weight * np.where(observed, votes, 0.0)).sum(axis=1) + self.shrinkage * self.mean_share_
        total = weight.sum(axis=1) + self.shrinkage
        share = np.where(total > 0, summed / np.where(total > 0, total, 1.0), self.mean_share_)
        # A share is a mean of numbers in [0, 1]; one presumed prompt keeps a unanimous vote from being certain.
        variance = (total * share * (1.0 - share) + 0.25) / (total + 1.0)
        return share, np.sqrt(variance / np.maximum(total, 1.0))

    def _estimate_found(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        share, error = self._shares(found)
        mean, map_error = self.maps_.expected(share)
        rise = self.maps_.expected(share + error)[0] - self.maps_.expected(share - error)[0]
        return np.clip(mean, self.lower_, self.upper_), np.sqrt(map_error**2 + (0.5 * rise) ** 2)

    def _learned(self) -> Learned:
        arrays, values = super()._learned()
        return arrays | self.maps_.arrays(), values

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        self.maps_ = MonotoneMaps.from_arrays(arrays)


def _votes(utility: FloatArray) -> FloatArray:
    """Return each prompt's vote, shape (n, m), shared evenly by its best models; NaN where not observed."""
    observed = np.isfinite(utility)
    filled = np.where(observed, utility, -np.inf)
    best = observed & (filled == filled.max(axis=1, keepdims=True, initial=-np.inf))
    return np.where(observed, best / np.maximum(best.sum(axis=1, keepdims=True), 1), np.nan)


def _without_itself(found: Neighbors, rows: FloatArray) -> Neighbors:
    """Return the neighbours of stored prompts without the prompt itself (or the last one, where it was not found)."""
    other = found.ids != rows[:, None]
    other[other.all(axis=1), -1] = False
    shape = len(rows), found.ids.shape[1] - 1
    return Neighbors(found.ids[other].reshape(shape), found.similarities[other].reshape(shape))
