"""How evenly a layer's tokens fall on its experts; values only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """What one layer's router chose in decoding.

    Attributes
    ----------
    tokens : list of int
        For each expert, how many tokens chose it; null experts and slots left free are not among them.
    routed : int
        Tokens that passed the layer.
    """

    tokens: list[int]
    routed: int

    @property
    def experts_a_token(self) -> float:
        """Mean number of true experts that a token chose, 0 before the first."""
        return sum(self.tokens) / self.routed if self.routed else 0.0

    @property
    def max_violation(self) -> float:
        """MaxVio of the true experts (`imbalance`)."""
        return imbalance(self.tokens)


def imbalance(counts: Sequence[int]) -> float:
    """Return MaxVio (arXiv:2408.15664): by how much the fullest expert exceeds the mean, as a part of it."""
    mean = sum(counts) / len(counts)
    return max(counts) / mean - 1 if mean else 0.0
