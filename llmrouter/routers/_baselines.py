"""Routers that do not look at the prompt (or do not learn): what every other router has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import BaseRouter, Learned, weighted_mean
from llmrouter.routers._population import prudent_variance
from llmrouter.types import FloatArray

_MOST_SHRINKAGE = 1e4


class BaselineRouter(BaseRouter):
    """Predicts one row for every prompt; subclasses choose the row from the models' means.

    The standard error is that of the mean, with one presumed prompt added so that equal outcomes do not make certain.

    A new model needs its outcomes on N scored prompts and not their embeddings: its mean is drawn towards the other
    models' by as many prompts as the variance of an outcome is times that between the models (empirical Bayes), and
    joins `mean_`.

    Attributes
    ----------
    mean_, std_ : arrays of shape (m,)
        Mean outcome of each model and its standard error; models that joined included.
    """

    cost_router: ClassVar[str | None] = "mean"

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        del X  # checked, and not used
        self.mean_ = weighted_mean(y, weight)
        count = weight @ np.isfinite(y)
        variance = weighted_mean((y - self.mean_) ** 2, weight)
        self.std_ = np.sqrt(prudent_variance(variance, self.mean_, count, self.upper_) / np.maximum(count, 1.0))

    def _new_column(self, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray) -> None:
        del X, own
        count, mean = float(weight.sum()), float(np.average(y, weights=weight))
        spread = np.asarray(np.average((y - mean) ** 2, weights=weight))
        variance = float(prudent_variance(spread, np.asarray(mean), np.asarray(count), self.upper_))
        known = self.mean_[np.isfinite(self.mean_)]
        strength = 0.0
        if len(known) > 1:
            strength = min(variance / max(float(known.var(ddof=1)), 1e-12), _MOST_SHRINKAGE)
            mean = (count * mean + strength * float(known.mean())) / (count + strength)
        self.mean_ = np.append(self.mean_, mean)
        self.std_ = np.append(self.std_, np.sqrt(variance / max(count + strength, 1.0)))
        self._fitted_models += 1

    def _row(self) -> FloatArray:
        return self.mean_

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        return np.tile(self._row(), (len(X), 1)), np.tile(self.std_, (len(X), 1))

    def _learned(self) -> Learned:
        return {"mean": self.mean_, "std": self.std_}, {}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del values, index
        self.mean_, self.std_ = arrays["mean"], arrays["std"]


class CheapestRouter(BaselineRouter):
    """Expects the same of every model, so that any cost weight (and the tie rule) picks the cheapest.

    A new model needs its outcomes on N scored prompts; it is expected to do the same as the others, which stay as
    they are.
    """

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        super()._learn(X, y, weight)
        known = np.isfinite(self.mean_)
        self.level_ = float(self.mean_[known].mean()) if known.any() else np.nan

    def _row(self) -> FloatArray:
        return np.where(np.isfinite(self.mean_), self.level_, np.nan)

    def _learned(self) -> Learned:
        return super()._learned()[0], {"level": self.level_ if np.isfinite(self.level_) else None}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        super()._restore(arrays, values, index)
        level = values["level"]
        self.level_ = np.nan if level is None else level


class MeanRouter(BaselineRouter):
    """Expects each model's training mean of every prompt; the natural cost estimator of the baselines.

    A new model needs its outcomes on N scored prompts: their mean, drawn towards the other models'.
    """


class BestSingleRouter(BaselineRouter):
    """Expects of the best model its training mean and nothing of the others: always the best single model.

    Chosen on the training prompts, never on the test prompts. A new model needs its outcomes on N scored prompts:
    their mean, drawn towards the other models'; where it is the highest, the new model takes over. Where the best
    model is dropped, the next best takes over.
    """

    def _row(self) -> FloatArray:
        there = np.zeros(len(self.mean_), dtype=bool)
        there[self.columns_[self.columns_ < len(there)]] = True
        candidates = np.where(there & np.isfinite(self.mean_), self.mean_, -np.inf)
        best = int(candidates.argmax())
        if not np.isfinite(candidates[best]):
            raise DataError("no model was observed on the training prompts; there is no best single model")
        row = np.where(np.isfinite(self.mean_), 0.0, np.nan)
        row[best] = self.mean_[best]
        return row


class RandomRouter(BaselineRouter):
    """Expects of every model a number drawn from [0, 1): a uniformly random choice at cost weight 0.

    The draw is a function of seed and embedding alone, so that it depends neither on the order of the prompts nor on
    their batch. A new model needs its outcomes on N scored prompts (for its standard error) and draws like the
    others, whose draws do not change.

    Parameters
    ----------
    seed : int
        Seed of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        models = len(self.mean_)
        rows = [
            np.random.default_rng([self.seed, *np.frombuffer(row.tobytes(), dtype=np.uint32)[:8].tolist()])
            for row in np.ascontiguousarray(X, dtype=np.float32)
        ]
        drawn = np.stack([generator.random(models) for generator in rows]) if rows else np.empty((0, models))
        return np.where(np.isfinite(self.mean_), drawn, np.nan), np.tile(self.std_, (len(X), 1))
