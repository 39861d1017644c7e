"""A monotone map from a score to an expected outcome, one for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmrouter.routers._population import presumed_variance
from llmrouter.types import FloatArray

_KNOTS = 33
_BIN = 25
_MOST_BINS = 20


@dataclass(frozen=True)
class MonotoneMaps:
    """What scores that are no expectations (vote shares, sums of ranks) say about the outcome.

    The prompts are sorted by score into bins of at least 25, whose mean outcomes are made non-decreasing by isotonic
    regression and joined by lines. Scores must be of prompts that did not vote for themselves.

    Attributes
    ----------
    lowest, highest : arrays of shape (m,)
        Range of the scores seen.
    values : array of shape (m, 33)
        Expected outcome at scores spaced evenly over that range; NaN for a model without outcomes.
    errors : array of shape (m, 33)
        Standard errors there.
    """

    lowest: FloatArray
    highest: FloatArray
    values: FloatArray
    errors: FloatArray

    @classmethod
    def fit(cls, scores: FloatArray, y: FloatArray, weight: FloatArray, *, upper: float) -> Self:
        """Fit to scores (n, m), outcomes y (n, m) with NaN and weights (n,); `upper` bounds the outcomes."""
        models = y.shape[1]
        lowest, highest = np.zeros((2, models))
        values, errors = np.full((2, models, _KNOTS), np.nan)
        for model in range(models):
            seen = np.isfinite(y[:, model]) & (weight > 0)
            if not seen.any():
                continue
            parts = scores[seen, model], y[seen, model], weight[seen]
            lowest[model], highest[model] = parts[0].min(), parts[0].max()
            grid = np.linspace(lowest[model], highest[model], _KNOTS)
            values[model], errors[model] = _binned(*parts, grid, upper)
        return cls(lowest, highest, values, errors)

    def expected(self, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return expectation and standard error, each (n, m), at scores (n, m)."""
        span = np.where(self.highest > self.lowest, self.highest - self.lowest, 1.0)
        place = np.clip((scores - self.lowest) / span, 0.0, 1.0) * (_KNOTS - 1)
        left = np.minimum(place.astype(np.int64), _KNOTS - 2)
        part = place - left
        model = np.arange(len(self.lowest))
        mean, error = (
            (1.0 - part) * table[model, left] + part * table[model, left + 1] for table in (self.values, self.errors)
        )
        return mean, error

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays of the state."""
        return {
            "map.lowest": self.lowest,
            "map.highest": self.highest,
            "map.values": self.values,
            "map.errors": self.errors,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray]) -> Self:
        """Rebuild from `arrays()`."""
        return cls(arrays["map.lowest"], arrays["map.highest"], arrays["map.values"], arrays["map.errors"])


def _binned(
    score: FloatArray, outcome: FloatArray, weight: FloatArray, grid: FloatArray, upper: float
) -> tuple[FloatArray, FloatArray]:
    """Return expectation and standard error at the scores `grid`."""
    from sklearn.isotonic import IsotonicRegression

    order = np.lexsort((outcome, score))  # by outcome too: the order of the log must not matter
    bins = int(np.clip(len(score) // _BIN, 1, _MOST_BINS))
    parts = np.array_split(order, bins)
    total = np.array([weight[part].sum() for part in parts])
    centre = np.array([np.average(score[part], weights=weight[part]) for part in parts])
    mean = np.array([np.average(outcome[part], weights=weight[part]) for part in parts])
    overall = np.average(outcome, weights=weight)
    squares = np.array(
        [(weight[part] * (outcome[part] - value) ** 2).sum() for part, value in zip(parts, mean, strict=True)]
    )
    presumed = presumed_variance(np.array(overall), np.array(squares.sum() / total.sum()), upper)
    variance = (squares + presumed) / (total + 1.0)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(centre, mean, sample_weight=total).predict(grid)
    return np.asarray(fitted), np.interp(grid, centre, np.sqrt(variance / np.maximum(total, 1.0)))
