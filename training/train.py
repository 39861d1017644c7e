"""Train a router on a table of outcomes and write an artifact: ``python -m training.train --data DIR``.

Reads the table, encodes the prompts (cached on disk), chooses the router's parameters by cross-validation on the
train split, scores it once on the test split where there is one, fits it on the train split, and writes an immutable
artifact folder with its evaluation inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.engine import TrainedRouters
from llmrouter.evaluation import EvaluationResult, Prepared, evaluate, prepare, results_as_json
from llmrouter.exceptions import DataError
from llmrouter.index import create_index
from llmrouter.learning import promote_artifact
from llmrouter.outcomes import OutcomeTable
from llmrouter.policy import Calibration
from llmrouter.routers import NeighbourRouter, fit_pair, weighted_mean
from llmrouter.types import FloatArray, estimate_tokens
from training.leftovers import remove_leftovers

UNTUNED: Mapping[str, str] = {"knn": "knn:k=100,shrinkage=5.0"}
"""What is fitted where nothing can be replayed, so nothing tuned: strong smoothing does little harm, small k does."""
MOST_CALIBRATION_PROMPTS = 3000
"""Held-out estimates kept in an artifact; more would not make a policy's promise much tighter."""


LEAST_JUDGED = 5
"""Prompts with an outcome: each fold of a cross-validation needs one."""


@dataclass(frozen=True)
class Trained:
    """What training produced: the artifact's folder and, where there was a test split, its evaluation."""

    folder: Path
    parameters: Mapping[str, Any]
    evaluation: EvaluationResult | None


