"""What approximation costs in quality: ``python -m benchmarks.index.quality``.

AIQ by cross-validation on the train split of every data set (no test prompt is looked at), for a kNN router whose
neighbours are found less exactly, whose vectors are held in fewer bits or dimensions, come from another encoder, or
are fewer. Writes ``approximation.json`` and ``approximation.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.approximations import (
    DEFAULT_ENCODER,
    ENCODERS,
    SHRINKAGE,
    Approximation,
    K,
    approximations,
    embed,
)
from benchmarks.learning._result_files import provenance, write_result
from benchmarks.quality.run import RESULTS
from benchmarks.quality.sets import SETS, DataSet
from llmrouter.evaluation._costs import make_evaluable
from llmrouter.evaluation._fit import predict_in_blocks, priced_tokens
from llmrouter.evaluation._tune import _replayed as replayed
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.routers import cost_target
from llmrouter.types import FloatArray, IntArray

_FOLDS = 5
_MOST_PROMPTS = 6_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sets", nargs="*", default=[one.name for one in SETS], choices=[one.name for one in SETS])
    parser.add_argument("--encoders", nargs="*", default=[*ENCODERS], choices=ENCODERS)
    parser.add_argument("--prompts", type=int, default=_MOST_PROMPTS, help="of a set at most, drawn at random")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--out", type=Path, default=RESULTS / "index")
    options = parser.parse_args(arguments)
    sets: list[Any] = []
    absent: list[Any] = []
    for one in SETS:
        if one.name not in options.sets or not one.encoders:  # without prompts nothing can be near
            continue
        if one.folder is None:
            absent.append(one.name)
            continue
        sets.append(_measure(one, tuple(options.encoders), options.prompts, options.seeds))
        _write(options, sets, absent, sys.argv[1:] if arguments is None else arguments)  # what there is so far
    return 0


def _write(options: argparse.Namespace, sets: list[Any], absent: list[str], words: Sequence[str]) -> None:
    document = {
        **provenance(" ".join(["python -m benchmarks.index.quality", *words])),
        "k": K,
        "shrinkage": SHRINKAGE,
        "folds": _FOLDS,
        "seeds": options.seeds,
        "absent": absent,
        "sets": sets,
    }
    write_result(options.out, "approximation", document, page(document))


def _measure(one: DataSet, encoders: tuple[str, ...], most: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the score of every approximation on every fold of a data set's train split.

    That is AIQ, or the mean quality at cost weight 0 where AIQ is undefined on a fold.
    """
    assert one.folder is not None  # noqa: S101 - the caller looked
    data = make_evaluable(load_table(one.folder), one.cost)
    complete = np.flatnonzero(np.isfinite(data.train.quality).all(axis=1) & np.isfinite(data.train_cost).all(axis=1))
    rows = np.sort(np.random.default_rng(0).permutation(complete)[:most])
    train, costs = data.train.select(rows), data.train_cost[rows]
    embedded: dict[str, FloatArray] = {}
    dimension = 0
    measured: list[dict[str, Any]] = []
    for approximation in approximations(encoders):
        if approximation.encoder not in {DEFAULT_ENCODER, *one.encoders}:
            measured.append({"group": approximation.group, "name": approximation.name, "scores": []})
            continue
        if approximation.encoder not in embedded:
            embedded[approximation.encoder] = embed(approximation.encoder, train.router_texts())
        X = embedded[approximation.encoder]
        dimension = dimension or X.shape[1]
        scores = []
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(train))
            for number, part in enumerate(np.array_split(order, _FOLDS)):
                fold = (np.setdiff1d(order, part), np.sort(part))
                scores.append(_score(approximation, one.cost, train, costs, X, fold, seed * _FOLDS + number))
        measured.append(
            {
                "group": approximation.group,
                "name": approximation.name,
                "bytes_a_prompt": approximation.per_prompt(X.shape[1]),
                "scores": scores,
            }
        )
        means = np.mean(scores, axis=0)
        print(f"{one.name}: {approximation.group} {approximation.name}: {means[0]:.4f}, {means[1]:.4f}", flush=True)
    by_aiq = bool(np.isfinite([score for row in measured for score in row["scores"]]).all())
    for row in measured:
        row["scores"] = [score[0 if by_aiq else 1] for score in row["scores"]]
    return {
        "name": one.name,
        "objective": "AIQ" if by_aiq else "quality",
        "cost": one.cost,
        "prompts": len(train),
        "models": len(train.models),
        "dimension": dimension,
        "rows": measured,
    }


