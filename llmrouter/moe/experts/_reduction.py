"""Computing fewer experts than a model was trained with: a fixed smaller number, or as many as the router's mass asks.

What is left out is marked by an id that is no expert, which every path skips, so that the saving is real. The weights
of the rest are scaled to the sum that all of them had.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which of the chosen experts are computed.

    Attributes
    ----------
    active : int, optional
        At most so many for a token, those of the largest weights (arXiv:2505.03531 lowers it at inference).
    top_p : float, optional
        The fewest whose weights make up this part of the token's sum, in (0, 1] (arXiv:2403.07652, which trains with
        it; here it is for models that were not, and chooses among the k that their routers chose).

    Raises
    ------
    ValueError
        If a value is out of its range, or both are left out.
    """

    active: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.active is None and self.top_p is None:
            raise ValueError("active and top_p are both None; give at least one of them")
        if self.active is not None and self.active < 1:
            raise ValueError(f"active is {self.active}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and up to 1")

    @property
    def name(self) -> str:
        """A name of its own for each setting."""
        parts = [f"active={self.active}"] if self.active is not None else []
        parts += [f"top_p={self.top_p:g}"] if self.top_p is not None else []
        return ",".join(parts)

    def apply(self, index: torch.Tensor, weights: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids, `experts` where one is left out, and weights of the same sum.

        Parameters
        ----------
        index : torch.Tensor of int
            Chosen experts, shape (T, k).
        weights : torch.Tensor
            Their non-negative router weights, shape (T, k).
        experts : int
            Number of experts E.

        Returns
        -------
        index, weights : torch.Tensor
            Both of shape (T, k), in the order of the slots.
        """
        exact = weights.float()
        ranked, order = exact.sort(dim=-1, descending=True, stable=True)
        total = ranked.sum(dim=-1, keepdim=True)
        kept = torch.ones_like(ranked, dtype=torch.bool)
        if self.active is not None:
            kept[:, self.active :] = False
        if self.top_p is not None:
            # An expert is needed as long as those before it fall short; the first always is.
            kept &= ranked.cumsum(dim=-1) - ranked < self.top_p * total
            kept[:, 0] = True
        kept = torch.zeros_like(kept).scatter(1, order, kept)
        left = (exact * kept).sum(dim=-1, keepdim=True)
        scaled = exact * kept * torch.where(left > 0, total / left, 1.0)
        return torch.where(kept, index, experts), scaled.to(weights.dtype)
