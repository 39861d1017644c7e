"""What the three stages of LLM Bandit minimise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmrouter.routers._clusters import cosines
from llmrouter.routers._llm_bandit_policy import numbers, preference_features
from llmrouter.types import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Preferences = Literal["log", "paper"]
JUDGED = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of cost at which the policy is judged on held-out prompts."""
_CLIP = 0.2
_VALUE_SHARE = 0.5
_MIXUP = 0.2
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class PolicyData:
    """What a policy learns from: n prompts, m models.

    Attributes
    ----------
    prompts : array of shape (n, axes)
        Inputs of the policy.
    identities : array of shape (m, q)
    expected : array of shape (n, m)
        What the response model expects.
    quality, cost : arrays of shape (n, m)
        Outcomes, NaN where not observed; costs in units of the dearest model's mean cost.
    mean_cost : array of shape (m,)
    """

    prompts: FloatArray
    identities: FloatArray
    expected: FloatArray
    quality: FloatArray
    cost: FloatArray
    mean_cost: FloatArray

    @property
    def usual_cost(self) -> float:
        """Return the median model's cost, which brings utilities at different weights to one scale."""
        return max(float(np.median(self.mean_cost)), 1e-4)

    def unit_of(self, weights: FloatArray) -> FloatArray:
        """Return what utilities at these weights (n,) are divided by."""
        return 1.0 + weights * self.usual_cost

    def nearest(self, rows: IntArray) -> IntArray:
        """Return for each prompt of `rows` the nearest other one among them, as an array over all n prompts."""
        found = np.arange(len(self.prompts))
        near = cosines(self.prompts[rows], self.prompts[rows] / _lengths(self.prompts[rows]))
        np.fill_diagonal(near, -np.inf)
        found[rows] = rows[near.argmax(axis=1)]
        return found


def draw_weights(n: int, kind: Preferences, random: np.random.Generator) -> FloatArray:
    """Return n weights of cost: log-uniform over 0.003 to 300, a tenth of them 0; or, as in the paper, of [0, 2]."""
    if kind == "paper":
        return random.uniform(0.0, 2.0, size=n)
    drawn = 10.0 ** random.uniform(-2.5, 2.5, size=n)
    return np.where(random.random(n) < 0.1, 0.0, drawn)


class SupervisedLoss:
    """Cross entropy of the policy with the arm of highest expected utility, expectations over their largest."""

    def __init__(self, data: PolicyData, kind: Preferences) -> None:
        self._data, self._kind = data, kind

    def __call__(self, module: Module, rows: IntArray, generator: np.random.Generator, learning: bool) -> Tensor:
        """Return the mean over prompts, each with a weight drawn for it."""
        import torch

        del learning
        data = self._data
        weights = draw_weights(len(rows), self._kind, generator)
        expected = data.expected[rows]
        best = expected / np.maximum(expected.max(), 1e-9) - weights[:, None] * data.mean_cost
        logits, _ = _applied(module, data, rows, weights)
        return torch.nn.functional.cross_entropy(logits, torch.as_tensor(best.argmax(axis=1)))


