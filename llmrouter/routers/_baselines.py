"""Routers that do not look at the prompt (or do not learn): what every other router has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import BaseRouter, weighted_mean
from llmrouter.types import FloatArray


class _ConstantRouter(BaseRouter):
    """Predicts one row for every prompt; subclasses choose the row from the models' means."""

    def fit(self, X: FloatArray, y: FloatArray, sample_weight: FloatArray | None = None) -> Self:
        """Learn each model's mean outcome; X (n, d) is checked and not used."""
        X, y, weight = self._check_fit(X, y, sample_weight)
        self.mean_ = weighted_mean(y, weight)
        count = np.maximum(np.isfinite(y).sum(axis=0), 1)
        self.std_ = np.sqrt(weighted_mean((y - self.mean_) ** 2, weight) / count)
        return self

    def _row(self) -> FloatArray:
        return self.mean_

    def predict(self, X: FloatArray) -> FloatArray:
        """Return the same row for each prompt, shape (n, m)."""
        X = self._check_predict(X)
        return np.tile(self._row(), (len(X), 1))

    def predict_std(self, X: FloatArray) -> FloatArray:
        """Return the standard error of each model's mean, shape (n, m)."""
        X = self._check_predict(X)
        return np.tile(self.std_, (len(X), 1))

    def state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Return (arrays, JSON values)."""
        arrays = {"mean": self.mean_, "std": self.std_}
        return arrays, {"parameters": self.get_params(), "n_features_in": self.n_features_in_}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], *, index: VectorIndex | None = None
    ) -> Self:
        """Rebuild a fitted router from `state()`; `index` is not used."""
        del index
        router = cls(**values["parameters"])
        router.mean_, router.std_ = arrays["mean"], arrays["std"]
        router.n_features_in_, router.n_models_ = values["n_features_in"], len(router.mean_)
        return router


class CheapestRouter(_ConstantRouter):
    """Expects the same of every model, so that any cost weight (and the tie rule) picks the cheapest."""

    def _row(self) -> FloatArray:
        return np.where(np.isfinite(self.mean_), np.nanmean(self.mean_), np.nan)


class MeanRouter(_ConstantRouter):
    """Expects each model's training mean of every prompt; the natural cost estimator of the baselines."""


class BestSingleRouter(_ConstantRouter):
    """Expects of the best model its training mean and nothing of the others: always the best single model.

    Chosen on the training prompts, never on the test prompts.
    """

    def _row(self) -> FloatArray:
        if not np.isfinite(self.mean_).any():
            raise DataError("no model was observed on the training prompts; there is no best single model")
        best = int(np.nanargmax(self.mean_))
        row = np.where(np.isfinite(self.mean_), 0.0, np.nan)
        row[best] = self.mean_[best]
        return row


class RandomRouter(_ConstantRouter):
    """Expects of every model a number drawn from [0, 1): a uniformly random choice at cost weight 0.

    The draw is a function of seed and embedding alone, so that it depends neither on the order of the prompts nor on
    their batch.

    Parameters
    ----------
    seed : int
        Seed of the draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def predict(self, X: FloatArray) -> FloatArray:
        """Return one draw per prompt and model, shape (n, m)."""
        X = self._check_predict(X)
        rows = [
            np.random.default_rng([self.seed, *np.frombuffer(row.tobytes(), dtype=np.uint32)[:8].tolist()])
            for row in np.ascontiguousarray(X, dtype=np.float32)
        ]
        drawn = (
            np.stack([generator.random(self.n_models_) for generator in rows])
            if rows
            else np.empty((0, self.n_models_))
        )
        return np.where(np.isfinite(self.mean_), drawn, np.nan)
