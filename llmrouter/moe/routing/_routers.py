"""The routers themselves: modules with the interface of Hugging Face's top-k routers, so that no model is patched.

What is no expert has an id of at least their number, which our experts skip. Every row is computed by itself: what a
token chooses does not depend on the batch.
"""

from __future__ import annotations

import torch
from torch import nn

Routing = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Router(nn.Module):
    """A top-k router over a softmax with weights that sum to one: the usual one, and the base of the others.

    Parameters
    ----------
    experts : int
        Experts of the layer E.
    chosen : int
        Experts a token.
    hidden : int
        Size of a token H.
    rows : int
        Rows of weights beyond those of the experts. Weights are left uninitialised.
    """

    def __init__(self, *, experts: int, chosen: int, hidden: int, rows: int = 0) -> None:
        super().__init__()
        self.experts = experts
        self.chosen = chosen
        self.weight = nn.Parameter(torch.empty(experts + rows, hidden))

    def forward(self, hidden_states: torch.Tensor) -> Routing:
        """Return router logits (tokens, rows), weights and ids (tokens, k), as Hugging Face's routers do."""
        hidden = hidden_states.reshape(-1, self.weight.shape[1])
        logits = nn.functional.linear(hidden, self.weight).float()
        weights, index = self.route(logits)
        return logits, weights.to(hidden.dtype), index

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (tokens, k) weights and ids for float32 logits."""
        weights, index = logits.softmax(dim=-1).topk(self.chosen, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), index


class NullRouter(Router):
    """AdaMoE (arXiv:2406.13233): choose more, among experts and null experts that compute nothing.

    A token for which null experts win uses fewer true ones. Weights are shared among the true ones chosen; a token
    without any has no output of this layer.
    """

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights, zero for null experts, and ids, from the number of experts on for these."""
        weights, index = logits.softmax(dim=-1).topk(self.chosen, dim=-1)
        weights = weights * (index < self.experts)
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-9), index


class ReluRouter(Router):
    """ReMoE (arXiv:2412.14711): the weights are ReLU of the logits, with as many experts as are positive."""

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all experts of every token; those without weight have an id that is no expert."""
        weights = logits.relu()
        everyone = torch.arange(self.experts, device=logits.device).expand_as(logits)
        return weights, torch.where(weights > 0, everyone, self.experts)


class LossFreeRouter(Router):
    """Loss-free balancing (arXiv:2408.15664): a bias on each expert's score for the choice, none for its weight."""

    def __init__(self, *, experts: int, chosen: int, hidden: int) -> None:
        super().__init__(experts=experts, chosen=chosen, hidden=hidden)
        self.bias: torch.Tensor
        self.register_buffer("bias", torch.zeros(experts))

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose with the biases, weigh without."""
        scores = logits.softmax(dim=-1)
        index = (scores + self.bias).topk(self.chosen, dim=-1).indices
        weights = scores.gather(1, index)
        return weights / weights.sum(dim=-1, keepdim=True), index
