"""A layer of experts on a CPU, ours against Hugging Face's: ``python -m benchmarks.moe --out DIR``.

Every way computes the same layer on the same tokens, in rounds of random order; what is reported is the median over
rounds of each way's time over ours in the same round, so that a busy machine slows both. Shapes are those of published
models with hidden and inner sizes divided. Writes ``moe.json`` and ``moe.md``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning._result_files import provenance, write_result
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
from llmrouter.moe.experts import Shape

# Published (experts, hidden, inner, experts a token), with what hidden and inner sizes are divided by.
SHAPES = {
    "olmoe-1b-7b / 4": Shape(64, 512, 256, 8),
    "mixtral-8x7b / 8": Shape(8, 512, 1792, 2),
    "qwen3-30b-a3b / 4": Shape(128, 512, 192, 8),
}
TOKENS = (1, 4, 16, 64, 256, 1024)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MOST_COPIED = 2 << 30
_LIMIT = {"fp32": 1e-5, "bf16": 2e-2}  # of the relative error against float64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if an output was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for dtype in options.dtypes:
            for name in options.shapes:
                layer = made_layer(SHAPES[name], dtype=DTYPES[dtype], device=torch.device("cpu"), seed=options.seed)
                for tokens in options.tokens:
                    rows.append({"shape": name, "dtype": dtype, **_measured(layer, tokens, dtype, options)})
                    print(_line(rows[-1]), flush=True)
    words = sys.argv[1:] if arguments is None else arguments
    document = {
        **provenance(" ".join(["python -m benchmarks.moe", *words])),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "settings": {name: getattr(options, name) for name in ("rounds", "threads", "seed")},
        "rows": rows,
        "wrong": sum(error > _LIMIT[row["dtype"]] for row in rows for error in row["errors"].values()),
    }
    write_result(options.out, "moe", document, page(document))
    return 1 if document["wrong"] else 0


def _measured(layer: Layer, tokens: int, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    ways: dict[str, Way] = {**our_ways(layer), **hugging_face_ways(layer)}
    if copied_bytes(layer.shape, tokens, DTYPES[dtype].itemsize) > _MOST_COPIED:
        del ways["batched_mm"]
    batches = [made_tokens(layer, tokens, seed=options.seed + 1 + number) for number in range(options.rounds)]
    exact = exact_output(layer, *batches[0])
    errors = {name: relative_error(way(*batches[0]), exact) for name, way in ways.items()}
    order = list(ways)
    shuffler = random.Random(options.seed)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for batch in batches:
        shuffler.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            ways[name](*batch)
            taken[name].append(time.perf_counter() - begun)
    ours = taken["ours"]
    return {
        "tokens": tokens,
        "ours_ms": statistics.median(ours) * 1e3,
        "times_ours": {
            name: statistics.median(other / own for other, own in zip(seconds, ours, strict=True))
            for name, seconds in taken.items()
            if name != "ours"
        },
        "errors": errors,
    }


def _line(row: Mapping[str, Any]) -> str:
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["times_ours"].items())
    return f"{row['shape']}, {row['dtype']}, {row['tokens']} tokens: ours {row['ours_ms']:.2f} ms; times ours: {ratios}"


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    settings = document["settings"]
    method = (
        f"Time over ours in the same round, median of {settings['rounds']} rounds in random order (above 1: ours is "
        f"faster); {settings['threads']} thread(s), {document['capability']}, torch {document['torch']}. Names give "
        "what hidden and inner sizes are divided by. Empty cells: `batched_mm` would copy more than 2 GiB of weights."
    )
    lines = ["# A layer of experts on a CPU", "", method]
    others = ("eager", "grouped_mm", "batched_mm", "ours, deterministic")
    for dtype in dict.fromkeys(row["dtype"] for row in document["rows"]):
        lines += ["", f"## {dtype}", "", f"| shape | tokens | ours, ms | {' | '.join(others)} |", "|---" * 7 + "|"]
        for row in document["rows"]:
            if row["dtype"] == dtype:
                cells = [f"{row['times_ours'][way]:.2f}" if way in row["times_ours"] else "" for way in others]
                lines.append(f"| {row['shape']} | {row['tokens']:,} | {row['ours_ms']:.2f} | {' | '.join(cells)} |")
        worst = {
            way: max(row["errors"].get(way, 0.0) for row in document["rows"] if row["dtype"] == dtype)
            for way in ("ours", *others)
        }
        lines += ["", "Largest relative error against float64: " + ", ".join(f"{w} {e:.1e}" for w, e in worst.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
