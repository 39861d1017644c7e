"""Routers from the literature in place of a pocket model's own: null experts, ReLU routing, balancing without a loss.

Each is a module with the interface of Hugging Face's top-k routers, so that the model's class needs no patch. What is
no expert has an id of at least their number, which our experts skip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

Kind = Literal["plain", "null", "relu", "loss-free"]
KINDS: tuple[Kind, ...] = get_args(Kind)

BALANCE_WEIGHT = 0.01
NULL_EXPERTS = 8
NULL_CHOSEN = 3
BIAS_STEP = 1e-3
"""Of loss-free balancing; the paper's own, larger ones swing."""
RELU_FACTOR = 1.2
RELU_START = 1e-8
"""Of ReLU routing's weight; both the paper's own."""

Routing = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class StudyRouter(nn.Module):
    """A top-k router over a softmax with weights that sum to one: the plain one, and the base of the others.

    Parameters
    ----------
    own : torch.nn.Module
        The model's router, whose sizes and initial weights it takes.
    rows : int
        Rows of weights beyond those of the experts.
    """

    def __init__(self, own: Any, *, rows: int = 0) -> None:
        super().__init__()
        self.experts = int(own.num_experts)
        self.chosen = int(own.top_k)
        start = own.weight.detach()
        more = torch.randn(rows, start.shape[1], generator=torch.Generator().manual_seed(0)) * start.std()
        self.weight = nn.Parameter(torch.cat([start, more.to(start)]))
        self.logits = self.index = torch.empty(0)

    def forward(self, hidden_states: torch.Tensor) -> Routing:
        """Return router logits, weights and ids, as Hugging Face's routers do."""
        hidden = hidden_states.reshape(-1, self.weight.shape[1])
        self.logits = nn.functional.linear(hidden, self.weight).float()
        weights, self.index = self.route(self.logits)
        return self.logits, weights.to(hidden.dtype), self.index

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (tokens, k) weights and ids."""
        weights, index = logits.softmax(dim=-1).topk(self.chosen, dim=-1)
        return weights / weights.sum(dim=-1, keepdim=True), index

    def auxiliary(self, kept: torch.Tensor) -> torch.Tensor:
        """Return what is added to the loss for the last forward pass; `kept` marks tokens that are no padding.

        Here the balance loss of the Switch Transformer (Fedus et al., 2021).
        """
        return BALANCE_WEIGHT * self._switch_loss(kept)

    def after_step(self, kept: torch.Tensor) -> None:
        """Adapt to the loads of the last forward pass, after the optimizer's step."""

    def loads(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the tokens of each expert in the last forward pass, shape (E,)."""
        index = self.index[kept].reshape(-1)
        return torch.bincount(index[index < self.experts], minlength=self.experts)

    def _switch_loss(self, kept: torch.Tensor) -> torch.Tensor:
        shares = self.logits[kept].softmax(dim=-1)
        picked = torch.zeros_like(shares).scatter_(1, self.index[kept], 1.0)
        return shares.shape[-1] * (picked.mean(0) * shares.mean(0)).sum() / self.index.shape[1]


class NullRouter(StudyRouter):
    """AdaMoE (arXiv:2406.13233): choose more, among experts and null experts that compute nothing.

    A token for which null experts win uses fewer true ones. Weights are shared among the true ones chosen. The balance
    loss takes null experts for one another: only their sum is balanced.
    """

    def __init__(self, own: Any) -> None:
        super().__init__(own, rows=NULL_EXPERTS)
        self.chosen = NULL_CHOSEN

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights, zero for null experts, and ids, from the number of experts on for these."""
        weights, index = logits.softmax(dim=-1).topk(self.chosen, dim=-1)
        weights = weights * (index < self.experts)
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-9), index

    def _switch_loss(self, kept: torch.Tensor) -> torch.Tensor:
        shares = self.logits[kept].softmax(dim=-1).mean(0)
        picked = torch.zeros_like(self.logits[kept]).scatter_(1, self.index[kept], 1.0).mean(0)
        nulls = picked[self.experts :].mean().expand(NULL_EXPERTS)
        return len(shares) * (torch.cat([picked[: self.experts], nulls]) * shares).sum() / self.chosen


