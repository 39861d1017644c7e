"""A new model from 20 or 50 scored prompts: chosen by discrimination, by information, at random; against a full refit.

``python -m training.bandit cold-start --data DIR --hidden MODEL --hidden MODEL --out FILE [--test]``

Without ``--test`` a fifth of the train split is judged; with it the test split, which is logged. The response model
goes through the protocol of `llmrouter.evaluation.new_models`; the learned policy is trained without the hidden models
and told their identities and mean costs from the scored prompts, as the paper does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter.evaluation import choose_prompts, log_test_look, new_models
from llmrouter.evaluation._choose_prompts import Chooser, Rows, Rule
from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import LLMBanditRouter, Router, weighted_mean
from llmrouter.types import FloatArray
from training.bandit._stages import BanditSettings, train_bandit
from training.bandit.compare import Plane

SIZES = (20, 50)
ROUTER = "llm-bandit:rank=8,penalty=14.0"
OTHERS = ("uniroute:clusters=20", "knn:k=100", "ridge")


def discrimination(table: OutcomeTable, X: FloatArray, router: Router, n: int, seed: int) -> Rows:
    """Return prompts drawn evenly over the levels of discrimination."""
    del table
    return _scoring(router, X, n, "discrimination", seed)


def information(table: OutcomeTable, X: FloatArray, router: Router, n: int, seed: int) -> Rows:
    """Return the prompts that say most about an identity, of a half of them drawn by the seed."""
    del table
    half = np.sort(np.random.default_rng(seed).permutation(len(X))[: max(n, len(X) // 2)])
    return half[_scoring(router, X[half], n, "information", seed)]


RULES: Mapping[str, Rule | Chooser] = {
    "random": "random",
    "informative": "informative",
    "discrimination": discrimination,
    "information": information,
}


def _scoring(router: Router, X: FloatArray, n: int, rule: Any, seed: int) -> Rows:
    if not isinstance(router, LLMBanditRouter):
        raise ConfigError(f"{type(router).__name__} has no identities to choose prompts by; use llm-bandit")
    return router.scoring_prompts(X, n, rule=rule, seed=seed)


def cold_start(
    table: OutcomeTable, X: FloatArray, hidden: Sequence[str], *, draws: int, look_log: Path | None, seed: int = 0
) -> dict[str, Any]:
    """Return AIQ and share of the gain by router, rule and number of scored prompts (mean and standard deviation)."""
    found: dict[str, Any] = {}
    pairs = [(ROUTER, name) for name in RULES] + [(other, "random") for other in OTHERS]
    for router, rule in pairs:
        result = new_models(
            table, X, router=router, hidden=hidden, sizes=SIZES, draws=draws, choose=RULES[rule], seed=seed,
            look_log=look_log,
        )  # fmt: skip
        rows: dict[str, dict[str, list[float]]] = {}
        for cell in result.cells:
            values = np.array(cell.values)
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            rows.setdefault(str(cell.condition["scored"]), {})[cell.figure] = [float(values.mean()), spread]
        found[f"{router}, {rule}"] = rows
        print(router, rule, {size: of["aiq"] for size, of in rows.items()}, flush=True)
    return found


def cold_policy(
    table: OutcomeTable, X: FloatArray, encoder: artifact.EncoderSpec, hidden: Sequence[str],
    settings: BanditSettings, *, work: Path, draws: int, look_log: Path | None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return AIQ of the learned policy without the hidden models, with them from few prompts, and trained with them."""
    if look_log is not None:
        log_test_look(
            look_log, {"protocol": "new-models, policy", "data": table.name, "hidden": list(hidden), "draws": draws}
        )
    splits = np.asarray(table.splits)
    rows = [np.flatnonzero(splits == name) for name in ("train", "test")]
    known = [model for model in table.models if model not in hidden]
    ordered = table.select_models([*known, *hidden])
    train, judged = ordered.select(rows[0]), ordered.select(rows[1])
    plane = Plane(train, X[rows[0]], judged, X[rows[1]])
    before = train_bandit(
        train.select_models(known), X[rows[0]], work / "known", encoder=encoder, settings=settings, say=_silent
    ).policy
    everything = train_bandit(train, X[rows[0]], work / "all", encoder=encoder, settings=settings, say=_silent).policy
    few = Plane(train.select_models(known), X[rows[0]], judged.select_models(known), X[rows[1]])
    found: dict[str, Any] = {
        "0": [plane.aiq(few.chosen(before)), 0.0],
        "all": [plane.aiq(plane.chosen(everything)), 0.0],
    }
    reference = float(np.nanmax(weighted_mean(train.cost_usd[:, : len(known)], np.ones(len(train)))))
    for name, rule in RULES.items():
        for size in SIZES:
            values = []
            for drawn in range(seed, seed + draws):
                picked = choose_prompts(few.train, few.X, router=before, n=size, seed=drawn, rule=rule)
                router = copy.deepcopy(before)
                for column in range(len(known), len(ordered.models)):
                    scored = train.quality[picked]
                    router.add_column(X[rows[0]][picked], scored[:, column], known=scored[:, :column])
                costs = np.concatenate(
                    [before.costs_, train.cost_usd[picked][:, len(known) :].mean(axis=0) / reference]
                )
                values.append(plane.aiq(plane.chosen(router, costs=costs, reference=reference)))
            found[f"{size}, {name}"] = [float(np.mean(values)), float(np.std(values, ddof=1)) if draws > 1 else 0.0]
            print("policy", size, name, found[f"{size}, {name}"], flush=True)
    return found


def inside_train(table: OutcomeTable, X: FloatArray, *, seed: int) -> tuple[OutcomeTable, FloatArray]:
    """Return the train split alone, a fifth of it called test: what settings are chosen on."""
    rows = np.flatnonzero(np.asarray(table.splits) == "train")
    judged = np.random.default_rng([seed, 7]).random(len(rows)) < 0.2
    names = tuple("test" if held else "train" for held in judged.tolist())
    return dataclasses.replace(table.select(rows), splits=names), X[rows]


def _silent(line: str) -> None:
    del line
