"""A layer of experts with integers for weights, against float32: ``python -m benchmarks.moe.integers --out DIR``.

Time over float32's in the same round, median over rounds, and the relative error of the layer's output, on random
normal weights of published shapes with hidden and inner sizes divided. Writes ``integers.json`` and ``integers.md``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning._result_files import provenance, write_result
from benchmarks.moe.ways import Layer, Way, made_layer, made_tokens, our_ways, relative_error
from llmrouter.moe import Quantization
from llmrouter.moe.compression import QuantizedExperts
from llmrouter.moe.experts import Shape, grouped_experts, swiglu_weights

SHAPES = {"olmoe-1b-7b / 4": Shape(64, 512, 256, 8), "mixtral-8x7b / 8": Shape(8, 512, 1792, 2)}
KINDS = ("int8", "int4", "int4:16")
TOKENS = (1, 16, 256)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe.integers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for name, shape in SHAPES.items():
            layer = made_layer(shape, dtype=torch.float32, device=torch.device("cpu"), seed=0)
            ways = {kind: _way(layer, kind) for kind in KINDS}
            rows += [{"shape": name, **_measured(layer, ways, tokens, options.rounds)} for tokens in TOKENS]
    words = sys.argv[1:] if arguments is None else arguments
    document = {
        **provenance(" ".join(["python -m benchmarks.moe.integers", *words])),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "rows": rows,
    }
    write_result(options.out, "integers", document, page(document))
    return 0


def _way(layer: Layer, kind: str) -> Way:
    stored = QuantizedExperts(layer.experts, Quantization.parse(kind))

    def compute(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        _, up, down, places = stored.expanded(index)
        return grouped_experts(hidden, places, weights, swiglu_weights(up, down))

    return compute


def _measured(layer: Layer, ways: Mapping[str, Way], tokens: int, rounds: int) -> dict[str, Any]:
    plain = our_ways(layer)["ours"]
    ratios: dict[str, list[float]] = {kind: [] for kind in ways}
    errors: dict[str, float] = {}
    for number in range(rounds):
        batch = made_tokens(layer, tokens, seed=number)
        exact, own = _timed(plain, batch)
        for kind, way in ways.items():
            output, seconds = _timed(way, batch)
            ratios[kind].append(seconds / own)
            errors[kind] = relative_error(output, exact.double())
    return {"tokens": tokens, "times": {k: statistics.median(v) for k, v in ratios.items()}, "errors": errors}


def _timed(way: Way, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, float]:
    begun = time.perf_counter()
    output = way(*batch)
    return output, time.perf_counter() - begun


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Integers for experts' weights: one layer on a CPU",
        "",
        f"Time over that of float32 in the same round (median of {document['rounds']}), relative error of the output.",
        "",
        f"| shape | tokens | {' | '.join(f'{kind}, time | error' for kind in KINDS)} |",
        "|---" * (2 + 2 * len(KINDS)) + "|",
    ]
    for row in document["rows"]:
        cells = [f"{row['times'][kind]:.1f} | {row['errors'][kind]:.3f}" for kind in KINDS]
        lines.append(f"| {row['shape']} | {row['tokens']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
