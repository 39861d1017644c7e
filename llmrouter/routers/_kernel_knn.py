"""Kernel-weighted nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import Neighbors
from llmrouter.routers._neighbours import NeighbourRouter
from llmrouter.types import FloatArray

Kernel = Literal["gaussian", "exponential"]
_LEAST_DISTANCE = 1e-6


class KernelKNNRouter(NeighbourRouter):
    """Predict each model's outcome as the mean over the nearest prompts, nearer ones weighing more.

    The Nadaraya-Watson form of the neighbour router (arXiv 2505.12601 weighs all k alike; RouterBench,
    arXiv 2403.12031, too). With cosine distance ``delta`` and bandwidth ``h = bandwidth * delta of the k-th
    neighbour``, so that it adapts to how dense the log is around the prompt::

        gaussian     w = exp(-delta / h)          (a Gaussian of the chord, whose square is 2 delta)
        exponential  w = exp(-sqrt(delta / h))    (exponential in the chord: long tails, sharp at the prompt itself)

    Weighted neighbours count as ``n_e = (sum w)^2 / sum w^2`` prompts, Kish's effective sample size, and the mean is
    shrunk towards the model's mean over all prompts by `shrinkage` prompts.

    The standard error is ``sqrt(variance / (n_e + shrinkage))``, with the weighted variance of the neighbourhood
    shrunk towards the model's overall variance by ``shrinkage + 1`` prompts.

    A new model needs the embeddings of N scored prompts; its column is a Gaussian process over what the known models
    are expected to do (`add_column`). `partial_fit` appends prompts to the index.

    Parameters
    ----------
    k : int
        Neighbours; cut to the number of training prompts.
    kernel : {"gaussian", "exponential"}
        How the weight falls with the distance.
    bandwidth : float
        In units of the k-th neighbour's distance, > 0; a large one gives `KNNRouter`.
    shrinkage : float
        Weight of the model's own mean, in prompts.
    index : str
        Name of the vector index (registry kind ``index``) or ``auto``.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"k": k} for k in (50, 100, 200, 400))

    def __init__(
        self,
        k: int = 100,
        *,
        kernel: Kernel = "gaussian",
        bandwidth: float = 1.0,
        shrinkage: float = 5.0,
        index: str = "auto",
    ) -> None:
        self.k = k
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.shrinkage = shrinkage
        self.index = index

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.kernel not in get_args(Kernel):
            raise ConfigError(f"kernel must be one of {', '.join(get_args(Kernel))}; got {self.kernel!r}")
        if not self.bandwidth > 0:
            raise ConfigError(f"bandwidth must be > 0; got {self.bandwidth!r}")
        if not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0; got {self.shrinkage!r}")

    def _estimate_found(self, found: Neighbors) -> tuple[FloatArray, FloatArray]:
        values, weight = self._gather(found)
        near = kernel_weights(found.similarities[:, : self.k], bandwidth=self.bandwidth, kernel=self.kernel)
        weight = weight * near[:, :, None]
        total = weight.sum(axis=1)
        seen = total > 0
        effective = total**2 / np.where(seen, (weight**2).sum(axis=1), 1.0)
        local = np.where(seen, (weight * values).sum(axis=1) / np.where(seen, total, 1.0), 0.0)
        strength = effective + self.shrinkage
        mean = (effective * local + self.shrinkage * self.mean_) / np.where(strength > 0, strength, 1.0)
        mean = np.where(strength > 0, mean, self.mean_)
        mean[:, ~np.isfinite(self.mean_)] = np.nan
        squares = (weight * (values - np.nan_to_num(mean)[:, None, :]) ** 2).sum(axis=1)
        prior = self.shrinkage + 1.0
        spread = effective * squares / np.where(seen, total, 1.0)
        variance = (spread + prior * self.variance_) / (effective + prior)
        return np.clip(mean, self.lower_, self.upper_), np.sqrt(variance / np.maximum(strength, 1.0))


def kernel_weights(similarities: FloatArray, *, bandwidth: float, kernel: Kernel) -> FloatArray:
    """Return the weights, shape (n, k), of neighbours at cosine `similarities` (n, k), the nearest one's first."""
    distance = np.maximum(1.0 - similarities.astype(np.float64), 0.0)
    reach = bandwidth * np.maximum(distance[:, -1:], _LEAST_DISTANCE)
    return np.asarray(np.exp(-distance / reach) if kernel == "gaussian" else np.exp(-np.sqrt(distance / reach)))
