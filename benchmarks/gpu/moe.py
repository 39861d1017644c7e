"""A layer of experts on a GPU: the fused kernels against Hugging Face's and Liger's, and against the roofline."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device import Device
from benchmarks.moe.ways import (
    Layer,
    Way,
    copied_bytes,
    exact_output,
    hugging_face_ways,
    made_layer,
    made_tokens,
    our_ways,
    relative_error,
)
from llmrouter.moe.experts import Shape, TileTable, triton_version
from llmrouter.moe.experts.__main__ import SHAPES, TOKENS
from llmrouter.moe.experts._timing import seconds_a_call

HELP = "a layer of experts at 1 to 4,096 tokens, against Hugging Face's and Liger's"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_LIMIT = {"bf16": 2e-2, "fp16": 3e-3, "fp32": 1e-5}  # of the relative error against float64
_CHECKED = (1, 16, 17, 256)
_ROUTINGS = 4  # calls with other tokens and experts in a row, so that the cache does not answer for the memory
_GRAPH, _CLOCK = "graph", "clock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this part is asked."""
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--dtype", default="bf16", choices=sorted(_DTYPES))
    parser.add_argument("--shrink", type=int, default=1, help="divide hidden and inner sizes, to try it on a CPU")
    parser.add_argument("--tiles", type=Path, help="a table of python -m llmrouter.moe.experts tune")


def measure(device: Device, options: argparse.Namespace) -> dict[str, Any]:
    """Return errors against float64, and microseconds and percent of the roofline of every way."""
    table = TileTable.load(options.tiles) if options.tiles else None
    bandwidth, products = device.copy_bytes_per_s(), device.products_per_s(_DTYPES[options.dtype])
    rows: list[dict[str, Any]] = []
    errors: dict[str, float] = {}
    skipped: list[str] = []
    wrong = 0
    if triton_version() is None:
        skipped.append("fused kernels: triton is not installed; `ours` is the grouped path")
    elif not device.is_gpu:
        skipped.append("fused kernels: they run on a GPU only; `ours` is the grouped path")
    if _liger() is None:
        skipped.append("liger: liger-kernel is not installed")
    with torch.inference_mode():
        for name in options.shapes:
            published = SHAPES[name]
            shape = Shape(
                published.experts,
                published.hidden // options.shrink,
                published.inner // options.shrink,
                published.top_k,
            )
            layer = made_layer(shape, dtype=_DTYPES[options.dtype], device=device.device, seed=options.seed)
            ways = _ways(layer, table, on_gpu=device.is_gpu)
            found, failed = _errors(layer, ways, options.seed)
            errors.update({f"{name}, {way}": error for way, error in found.items()})
            skipped += [f"{name}, {way}: failed at {reason}" for way, reason in failed.items()]
            wrong += sum(way.startswith("ours") for way in failed)
            # Ours and the default of Hugging Face come first at every size: they are what time must not run out for.
            for way in found:
                for tokens in options.tokens:
                    why = _why_not(device, layer, way, tokens)
                    if why:
                        skipped.append(f"{name}, {way}, {tokens} tokens: {why}")
                        continue
                    row = {"shape": name, "way": way, "tokens": tokens}
                    try:
                        row |= _timed(device, layer, ways[way], tokens, options.seed, bandwidth, products)
                    except Exception as error:
                        skipped.append(f"{name}, {way}, {tokens} tokens: {type(error).__name__}: {error}"[:300])
                        wrong += way.startswith("ours")
                        continue
                    rows.append(row)
                    print(
                        f"{name}, {way}, {tokens} tokens: {row['us']:.1f} us, {row['percent']:.0f}% of the roofline",
                        flush=True,
                    )
            del layer, ways
    return {
        "settings": {
            **{setting: getattr(options, setting) for setting in ("dtype", "shrink", "seed")},
            "tiles": str(options.tiles) if options.tiles else "the rule",
        },
        "bytes_per_s": bandwidth,
        "products_per_s": products,
        "relative_errors": errors,
        "layers": rows,
        "skipped": skipped,
        "wrong": wrong + sum(not error <= _LIMIT[options.dtype] for error in errors.values()),
    }


def _ways(layer: Layer, table: TileTable | None, *, on_gpu: bool) -> dict[str, Way]:
    theirs = hugging_face_ways(layer)
    ways = {"ours": our_ways(layer, table)["ours"], "grouped_mm": theirs["grouped_mm"]}
    ways["ours, deterministic"] = our_ways(layer, table)["ours, deterministic"]
    ways["batched_mm"] = theirs["batched_mm"]
    liger = _liger()
    if liger is not None and on_gpu:
        ways["liger"] = lambda hidden, index, weights: liger(
            hidden, layer.experts.up, layer.experts.down, index.int(), weights
        )
    return ways


def _liger() -> Any:
    """Return Liger's fused experts, None where it is not installed."""
    try:
        # optional, and in no lock: mypy does not find it
        from liger_kernel.ops.fused_moe import LigerFusedMoEFunction
    except ImportError:
        return None
    return LigerFusedMoEFunction.apply