def _score(
    approximation: Approximation,
    axis: str,
    train: OutcomeTable,
    costs: FloatArray,
    X: FloatArray,
    fold: tuple[IntArray, IntArray],
    seed: int,
) -> tuple[float, float]:
    """Return AIQ, and quality at cost weight 0, on the held-out prompts of a fold (rest, held out)."""
    rest, held_out = fold
    stored, asked = approximation.prepare(X[rest], X[held_out])

    def estimate(y: FloatArray) -> FloatArray:
        return predict_in_blocks(approximation.fit(stored, y[rest], seed), asked)

    expected = costs[held_out]  # known where it is not logged
    if axis == "usd":
        target, unit = cost_target(train)
        expected = estimate(target)
        if unit == "output_tokens":
            expected = priced_tokens(expected, train.select(held_out), train=train.select(rest))
    return replayed(
        estimate(train.quality),
        expected,
        quality=train.quality[held_out],
        cost=costs[held_out],
        rest=(train.quality[rest], costs[rest]),
    )


def page(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    sets = document["sets"]
    lines = [
        "# What approximation costs in quality",
        "",
        (
            f"A kNN router (k={document['k']}, shrinkage {document['shrinkage']:g}), {document['folds']}-fold "
            f"cross-validation on train splits, {len(document['seeds'])} times over; no test prompt was looked at. The "
            "first row is AIQ in percent (mean quality at cost weight 0 where AIQ is undefined on a fold), the others "
            "are what is gained or lost against it, in points of a percent, with the standard error of that difference "
            "over the folds. The last column is the mean over the data sets. The encoder is "
            f"`{DEFAULT_ENCODER}` unless another is named."
        ),
        "",
        "- recall: each true neighbour is missed with the rest of the chance, and the next ones take the places;",
        "- bits: scalar quantisation of the stored vectors by column, without re-ranking by the full ones;",
        "- dimensions: the first principal directions of the stored vectors;",
        "- kept at random, condensed: a share of the prompts, and as many prototypes (`condensed-knn`, at least 100).",
        "",
        f"| what | | bytes a prompt | {' | '.join(one['name'] for one in sets)} | mean |",
        "|---" * (len(sets) + 4) + "|",
    ]
    for number, first in enumerate(sets[0]["rows"] if sets else []):
        cells, differences = [], []
        for one in sets:
            scores = 100 * np.array(one["rows"][number]["scores"])
            exact = 100 * np.array(one["rows"][0]["scores"])
            if number == 0:
                cells.append(f"{exact.mean():.2f}")
                continue
            if not len(scores):
                cells.append("")
                continue
            difference = scores - exact
            differences.append(difference.mean())
            error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else float("nan")
            cells.append(f"{difference.mean():+.2f} ± {error:.2f}")
        mean = f"{np.mean(differences):+.2f}" if differences else ""
        held = sorted({one["rows"][number].get("bytes_a_prompt") for one in sets} - {None})
        head = f"| {first['group']} | {first['name']} | {' or '.join(f'{size:,.0f}' for size in held)}"
        lines.append(f"{head} | {' | '.join(cells)} | {mean} |")
    lines += ["", "| data set | prompts | models | cost | figure |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['name']} | {one['prompts']:,} | {one['models']} | {one['cost']} | {one['objective']} |" for one in sets
    ]
    if document["absent"]:
        lines += ["", f"Not on this machine: {', '.join(document['absent'])}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
