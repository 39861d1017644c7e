"""Launch of the fused kernels: four launches a layer, three for up to 16 tokens, none of them waits for the GPU."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

import torch

from llmrouter.moe.experts._tiles import DECODE_TOKENS, Shape, Tile, Tiles, TileTable, invariant
from llmrouter.moe.experts._weights import ExpertWeights

_ALIGN_CHUNK = 1024
_SUM_BLOCK = 1024


class FusedExperts:
    """The fused path with its tile table.

    Parameters
    ----------
    table : TileTable, optional
        From the tuner; by default every shape follows the rule of thumb.
    """

    def __init__(self, table: TileTable | None = None) -> None:
        self.table = table or TileTable()

    def usable(self, hidden: torch.Tensor, weights: torch.Tensor, experts: ExpertWeights) -> bool:
        """Whether the kernels can compute this: on a GPU, plain SwiGLU experts, no gradients wanted."""
        if not experts.plain or not kernels_run_on(hidden.device.type):
            return False
        wants_gradient = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (hidden, weights, experts.up, experts.down)
        )
        return not wants_gradient and hidden.dtype == experts.up.dtype == experts.down.dtype

    def __call__(
        self,
        hidden: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor,
        experts: ExpertWeights,
        *,
        deterministic: bool = False,
        tiles: Tiles | None = None,
    ) -> torch.Tensor:
        """Return the weighted sum of each token's experts; arguments as of `grouped_experts`.

        Parameters
        ----------
        tiles : Tiles, optional
            Instead of the table's.

        Raises
        ------
        ValueError
            If shapes do not belong together.
        """
        _check(hidden, index, weights, experts)
        tokens, top_k = index.shape
        size = hidden.shape[1]
        output = torch.empty_like(hidden, memory_format=torch.contiguous_format)
        if not tokens:
            return output
        inner = experts.down.shape[2]
        itemsize = hidden.element_size()
        if deterministic:
            tiles = invariant(itemsize)
        elif tiles is None:
            tiles = self.table.tiles(Shape(experts.count, size, inner, top_k), tokens, itemsize)
        decode = tokens <= DECODE_TOKENS and tiles.up.block_m >= DECODE_TOKENS and not deterministic
        hidden, index, weights = hidden.contiguous(), index.contiguous(), weights.contiguous()
        # Triton launches on the current device, whatever device the tensors are on.
        with torch.cuda.device(hidden.device) if hidden.is_cuda else contextlib.nullcontext():
            _launch(hidden, index, weights, experts, output, tiles, decode=decode)
        return output


def _launch(
    hidden: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
    experts: ExpertWeights,
    output: torch.Tensor,
    tiles: Tiles,
    *,
    decode: bool,
) -> None:
    from llmrouter.moe.experts import _kernels as kernels

    (tokens, top_k), size, inner = index.shape, hidden.shape[1], experts.down.shape[2]
    pairs = tokens * top_k
    if decode:
        counts = order = index  # not read
        blocks = pairs
    else:
        counts = torch.empty(experts.count, dtype=torch.int32, device=hidden.device)
        order = torch.empty(pairs, dtype=torch.int32, device=hidden.device)
        kernels.align[(experts.count,)](index, counts, order, pairs, CHUNK=_ALIGN_CHUNK)
        blocks = most_blocks(pairs, experts.count, tiles.up.block_m)
    activated = hidden.new_empty(pairs, inner)
    slots = hidden.new_empty(pairs, size)
    shared = launch_constants(experts.count, top_k, decode=decode)
    kernels.gate_up[(blocks * -(-inner // tiles.up.block_n),)](
        *(hidden, experts.up, activated, index, counts, order, tokens, blocks, size, inner),
        hidden.stride(0),
        *experts.up.stride(),
        **shared,
        **tile_constants(tiles.up, size),
        **_compiler_options(tiles.up),
    )
    kernels.down[(blocks * -(-size // tiles.down.block_n),)](
        *(activated, experts.down, slots, weights, index, counts, order, tokens, blocks, size, inner),
        *experts.down.stride(),
        **shared,
        **tile_constants(tiles.down, inner),
        **_compiler_options(tiles.down),
    )
    kernels.add_slots[(tokens, -(-size // _SUM_BLOCK))](
        slots, output, index, size, EXPERTS=experts.count, TOP_K=top_k, DECODE=decode, BLOCK=_SUM_BLOCK
    )


def most_blocks(pairs: int, experts: int, block_m: int) -> int:
    """Return the most blocks that `pairs` pairs can make, however they fall on the experts.

    The grid must be known without reading the counts back from the GPU; programs beyond the last block end at once.
    """
    used = min(pairs, experts)
    return (pairs + used * (block_m - 1)) // block_m


@cache
def triton_version() -> str | None:
    """Return the version of triton, None where it is not installed (torch's CPU builds come without)."""
    try:
        import triton
    except ImportError:
        return None
    return str(triton.__version__)


def kernels_run_on(device: str) -> bool:
    """Whether the kernels run on this kind of device (on a CPU they do in Triton's interpreter only, for tests)."""
    return device == "cuda" and triton_version() is not None


def launch_constants(experts: int, top_k: int, *, decode: bool) -> dict[str, Any]:
    """Return the compile-time arguments that both products share."""
    return {
        "EXPERTS": experts,
        "EXPERTS_2": _power_of_two(experts),
        "TOP_K": top_k,
        "TOP_K_2": _power_of_two(top_k),
        "DECODE": decode,
        "PRECISION": "ieee",  # TF32 would lose half of float32's digits
    }


def tile_constants(tile: Tile, depth: int) -> dict[str, Any]:
    """Return the compile-time arguments of a product's tile; `depth` is the length of its sums."""
    return {
        "EVEN": depth % tile.block_k == 0,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "GROUP_M": tile.group_m,
    }


def _compiler_options(tile: Tile) -> dict[str, int]:
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _check(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, experts: ExpertWeights) -> None:
    count, doubled, size = experts.up.shape
    if hidden.ndim != 2 or hidden.shape[1] != size:
        raise ValueError(f"hidden has shape {tuple(hidden.shape)}; these experts take (tokens, {size})")
    if index.ndim != 2 or index.shape[0] != hidden.shape[0] or index.shape != weights.shape:
        raise ValueError(
            f"index has shape {tuple(index.shape)} and weights {tuple(weights.shape)}; "
            f"both must be ({hidden.shape[0]}, k)"
        )
    if experts.down.shape != (count, size, doubled // 2):
        raise ValueError(f"down has shape {tuple(experts.down.shape)}; it must be {(count, size, doubled // 2)}")
