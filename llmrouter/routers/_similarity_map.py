"""From similarities to expected outcomes: one small Bayesian regression a model, drawn towards what all have in common.

A contrastive loss sees only how similarities of one prompt differ between models; adding a number to all of them
changes nothing. So a model's expected outcome is regressed on how far its similarity lies above the mean of the
prompt's, and on that mean, which may or may not say how hard the prompt is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmrouter.routers._population import presumed_variance
from llmrouter.types import FloatArray

_PRIOR_PROMPTS = 50.0
"""Prompts that the common slope is worth beside a model's own outcomes, features at unit spread."""
_RIDGE = 1e-6


@dataclass(frozen=True)
class SimilarityMap:
    """Linear maps, one a model.

    Attributes
    ----------
    centre, spread : array of shape (2,)
        Of the two features over the prompts of `fit`, all models together.
    slope : array of shape (2,)
        The common slopes, in units of `scale`.
    coefficients : array of shape (m, 3)
        Level and two slopes of each model; NaN for a model without outcomes.
    precision : array of shape (m, 3, 3)
        Of the coefficients, in units of the noise.
    noise : array of shape (m,)
        Variance of one outcome.
    scale : array of shape (m,)
        1 for qualities; a model's mean for amounts, which differ by factors.
    """

    centre: FloatArray
    spread: FloatArray
    slope: FloatArray
    coefficients: FloatArray
    precision: FloatArray
    noise: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, similarity: FloatArray, y: FloatArray, weight: FloatArray, *, upper: float) -> Self:
        """Fit to similarities (n, m), outcomes y (n, m) with NaN and weights (n,); `upper` bounds the outcomes."""
        models = y.shape[1]
        raw = _features(similarity, similarity.mean(axis=1))
        seen = np.isfinite(y)
        share = weight[:, None] * seen
        total = max(float(share.sum()), 1e-12)
        centre = (share[:, :, None] * raw).sum(axis=(0, 1)) / total
        spread = np.sqrt((share[:, :, None] * (raw - centre) ** 2).sum(axis=(0, 1)) / total)
        spread = np.where(spread > 1e-9, spread, 1.0)
        features = (raw - centre) / spread
        count = share.sum(axis=0)
        mean = (share * np.where(seen, y, 0.0)).sum(axis=0) / np.maximum(count, 1e-12)
        scale = np.ones(models) if np.isfinite(upper) else np.maximum(np.abs(mean), 1e-12)
        slope = _common_slope(features, np.where(seen, (y - mean) / scale, 0.0), share)
        made = cls(centre, spread, slope, np.empty((0, 3)), np.empty((0, 3, 3)), np.empty(0), np.empty(0))
        for model in range(models):
            rows = share[:, model] > 0
            made = made.with_model(
                similarity[rows][:, [model]], similarity[rows].mean(axis=1), y[rows, model], weight[rows],
                upper=upper, level=None,
            )  # fmt: skip
        return made

    def with_model(
        self,
        similarity: FloatArray,
        mean_similarity: FloatArray,
        y: FloatArray,
        weight: FloatArray,
        *,
        upper: float,
        level: tuple[float, float] | None,
    ) -> Self:
        """Return the maps with one more, fitted to outcomes y (n,) of prompts on which it is `similarity` (n, 1) alike.

        `level` is mean and variance of the other models' levels, to which a model with few outcomes is drawn.
        """
        if not len(y):
            return self._grown(np.full(3, np.nan), np.eye(3), np.nan, 1.0)
        average = float(np.average(y, weights=weight))
        scale = 1.0 if np.isfinite(upper) else max(abs(average), 1e-12)
        rows = np.c_[np.ones(len(y)), ((_features(similarity, mean_similarity) - self.centre) / self.spread)[:, 0]]
        spread = float(np.average((y - average) ** 2, weights=weight))
        usual = float(presumed_variance(np.array(average), np.array(spread), upper))
        start = average if level is None or not np.isfinite(upper) else level[0]
        pull = _RIDGE if level is None or not np.isfinite(upper) else usual / max(level[1], usual / 100.0)
        prior = np.diag([pull, _PRIOR_PROMPTS, _PRIOR_PROMPTS])
        centre = np.r_[start, self.slope * scale]
        precision = prior + (rows * weight[:, None]).T @ rows
        coefficients = np.linalg.solve(precision, prior @ centre + rows.T @ (weight * y))
        left = float(weight @ (y - rows @ coefficients) ** 2)
        noise = (left + usual) / (float(weight.sum()) + 1.0)
        return self._grown(coefficients, precision, noise, scale)

    def with_typical_model(self, level: float, *, noise: float, at: tuple[float, float] | None = None) -> Self:
        """Return the maps with one more of which only the usual `level` and slopes are known, worth one prompt each.

        `at` is its own mean similarity and that of all models, over prompts of which `level` is the mean outcome; by
        default a mean prompt of the known models.
        """
        if at is not None:
            own, usual = np.array([[at[0]]]), np.array([at[1]])
            level -= float(self.slope @ ((_features(own, usual)[0, 0] - self.centre) / self.spread))
        return self._grown(np.r_[level, self.slope], np.eye(3), noise, 1.0)

    def _grown(self, coefficients: FloatArray, precision: FloatArray, noise: float, scale: float) -> Self:
        return type(self)(
            self.centre, self.spread, self.slope,
            np.r_[self.coefficients, coefficients[None]], np.r_[self.precision, precision[None]],
            np.r_[self.noise, noise], np.r_[self.scale, scale],
        )  # fmt: skip

    def levels(self) -> tuple[float, float]:
        """Return mean and variance of the models' levels, as a prior for the next one."""
        known = self.coefficients[np.isfinite(self.coefficients[:, 0]), 0]
        if not len(known):
            return 0.5, 0.25
        return float(known.mean()), float(known.var(ddof=1)) if len(known) > 1 else 0.25

    def expected(self, similarity: FloatArray, mean_similarity: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each (n, m), at similarities (n, m) and their mean (n,)."""
        features = (_features(similarity, mean_similarity) - self.centre) / self.spread
        rows = np.concatenate([np.ones((*similarity.shape, 1)), features], axis=2)
        mean = np.vecdot(rows, self.coefficients)
        inverse = np.linalg.inv(self.precision)
        leverage = np.einsum("nmi,mij,nmj->nm", rows, inverse, rows)
        return mean, np.where(np.isfinite(mean), np.sqrt(self.noise * leverage), np.nan)

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays of the state."""
        return {f"map.{name}": getattr(self, name) for name in _NAMES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray]) -> Self:
        """Rebuild from `arrays()`."""
        return cls(*(arrays[f"map.{name}"] for name in _NAMES))


_NAMES = ("centre", "spread", "slope", "coefficients", "precision", "noise", "scale")


def _features(similarity: FloatArray, mean_similarity: FloatArray) -> FloatArray:
    """Return how far each similarity (n, m) is above the prompt's mean (n,), and that mean, (n, m, 2)."""
    mean = np.broadcast_to(mean_similarity[:, None], similarity.shape)
    return np.stack([similarity - mean, mean], axis=2)


def _common_slope(features: FloatArray, y: FloatArray, share: FloatArray) -> FloatArray:
    """Return the least-squares slopes (2,) of centred outcomes y (n, m), each model with its own level."""
    count = np.maximum(share.sum(axis=0), 1e-12)
    centred = features - (share[:, :, None] * features).sum(axis=0) / count[:, None]
    gram = np.einsum("nm,nmi,nmj->ij", share, centred, centred) + _PRIOR_PROMPTS * np.eye(2)
    return np.asarray(np.linalg.solve(gram, np.einsum("nm,nmi,nm->i", share, centred, y)))
