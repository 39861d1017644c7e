"""Ahead-of-time compilation of the kernels for a GPU that need not be there: that they build and fit its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmrouter.moe.experts._fused import launch_constants, tile_constants
from llmrouter.moe.experts._tiles import Shape, Tile, Tiles

_WARP = 32
# What pointers point to; "x" is the type of weights and tokens.
_POINTERS = {
    **dict.fromkeys(("hidden", "activated", "slots", "matrix", "output"), "x"),
    "weights": "fp32",
    "index": "i64",
    **dict.fromkeys(("counts", "order"), "i32"),
}
# The compiler specialises on these being multiples of 16 and on a stride of one, as it does at a launch.
_MULTIPLES_OF_16 = frozenset({"size", "inner", "stride_token", "stride_expert", "stride_row"})


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled kernel: its name, shared memory in bytes, and whether it uses Hopper's warp-group products."""

    name: str
    shared_memory: int
    warp_group_products: bool


def compile_layer(
    shape: Shape, tiles: Tiles, *, decode: bool, dtype: str = "bf16", capability: int = 90
) -> list[Compiled]:
    """Compile the kernels of one layer; needs triton, but no GPU.

    Parameters
    ----------
    shape : Shape
        The layer; its sizes must be multiples of 16.
    tiles : Tiles
        Its tiles.
    decode : bool
        For up to 16 tokens.
    dtype : {"bf16", "fp16", "fp32"}
        Of weights and tokens.
    capability : int
        Compute capability, 90 for H100 and H200.

    Returns
    -------
    list of Compiled
        gate_up, down, add_slots, and align where it is used.
    """
    constants = launch_constants(shape.experts, shape.top_k, decode=decode)
    names = {"gate_up": (tiles.up, shape.hidden), "down": (tiles.down, shape.inner)}
    compiled = [
        _compile(name, {**constants, **tile_constants(tile, depth)}, tile, dtype, capability)
        for name, (tile, depth) in names.items()
    ]
    small = Tile(16, 16, 16)
    adding = {"EXPERTS": shape.experts, "TOP_K": shape.top_k, "DECODE": decode, "BLOCK": 1024}
    compiled.append(_compile("add_slots", adding, small, dtype, capability))
    if not decode:
        compiled.append(_compile("align", {"CHUNK": 1024}, small, dtype, capability))
    return compiled


def _compile(name: str, constants: dict[str, Any], tile: Tile, dtype: str, capability: int) -> Compiled:
    # Not in the locks: mypy finds it only where it is installed.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from llmrouter.moe.experts import _kernels

    kernel = getattr(_kernels, name)
    signature, known, attributes = {}, dict(constants), {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "stride_column":
            signature[argument], known[argument] = "constexpr", 1
        elif argument in _POINTERS:
            kind = _POINTERS[argument]
            signature[argument] = f"*{dtype if kind == 'x' else kind}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = "i32"
            if argument in _MULTIPLES_OF_16:
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=known, attrs=attributes)
    built = triton.compile(
        source,
        target=GPUTarget("cuda", capability, _WARP),
        options={"num_warps": tile.warps, "num_stages": tile.stages},
    )
    return Compiled(name, int(built.metadata.shared), "wgmma" in built.asm["ptx"])
