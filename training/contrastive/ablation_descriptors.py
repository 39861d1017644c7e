"""CSCR's descriptors compared on the pocket pool, the one pool whose logits and answers this project can read.

::

    python -m training.contrastive.ablation_descriptors static --descriptors DIR --out FILE
    python -m training.contrastive.ablation_descriptors adding --descriptors DIR --out FILE
    python -m training.contrastive.ablation_descriptors test --descriptors DIR --out FILE

``static``: outcome, logit and perplexity descriptors and random ones as a control, each with bands, cost signs and the
k nearest models, all models there from the start. ``adding``: a model that training has not seen is taken in by its
descriptor alone. Both by cross-validation on the train split; ``DIR`` keeps descriptors and what was measured, so that
a run that was broken off goes on. ``test`` judges `CHOSEN`, which was chosen by ``static``, with one look at the test
split, appended to ``test_looks.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter._files import json_bytes, read_json_object, write_atomically
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import evaluate, log_test_look, results_as_json
from llmrouter.evaluation._crossfit import make_folds
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.routers import fit_pair
from llmrouter.routers.descriptors import LocalModel
from llmrouter.types import FloatArray
from training.contrastive._adding import expectations
from training.contrastive._kept import Kept
from training.contrastive._pocket_descriptors import describe_pool, pocket_probes, write_pool
from training.contrastive.ablation import Setting, ablate, expected_cost, fold_aiq, split_aiq
from training.contrastive.compare import rounded

POCKET = artifact.default_artifact().parent / "pocket"
MEMBERS = 5
"""On the test split, as served."""
PROBES = 192
_WAYS = "ways.json"
COMMON: Mapping[str, Any] = {"start": "random", "hidden": 64, "members": 1}
"""Alike for all kinds: measured descriptors cannot start at the probes. One member, for a fifth of the time."""
KINDS = ("logit", "perplexity, pocket-mini", "random")
COMPARED = ("uniroute:clusters=20", "knn:k=100", "ridge")
CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "cscr, outcome": {"tau_min": 1.0},
    "cscr, logit": {"descriptors": "logit", "centred": False},
    "cscr, perplexity": {"descriptors": "perplexity, pocket-mini", "tau_min": 1.0},
    "cscr, random": {"descriptors": "random", "tau_min": 1.0},
}
"""The best setting of each kind in ``static``, by AIQ of the calibrated rule."""


def settings(ways: Sequence[str]) -> Iterator[Setting]:
    """Yield (part, what differs from outcome fingerprints with the default loss)."""
    for kind in (None, *KINDS):
        own: dict[str, Any] = {} if kind is None else {"descriptors": kind}
        name = kind or "outcome"
        yield name, own
        yield name, {**own, "costs": None, "bands": 1, "gamma": 0.0}
        yield name, {**own, "bands": 2}
        yield name, {**own, "gamma": 0.0}
        yield name, {**own, "cost_sign": "plus", "gamma": 0.5}
        yield name, {**own, "tau_min": 1.0}
    yield from (("apart", {**own, "centred": False}) for own in ({}, *_by(KINDS[:2])))
    yield from (("apart", {**own, "spread": True}) for own in _by(KINDS[:2]))
    yield "other ways", {"start": "probes", "hidden": 0}
    yield from (("other ways", own) for own in _by([way for way in ways if way not in KINDS]))


def _by(ways: Sequence[str]) -> list[dict[str, Any]]:
    return [{"descriptors": way} for way in ways]


def described(table: OutcomeTable, out: Path) -> dict[str, str]:
    """Describe the pocket models in every way, write the descriptors under `out` and return their folders.

    Where that has been done already it is not done again.
    """
    if (out / _WAYS).is_file():
        return {way: str(folders) for way, folders in read_json_object(out / _WAYS).items()}
    models = {name: LocalModel.load(POCKET / name, device="cpu") for name in table.models}
    named = write_pool(describe_pool(models, pocket_probes(table, count=PROBES)), out)
    write_atomically(out / _WAYS, json_bytes(named))
    return named


def static(table: OutcomeTable, X: FloatArray, named: Mapping[str, str], *, keep_in: Path, seed: int) -> dict[str, Any]:
    """Return the rows of the ablation with all models there from the start, by cross-validation."""
    kept = Kept(keep_in / "static.jsonl")
    listed = settings([*named])
    rows = ablate(
        table,
        X,
        listed=listed,
        compared=COMPARED,
        common=COMMON,
        described=named,
        kept=kept,
        seed=seed,
    )
    return {"folds": 5, "common": dict(COMMON), "rows": rows}


def adding(table: OutcomeTable, X: FloatArray, named: Mapping[str, str], *, keep_in: Path, seed: int) -> dict[str, Any]:
    """Return AIQ with each model hidden and then taken in, by cross-validation: a mean and a row a hidden model."""
    named = {way: named[way] for way in KINDS}
    folds = make_folds(X, np.ones(len(table), dtype=bool), seed=seed)
    kept = Kept(keep_in / "adding.jsonl")
    measured: dict[str, list[list[float]]] = {}
    for number, fold in enumerate(folds):
        rest, held = fold.rest, fold.held_out
        pair = fit_pair(table.select(rest), X[rest], name="uniroute")
        cost = expected_cost(pair, table, X, rest, held)
        means = table.cost_usd[rest].mean(axis=0).tolist()
        for hidden in range(len(table.models)):

            def judged() -> dict[str, float]:
                found = expectations(
                    X[rest], table.quality[rest], X[held], hidden=hidden, named=named, parameters=COMMON, costs=means,  # noqa: B023
                    seed=seed,
                )  # fmt: skip
                return {name: fold_aiq(table, fold, expected, cost) for name, expected in found.items()}  # noqa: B023

            for name, value in kept.measured({"fold": number, "hidden": hidden}, judged).items():
                measured.setdefault(name, [[] for _ in table.models])[hidden].append(value)
    return {"folds": len(folds), "common": dict(COMMON), "rows": _added_rows(measured, table.models)}


def _added_rows(measured: Mapping[str, list[list[float]]], models: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row a way to add a model; `measured` holds AIQ by way, hidden model and fold."""
    base = np.array(measured["without it"])
    rows = []
    for name, values in measured.items():
        gain = (np.array(values) - base).mean(axis=0)
        row = {"way": name, "aiq": round(float(np.mean(values)), 5), "minus_without": round(float(gain.mean()), 5)}
        if len(gain) > 1:
            row["standard_error"] = round(float(gain.std(ddof=1) / np.sqrt(len(gain))), 5)
        by_model = {model: round(float(np.mean(own)), 5) for model, own in zip(models, values, strict=True)}
        rows.append({**row, "by_hidden_model": by_model})
        print(f"{name:60} {row['aiq']:.4f} {row['minus_without']:+.4f}", flush=True)
    return rows


