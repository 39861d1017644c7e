"""Removing experts from a loaded model: which ones, and the removal itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llmrouter.exceptions import CheckpointError
from llmrouter.moe._options import Pruning
from llmrouter.moe.compression._calibration import calibrate
from llmrouter.moe.compression._layers import MoeLayer, moe_layers

PRUNABLE = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""Model types whose routers are a row of weights an expert and nothing else, as the removal supposes (tested)."""


def prune(
    model: Any, pruning: Pruning, prompts: Sequence[Sequence[int]], *, end_tokens: frozenset[int]
) -> dict[str, list[int]]:
    """Remove experts in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With an ``llmrouter`` experts implementation.
    pruning : Pruning
        How many, and by which rule.
    prompts : sequence of sequence of int
        Its prompts as token ids.
    end_tokens : frozenset of int
        Ids that end an answer.

    Returns
    -------
    dict of str to list of int
        Name of each layer -> the experts that it keeps, by their old numbers.

    Raises
    ------
    CheckpointError
        If the model cannot be pruned, or the rate leaves a layer with fewer experts than a token uses.
    """
    layers = moe_layers(model)
    check_prunable(model, layers)
    counts = {layer.name: layer.count for layer in layers}
    removals(counts, pruning, top_k=experts_a_token(model))  # refuse a wrong rate before the work
    calibration = calibrate(model, prompts, end_tokens=end_tokens)
    top_k = experts_a_token(model)
    if pruning.allocation == "learned":
        from llmrouter.moe.compression._gates import learned_gates

        gates = learned_gates(model, layers, calibration, rate=pruning.rate, seed=pruning.seed)
        kept = with_rates_of(choose_kept(gates, pruning, top_k=top_k), calibration.activation)
    else:
        kept = choose_kept(calibration.activation, pruning, top_k=top_k)
    for layer in layers:
        keep_experts(layer, kept[layer.name])
    return kept


def check_prunable(model: Any, layers: Sequence[MoeLayer]) -> None:
    """Raise CheckpointError if experts of this kind of model cannot be removed."""
    if model.config.model_type not in PRUNABLE:
        raise CheckpointError(
            f"experts of model type {model.config.model_type!r} cannot be pruned here; "
            f"those of {', '.join(PRUNABLE)} can. Load it without pruning"
        )
    for layer in layers:
        layer.router()


def experts_a_token(model: Any) -> int:
    """Return how many experts a token uses."""
    return int(model.config.get_text_config().num_experts_per_tok)


def removals(counts: Mapping[str, int], pruning: Pruning, *, top_k: int) -> int:
    """Return how many experts are removed: of the whole model, or for "uniform" of each layer.

    Raises
    ------
    CheckpointError
        If that is none, or leaves fewer than `top_k` in a layer.
    """
    uniform = pruning.allocation == "uniform"
    total = min(counts.values()) if uniform else sum(counts.values())
    spare = total - top_k * (1 if uniform else len(counts))
    wanted = round(pruning.rate * total)
    if not 0 < wanted <= spare:
        raise CheckpointError(
            f"the pruning rate is {pruning.rate}, which removes {wanted} of {total} experts"
            f"{' of a layer' if uniform else ''}; a layer keeps at least the {top_k} that a token uses, "
            + (
                f"so take a rate from {1 / total:.3g} to {spare / total:.3g}"
                if spare
                else "so this model has none to spare"
            )
        )
    return wanted


def choose_kept(scores: Mapping[str, torch.Tensor], pruning: Pruning, *, top_k: int) -> dict[str, list[int]]:
    """Return the experts that each layer keeps, in rising order.

    Parameters
    ----------
    scores : mapping of str to torch.Tensor
        Name of each layer -> (E,), higher is better.
    pruning : Pruning
        Rate and rule.
    top_k : int
        Experts that every layer keeps at least.
    """
    counts = {name: len(values) for name, values in scores.items()}
    wanted = removals(counts, pruning, top_k=top_k)
    ranked = {name: values.argsort(stable=True).tolist() for name, values in scores.items()}
    if pruning.allocation == "uniform":
        return {name: sorted(order[wanted:]) for name, order in ranked.items()}
    # Layers differ in the length of their outputs: activations are compared as shares of their layer. Gates of the
    # learned rule are comparable as they are.
    share = {
        name: values if pruning.allocation == "learned" else values / values.sum().clamp(min=1e-30)
        for name, values in scores.items()
    }
    removable = [
        (float(share[name][expert]), name, expert)
        for name, order in ranked.items()
        for expert in order[: counts[name] - top_k]
    ]
    removed = {(name, expert) for _, name, expert in sorted(removable)[:wanted]}
    return {
        name: [expert for expert in range(count) if (name, expert) not in removed] for name, count in counts.items()
    }


def with_rates_of(kept: Mapping[str, Sequence[int]], activation: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """Keep as many experts of each layer as `kept` does, those of the largest activation.

    Gates are trained on a few hundred sequences and tell layers apart better than experts: on train prompts of two
    pocket models their rates with the experts of the activation lost less than the gates' own choice.
    """
    return {
        name: sorted(activation[name].argsort(descending=True, stable=True)[: len(experts)].tolist())
        for name, experts in kept.items()
    }


def keep_experts(layer: MoeLayer, kept: Sequence[int]) -> None:
    """Remove all experts of a layer but `kept`, in place; the router chooses among those from now on."""
    router, count = layer.router(), layer.count
    for module in (layer.experts, router):
        rows = torch.tensor(list(kept), device=next(module.parameters()).device)
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.shape[0] == count:
                smaller = torch.nn.Parameter(parameter.detach()[rows].clone(), requires_grad=parameter.requires_grad)
                setattr(module, name, smaller)
        module.num_experts = len(rows)
