"""Experts in plain torch: one pair of matrix products an expert, on the rows that chose it.

The path of CPUs, and of experts that the fused kernel does not know (biases, other gates). Nothing is dropped: every
pair of token and expert is computed, however many tokens choose one expert. Differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from llmrouter.moe.experts._invariant import activation_rows, in_row_tiles
from llmrouter.moe.experts._weights import ExpertWeights

# W @ x.T against x @ W.T, measured with MKL and oneDNN on AVX-512 and AMX: for some tens of rows the first is up to 1.6
# times as fast, as the long side is then the one that the library blocks. Small matrices gain nothing.
_LARGE_MATRIX = 1 << 20
_COLUMNS_FLOAT32 = range(6, 65)
_COLUMNS_HALF = range(2, 257)
# Below so many rows an expert, one activation of all rows is cheaper than one of each expert's; above, the rows of one
# expert are still in the cache.
_FEW_ROWS = 32


def grouped_experts(
    hidden: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
    experts: ExpertWeights,
    *,
    deterministic: bool = False,
) -> torch.Tensor:
    """Return the weighted sum of each token's experts.

    Parameters
    ----------
    hidden : torch.Tensor
        Tokens, shape (T, H).
    index : torch.Tensor of int
        Chosen experts, shape (T, k). An id outside [0, E) is skipped: it stands for an expert that computes nothing.
    weights : torch.Tensor
        Router weights, shape (T, k).
    experts : ExpertWeights
        The layer's experts.
    deterministic : bool
        Give every row the same bits whatever the other rows are: products in tiles of a fixed number of rows, sums in
        the order of the slots. Slower.

    Returns
    -------
    torch.Tensor
        Shape (T, H), of the type of `hidden`.
    """
    tokens, top_k = index.shape
    if tokens == 1 and not deterministic:
        return _one_token(hidden, index, weights, experts)
    flat = index.reshape(-1)
    known = (flat >= 0) & (flat < experts.count)
    keys = torch.where(known, flat, experts.count)
    order = keys.argsort(stable=True)
    counts = keys.bincount(minlength=experts.count + 1).tolist()[: experts.count]
    order = order[: sum(counts)]  # skipped pairs are sorted to the end
    rows = hidden[order.div(top_k, rounding_mode="floor")]
    if not len(order):
        return torch.zeros_like(hidden)
    if experts.plain and not deterministic and not _wants_gradient(hidden, weights, experts):
        outputs = _plain_experts(rows, counts, experts)
    else:
        outputs = _any_experts(rows, counts, experts, deterministic=deterministic)
    weighted = outputs * weights.reshape(-1)[order, None]
    if len(order) == len(flat):
        slots = weighted[torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))]
    else:
        slots = weighted.new_zeros(len(flat), hidden.shape[1]).index_copy(0, order, weighted)
    slots = slots.view(tokens, top_k, -1)
    return (_ordered_sum(slots) if deterministic else slots.sum(dim=1)).to(hidden.dtype)


def _wants_gradient(hidden: torch.Tensor, weights: torch.Tensor, experts: ExpertWeights) -> bool:
    tensors = (hidden, weights, experts.up, experts.down)
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _plain_experts(rows: torch.Tensor, counts: Sequence[int], experts: ExpertWeights) -> torch.Tensor:
    """Return the experts' outputs for (n, H) rows sorted by expert, written into one tensor."""
    output = torch.empty_like(rows)
    parts = [(expert, count) for expert, count in enumerate(counts) if count]
    chosen = torch.split(rows, [count for _, count in parts])
    targets = torch.split(output, [count for _, count in parts])
    if len(rows) < _FEW_ROWS * len(parts) and not _large(experts.up[0]):
        doubled = rows.new_empty(len(rows), experts.up.shape[1])
        for (expert, _), part, target in zip(parts, chosen, torch.split(doubled, [n for _, n in parts]), strict=True):
            torch.mm(part, experts.up[expert].t(), out=target)
        activated = torch.split(_in_place_swiglu(*doubled.chunk(2, dim=-1)), [count for _, count in parts])
        for (expert, _), part, target in zip(parts, activated, targets, strict=True):
            torch.mm(part, experts.down[expert].t(), out=target)
        return output
    for (expert, _), part, target in zip(parts, chosen, targets, strict=True):
        up, down = experts.up[expert], experts.down[expert]
        if _by_columns(part, up):
            columns = _in_place_swiglu(*torch.mm(up, part.t()).chunk(2))
            target.copy_(torch.mm(down, columns).t())
        else:
            torch.mm(_in_place_swiglu(*torch.mm(part, up.t()).chunk(2, dim=-1)), down.t(), out=target)
    return output


def _in_place_swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(gate).mul_(up)


def _any_experts(
    rows: torch.Tensor, counts: Sequence[int], experts: ExpertWeights, *, deterministic: bool
) -> torch.Tensor:
    """Return the same for experts of any kind, differentiable or deterministic."""
    outputs, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            outputs.append(_expert(rows[start : start + count], experts, expert, deterministic=deterministic))
            start += count
    return torch.cat(outputs)


def _one_token(
    hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, experts: ExpertWeights
) -> torch.Tensor:
    """Skip sorting and gathering: with one token every expert has one row."""
    chosen = [(slot, expert) for slot, expert in enumerate(index[0].tolist()) if expert in range(experts.count)]
    if not chosen:
        return torch.zeros_like(hidden)
    outputs = torch.cat([_expert(hidden, experts, expert, deterministic=False) for _, expert in chosen])
    used = weights[0] if len(chosen) == index.shape[1] else weights[0, [slot for slot, _ in chosen]]
    return (outputs * used[:, None]).sum(dim=0, keepdim=True).to(hidden.dtype)


def _expert(rows: torch.Tensor, experts: ExpertWeights, expert: int, *, deterministic: bool) -> torch.Tensor:
    """Return one expert's output for (n, H) rows, without the router weight."""
    up, down = experts.up[expert], experts.down[expert]
    up_bias = None if experts.up_bias is None else experts.up_bias[expert]
    down_bias = None if experts.down_bias is None else experts.down_bias[expert]
    if deterministic:
        doubled = in_row_tiles(lambda tile: linear(tile, up, up_bias), rows)
        activated = in_row_tiles(experts.activation, doubled, tile=activation_rows(doubled.shape[1]))
        output = in_row_tiles(lambda tile: linear(tile, down, down_bias), activated)
    else:
        output = linear(experts.activation(linear(rows, up, up_bias)), down, down_bias)
    return output if experts.norm is None else experts.norm(output)


def _by_columns(rows: torch.Tensor, matrix: torch.Tensor) -> bool:
    if not _large(matrix) or rows.device.type != "cpu":
        return False
    return len(rows) in (_COLUMNS_FLOAT32 if rows.dtype == torch.float32 else _COLUMNS_HALF)


def _large(matrix: torch.Tensor) -> bool:
    return matrix.numel() >= _LARGE_MATRIX


def _ordered_sum(slots: torch.Tensor) -> torch.Tensor:
    """Sum (T, k, H) over k, first slot first."""
    exact = torch.promote_types(slots.dtype, torch.float32)
    total = slots[:, 0].to(exact)
    for slot in range(1, slots.shape[1]):
        total = total + slots[:, slot].to(exact)
    return total
