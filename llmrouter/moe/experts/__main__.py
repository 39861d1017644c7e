"""Tiles of the fused experts: ``python -m llmrouter.moe.experts tune --out tiles.json`` and ``... check``.

``tune`` measures on the GPU at hand and writes the table that ``register_experts(TileTable.load(path))`` takes.
``check`` compiles the kernels for a GPU that need not be there, and fails if one does not fit its shared memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrouter.moe.experts._tiles import DECODE_TOKENS, SHARED_MEMORY, Shape, TileTable

SHAPES = {
    "mixtral-8x7b": Shape(8, 4096, 14336, 2),
    "olmoe-1b-7b": Shape(64, 2048, 1024, 8),
    "qwen3-30b-a3b": Shape(128, 2048, 768, 8),
}
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m llmrouter.moe.experts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tuning = commands.add_parser("tune", help="measure tiles on this machine's GPU")
    tuning.add_argument("--out", type=Path, required=True, help="the table, JSON")
    checking = commands.add_parser("check", help="compile ahead of time and compare with the GPU's memory")
    checking.add_argument("--capability", type=int, default=90, help="compute capability, 90 for H100 and H200")
    checking.add_argument("--dtype", choices=sorted(_ITEMSIZE), default="bf16")
    checking.add_argument("--tiles", type=Path, help="a table to check instead of the rule")
    for command in (tuning, checking):
        command.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
        command.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    options = parser.parse_args(arguments)
    return _tune(options) if options.command == "tune" else _check(options)


def _tune(options: argparse.Namespace) -> int:
    import torch

    from llmrouter.moe.experts._tuner import GpuMeasure, tune

    if not torch.cuda.is_available():
        print("tune needs a GPU that torch can see; on this machine only check works", file=sys.stderr)
        return 2
    with torch.inference_mode():
        table = tune([SHAPES[name] for name in options.shapes], options.tokens, GpuMeasure())
    document = {"device": torch.cuda.get_device_name(), **table.document()}
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def _check(options: argparse.Namespace) -> int:
    from llmrouter.moe.experts._compile import compile_layer
    from llmrouter.moe.experts._fused import triton_version

    if triton_version() is None:
        print("check needs triton: pip install triton", file=sys.stderr)
        return 2
    table = TileTable.load(options.tiles) if options.tiles else TileTable()
    too_large = 0
    for name in options.shapes:
        for tokens in options.tokens:
            tiles = table.tiles(SHAPES[name], tokens, _ITEMSIZE[options.dtype])
            kernels = compile_layer(
                SHAPES[name],
                tiles,
                decode=tokens <= DECODE_TOKENS,
                dtype=options.dtype,
                capability=options.capability,
            )
            for kernel in kernels:
                print(
                    f"{name} {tokens} {kernel.name}: {kernel.shared_memory} bytes of shared memory"
                    f"{', warp-group products' if kernel.warp_group_products else ''}"
                )
                too_large += kernel.shared_memory > SHARED_MEMORY
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