def _errors(layer: Layer, ways: Mapping[str, Way], seed: int) -> tuple[dict[str, float], dict[str, str]]:
    """Return each way's largest relative error against float64 over some sizes, and why others failed."""
    errors = dict.fromkeys(ways, 0.0)
    failed: dict[str, str] = {}
    for tokens in _CHECKED:
        inputs = made_tokens(layer, tokens, seed=seed)
        exact = exact_output(layer, *inputs)
        for name, way in ways.items():
            if name in failed or (name == "batched_mm" and tokens > 16):  # it would copy the weights of every pair
                continue
            try:
                errors[name] = max(errors[name], relative_error(way(*inputs), exact))
            except Exception as error:
                failed[name] = f"{tokens} tokens: {type(error).__name__}: {error}".splitlines()[0]
    return {name: error for name, error in errors.items() if name not in failed}, failed


def _why_not(device: Device, layer: Layer, way: str, tokens: int) -> str | None:
    if not device.time_left():
        return "no time was left"
    copied = copied_bytes(layer.shape, tokens, layer.experts.up.element_size()) if way == "batched_mm" else 0
    room = torch.cuda.mem_get_info(device.device)[0] // 2 if device.is_gpu else 2 << 30
    return f"it would copy {copied / 2**30:.0f} GiB of weights" if copied > room else None


def _timed(
    device: Device, layer: Layer, way: Way, tokens: int, seed: int, bandwidth: float, products: float
) -> dict[str, Any]:
    """Return microseconds of a call, under a CUDA graph where the way can be captured, and how near the roof it is."""
    batches = [made_tokens(layer, tokens, seed=seed + 1 + number) for number in range(_ROUTINGS)]
    calls = [partial(way, *batch) for batch in batches]
    clock = _GRAPH if device.is_gpu else _CLOCK
    try:
        seconds = seconds_a_call(calls, device.name, rounds=10 if device.is_gpu else 3)
    except RuntimeError:  # a way that waits for the GPU cannot be captured
        clock = _CLOCK
        device.wait()
        seconds = device.seconds(lambda: [call() for call in calls], longest_s=1.0)["median_s"] / len(calls)
    used = sum(int((index.reshape(-1).bincount() > 0).sum()) for _, index, _ in batches) / len(batches)
    roof = roofline_s(layer.shape, tokens, used, layer.experts.up.element_size(), bandwidth, products)
    return {"us": seconds * 1e6, "percent": 100.0 * roof / seconds, "clock": clock, "used_experts": used}


def roofline_s(
    shape: Shape, tokens: int, used: float, itemsize: int, bytes_per_s: float, products_per_s: float
) -> float:
    """Return the least seconds of a layer: its used weights, tokens in and out once, or its arithmetic.

    Parameters
    ----------
    shape : Shape
        The layer.
    tokens : int
        Tokens.
    used : float
        Experts that some token chose.
    itemsize : int
        Bytes a value.
    bytes_per_s, products_per_s : float
        What the device's memory and arithmetic gave when measured, in bytes and floating-point operations a second.
    """
    moved = (used * 3 * shape.hidden * shape.inner + 2 * tokens * shape.hidden) * itemsize
    arithmetic = 6 * shape.hidden * shape.inner * shape.top_k * tokens
    return max(moved / bytes_per_s, arithmetic / products_per_s)


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    settings = document["settings"]
    method = (
        f"{settings['dtype']}, hidden and inner sizes divided by {settings['shrink']}, tiles from {settings['tiles']}; "
        f"uniform routing, {_ROUTINGS} different batches in a row. Cells are microseconds and percent of the roofline: "
        f"a copy moved {document['bytes_per_s'] / 1e12:.3g} TB/s and a large product did "
        f"{document['products_per_s'] / 1e12:.3g} TFLOP/s here. Under a CUDA graph but for cells with an asterisk, "
        "which are by the host's clock."
    )
    title = "# A layer of experts on a GPU" if document["gpu"] else "# A layer of experts, the GPU benchmark on a CPU"
    lines = [title, "", method]
    for shape in dict.fromkeys(row["shape"] for row in document["layers"]):
        part = [row for row in document["layers"] if row["shape"] == shape]
        ways = list(dict.fromkeys(row["way"] for row in part))
        lines += ["", f"## {shape}", "", f"| tokens | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
        for tokens in dict.fromkeys(row["tokens"] for row in part):
            cells = {row["way"]: _cell(row) for row in part if row["tokens"] == tokens}
            lines.append(f"| {tokens:,} | {' | '.join(cells.get(way, '') for way in ways)} |")
    lines += ["", "## Relative error against float64", ""]
    lines += [f"- {name}: {error:.2e}" for name, error in document["relative_errors"].items()]
    if document["skipped"]:
        lines += ["", "## Not measured", "", *(f"- {reason}" for reason in document["skipped"])]
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    return f"{row['us']:,.1f} ({row['percent']:.0f}%){'' if row['clock'] == _GRAPH else '*'}"