def train(
    table: OutcomeTable,
    out: Path,
    *,
    router: str = "stack",
    encoder: str = "form",
    seed: int = 0,
    promote: bool = True,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train `router` on the train split of `table` and write an artifact under `out`.

    Parameters
    ----------
    table : OutcomeTable
        Outcomes; NaN where not observed.
    out : Path
        The folder that holds artifacts; ``current`` in it is moved to the new one if `promote`.
    router : str
        Registry name with parameters, e.g. ``stack``, ``knn`` (tuned on the train split) or ``knn:k=40``.
    encoder : str
        ``form``, ``static``, ``minilm``, a hub id or a path.
    seed : int
        Of the folds and of the bootstrap.
    promote : bool
        Whether to make it the current artifact.
    say : callable
        Takes one line of progress.

    Raises
    ------
    DataError
        If the table has no train split, no text or fewer than five prompts with an observed quality.
    ArtifactError
        If `out` cannot be written; told before anything is fitted.
    """
    artifact.check_writable(out)
    if left := remove_leftovers(out):
        say(f"removed {left} half-written leftovers of earlier trainings")
    texts = table.router_texts()
    loaded = load_encoder(encoder)
    say(f"{table.name or 'table'}: {len(table)} prompts, {len(table.models)} models; encoding with {encoder}")
    X = encode_cached(loaded, texts)
    rows = np.flatnonzero(np.asarray([split == "train" for split in table.splits], dtype=bool))
    if not rows.size:
        raise DataError(f"{table.name or 'the table'} has no train split; it has {sorted(set(table.splits))}")
    train_split, X_train = table.select(rows), X[rows]
    judged = int(train_split.observed.any(axis=1).sum())
    if judged < LEAST_JUDGED:
        raise DataError(
            f"{table.name or 'the table'} has {judged} prompts with a quality in its train split; training needs "
            f"{LEAST_JUDGED} at least: log more, or judge more answers (column quality)"
        )
    ready = _settled(router, train_split, X_train, seed=seed, say=say)
    evaluation = _evaluated(table, X, router, ready, seed=seed, say=say)
    trained = fit(
        train_split,
        X_train,
        name=ready.name,
        parameters=ready.parameters,
        guard=ready.guard,
        calibration=calibration_of(ready, train_split, X_train),
    )
    folder = artifact.save(
        trained,
        out,
        encoder=artifact.EncoderSpec(encoder, {}, loaded.fingerprint),
        training={"data": table.name, "prompts": int(rows.size), "router": router, "seed": seed},
        evaluation=results_as_json(evaluation) if evaluation is not None else None,
    )
    if promote:
        promote_artifact(folder, reason=f"trained on {table.name or 'a table'}")
    say(f"wrote {folder}" + (f" and made it {artifact.CURRENT}" if promote else ""))
    return Trained(folder, ready.parameters, evaluation)


def fit(
    table: OutcomeTable,
    X: FloatArray,
    *,
    name: str,
    parameters: Mapping[str, Any],
    guard: float | None = None,
    calibration: Calibration | None = None,
    quality: FloatArray | None = None,
    weight: FloatArray | None = None,
) -> TrainedRouters:
    """Fit quality and cost routers on every row of `table`; X is its embeddings, shape (n, d).

    `quality` and `weight` are those of `fit_pair`.
    """
    pair = fit_pair(table, X, name=name, parameters=parameters, quality=quality, weight=weight)
    once = np.ones(len(table))
    level, cost, tokens = (
        weighted_mean(values, once) for values in (table.quality, table.cost_usd, table.output_tokens)
    )
    estimated = np.asarray([estimate_tokens(text or "") for text in table.texts], dtype=np.float64)
    ratios = _ratios(table.input_tokens, estimated)
    known = cost[np.isfinite(cost)]
    reference = float(known.max()) if known.size and known.max() > 0 else 1.0
    shown = None
    if not isinstance(pair.quality, NeighbourRouter):
        shown = create_index("auto", X.shape[1], rows=len(X))
        shown.add(np.arange(len(X), dtype=np.int64), X)
    return TrainedRouters(
        models=table.models,
        quality=pair.quality,
        cost=pair.cost,
        cost_unit=pair.cost_unit,
        reference_cost_usd=reference,
        router_name=name,
        cost_router_name=pair.cost_name,
        best_single=table.models[int(np.nanargmax(level))],
        token_ratio=_named(table.models, ratios),
        mean_quality=_named(table.models, level),
        mean_output_tokens=_named(table.models, tokens),
        mean_cost_usd=_named(table.models, cost),
        prompt_ids=table.prompt_ids,
        guard=guard,
        calibration=calibration,
        index=shown,
    )


def calibration_of(ready: Prepared, table: OutcomeTable, X: FloatArray) -> Calibration | None:
    """Return held-out estimates beside what happened, at most `MOST_CALIBRATION_PROMPTS` prompts; None without any."""
    if ready.crossed is None:
        return None
    expected, cost = ready.crossed.quality, ready.crossed.cost
    rows = np.flatnonzero(np.isfinite(expected).all(axis=1) & np.isfinite(cost).all(axis=1))
    if not rows.size:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_CALIBRATION_PROMPTS)).astype(np.int64))]
    return Calibration(
        models=table.models,
        embeddings=X[rows],
        expected_quality=expected[rows],
        expected_std=ready.crossed.std[rows],
        expected_cost_usd=np.maximum(cost[rows], 0.0),
        quality=table.quality[rows],
        cost_usd=table.cost_usd[rows],
        tasks=tuple(table.tasks[row] for row in rows.tolist()),
    )


def _settled(
    router: str, train_split: OutcomeTable, X: FloatArray, *, seed: int, say: Callable[[str], None]
) -> Prepared:
    """Choose parameters and guard by cross-validation; a log of one model a prompt cannot be replayed, so not tuned."""
    try:
        return prepare(router, train_split, X, seed=seed, crossed=True)
    except DataError as error:
        if router not in UNTUNED:
            raise
        say(f"not tuned, using {UNTUNED[router]}: {error}")
        return prepare(UNTUNED[router], train_split, X, seed=seed, crossed=True)


def _evaluated(
    table: OutcomeTable, X: FloatArray, router: str, ready: Prepared, *, seed: int, say: Callable[[str], None]
) -> EvaluationResult | None:
    if not {"train", "test"} <= set(table.splits):
        say("no test split: not evaluated")
        return None
    try:
        return evaluate(table, X, routers=[router], seed=seed, prepared={router: ready})
    except DataError as error:
        say(f"not evaluated: {error}")
        return None


def _ratios(input_tokens: FloatArray, estimated: FloatArray) -> FloatArray:
    known = np.isfinite(input_tokens) & (estimated > 0)[:, None]
    real = np.where(known, input_tokens, 0.0).sum(axis=0)
    expected = (known * estimated[:, None]).sum(axis=0)
    ratios: FloatArray = np.divide(real, expected, out=np.ones(input_tokens.shape[1]), where=expected > 0)
    return ratios


def _named(models: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    pairs = zip(models, values.tolist(), strict=True)
    return {model: float(value) for model, value in pairs if not math.isnan(value)}
