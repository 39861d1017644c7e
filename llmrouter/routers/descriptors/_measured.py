"""A pool's measured descriptors side by side: what all have in common taken off, at unit length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from llmrouter.encoders._head import unit
from llmrouter.exceptions import DataError
from llmrouter.routers.descriptors._descriptor import Kind, ModelDescriptor, check_comparable
from llmrouter.types import FloatArray

_SMALLEST = 1e-6
_RIDGE = 1e-3
"""Keeps models that are all but alike from being set far apart by noise."""


@dataclass(frozen=True)
class MeasuredSpace:
    """The space in which measured descriptors of one kind, one probe set and one way of reading lie.

    CSCR brings logit footprints to unit length, and perplexity fingerprints to mean 0 and variance 1 over the probes
    before that (its program leaves the latter out). Most of either is alike in all models: how frequent a token is, how
    odd the answers to a probe are. So by default the pool's mean is taken off, as `OutcomeFingerprint` does; with one
    model there is nothing else, and nothing is taken off.

    A head that starts at random turns as freely as it likes: of the known models' descriptors it sees their cosines and
    nothing else. With `spread` (ours) the known models are set equally far apart, and a new one is placed among them as
    the mixture of them that its descriptor is (least squares, lightly shrunk). Where all models are there from the
    start that changes nothing; one that joins by its descriptor gains most so, see ``docs/contrastive.md``.

    Attributes
    ----------
    kind, probe_set, settings
        See `ModelDescriptor`.
    profile : array of shape (D,)
        Stands in for what a model has no number for.
    centred : bool
        Whether it is taken off.
    mixing : array of shape (D, r) or None
        Takes what sets a model apart to its place among the known models; None leaves descriptors as they are.
    """

    kind: Kind
    probe_set: str
    settings: Mapping[str, Any]
    profile: FloatArray
    centred: bool
    mixing: FloatArray | None = None

    @classmethod
    def over(cls, descriptors: Sequence[ModelDescriptor], *, centred: bool = True, spread: bool = False) -> Self:
        """Return the space that descriptors of a pool's models span.

        Parameters
        ----------
        descriptors : sequence of ModelDescriptor
            One a model.
        centred, spread : bool
            See above.

        Raises
        ------
        FingerprintError
            If they cannot be compared; names what differs.
        DataError
            If there is none, or they are outcome fingerprints.
        """
        if not descriptors:
            raise DataError("descriptors: there is none; describe at least one model")
        first = descriptors[0]
        if first.kind == "outcome":
            raise DataError(
                "descriptors: the first one is an outcome fingerprint, which is not measured but made by a router's "
                "fit; give logit footprints or perplexity fingerprints, or none"
            )
        for descriptor in descriptors[1:]:
            check_comparable(
                descriptor, kind=first.kind, probe_set=first.probe_set, settings=first.settings,
                length=len(first.vector), whose="the first descriptor's",
            )  # fmt: skip
        vectors = np.stack([descriptor.vector for descriptor in descriptors])
        seen = np.isfinite(vectors)
        profile = np.where(seen, vectors, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        made = cls(first.kind, first.probe_set, dict(first.settings), profile, centred and len(descriptors) > 1)
        return replace(made, mixing=_mixing(np.stack([made._own(one) for one in descriptors]))) if spread else made

    def described(self, descriptors: Sequence[ModelDescriptor]) -> FloatArray:
        """Return the descriptors as unit rows (m, D).

        Raises
        ------
        FingerprintError
            As `checked`.
        """
        return np.stack([self.checked(descriptor) for descriptor in descriptors])

    def checked(self, descriptor: ModelDescriptor) -> FloatArray:
        """Return the unit vector (D,) of a descriptor of this space.

        Raises
        ------
        FingerprintError
            If it is of another one; names what differs, both values and the remedy.
        """
        check_comparable(
            descriptor, kind=self.kind, probe_set=self.probe_set, settings=self.settings, length=len(self.profile),
            whose="the router's",
        )  # fmt: skip
        own = self._own(descriptor)[None]
        if self.mixing is None:
            return np.asarray(unit(own)[0][0], dtype=np.float64)
        # As many dimensions as there were: a query can then point away from all models alike, which on the few
        # dimensions that the models span it could not.
        mixed = unit(own @ self.mixing)[0][0]
        return np.asarray(np.pad(mixed, (0, len(self.profile) - len(mixed))), dtype=np.float64)

    def _own(self, descriptor: ModelDescriptor) -> FloatArray:
        """Return what sets a model apart, at the length it has."""
        vector = np.where(np.isfinite(descriptor.vector), descriptor.vector, self.profile)
        if self.centred:
            return np.asarray(vector - self.profile)
        return np.asarray(vector - vector.mean() if self.kind == "perplexity" else vector)

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays of the state."""
        arrays = {"measured.profile": self.profile}
        return arrays if self.mixing is None else arrays | {"measured.mixing": self.mixing}

    def values(self) -> dict[str, Any]:
        """Return the JSON values of the state."""
        return {
            "kind": self.kind,
            "probe_set": self.probe_set,
            "settings": dict(self.settings),
            "centred": self.centred,
        }

    @classmethod
    def from_parts(cls, arrays: Mapping[str, FloatArray], values: Mapping[str, Any]) -> Self:
        """Rebuild from `arrays()` and `values()`."""
        return cls(profile=arrays["measured.profile"], mixing=arrays.get("measured.mixing"), **values)


def _mixing(rows: FloatArray) -> FloatArray:
    """Return the map (D, r) under which rows (m, D) lie equally far apart, as far as they differ at all."""
    _, sizes, axes = np.linalg.svd(rows, full_matrices=False)
    kept = sizes > _SMALLEST * sizes[0] if sizes[0] > 0 else np.arange(len(sizes)) == 0
    ridge = _RIDGE * float(np.mean(sizes[kept] ** 2)) or 1.0
    return np.ascontiguousarray(axes[kept].T * (sizes[kept] / (sizes[kept] ** 2 + ridge)))


def likeness(new: ModelDescriptor, known: Mapping[str, ModelDescriptor]) -> dict[str, float]:
    """Return how much a model that nothing was observed of is like each known one, by their descriptors alone.

    It is the cosine of what sets them apart from the mean of the known models, 0 where that is negative: weights for
    `BaseRouter.add_prior_column`, which is how a router of any kind can use a descriptor.

    Parameters
    ----------
    new : ModelDescriptor
        Of the new model.
    known : mapping of str to ModelDescriptor
        Of at least two known ones, comparable with it.

    Raises
    ------
    FingerprintError
        If they cannot be compared.
    DataError
        If there are fewer than two known models.
    """
    if len(known) < 2:
        raise DataError(f"likeness needs the descriptors of at least two known models; got {len(known)}")
    space = MeasuredSpace.over([*known.values()])
    own = space.checked(new)
    rows = space.described([*known.values()])
    return {name: max(float(row @ own), 0.0) for name, row in zip(known, rows, strict=True)}
