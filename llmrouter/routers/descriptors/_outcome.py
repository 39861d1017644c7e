"""What a model gets right near each probe: a descriptor for where there are scored prompts and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from llmrouter.encoders._head import unit
from llmrouter.exceptions import DataError
from llmrouter.routers._clusters import spherical_kmeans, unit_rows
from llmrouter.routers.descriptors._descriptor import ModelDescriptor, check_comparable
from llmrouter.types import FloatArray

Anchors = Literal["centroids", "prompts"]


@dataclass(frozen=True)
class OutcomeFingerprint:
    """Where a model does better than the pool: its outcomes near each of N probes, centred and of unit length.

    Each scored prompt counts for its nearest probe. A model's mean outcome at a probe is shrunk towards its overall
    mean by `shrinkage` prompts, the mean profile of the pool (see `centred`) is taken off, as CSCR centres its
    perplexity fingerprints, and the rest is brought to unit length. Where only the probes themselves are scored, this
    is the vector of the outcomes on them.

    Attributes
    ----------
    anchors : array of shape (N, d)
        Unit embeddings of the probes.
    shrinkage : float
        In prompts.
    profile : array of shape (N,) or None
        The pool's mean profile; None takes nothing off.
    """

    anchors: FloatArray
    shrinkage: float
    profile: FloatArray | None = None

    @classmethod
    def over(
        cls, X: FloatArray, weight: FloatArray, *, probes: int, anchors: Anchors, shrinkage: float, seed: int
    ) -> Self:
        """Choose at most `probes` probes among prompts X (n, d): centroids of k-means, or prompts drawn at random.

        Raises
        ------
        DataError
            If `anchors` is of no such kind.
        """
        if anchors not in get_args(Anchors):
            raise DataError(f"anchors must be one of {', '.join(get_args(Anchors))}; got {anchors!r}")
        if anchors == "centroids":
            return cls(spherical_kmeans(X, probes, weight=weight, seed=seed), shrinkage)
        rows = np.unique(unit_rows(X).astype(np.float32), axis=0)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:probes])
        return cls(np.ascontiguousarray(rows[chosen]), shrinkage)

    @property
    def probe_set(self) -> str:
        """Name of the probes."""
        digest = hashlib.sha256(np.ascontiguousarray(self.anchors, dtype=np.float32).tobytes())
        digest.update(repr((self.shrinkage, self.profile is None)).encode())
        return f"outcome-{len(self.anchors)}-{digest.hexdigest()[:16]}"

    def profiles(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> FloatArray:
        """Return the shrunk mean outcome at each probe, (m, N); a model without outcomes has the pool's, or 0."""
        seen = np.isfinite(y)
        share = weight[:, None] * seen
        cell = np.argmax(unit_rows(X).astype(np.float32) @ self.anchors.T, axis=1)
        member = np.zeros((len(self.anchors), len(X)))
        member[cell, np.arange(len(X))] = 1.0
        count, total = member @ share, member @ (share * np.where(seen, y, 0.0))
        mean = total.sum(axis=0) / np.maximum(count.sum(axis=0), 1e-12)
        shrunk = (total + self.shrinkage * mean) / np.maximum(count + self.shrinkage, 1e-12)
        shrunk = np.where(count + self.shrinkage > 0, shrunk, mean)
        return np.asarray(shrunk.T)

    def describe(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> FloatArray:
        """Return descriptors (m, N) of models with outcomes y (n, m), NaN where unobserved, on prompts X (n, d)."""
        profiles = self.profiles(X, y, weight)
        return unit(profiles if self.profile is None else profiles - self.profile)[0]

    def centred(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> Self:
        """Return the same probes with the mean profile of these models, all of them alike, to be taken off."""
        observed = np.isfinite(y).any(axis=0)
        profiles = self.profiles(X, y, weight)[observed]
        profile = profiles.mean(axis=0) if len(profiles) else np.zeros(len(self.anchors))
        return type(self)(self.anchors, self.shrinkage, profile)

    def one(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> ModelDescriptor:
        """Return the descriptor of one model with outcomes y (n,)."""
        return ModelDescriptor(self.describe(X, y[:, None], weight)[0], self.probe_set)

    def checked(self, descriptor: ModelDescriptor) -> FloatArray:
        """Return the vector of a descriptor of this probe set.

        Raises
        ------
        FingerprintError
            If it was computed over another one.
        """
        check_comparable(
            descriptor,
            kind="outcome",
            probe_set=self.probe_set,
            settings={},
            length=len(self.anchors),
            whose="the router's",
        )
        return np.asarray(descriptor.vector, dtype=np.float64)

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays of the state."""
        arrays = {"probe.anchors": self.anchors}
        return arrays if self.profile is None else arrays | {"probe.profile": self.profile}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], *, shrinkage: float) -> Self:
        """Rebuild from `arrays()`."""
        return cls(arrays["probe.anchors"], shrinkage, arrays.get("probe.profile"))
