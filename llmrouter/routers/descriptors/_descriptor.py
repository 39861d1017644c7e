"""One model's descriptor, and when two of them can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from llmrouter.exceptions import FingerprintError
from llmrouter.types import FloatArray

Kind = Literal["outcome", "logit", "perplexity"]

_REMEDIES = {
    "kind": "describe all models of a router by the same kind",
    "probe_set": "ask the model the same probes and compute the descriptor again",
    "tokenizer": "logit footprints of another tokenizer mean other tokens; describe the models by perplexity",
    "vocabulary": "read the probabilities of the same list of tokens",
}
_OTHERWISE = "compute the descriptor again with the same settings"


@dataclass(frozen=True)
class ModelDescriptor:
    """One model's descriptor, to be sent from where it was computed to where it is used.

    Attributes
    ----------
    vector : array of shape (D,)
        An outcome fingerprint is of unit length, or zero where nothing is known; measured ones (``logit``,
        ``perplexity``) are as measured, NaN for a probe that has no answer, and are brought to unit length by the pool
        they are compared with (`MeasuredSpace`).
    probe_set : str
        Names the probes; descriptors of two probe sets cannot be compared.
    kind : {"outcome", "logit", "perplexity"}
        What was measured.
    settings : mapping
        What else has to be alike for two descriptors to be compared: the list of tokens and its tokenizer, or the
        scorer, and how many tokens were read. Must be JSON.
    provenance : mapping
        What was described, by whom; for people. Must be JSON.
    """

    vector: FloatArray
    probe_set: str
    kind: Kind = "outcome"
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Descriptor(Protocol):
    """Computes descriptors of models over one fixed set of probes, from their outcomes."""

    @property
    def probe_set(self) -> str:
        """Name of the probes and of the kind of descriptor."""
        ...

    def describe(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> FloatArray:
        """Return descriptors (m, N) of models with outcomes y (n, m), NaN where unobserved, on prompts X (n, d)."""
        ...


def check_comparable(
    descriptor: ModelDescriptor, *, kind: Kind, probe_set: str, settings: Mapping[str, Any], length: int, whose: str
) -> None:
    """Refuse a descriptor that cannot be compared with others.

    Parameters
    ----------
    descriptor : ModelDescriptor
        To be checked.
    kind, probe_set, settings, length
        Of the others.
    whose : str
        What the others belong to, for the message: ``"the router's"``.

    Raises
    ------
    FingerprintError
        Naming what differs, both values and the remedy.
    """
    found = {"kind": descriptor.kind, "probe_set": descriptor.probe_set, **descriptor.settings}
    wanted = {"kind": kind, "probe_set": probe_set, **settings}
    for name in (*wanted, *(other for other in found if other not in wanted)):
        if found.get(name) != wanted.get(name):
            raise FingerprintError(
                f"the descriptor{_of(descriptor)} has {name} {found.get(name)!r}, but {whose} is {wanted.get(name)!r}; "
                f"{_REMEDIES.get(name, _OTHERWISE)}"
            )
    if descriptor.vector.shape != (length,):
        raise FingerprintError(
            f"the descriptor{_of(descriptor)} has the shape {descriptor.vector.shape}, but {whose} is ({length},); "
            f"{_OTHERWISE}"
        )


def _of(descriptor: ModelDescriptor) -> str:
    model = descriptor.provenance.get("model")
    return f" of {model!r}" if model else ""
