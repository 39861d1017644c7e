"""Training of routers from the literature in a pocket model: null experts, ReLU routing, balancing without a loss.

What they choose is in `llmrouter.moe.routing`, by which the engine serves them; here is how they learn to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from llmrouter.moe.routing import FIELD, Router, Routing, RoutingSettings, install_routers
from llmrouter.moe.routing import LossFreeRouter as ServedLossFree
from llmrouter.moe.routing import NullRouter as ServedNull
from llmrouter.moe.routing import ReluRouter as ServedRelu

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


class StudyRouter(Router):
    """The plain top-k router in training, and the base of the others: it remembers its last forward pass.

    Parameters
    ----------
    own : torch.nn.Module
        The model's router, whose sizes and initial weights it takes.
    chosen : int, optional
        Experts a token, if other than the model's.
    rows : int
        Rows of weights beyond those of the experts.
    """

    def __init__(self, own: Any, *, chosen: int | None = None, **rows: int) -> None:
        start = own.weight.detach()
        super().__init__(experts=int(own.num_experts), chosen=chosen or int(own.top_k), hidden=start.shape[1], **rows)
        size = (len(self.weight) - self.experts, start.shape[1])
        more = torch.randn(size, generator=torch.Generator().manual_seed(0)) * start.std()
        self.weight = torch.nn.Parameter(torch.cat([start, more.to(start)]))
        self.logits = self.index = torch.empty(0)

    def forward(self, hidden_states: torch.Tensor) -> Routing:
        """Route, and keep logits and ids for the loss."""
        self.logits, weights, self.index = super().forward(hidden_states)
        return self.logits, weights, self.index

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


class NullRouter(StudyRouter, ServedNull):
    """Null experts; the balance loss takes them for one another: only their sum is balanced."""

    def __init__(self, own: Any) -> None:
        super().__init__(own, chosen=NULL_CHOSEN, rows=NULL_EXPERTS)

    def _switch_loss(self, kept: torch.Tensor) -> torch.Tensor:
        shares = self.logits[kept].softmax(dim=-1).mean(0)
        picked = torch.zeros_like(self.logits[kept]).scatter_(1, self.index[kept], 1.0).mean(0)
        nulls = picked[self.experts :].mean().expand(NULL_EXPERTS)
        return len(shares) * (torch.cat([picked[: self.experts], nulls]) * shares).sum() / self.chosen


class ReluRouter(StudyRouter, ServedRelu):
    """ReLU routing with an adaptive penalty.

    An L1 penalty, heavier for crowded experts, is multiplied or divided by `RELU_FACTOR` after each step so that the
    mean number of experts a token comes to what the model is configured with.
    """

    def __init__(self, own: Any) -> None:
        super().__init__(own)
        self.penalty = RELU_START

    def auxiliary(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the penalty."""
        weights = self.logits[kept].relu()
        crowd = (weights > 0).float().mean(0) * self.experts / self.chosen
        return self.penalty * (weights * crowd).sum(dim=-1).mean()

    def after_step(self, kept: torch.Tensor) -> None:
        """Raise the penalty if too many experts were used, lower it if too few."""
        used = float(self.loads(kept).sum()) / max(int(kept.sum()), 1)
        self.penalty *= RELU_FACTOR if used > self.chosen else 1 / RELU_FACTOR


class LossFreeRouter(StudyRouter, ServedLossFree):
    """Biased scores; after a step an expert with less than the mean load gets `BIAS_STEP` more, else so much less."""

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
_SETTINGS: Mapping[str, RoutingSettings] = {
    "null": RoutingSettings("null", null_experts=NULL_EXPERTS, slots=NULL_CHOSEN),
    "relu": RoutingSettings("relu"),
    "loss-free": RoutingSettings("loss-free"),
}


def install(model: Any, kind: str) -> list[StudyRouter]:
    """Replace the routers of a model in place and let our experts compute, and return the new routers in order.

    The model's configuration names them from then on, so that a saved checkpoint can be served. The plain router is
    the model's own and needs no name.

    Raises
    ------
    ValueError
        If there is no such kind, or the model has no routers of the form of Qwen3's.
    """
    from llmrouter.moe.experts import NAME, register_experts

    if kind not in _ROUTERS:
        raise ValueError(f"routing is {kind!r}; one of {', '.join(_ROUTERS)}")
    gates = [module.gate for module in model.modules() if hasattr(module, "gate") and hasattr(module, "experts")]
    if not gates or any(not getattr(gate, "norm_topk_prob", False) for gate in gates):
        raise ValueError("the model is not a mixture of experts whose router weights sum to one, as Qwen3's do")
    made: list[StudyRouter] = []

    def make(gate: Any) -> StudyRouter:
        made.append(_ROUTERS[kind](gate))
        return made[-1]

    install_routers(model, make)
    if kind in _SETTINGS:
        setattr(model.config, FIELD, _SETTINGS[kind].as_field())
    register_experts()
    model.set_experts_implementation(NAME)
    return made


def max_violation(loads: Sequence[torch.Tensor]) -> float:
    """Return MaxVio, (largest load - mean) / mean, averaged over layers."""
    values = [float(load.max() / load.float().mean() - 1) for load in loads if int(load.sum())]
    return sum(values) / len(values) if values else float("nan")
