"""What the parts of CSCR are worth, by cross-validation on a train split.

``python -m training.contrastive.ablation --data DIR --out FILE``

Each setting is fitted on four fifths of the training prompts and judged on the fifth, five times, on the folds that
`llmrouter.evaluation.tune` deals. Two ways to choose are judged: by calibrated quality and the predicted cost of the
prompt, as the gateway chooses, and by the raw cosine of the k nearest models less a price times their mean cost, as
the paper does. No test split is looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import json_bytes, write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import ZeroRouter, aiq, replay, sweep_weights
from llmrouter.evaluation._crossfit import Fold, make_folds
from llmrouter.evaluation._replay import cheapest_model
from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.registry import create, parse_spec
from llmrouter.routers import fit_pair
from llmrouter.types import FloatArray

COMPARED = (
    "uniroute:clusters=20",
    "learned-map",
    "carrot:estimator=knn",
    "carrot:estimator=linear",
    "knn:k=100",
    "ridge",
)
NEAREST = (1, 2, 4, 8)
PAPER = {"tau_min": 0.05, "start": "random", "hidden": 64}


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (part, what differs from the default with costs); None for the costs leaves them out."""
    yield "default", {}
    yield "loss", {"costs": None, "bands": 1, "gamma": 0.0}
    yield "loss", PAPER
    yield "loss", {**PAPER, "costs": None, "bands": 1, "gamma": 0.0}
    yield from (("bands", {"bands": count}) for count in (1, 2, 3, 8, 11))
    yield "cost term", {"gamma": 0.0}
    for sign in ("minus", "plus"):
        yield from (("cost term", {"cost_sign": sign, "gamma": gamma}) for gamma in (0.1, 0.2, 0.5))
    yield from (("temperature", {"alpha": alpha}) for alpha in (0.0, 0.5))
    yield from (("temperature", {"tau_min": tau}) for tau in (0.05, 1.0))
    for anchors in ("centroids", "prompts"):
        yield from (("descriptor", {"anchors": anchors, "probes": count}) for count in (16, 64, 192))
    yield "descriptor", {"centred": False}
    yield from (("descriptor", {"shrinkage": strength}) for strength in (0.0, 50.0))
    yield "head", {"hidden": 64}
    yield from (("head", {"start": "random", "hidden": width}) for width in (0, 64, 384))
    yield "head", {"members": 1}


def ablate(table: OutcomeTable, X: FloatArray, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return one row a setting: its AIQ by both rules, and how it differs from the default fold by fold.

    Parameters
    ----------
    table : OutcomeTable
        n training prompts with logged costs.
    X : array of shape (n, d)
        Their embeddings.
    seed : int
        Of the folds.

    Raises
    ------
    DataError
        If the table has no costs.
    """
    complete = np.asarray(np.all(np.isfinite(table.quality) & np.isfinite(table.cost_usd), axis=1), dtype=bool)
    if not complete.any():
        raise DataError(f"{table.name or 'the table'} has no prompt with quality and cost_usd of every model")
    folds = make_folds(X, complete, seed=seed)
    costs = [fit_pair(table.select(f.rest), X[f.rest], name="uniroute").cost.predict(X[f.held_out]) for f in folds]
    rows: list[dict[str, Any]] = []
    base: FloatArray | None = None
    for part, changes in settings():
        started = time.perf_counter()
        measured = np.array([_judged(table, X, fold, changes, cost) for fold, cost in zip(folds, costs, strict=True)])
        base = measured if base is None else base
        rows.append(_row(part, changes, measured, base, time.perf_counter() - started))
        print(f"{part:12} {json.dumps(changes):60} calibrated {rows[-1]['calibrated']['aiq']:.4f}", flush=True)
    for spec in COMPARED:
        compared = np.array([[_compared(table, X, fold, spec)] for fold in folds])
        rows.append(_row("compared", {"router": spec}, compared, base if base is not None else compared, 0.0))
        print(f"{spec}: {rows[-1]['calibrated']['aiq']:.4f}", flush=True)
    return rows


def _judged(
    table: OutcomeTable, X: FloatArray, fold: Fold, changes: Mapping[str, Any], cost: FloatArray
) -> list[float]:
    """Return the AIQ of the calibrated rule, and of the raw one over all models and over the k nearest."""
    means = np.nanmean(table.cost_usd[fold.rest], axis=0)
    router = create("router", "cscr", **{"costs": means.tolist(), **changes}).fit(
        X[fold.rest], table.quality[fold.rest]
    )
    similarity = router.similarity(X[fold.held_out])
    fixed = np.tile(means, (len(similarity), 1))
    scores = [_aiq(table, fold, router.predict(X[fold.held_out]), cost), _aiq(table, fold, similarity, fixed)]
    places = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    return scores + [_aiq(table, fold, np.where(places < k, similarity, np.nan), fixed) for k in NEAREST]


def _compared(table: OutcomeTable, X: FloatArray, fold: Fold, spec: str) -> float:
    name, parameters = parse_spec(spec)
    pair = fit_pair(table.select(fold.rest), X[fold.rest], name=name, parameters=parameters)
    return _aiq(table, fold, pair.quality.predict(X[fold.held_out]), pair.cost.predict(X[fold.held_out]))


def _aiq(table: OutcomeTable, fold: Fold, expected: FloatArray, expected_cost: FloatArray) -> float:
    rest, held = fold.rest, fold.held_out
    quality, cost = table.quality[held], table.cost_usd[held]
    weights, cheapest = sweep_weights(table.cost_usd[rest]), cheapest_model(table.cost_usd[rest], table.quality[rest])
    curve = replay(expected, expected_cost, quality=quality, cost=cost, weights=weights, cheapest=cheapest)
    zero = ZeroRouter().curve(quality, cost, weights=weights, cheapest=cheapest).hull
    return aiq(curve.hull, (float(zero.cost[0]), float(zero.cost[-1])))


def _row(
    part: str, changes: Mapping[str, Any], measured: FloatArray, base: FloatArray, seconds: float
) -> dict[str, Any]:
    names = ["calibrated", "raw", *(f"raw, k={k}" for k in NEAREST)][: measured.shape[1]]
    row: dict[str, Any] = {"part": part, "changes": dict(changes), "seconds": round(seconds, 1)}
    for column, name in enumerate(names):
        difference = measured[:, column] - base[:, column]
        row[name] = {
            "aiq": round(float(measured[:, column].mean()), 5),
            "minus_default": round(float(difference.mean()), 5),
            "standard_error": round(float(difference.std(ddof=1) / np.sqrt(len(difference))), 5),
        }
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set with logged costs")
    parser.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    table = load_table(chosen.data)
    rows = np.flatnonzero(np.asarray([split == "train" for split in table.splits], dtype=bool))
    encoder = load_encoder(chosen.encoder)
    X = encode_cached(encoder, table.router_texts())[rows]
    result = ablate(table.select(rows), X, seed=chosen.seed)
    about = {"data": table.name, "encoder": chosen.encoder, "prompts": len(rows), "folds": 5, "seed": chosen.seed}
    write_atomically(chosen.out, json_bytes({**about, "rows": result}))


if __name__ == "__main__":
    main()
