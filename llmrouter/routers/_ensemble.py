"""A small ensemble over the Bayesian bootstrap: what routers without a posterior take their standard error from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmrouter.routers._axes import BoolArray, are_qualities, extremes, observed_weight, sigmoid
from llmrouter.routers._base import weighted_mean
from llmrouter.types import FloatArray

HELD_OUT = 0.1
"""Share of the prompts by which a member stops early."""


@dataclass(frozen=True)
class Targets:
    """Outcomes as an ensemble learns them.

    Attributes
    ----------
    y : array of shape (n, m)
        Qualities as they are; other outcomes standardised by column. 0 where not observed.
    cells : array of shape (n, m)
        Weight of each cell; 0 where not observed.
    level, unit : arrays of shape (m,)
        Mean and unit of each column; NaN for one never observed.
    least : array of shape (m,)
        Least value to predict.
    quality : bool
        Whether outcomes are qualities, learned as probabilities.
    """

    y: FloatArray
    cells: FloatArray
    level: FloatArray
    unit: FloatArray
    least: FloatArray
    quality: bool

    @classmethod
    def make(cls, y: FloatArray, weight: FloatArray, *, bounds: tuple[float, float]) -> Targets:
        """Prepare outcomes y (n, m) with NaN, weights (n,), and the bounds of the router."""
        quality = are_qualities(y, bounds[1])
        level = weighted_mean(y, weight)
        spread = np.sqrt(weighted_mean((y - level) ** 2, weight))
        unit = np.where(np.isfinite(level), 1.0, np.nan) if quality else np.where(spread == 0, 1.0, spread)
        scaled = y if quality else (y - level) / unit
        amounts = bounds[0] == 0.0 and not quality
        least = extremes(y)[0] if amounts else np.full(y.shape[1], bounds[0])
        return cls(np.nan_to_num(scaled), observed_weight(y, weight), level, unit, least, quality)

    @property
    def start(self) -> FloatArray:
        """The constant prediction, shape (m,), before the link: logits of means, or 0."""
        if not self.quality:
            return np.zeros(len(self.level))
        mean = np.clip(np.nan_to_num(self.level, nan=0.5), 0.002, 0.998)
        return np.asarray(np.log(mean / (1.0 - mean)))

    def link(self, value: FloatArray) -> FloatArray:
        """Return predictions in the unit of `y` from values before the link."""
        return sigmoid(value) if self.quality else value

    def loss(self, value: FloatArray, rows: BoolArray) -> float:
        """Return the mean loss of values (k, m) before the link over the cells of `rows`."""
        cells, y = self.cells[rows], self.y[rows]
        each = np.logaddexp(0.0, value) - y * value if self.quality else 0.5 * (value - y) ** 2
        return float((cells * each).sum() / max(float(cells.sum()), 1e-12))


def bootstraps(n: int, members: int, *, seed: int) -> Iterator[tuple[FloatArray, BoolArray, np.random.Generator]]:
    """Yield for each member its weights (n,), which prompts are held out (n,), and its generator.

    Weights are exponential (Rubin's Bayesian bootstrap, 1981): the members' differences are those of estimates
    from other samples of the same size. Held-out prompts have weight 0; fewer than 20 prompts hold out none.
    """
    for member in range(members):
        generator = np.random.default_rng([seed, member])
        held_out = np.zeros(n, dtype=bool)
        if n >= 20:
            held_out[generator.permutation(n)[: int(np.ceil(HELD_OUT * n))]] = True
        yield generator.exponential(size=n) * ~held_out, held_out, generator


def mean_and_error(
    values: FloatArray, between: FloatArray, *, count: FloatArray, quality: bool
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard error, each (n, m), from the members' predictions `values` (k, n, m).

    The variance between a few members is a noisy figure at one prompt: it is averaged with the column's mean variance
    `between` (m,) on the training prompts, and never below what the mean of `count` (m,) outcomes has.
    """
    here = values.var(axis=0, ddof=1) if len(values) > 1 else np.broadcast_to(between, values.shape[1:])
    floor = (0.01 if quality else 0.01 * np.maximum(between, 1e-12)) / np.maximum(count, 1.0)
    return values.mean(axis=0), np.sqrt(0.5 * here + 0.5 * between + floor)