class PPOLoss:
    """One-step proximal policy optimisation on logged outcomes, with mixed prompts and a two-valued critic.

    An epoch's arms are drawn from the policy at its start, so that its later steps are clipped against it. Judged is
    the expected utility of the policy itself over `JUDGED` weights, negated.
    """

    def __init__(self, data: PolicyData, kind: Preferences, *, rows: IntArray, entropy: float) -> None:
        self._data, self._kind, self._entropy = data, kind, entropy
        self._near = data.nearest(rows)
        self._observed = np.isfinite(data.quality) & np.isfinite(data.cost)
        self._old: dict[str, Tensor] = {}
        self._epoch: np.random.Generator | None = None

    def __call__(self, module: Module, rows: IntArray, generator: np.random.Generator, learning: bool) -> Tensor:
        """Return the loss of a batch."""
        return self._learned(module, rows, generator) if learning else self._judged(module, rows)

    def _judged(self, module: Module, rows: IntArray) -> Tensor:
        import torch

        data, total = self._data, torch.zeros(())
        seen = torch.as_tensor(self._observed[rows])
        for weight in JUDGED:
            weights = np.full(len(rows), weight)
            logits, _ = _applied(module, data, rows, weights)
            share = _masked(logits, seen).softmax(dim=1)
            utility = (data.quality[rows] - weight * data.cost[rows]) / data.unit_of(weights)[:, None]
            total = total - (share * torch.as_tensor(np.nan_to_num(utility), dtype=share.dtype)).sum(dim=1).mean()
        return total / len(JUDGED)

    def _learned(self, module: Module, rows: IntArray, generator: np.random.Generator) -> Tensor:
        import torch

        if generator is not self._epoch:  # a new epoch: its arms are drawn from the policy as it is now
            self._epoch = generator
            self._old = {name: weight.detach().clone() for name, weight in module.named_parameters()}
        data = self._data
        weights = draw_weights(len(rows), self._kind, generator)
        share = generator.beta(_MIXUP, _MIXUP, size=len(rows))
        near = self._near[rows]
        mixed = share[:, None] * data.prompts[rows] + (1.0 - share[:, None]) * data.prompts[near]
        main = np.where(share >= 0.5, rows, near)  # what cannot be mixed comes from the larger part
        seen = torch.as_tensor(self._observed[main])
        given = _inputs(data, main, weights, prompts=mixed)
        logits, values = module(*given)
        logs = _masked(logits, seen).log_softmax(dim=1)
        with torch.no_grad():
            before = torch.func.functional_call(module, self._old, given)[0]
            old = _masked(before, seen).log_softmax(dim=1)
        keys = torch.as_tensor(generator.gumbel(size=tuple(logits.shape)), dtype=logits.dtype)
        arms = (old + keys).argmax(dim=1, keepdim=True)
        places = np.arange(len(rows)), arms[:, 0].numpy()
        reward = np.stack([data.quality[main][places], -data.cost[main][places]], axis=1)
        rewards = torch.as_tensor(np.nan_to_num(reward), dtype=logits.dtype)
        preference = torch.as_tensor(np.c_[np.ones(len(rows)), weights], dtype=logits.dtype)
        unit = torch.as_tensor(data.unit_of(weights), dtype=logits.dtype)
        gain = (preference * (rewards - values.detach())).sum(dim=1) / unit
        gain = (gain - gain.mean()) / gain.std().clamp(min=_LEAST_SPREAD) if len(rows) > 1 else gain
        ratio = (logs.gather(1, arms) - old.gather(1, arms))[:, 0].exp()
        clipped = torch.minimum(ratio * gain, ratio.clamp(1.0 - _CLIP, 1.0 + _CLIP) * gain)
        spread = -(logs.exp() * logs.clamp(min=-50.0)).sum(dim=1)
        missed = ((values - rewards) ** 2).sum(dim=1)
        loss: Tensor = (-clipped + _VALUE_SHARE * missed - self._entropy * spread).mean()
        return loss


def _inputs(data: PolicyData, rows: IntArray, weights: FloatArray, *, prompts: FloatArray) -> tuple[Any, ...]:
    import torch

    parts = (
        prompts,
        data.identities,
        numbers(data.expected[rows], data.mean_cost),
        preference_features(weights),
        _utilities(data, rows, weights),
    )
    return tuple(torch.as_tensor(np.asarray(part, dtype=np.float32)) for part in parts)


def _utilities(data: PolicyData, rows: IntArray, weights: FloatArray) -> FloatArray:
    """Return the utility of each model on each prompt at the prompt's own weight, (n, m)."""
    unit = 1.0 + weights[:, None] * np.median(data.mean_cost)
    return np.asarray((data.expected[rows] - weights[:, None] * data.mean_cost) / unit)


def _applied(module: Any, data: PolicyData, rows: IntArray, weights: FloatArray) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = module(*_inputs(data, rows, weights, prompts=data.prompts[rows]))
    return found


def _masked(logits: Tensor, seen: Tensor) -> Tensor:
    return logits.masked_fill(~seen, -1e9)


def _lengths(rows: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(lengths > 0, lengths, 1.0))
