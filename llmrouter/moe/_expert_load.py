"""Which experts the tokens of an engine go to."""

from __future__ import annotations

from typing import Any

import torch

from llmrouter.moe._layer_load import LayerLoad
from llmrouter.moe.experts import Routed
from llmrouter.moe.experts._weights import expert_count


class ExpertLoad:
    """A routing hook that counts tokens by layer and expert and changes nothing; waits for no GPU."""

    def __init__(self, model: Any) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._counts: dict[int, torch.Tensor] = {}
        self._routed: dict[int, int] = {}

    def __call__(self, module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Routed:
        """Count the chosen experts."""
        counts = self._counts.get(id(module))
        if counts is None:
            # One more for ids that are no expert.
            size = expert_count(module) + 1
            counts = self._counts[id(module)] = torch.zeros(size, dtype=torch.long, device=hidden.device)
        flat = index.reshape(-1).clamp(max=len(counts) - 1)
        counts.scatter_add_(0, flat, torch.ones_like(flat))
        self._routed[id(module)] = self._routed.get(id(module), 0) + len(index)
        return index, weights

    def loads(self) -> dict[str, LayerLoad]:
        """Return the loads by the layer's name."""
        return {
            self._names[key]: LayerLoad(counts.tolist()[:-1], self._routed.get(key, 0))
            for key, counts in list(self._counts.items())
        }
