"""Where a prompt lies among the training prompts, as a few numbers: features of a local correction."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from llmrouter.engine import TrainedRouters
from llmrouter.index import VectorIndex
from llmrouter.routers import NeighbourRouter
from llmrouter.types import FloatArray

_JITTER = 1e-6


class LocalFeatures:
    """A constant, and Nystroem features of a kernel over landmarks (Williams & Seeger 2001).

    ``phi(x) = L^-1 k(x, Z)`` with ``K_ZZ = L L'`` and ``k(x, z) = exp((x.z - 1) / scale)``: a linear model of them with
    a normal prior is a Gaussian process seen through the landmarks. Far from all of them the features vanish, and only
    the constant speaks.

    The landmarks are training prompts drawn by a fixed seed, not centroids: a clustering could come out otherwise on
    another machine, and replicas have to agree.

    Parameters
    ----------
    landmarks : array of shape (k, d)
        Rows of unit length; k may be 0.
    scale : float
        Difference of cosines over which the kernel falls by e.
    """

    def __init__(self, landmarks: FloatArray, *, scale: float) -> None:
        self.scale = scale
        self._landmarks = np.asarray(landmarks, dtype=np.float64)
        self._whiten: FloatArray = np.empty((0, 0))
        if len(self._landmarks):
            gram = self._kernel(self._landmarks)
            gram[np.diag_indices(len(gram))] += _JITTER
            self._whiten = np.linalg.inv(np.linalg.cholesky(gram)).T

    @property
    def size(self) -> int:
        """Number f of features."""
        return 1 + len(self._landmarks)

    def of(self, X: FloatArray) -> FloatArray:
        """Return the features of prompts X (n, d): shape (n, f), the constant first."""
        found = np.ones((len(X), self.size))
        if self.size > 1:
            found[:, 1:] = self._kernel(np.asarray(X, dtype=np.float64)) @ self._whiten
        return found

    def _kernel(self, X: FloatArray) -> FloatArray:
        kernel: FloatArray = np.exp((X @ self._landmarks.T - 1.0) / self.scale)
        return kernel


def landmarks_of(trained: TrainedRouters, count: int, *, dimension: int) -> FloatArray:
    """Return at most `count` training embeddings, drawn by a fixed seed: shape (k, dimension).

    None are left of an artifact without calibration and index; then k is 0.
    """
    stored = _embeddings(trained)
    if stored is None or stored.shape[1] != dimension or not count:
        return np.empty((0, dimension))
    distinct = np.unique(np.asarray(stored, dtype=np.float64), axis=0)
    order = np.random.default_rng(0).permutation(len(distinct))
    return distinct[np.sort(order[:count])]


def _embeddings(trained: TrainedRouters) -> FloatArray | None:
    if trained.calibration is not None and len(trained.calibration):
        return trained.calibration.embeddings
    index: VectorIndex | None = (
        trained.quality.index_ if isinstance(trained.quality, NeighbourRouter) else trained.index
    )
    return None if index is None or not len(index) else _rows_of(index)


def _rows_of(index: VectorIndex) -> FloatArray:
    """Return what an index holds; every index can be saved, and what is saved is the rows."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory(prefix="llmrouter-index-") as name:
        folder = Path(name)
        index.save(folder)
        (file,) = folder.glob("vectors-*.safetensors")
        return np.asarray(load_file(file)["vectors"])
