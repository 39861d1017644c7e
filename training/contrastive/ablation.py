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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import json_bytes, write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import ZeroRouter, aiq, replay, sweep_weights
from llmrouter.evaluation._crossfit import Fold, make_folds
from llmrouter.evaluation._fit import priced_tokens
from llmrouter.evaluation._replay import cheapest_model
from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.registry import create, parse_spec
from llmrouter.routers import RouterPair, fit_pair
from llmrouter.types import FloatArray, IntArray
from training.contrastive._kept import Kept

COMPARED = (
    "uniroute:clusters=20",
    "learned-map",
    "carrot:estimator=knn",
    "carrot:estimator=linear",
    "knn:k=100",
    "ridge",
)
NEAREST = (1, 2, 4, 8)
Setting = tuple[str, dict[str, Any]]
PAPER = {"tau_min": 0.05, "start": "random", "hidden": 64}


def settings() -> Iterator[Setting]:
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


def ablate(
    table: OutcomeTable,
    X: FloatArray,
    *,
    listed: Iterable[Setting] | None = None,
    compared: Sequence[str] | None = None,
    common: Mapping[str, Any] | None = None,
    described: Mapping[str, str] | None = None,
    kept: Kept | None = None,
    folds_judged: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return one row a setting: its AIQ by both rules, and how it differs from the first one fold by fold.

    Parameters
    ----------
    table : OutcomeTable
        n training prompts with logged costs.
    X : array of shape (n, d)
        Their embeddings.
    listed : iterable of (str, dict), optional
        What is tried, see `settings`, the default.
    compared : sequence of str, optional
        Specs of routers beside them (default: `COMPARED`).
    common : mapping, optional
        Parameters that all settings have.
    described : mapping of str to str, optional
        What a setting's ``descriptors`` stands for: a name for results, the folders for the router.
    kept : Kept, optional
        What was measured before the comparison was broken off.
    folds_judged : int
        How many of the five folds are held out in turn, at least 2.
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
    folds = make_folds(X, complete, seed=seed)[:folds_judged]
    pairs = [fit_pair(table.select(fold.rest), X[fold.rest], name="uniroute") for fold in folds]
    costs = [expected_cost(pair, table, X, f.rest, f.held_out) for pair, f in zip(pairs, folds, strict=True)]
    rows: list[dict[str, Any]] = []
    base: FloatArray | None = None
    common, described, kept = common or {}, described or {}, kept or Kept()
    for part, changes in settings() if listed is None else listed:
        started = time.perf_counter()
        parameters = {**common, **changes}
        if parameters.get("descriptors") is not None:
            parameters["descriptors"] = described[parameters["descriptors"]]
        found = kept.measured(
            {"part": part, "changes": changes},
            lambda: [_judged(table, X, fold, parameters, cost) for fold, cost in zip(folds, costs, strict=True)],  # noqa: B023
        )
        measured = np.array(found)
        base = measured if base is None else base
        rows.append(_row(part, changes, measured, base, time.perf_counter() - started))
        print(f"{part:12} {json.dumps(changes):60} calibrated {rows[-1]['calibrated']['aiq']:.4f}", flush=True)
    for spec in COMPARED if compared is None else compared:
        found = kept.measured(
            {"part": "compared", "changes": spec},
            lambda: [[_compared(table, X, fold, spec)] for fold in folds],  # noqa: B023
        )
        beside = np.array(found)
        rows.append(_row("compared", {"router": spec}, beside, base if base is not None else beside, 0.0))
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
    scores = [fold_aiq(table, fold, router.predict(X[fold.held_out]), cost), fold_aiq(table, fold, similarity, fixed)]
    places = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    return scores + [fold_aiq(table, fold, np.where(places < k, similarity, np.nan), fixed) for k in NEAREST]


def _compared(table: OutcomeTable, X: FloatArray, fold: Fold, spec: str) -> float:
    name, parameters = parse_spec(spec)
    pair = fit_pair(table.select(fold.rest), X[fold.rest], name=name, parameters=parameters)
    cost = expected_cost(pair, table, X, fold.rest, fold.held_out)
    return fold_aiq(table, fold, pair.quality.predict(X[fold.held_out]), cost)


def fold_aiq(table: OutcomeTable, fold: Fold, expected: FloatArray, expected_cost: FloatArray) -> float:
    """Return AIQ on a fold, see `split_aiq`."""
    return split_aiq(table, fold.rest, fold.held_out, expected, expected_cost)


def expected_cost(pair: RouterPair, table: OutcomeTable, X: FloatArray, rest: IntArray, held: IntArray) -> FloatArray:
    """Return the cost in US dollars expected of rows `held`, (n, m), by a pair fitted on `rest`; tokens are priced."""
    amount = pair.cost.predict(X[held])
    if pair.cost_unit == "output_tokens":
        return priced_tokens(amount, table.select(held), train=table.select(rest))
    return amount


def split_aiq(
    table: OutcomeTable, rest: IntArray, held: IntArray, expected: FloatArray, expected_cost: FloatArray
) -> float:
    """Return AIQ on rows `held` of choosing by expected quality and cost, each (n, m), NaN for an unknown model.

    Cost weights and the cheapest model are read from the rows `rest`.
    """
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
