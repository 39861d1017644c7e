"""Kernel ridge regression on landmarks: a smooth neighbour router whose cost does not grow with the log."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import BaseRouter, Learned
from llmrouter.routers._linear import RidgeRouter
from llmrouter.types import FloatArray

_JITTER = 1e-6
_FEW_ROWS = 64


class _Recent(threading.local):
    """The last kernel of a thread, with the rows and the landmarks (by their digest) that it is of."""

    place: tuple[bytes, float] | None = None
    rows: FloatArray = np.empty((0, 0))
    kernel: FloatArray = np.empty((0, 0))


_RECENT = _Recent()


class KernelRidgeRouter(BaseRouter):
    """Ridge regression in the space spanned by some training prompts (Nystroem's approximation).

    Williams and Seeger, "Using the Nystroem method to speed up kernel machines" (2001). The kernel
    ``exp((cos(x, b) - 1) / length)`` over L landmarks b makes features; `ridge` does the rest, missing outcomes and
    penalty included. A smooth relative of kernel-weighted neighbours (arXiv 2505.12601) whose decision costs
    L x d multiplications whether a thousand or a million outcomes were logged.

    Landmarks are taken evenly along a random direction of the embedding space, so they depend on the set of training
    prompts, not on their order.

    The standard error is that of the ridge posterior in feature space, whose part outside the main axes counts in
    full: it grows away from all landmarks. Taking in a new model needs N scored prompts (`add_column`).

    Parameters
    ----------
    landmarks : int
        L; cut to the number of training prompts.
    length : float
        Cosine distance over which outcomes are alike.
    penalty : float, optional
        As for `ridge`; None chooses it by generalised cross-validation.
    seed : int
        Of the random direction.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"length": 0.2}, {"length": 0.3}, {"length": 0.6})

    def __init__(
        self, landmarks: int = 300, *, length: float = 0.3, penalty: float | None = None, seed: int = 0
    ) -> None:
        self.landmarks = landmarks
        self.length = length
        self.penalty = penalty
        self.seed = seed

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        if not isinstance(self.landmarks, int | np.integer) or self.landmarks < 1:
            raise ConfigError(f"landmarks must be a whole number >= 1; got {self.landmarks!r}")
        if not 0 < self.length < np.inf:
            raise ConfigError(f"length must be a finite number > 0; got {self.length!r}")
        used = X[weight > 0] if (weight > 0).any() else X
        along = used.astype(np.float64) @ np.random.default_rng(self.seed).normal(size=X.shape[1])
        places = np.unique(np.linspace(0, len(used) - 1, min(self.landmarks, len(used))).astype(np.int64))
        self.landmarks_ = np.unique(used[np.argsort(along, kind="stable")[places]].astype(np.float64), axis=0)
        kernel = self._kernel(self.landmarks_)
        values, vectors = np.linalg.eigh(kernel)
        self.whitening_ = vectors / np.sqrt(np.maximum(values, _JITTER))
        self.ridge_ = RidgeRouter(self.penalty).fit(self._kernel(X) @ self.whitening_, y, weight)
        self._prepare()

    def _prepare(self) -> None:
        digest = hashlib.blake2b(np.ascontiguousarray(self.landmarks_).tobytes(), digest_size=16)
        self._place = (digest.digest(), self.length)
        variance = self.ridge_.variance_
        self._slopes = self.whitening_ @ self.ridge_.coef_
        self._directions = self.whitening_ @ variance.directions
        self._origin = variance.centre @ variance.directions
        self._across = max(float(variance.centre @ variance.centre - self._origin @ self._origin), 0.0)

    def _kernel(self, X: FloatArray) -> FloatArray:
        similarity = X.astype(np.float64) @ self.landmarks_.T
        # cut at 1, what unit rows have at most, so that rows of another length do not overflow
        return np.asarray(np.exp((np.minimum(similarity, 1.0) - 1.0) / self.length))

    def _kernel_once(self, X: FloatArray) -> FloatArray:
        """Return the kernel of a few rows; the one just computed where a router of the same landmarks asks again.

        The routers of quality and cost of one artifact usually are such a pair, and this is their dearest step.
        """
        if len(X) > _FEW_ROWS:
            return self._kernel(X)
        if _RECENT.place != self._place or not np.array_equal(_RECENT.rows, X):
            _RECENT.place, _RECENT.rows, _RECENT.kernel = self._place, X.copy(), self._kernel(X)
        return _RECENT.kernel

    def _from_kernel(self, kernel: FloatArray) -> FloatArray:
        mean = kernel @ self._slopes + self.ridge_.intercept_
        return np.asarray(np.minimum(np.maximum(mean, self.ridge_.least_), self.upper_))

    def _mean(self, X: FloatArray) -> FloatArray:
        return self._from_kernel(self._kernel_once(X))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        kernel = self._kernel_once(X)
        along = kernel @ self._directions
        squares = (along - self._origin) ** 2
        # A prompt's features have length 1 where landmarks are near; what is missing of it is prior variance.
        rest = np.maximum(1.0 - self._across - (along * along).sum(axis=1, keepdims=True), 0.0)
        variance = self.ridge_.variance_
        total = squares @ variance.table[:-1] + rest * variance.table[-1] + variance.level
        return self._from_kernel(kernel), np.sqrt(total)

    def _learned(self) -> Learned:
        arrays, values = self.ridge_.state()
        inner = {f"ridge.{name}": array for name, array in arrays.items()}
        return inner | {"landmarks": self.landmarks_, "whitening": self.whitening_}, {"ridge": values}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        prefix = "ridge."
        inner = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        self.ridge_ = RidgeRouter.from_state(inner, values["ridge"])
        self.landmarks_, self.whitening_ = arrays["landmarks"], arrays["whitening"]
        self._prepare()
