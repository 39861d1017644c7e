"""Self-contrast: a batch whose logits are those of a model against its own weaker choice of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmrouter.moe._batch import RunningBatch
from llmrouter.moe._options import SelfContrast
from llmrouter.moe.experts import Routed, routing_hooks

RULED_OUT = -9999.0
"""Log-probability of tokens that the contrast rules out: finite, as JSON has no infinity."""


class ContrastBatch:
    """Two running batches of one model, as one; used like `RunningBatch`.

    Routing hooks of the caller see the strong side only: a token counts once, by the experts that the model chose.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With an ``llmrouter`` experts implementation and at least two experts a token.
    contrast : SelfContrast
        Strength and weak side.
    deterministic : bool
        Of both batches.
    """

    def __init__(self, model: Any, contrast: SelfContrast, *, deterministic: bool = False) -> None:
        self._strong = RunningBatch(model, deterministic=deterministic)
        self._weak = RunningBatch(model, deterministic=deterministic)
        self._contrast = contrast

    def __len__(self) -> int:
        return len(self._strong)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append rows for `prompts`, longest first, and return the contrasted scores after each."""
        strong = self._strong.prefill(prompts)
        with routing_hooks(self._one_rank, alone=True):
            return contrasted(strong, self._weak.prefill(prompts), self._contrast)

    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row and return the next contrasted scores."""
        strong = self._strong.decode(tokens)
        with routing_hooks(self._one_rank, alone=True):
            return contrasted(strong, self._weak.decode(tokens), self._contrast)

    def remove(self, row: int) -> None:
        """Take a row out; the last row takes its place."""
        self._strong.remove(row)
        self._weak.remove(row)

    def clear(self) -> None:
        """Take all rows out."""
        self._strong.clear()
        self._weak.clear()

    def _one_rank(self, _: Any, __: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Routed:
        """Keep the slot of the wanted rank with the whole weight of the token."""
        slot = weights.argsort(dim=-1, descending=True, stable=True)[:, self._contrast.rank - 1 : self._contrast.rank]
        return index.gather(1, slot), weights.sum(dim=-1, keepdim=True)


@torch.inference_mode()
def contrasted(strong: torch.Tensor, weak: torch.Tensor, contrast: SelfContrast) -> torch.Tensor:
    """Return the log-probabilities of the contrast, shape (rows, V), float32.

    Rows whose logits are not finite stay so, for the engine to see.
    """
    own = torch.log_softmax(strong, dim=-1)
    kept = own >= own.amax(dim=-1, keepdim=True) + torch.tensor(contrast.alpha).log()
    score = (1 + contrast.beta) * own - contrast.beta * torch.log_softmax(weak, dim=-1)
    score = torch.log_softmax(score.masked_fill(~kept, -torch.inf), dim=-1)
    return score.masked_fill(~kept & score.isneginf(), RULED_OUT)
