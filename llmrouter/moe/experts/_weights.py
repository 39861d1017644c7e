"""The weights of one layer of experts, read from a Hugging Face module whatever its layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

QUANTIZED = "llmrouter_quantized"
"""Attribute of an experts module under which its quantised matrices lie, where they replace its own."""

Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """Experts of one layer; matrices are views of the module's parameters, nothing is copied.

    Attributes
    ----------
    up : torch.Tensor
        Shape (E, 2I, H): gate rows, then up rows (interleaved where `activation` expects it so); (E, I, H) for experts
        without a gate.
    down : torch.Tensor
        Shape (E, H, I).
    up_bias, down_bias : torch.Tensor or None
        Shapes (E, 2I) and (E, H).
    activation : callable
        (n, 2I) -> (n, I), the gate included.
    swiglu : bool
        Whether `activation` is silu(gate) * up with gate rows before up rows; the fused kernel knows only that.
    norm : callable or None
        Applied to an expert's output before the router weight, in the few models that have it.
    """

    up: torch.Tensor
    down: torch.Tensor
    activation: Function
    up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    swiglu: bool = False
    norm: Function | None = None

    @property
    def count(self) -> int:
        """Number of experts E."""
        return self.up.shape[0]

    @property
    def plain(self) -> bool:
        """Whether this is SwiGLU without biases and norm, as in all but a few models."""
        return self.swiglu and self.up_bias is None and self.down_bias is None and self.norm is None


def swiglu_weights(gate_up: torch.Tensor, down: torch.Tensor) -> ExpertWeights:
    """Return SwiGLU experts from (E, 2I, H) and (E, H, I) matrices.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    experts, doubled, hidden = gate_up.shape
    if doubled % 2 or down.shape != (experts, hidden, doubled // 2):
        raise ValueError(
            f"gate_up has shape {tuple(gate_up.shape)} and down {tuple(down.shape)}; "
            "they must be (E, 2I, H) and (E, H, I)"
        )
    return ExpertWeights(up=gate_up, down=down, activation=_swiglu, swiglu=True)


def module_weights(module: Any) -> ExpertWeights:
    """Return the weights of a Hugging Face experts module.

    Parameters
    ----------
    module : torch.nn.Module
        Of a class decorated with ``use_experts_implementation``, which says how its weights lie.
    """
    up = module.gate_up_proj if module.has_gate else module.up_proj
    down = module.down_proj
    if module.is_transposed:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    up_bias = down_bias = None
    if module.has_bias:
        up_bias = module.gate_up_proj_bias if module.has_gate else module.up_proj_bias
        down_bias = module.down_proj_bias
    return _weights(module, up, down, up_bias, down_bias)


def chosen_weights(module: Any, index: torch.Tensor) -> tuple[ExpertWeights, torch.Tensor]:
    """Return what computes the experts in `index`, and their ids in it.

    All weights and the same ids; for quantised experts the matrices of those that occur, expanded, and ids among them.
    """
    quantized = getattr(module, QUANTIZED, None)
    if quantized is None:
        return module_weights(module), index
    chosen, up, down, places = quantized.expanded(index)
    up_bias = down_bias = None
    if module.has_bias:
        up_bias = (module.gate_up_proj_bias if module.has_gate else module.up_proj_bias)[chosen]
        down_bias = module.down_proj_bias[chosen]
    return _weights(module, up, down, up_bias, down_bias), places


def expert_count(module: Any) -> int:
    """Return the number of experts of a Hugging Face experts module, quantised or not."""
    quantized = getattr(module, QUANTIZED, None)
    return module_weights(module).count if quantized is None else int(quantized.count)


def _weights(
    module: Any,
    up: torch.Tensor,
    down: torch.Tensor,
    up_bias: torch.Tensor | None,
    down_bias: torch.Tensor | None,
) -> ExpertWeights:
    return ExpertWeights(
        up=up,
        down=down,
        activation=module._apply_gate if module.has_gate else module.act_fn,  # noqa: SLF001 -- the interface's hook
        up_bias=up_bias,
        down_bias=down_bias,
        swiglu=_is_swiglu(module),
        norm=module.post_expert_norm if getattr(module, "has_post_expert_norm", False) else None,
    )


def _is_swiglu(module: Any) -> bool:
    """Whether the gate is Hugging Face's own (a class may bring another) around SiLU, on concatenated rows."""
    from transformers.integrations.moe import _default_apply_gate

    own_gate = getattr(type(module), "_apply_gate", None) is not _default_apply_gate
    if own_gate or not module.has_gate or not getattr(module, "is_concatenated", True):
        return False
    return isinstance(module.act_fn, torch.nn.SiLU) or type(module.act_fn).__name__ == "SiLUActivation"


def _swiglu(doubled: torch.Tensor) -> torch.Tensor:
    gate, up = doubled.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up