class ReluRouter(StudyRouter):
    """ReMoE (arXiv:2412.14711): the weights are ReLU of the logits, with as many experts as are positive.

    An L1 penalty, heavier for crowded experts, is multiplied or divided by `RELU_FACTOR` after each step so that the
    mean number of experts a token comes to what the model is configured with.
    """

    def __init__(self, own: Any) -> None:
        super().__init__(own)
        self.penalty = RELU_START

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all experts of every token; those without weight have an id that is no expert."""
        weights = logits.relu()
        everyone = torch.arange(self.experts, device=logits.device).expand_as(logits)
        return weights, torch.where(weights > 0, everyone, self.experts)

    def auxiliary(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the penalty."""
        weights = self.logits[kept].relu()
        crowd = (weights > 0).float().mean(0) * self.experts / self.chosen
        return self.penalty * (weights * crowd).sum(dim=-1).mean()

    def after_step(self, kept: torch.Tensor) -> None:
        """Raise the penalty if too many experts were used, lower it if too few."""
        used = float(self.loads(kept).sum()) / max(int(kept.sum()), 1)
        self.penalty *= RELU_FACTOR if used > self.chosen else 1 / RELU_FACTOR


class LossFreeRouter(StudyRouter):
    """Loss-free balancing (arXiv:2408.15664): a bias on each expert's score for the choice, none for its weight.

    After each step an expert with less than the mean load gets `BIAS_STEP` more, one with more gets so much less.
    """

    def __init__(self, own: Any) -> None:
        super().__init__(own)
        self.bias: torch.Tensor
        self.register_buffer("bias", torch.zeros(self.experts))

    def route(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose with the biases, weigh without."""
        scores = logits.softmax(dim=-1)
        index = (scores + self.bias).topk(self.chosen, dim=-1).indices
        weights = scores.gather(1, index)
        return weights / weights.sum(dim=-1, keepdim=True), index

    def auxiliary(self, kept: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 -- the others' signature
        """Return zero."""
        return self.logits.new_zeros(())

    def after_step(self, kept: torch.Tensor) -> None:
        """Move the biases."""
        loads = self.loads(kept).float()
        self.bias += BIAS_STEP * torch.sign(loads.mean() - loads)


_ROUTERS: Mapping[str, type[StudyRouter]] = {
    "plain": StudyRouter,
    "null": NullRouter,
    "relu": ReluRouter,
    "loss-free": LossFreeRouter,
}


def install(model: Any, kind: str) -> list[StudyRouter]:
    """Replace the routers of a model in place and let our experts compute, and return the new routers in order.

    Raises
    ------
    ValueError
        If there is no such kind, or the model has no routers of the form of Qwen3's.
    """
    from llmrouter.moe.experts import NAME, register_experts

    if kind not in _ROUTERS:
        raise ValueError(f"routing is {kind!r}; one of {', '.join(_ROUTERS)}")
    blocks = [module for module in model.modules() if hasattr(module, "gate") and hasattr(module, "experts")]
    if not blocks or any(not getattr(block.gate, "norm_topk_prob", False) for block in blocks):
        raise ValueError("the model is not a mixture of experts whose router weights sum to one, as Qwen3's do")
    for block in blocks:
        block.gate = _ROUTERS[kind](block.gate)
    register_experts()
    model.set_experts_implementation(NAME)
    return [block.gate for block in blocks]


def max_violation(loads: Sequence[torch.Tensor]) -> float:
    """Return MaxVio, (largest load - mean) / mean, averaged over layers."""
    values = [float(load.max() / load.float().mean() - 1) for load in loads if int(load.sum())]
    return sum(values) / len(values) if values else float("nan")
