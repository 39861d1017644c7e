"""Tool calls and embeddings of the pocket models: ``python -m benchmarks.moe.quality_extras --out DIR``.

Neither is something that these models were trained for, so this shows what the forms cost them and what their vectors
hold by themselves, not what a model can do. Tool calls: held-out prompts of a model's own domain, greedy. Embeddings:
train prompts, five folds without a wording in common. Nothing is chosen here. Writes ``quality-extras.json`` and
``.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning._result_files import provenance, write_result
from benchmarks.moe import embedding_kinds, tool_calls
from benchmarks.moe.pocket import POCKET, prompts
from benchmarks.moe.quality import MODELS
from benchmarks.route_accuracy import wilson
from llmrouter.moe import load_engine

PARTS = ("tools", "embeddings")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe.quality_extras",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts with tools, a model (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    words = sys.argv[1:] if arguments is None else arguments
    document: dict[str, Any] = {
        **provenance(" ".join(["python -m benchmarks.moe.quality_extras", *_without_paths(words)])),
        "torch": torch.__version__,
        "settings": {name: getattr(options, name) for name in ("models", "parts", "prompts", "seed")},
        "tools": _tools(options) if "tools" in options.parts else [],
        "embeddings": _embeddings(options) if "embeddings" in options.parts else None,
    }
    write_result(options.out, "quality-extras", document, page(document))
    return 0


def _without_paths(words: Sequence[str]) -> list[str]:
    return ["DIR" if number and words[number - 1] == "--out" else word for number, word in enumerate(words)]


def _tools(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for model in options.models:
        asked = prompts("test", model, options.prompts, seed=options.seed)
        others = prompts("train", model, 1000, seed=options.seed)
        engine = load_engine(POCKET / model, device="cpu")
        for row in tool_calls.measured(engine, asked, others, seed=options.seed):
            rows.append({"model": model, **row})
            print(rows[-1], flush=True)
    return rows


def _embeddings(options: argparse.Namespace) -> dict[str, Any]:
    asked = embedding_kinds.questions(seed=options.seed)
    rows = []
    for row in embedding_kinds.measured(asked, options.models, seed=options.seed):
        rows.append(row)
        print(row, flush=True)
    return {
        "prompts": len(asked.texts),
        "tasks": int(asked.tasks.max()) + 1,
        "wordings": int(asked.phrasing.max()) + 1,
        "base_rates": embedding_kinds.base_rates(asked),
        "rows": rows,
    }


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# Tool calls and embeddings of the pocket models", ""]
    if document["tools"]:
        lines += [*_tools_page(document["tools"], document["settings"]["prompts"]), ""]
    if document["embeddings"]:
        lines += _embeddings_page(document["embeddings"])
    return "\n".join(lines)


def _tools_page(rows: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    method = (
        f"{count} held-out prompts of the model's own domain, greedy; share with 95% interval (Wilson). The function "
        "has one argument, the answer, a string of up to 40 characters, or in the last way one of up to four answers "
        "of the same task; in brackets what a guess would get. Right text: the answer beside any call."
    )
    lines = ["## Tool calls", "", method, ""]
    lines += ["| model | way | calls | right function | right argument | right text |", "|---" * 6 + "|"]
    for row in rows:
        shares = [_share(row[name], row["prompts"]) for name in ("right_function", "right_argument", "right_text")]
        way = row["way"] if row["guess"] is None else f"{row['way']} ({row['guess']:.3f})"
        lines.append(f"| {row['model']} | {way} | {row['calls'] / row['prompts']:.3f} | {' | '.join(shares)} |")
    return lines


def _embeddings_page(part: Mapping[str, Any]) -> list[str]:
    rates = part["base_rates"]
    method = (
        f"{part['prompts']:,} train prompts of {part['tasks']} tasks in {part['wordings']} wordings; "
        f"{embedding_kinds.FOLDS} folds, neighbours from the other ones, so never of the same wording. Task: most of "
        f"the {embedding_kinds.TASK_NEIGHBOURS} nearest. Models: of which part of the four pocket models most of the "
        f"{embedding_kinds.MODEL_NEIGHBOURS} nearest tell rightly whether they answer. Without any vector: "
        f"{rates['task']:.3f} and {rates['models']:.3f}. Differences to the {embedding_kinds.STATIC} and to the "
        "hidden state of the same model with a 95% interval from resampling wordings. "
        "The pocket models were trained on these wordings, the encoder was not."
    )
    lines = ["## Embeddings", "", method, ""]
    lines += ["| vectors | kind | task | to encoder | to hidden | models | to encoder | to hidden |", "|---" * 8 + "|"]
    for row in part["rows"]:
        cells = [row["source"], row["kind"]]
        for name in ("task", "models"):
            cells += [
                f"{row[name]['mean']:.3f}",
                *(_gain(row[name].get(f"to_{other}")) for other in ("static", "hidden")),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gain(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return ""
    low, high = gain["interval"]
    return f"{gain['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _share(count: int, total: int) -> str:
    low, high = wilson(count / total, total)
    return f"{count / total:.3f} [{max(low, 0):.3f}, {min(high, 1):.3f}]"


if __name__ == "__main__":
    sys.exit(main())
