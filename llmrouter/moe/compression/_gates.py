"""Learned pruning: gates on experts, trained to keep what the model says while most of them close.

After DiEP (Bai et al., 2025, arXiv:2509.16105), which relaxes the choice of experts to weights within and between
layers and trains them on the reconstruction of the model's outputs. Here there is one gate for each expert, comparable
between layers, so that every layer gets the rate that the loss wants for it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import kl_div, linear, log_softmax

from llmrouter.moe.compression._calibration import Calibration
from llmrouter.moe.compression._layers import MoeLayer
from llmrouter.moe.experts import Routed, routing_hooks

STEPS = 150
BATCH = 8
LEARNING_RATE = 0.2
TEMPERATURE = 0.5
CLOSED = 1e-4
"""What a closed gate leaves of an expert's odds, so that a layer with too many of them still chooses."""
SPARSITY = 5.0
"""Weight of the squared distance between the mean gate and the part of experts to keep, beside nats a token.
With the two above tried on train prompts of two pocket models only."""


class Gates:
    """A routing hook that adds the logarithm of each expert's gate to its router logit and chooses anew.

    Gates are drawn anew for every forward pass, mostly near 0 or 1 (the hard concrete distribution of Louizos and
    others, arXiv:1712.01312). A gate of 0 is the removal of the expert: softmax and choice are those of the others.
    Without the draw all gates of a layer could close together at no loss, as a softmax sees differences only.

    Parameters
    ----------
    layers : sequence of MoeLayer
        The model's, with routers as of `PRUNABLE` models: a softmax over logits, the k largest chosen.
    activation : dict of str to torch.Tensor
        Where gates start: open, a little wider for experts that do more.
    """

    def __init__(
        self, layers: Sequence[MoeLayer], activation: dict[str, torch.Tensor], *, seed: int, device: Any
    ) -> None:
        self._draw = torch.Generator().manual_seed(seed)
        self.logits: dict[int, torch.Tensor] = {}
        self._routers = {id(layer.experts): layer.router() for layer in layers}
        for layer in layers:
            share = activation[layer.name].float()
            start = 1.0 + share / share.mean().clamp(min=1e-30)
            self.logits[id(layer.experts)] = start.clamp(max=3.0).to(device).requires_grad_()

    def values(self, module: Any) -> torch.Tensor:
        """Return how open each gate of a layer is in expectation, shape (E,), from 0 to 1."""
        return torch.sigmoid(self.logits[id(module)])

    def __call__(self, module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Routed:
        """Choose experts with gated logits."""
        router = self._routers[id(module)]
        logits = self.logits[id(module)]
        noise = torch.rand(len(logits), generator=self._draw).clamp(1e-6, 1 - 1e-6).logit().to(logits.device)
        gate = (torch.sigmoid((logits + noise) / TEMPERATURE) * 1.2 - 0.1).clamp(0, 1)
        scores = linear(hidden, router.weight).float() + (gate + CLOSED).log()
        chosen, index = scores.softmax(dim=-1).topk(index.shape[1], dim=-1)
        if getattr(router, "norm_topk_prob", True):  # Mixtral's has no such setting and always does
            chosen = chosen / chosen.sum(dim=-1, keepdim=True)
        return index, chosen.to(weights.dtype)


def learned_gates(
    model: Any,
    layers: Sequence[MoeLayer],
    calibration: Calibration,
    *,
    rate: float,
    seed: int,
    steps: int | None = None,
) -> dict[str, torch.Tensor]:
    """Return the trained gate of every expert, by layer, higher is better; weights of the model do not change.

    Parameters
    ----------
    calibration : Calibration
        Its sequences are the training data.
    rate : float
        Part of the experts that gates are pressed to close.
    seed : int
        Of the order of the sequences.
    """
    device = model.device
    gates = Gates(layers, calibration.activation, seed=seed, device=device)
    optimizer = torch.optim.Adam(list(gates.logits.values()), lr=LEARNING_RATE)
    draw = random.Random(seed)
    sequences = calibration.sequences
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in frozen:
        parameter.requires_grad_(requires_grad=False)
    try:
        for _ in range(STEPS if steps is None else steps):
            tokens, real = _padded(draw.sample(sequences, min(BATCH, len(sequences))), device)
            with torch.no_grad():
                target = log_softmax(model(input_ids=tokens, use_cache=False).logits[real].float(), dim=-1)
            with routing_hooks(gates):
                said = log_softmax(model(input_ids=tokens, use_cache=False).logits[real].float(), dim=-1)
            loss = kl_div(said, target, log_target=True, reduction="batchmean")
            openness = torch.cat([gates.values(layer.experts) for layer in layers])
            excess = (openness.mean() - (1 - rate)).clamp(min=0)
            optimizer.zero_grad()
            (loss + SPARSITY * excess**2).backward()
            optimizer.step()
    finally:
        for parameter, wanted in frozen:
            parameter.requires_grad_(wanted)
    return {layer.name: gates.values(layer.experts).detach().cpu().double() for layer in layers}


def _padded(sequences: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens filled up on the right, where causal attention does not look, and which of them are real."""
    length = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), length, dtype=torch.long)
    real = torch.zeros_like(tokens, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
        real[row, : len(sequence)] = True
    return tokens.to(device), real.to(device)