def judge_test_split(
    table: OutcomeTable, X: FloatArray, named: Mapping[str, str], look_log: Path, *, seed: int, note: str = ""
) -> dict[str, Any]:
    """Return the leaderboard's figures of `CHOSEN` on the test split, and AIQ with each model hidden and taken in."""
    means = "|".join(f"{mean:.6g}" for mean in table.split("train").cost_usd.mean(axis=0).tolist())
    routers = {}
    for name, parameters in CHOSEN.items():
        given = {**COMMON, "members": MEMBERS, **parameters}
        if "descriptors" in given:
            given["descriptors"] = named[given["descriptors"]]
        listed = ",".join(f"{key}={value!r}" for key, value in {"costs": means, **given}.items())
        routers[name] = f"cscr:{listed}"
    routers |= {spec: spec for spec in COMPARED}
    result = evaluate(
        table,
        X,
        routers=routers,
        against=[next(iter(CHOSEN)), "uniroute"],
        cost="usd",
        seed=seed,
        context={"chosen": {name: dict(parameters) for name, parameters in CHOSEN.items()}},
        look_log=look_log,
    )
    splits = np.asarray(table.splits)
    learn, judged = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    log_test_look(look_log, {"data": "pocket", "ways to add a model": list(KINDS), "seed": seed, "note": note})
    train = table.select(learn)
    costs = train.cost_usd.mean(axis=0).tolist()
    cost = expected_cost(fit_pair(train, X[learn], name="uniroute"), table, X, learn, judged)
    measured: dict[str, list[list[float]]] = {}
    for hidden in range(len(table.models)):
        found = expectations(
            X[learn],
            train.quality,
            X[judged],
            hidden=hidden,
            named={way: named[way] for way in KINDS},
            parameters=COMMON,
            costs=costs,
            seed=seed,
        )
        for name, expected in found.items():
            measured.setdefault(name, []).append([split_aiq(table, learn, judged, expected, cost)])
    return {"static": results_as_json(result), "adding": _added_rows(measured, table.models)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["static", "adding", "test"])
    parser.add_argument("--encoder", default="form", help="as load_encoder takes it (default: form)")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--descriptors", type=Path, required=True, metavar="DIR", help="where they are kept")
    parser.add_argument("--note", default="", help="why the test split is looked at again, for the log of looks")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    whole = load_table(POCKET / "outcomes")
    X = encode_cached(load_encoder(chosen.encoder), whole.router_texts())
    train = np.flatnonzero(np.asarray([split == "train" for split in whole.splits], dtype=bool))
    named = described(whole, chosen.descriptors)
    if chosen.stage == "test":
        found = judge_test_split(
            whole, X, named, chosen.out.parent / "test_looks.jsonl", seed=chosen.seed, note=chosen.note
        )
    else:
        stage = static if chosen.stage == "static" else adding
        found = stage(whole.select(train), X[train], named, keep_in=chosen.descriptors, seed=chosen.seed)
    about = {"data": "pocket", "encoder": chosen.encoder, "stage": chosen.stage, "probes": PROBES, "seed": chosen.seed}
    content = json.dumps(rounded({**about, **found}), allow_nan=False).replace(str(chosen.descriptors), "DIR")
    if chosen.stage != "test":  # for people to read; the test's is as long as the leaderboard's
        content = json.dumps(json.loads(content), indent=1)
    write_atomically(chosen.out, f"{content}\n".encode())


if __name__ == "__main__":
    main()
