"""The ways of computing a layer of experts that are compared, on one set of random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llmrouter.moe.experts import ExpertWeights, FusedExperts, Shape, TileTable, grouped_experts, swiglu_weights

Way = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of experts with random weights, as ours and as a Hugging Face module over the same tensors."""

    shape: Shape
    experts: ExpertWeights
    module: Any


def made_layer(shape: Shape, *, dtype: torch.dtype, device: torch.device, seed: int) -> Layer:
    """Return a layer of normal weights, each row of unit length in expectation."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device=device).normal_(std=size[-1] ** -0.5, generator=generator)

    up = normal(shape.experts, 2 * shape.inner, shape.hidden)
    down = normal(shape.experts, shape.hidden, shape.inner)
    with torch.device("meta"):
        config = MixtralConfig(hidden_size=shape.hidden, intermediate_size=shape.inner, num_local_experts=shape.experts)
        module = MixtralExperts(config)
    module.gate_up_proj = torch.nn.Parameter(up, requires_grad=False)
    module.down_proj = torch.nn.Parameter(down, requires_grad=False)
    return Layer(shape, swiglu_weights(up, down), module.eval())


def made_tokens(layer: Layer, tokens: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return normal tokens, uniformly chosen experts, and router weights that sum to one."""
    device, dtype = layer.experts.up.device, layer.experts.up.dtype
    generator = torch.Generator(device).manual_seed(seed)
    hidden = torch.randn(tokens, layer.shape.hidden, device=device, generator=generator).to(dtype)
    scores = torch.rand(tokens, layer.shape.experts, device=device, generator=generator)
    weights, index = scores.topk(layer.shape.top_k)
    return hidden, index, (weights / weights.sum(-1, keepdim=True)).to(dtype)


def hugging_face_ways(layer: Layer) -> Mapping[str, Way]:
    """Return Hugging Face's implementations by name."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    def eager(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        layer.module.config._experts_implementation = "eager"  # noqa: SLF001 -- as set_experts_implementation does
        output: torch.Tensor = layer.module(hidden, index, weights)
        return output

    def registered(name: str) -> Way:
        function = ALL_EXPERTS_FUNCTIONS[name]
        return lambda hidden, index, weights: function(layer.module, hidden, index, weights)

    return {"eager": eager, "grouped_mm": registered("grouped_mm"), "batched_mm": registered("batched_mm")}


def our_ways(layer: Layer, table: TileTable | None = None) -> Mapping[str, Way]:
    """Return ours, and ours with the deterministic option: the fused kernels where they run, else grouped."""
    fused = FusedExperts(table)

    def way(*, deterministic: bool) -> Way:
        def compute(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            if fused.usable(hidden, weights, layer.experts):
                return fused(hidden, index, weights, layer.experts, deterministic=deterministic)
            return grouped_experts(hidden, index, weights, layer.experts, deterministic=deterministic)

        return compute

    return {"ours": way(deterministic=False), "ours, deterministic": way(deterministic=True)}


def copied_bytes(shape: Shape, tokens: int, itemsize: int) -> int:
    """Return what `batched_mm` copies: the weights of every pair of token and expert."""
    return tokens * shape.top_k * 3 * shape.hidden * shape.inner * itemsize


def exact_output(layer: Layer, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the layer's output in float64, one expert converted at a time."""
    output = torch.zeros(hidden.shape, dtype=torch.float64, device=hidden.device)
    for expert in range(layer.shape.experts):
        token, slot = (index == expert).nonzero(as_tuple=True)
        if len(token):
            gate, up = (hidden[token].double() @ layer.experts.up[expert].double().t()).chunk(2, dim=-1)
            chosen = (torch.nn.functional.silu(gate) * up) @ layer.experts.down[expert].double().t()
            output.index_add_(0, token, chosen * weights[token, slot, None].double())
    return output


def relative_error(output: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the length of the difference over the length of the exact output."""
    return float((output.double() - exact).norm() / exact.norm())
