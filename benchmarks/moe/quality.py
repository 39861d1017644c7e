"""What options on experts cost in quality on the pocket models: ``python -m benchmarks.moe.quality --out DIR``.

Every option is loaded as the server loads it, and answers the same held-out prompts greedily; reported are the part of
right answers, its difference to the model as it is with a paired standard error, and how many answers stay the same to
the letter. Pruning is calibrated on train prompts. Nothing is chosen here: all settings asked for are reported.
Writes ``quality-MODEL.json`` and ``.md`` for each model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning._result_files import provenance, write_result
from benchmarks.moe.pocket import POCKET, Prompt, answers, marks, prompts
from llmrouter.exceptions import CheckpointError
from llmrouter.moe import Engine, Pruning, Quantization, SelfContrast, load_engine
from llmrouter.moe.compression import moe_layers
from llmrouter.moe.experts import Reduction

MODELS = ("pocket-numbers", "pocket-words", "pocket-max", "pocket-mini")
RATES = (0.125, 0.25, 0.375, 0.5)
PARTS = ("fewer", "prune", "quantize", "contrast")


def settings(part: str, calibration: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, keyword arguments of `load_engine`) of a part."""
    if part == "fewer":
        yield "1 expert a token", {"reduction": Reduction(active=1)}
        for mass in (0.5, 0.7, 0.9):
            yield f"experts with {mass:.0%} of the weight", {"reduction": Reduction(top_p=mass)}
    elif part == "prune":
        for allocation in ("uniform", "global", "learned"):
            for rate in RATES:
                yield f"{rate:.1%} pruned, {allocation}", {"prune": Pruning(rate, calibration, allocation=allocation)}
    elif part == "quantize":
        for kind in ("int8", "int4:16", "int4:8"):
            yield kind, {"quantize": Quantization.parse(kind)}
    else:
        for beta in (0.25, 0.5, 1.0):
            yield f"self-contrast {beta:g}", {"contrast": SelfContrast(beta=beta)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--prompts", type=int, default=300, help="held-out prompts for each model (default: 300)")
    parser.add_argument("--calibration", type=int, default=200, help="train prompts for pruning (default: 200)")
    parser.add_argument("--split", choices=["train", "test"], default="test", help="train: prompts not calibrated on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    words = sys.argv[1:] if arguments is None else arguments
    used = {name: getattr(options, name) for name in ("prompts", "calibration", "split", "seed")}
    for model in options.models:
        rows: list[dict[str, Any]] = []
        for row in measured(model, options):
            rows.append(row)
            print(_line(row), flush=True)
        document = {
            **provenance(" ".join(["python -m benchmarks.moe.quality", *words])),
            "torch": torch.__version__,
            "settings": used,
            "rows": rows,
        }
        write_result(options.out, f"quality-{model}", document, page(document))
    return 0


def measured(model: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row a setting of a model, the model as it is first."""
    calibration = prompts("train", model, options.calibration, seed=options.seed)
    skipped = options.calibration if options.split == "train" else 0
    asked = prompts(options.split, model, options.prompts + skipped, seed=options.seed)[skipped:]
    plain = load_engine(POCKET / model, device="cpu")
    said = answers(plain, asked)
    yield {"model": model, "part": "", "setting": "as it is", **_figures(plain, said, said, asked)}
    for part in options.parts:
        for name, arguments in settings(part, [prompt.text for prompt in calibration]):
            begun = time.perf_counter()
            try:
                engine = load_engine(POCKET / model, device="cpu", **arguments)
            except CheckpointError as error:
                reason = str(error).removeprefix(f"{POCKET / model}: ")
                yield {"model": model, "part": part, "setting": name, "refused": reason}
                continue
            loading = time.perf_counter() - begun
            figures = _figures(engine, answers(engine, asked), said, asked)
            yield {"model": model, "part": part, "setting": name, "load_s": loading, **figures}


def _figures(engine: Engine, said: Sequence[str], plain: Sequence[str], asked: Sequence[Prompt]) -> dict[str, Any]:
    own, before = marks(said, asked), marks(plain, asked)
    changes = [int(mine) - int(theirs) for mine, theirs in zip(own, before, strict=True)]
    return {
        "prompts": len(asked),
        "quality": statistics.mean(own),
        "difference": statistics.mean(changes),
        "standard_error": statistics.stdev(changes) / len(changes) ** 0.5,
        "same": statistics.mean(mine == theirs for mine, theirs in zip(said, plain, strict=True)),
        "experts": [layer.count for layer in moe_layers(engine.model)],
        "expert_bytes": sum(
            tensor.nbytes
            for layer in moe_layers(engine.model)
            for tensor in (*layer.experts.parameters(), *layer.experts.buffers())
        ),
    }


def _line(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return f"{row['model']}, {row['setting']}: refused ({row['refused']})"
    return (
        f"{row['model']}, {row['setting']}: {row['quality']:.3f} ({row['difference']:+.3f} +- "
        f"{row['standard_error']:.3f}), same {row['same']:.3f}, {row['expert_bytes']:,} bytes, {row['experts']}"
    )


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    method = (
        "Part of right answers on {split} prompts of the model's own domain, greedy; difference to the model as it is, "
        "with the standard error of the paired difference; answers that are the same to the letter; KiB of the "
        "experts' weights. Pruning was calibrated on {calibration} train prompts and the model's answers to them."
    )
    lines = [
        "# Options on experts: quality on the pocket models",
        "",
        method.format(**document["settings"]),
    ]
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        lines += [
            "",
            f"## {model}",
            "",
            "| setting | right | difference | same answer | experts | KiB |",
            "|---" * 6 + "|",
        ]
        for row in document["rows"]:
            if row["model"] != model:
                continue
            if "refused" in row:
                lines.append(f"| {row['setting']} | refused: {row['refused']} | | | | |")
                continue
            lines.append(
                f"| {row['setting']} | {row['quality']:.3f} | {row['difference']:+.3f} ± {row['standard_error']:.3f} | "
                f"{row['same']:.3f} | {', '.join(map(str, row['experts']))} | {row['expert_bytes'] / 1024:,.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
