"""Our experts as implementations that Hugging Face models choose by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from llmrouter.moe.experts._fused import FusedExperts
from llmrouter.moe.experts._grouped import grouped_experts
from llmrouter.moe.experts._hooks import routed
from llmrouter.moe.experts._reduction import Reduction
from llmrouter.moe.experts._tiles import TileTable
from llmrouter.moe.experts._weights import chosen_weights, expert_count

NAME = "llmrouter"
DETERMINISTIC_NAME = "llmrouter_deterministic"


def register_experts(table: TileTable | None = None) -> tuple[str, str]:
    """Add ``llmrouter`` and ``llmrouter_deterministic`` to Hugging Face's experts implementations.

    After that ``from_pretrained(..., experts_implementation="llmrouter")`` and
    ``model.set_experts_implementation("llmrouter")`` work for every class whose experts go through that interface
    (OLMoE, Mixtral, Qwen-MoE, DeepSeek-MoE and some fifty more); no class is patched. On a GPU with triton they are the
    fused kernels, elsewhere (and for experts with biases or other gates than SwiGLU) grouped products.

    Parameters
    ----------
    table : TileTable, optional
        Tuned tiles of the fused kernels.

    Returns
    -------
    tuple of str
        The two names. To call it again replaces the table.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    fused = FusedExperts(table)
    ALL_EXPERTS_FUNCTIONS.register(NAME, partial(_forward, fused=fused, deterministic=False))
    ALL_EXPERTS_FUNCTIONS.register(DETERMINISTIC_NAME, partial(_forward, fused=fused, deterministic=True))
    return NAME, DETERMINISTIC_NAME


def register_reduced_experts(reduction: Reduction, table: TileTable | None = None) -> str:
    """Add an implementation that computes fewer experts, and return its name.

    Parameters
    ----------
    reduction : Reduction
        Which experts are computed. Quality may fall: measure it on your own prompts.
    table : TileTable, optional
        Tuned tiles of the fused kernels.

    Returns
    -------
    str
        For example ``llmrouter[active=1]``.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    name = f"{NAME}[{reduction.name}]"
    ALL_EXPERTS_FUNCTIONS.register(
        name, partial(_forward, fused=FusedExperts(table), deterministic=False, reduction=reduction)
    )
    return name


def _forward(
    module: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    *,
    fused: FusedExperts,
    deterministic: bool,
    reduction: Reduction | None = None,
) -> torch.Tensor:
    top_k_index, top_k_weights = routed(module, hidden_states, top_k_index, top_k_weights)
    if reduction is not None:
        top_k_index, top_k_weights = reduction.apply(top_k_index, top_k_weights, expert_count(module))
    experts, top_k_index = chosen_weights(module, top_k_index)
    if fused.usable(hidden_states, top_k_weights, experts):
        return fused(hidden_states, top_k_index, top_k_weights, experts, deterministic=deterministic)
    return grouped_experts(hidden_states, top_k_index, top_k_weights, experts, deterministic=deterministic)
