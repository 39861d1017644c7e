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
from llmrouter.evaluation import EvaluationResult, evaluate, results_as_json, tune_knn
from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import parse_spec
from llmrouter.routers import fit_pair, weighted_mean
from llmrouter.types import FloatArray, estimate_tokens

UNTUNED: Mapping[str, Any] = {"k": 100, "shrinkage": 5.0}
"""Of the kNN router where nothing can be replayed: strong smoothing does little harm, small k does."""


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
    router: str = "knn",
    encoder: str = "static",
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
        Registry name with parameters, e.g. ``knn`` (tuned on the train split) or ``knn:k=40``.
    encoder : str
        ``static``, ``minilm``, a hub id or a path.
    seed : int
        Of the folds and of the bootstrap.
    promote : bool
        Whether to make it the current artifact.
    say : callable
        Takes one line of progress.

    Raises
    ------
    DataError
        If the table has no train split, no text or no observed quality.
    """
    texts = table.router_texts()
    loaded = load_encoder(encoder)
    say(f"{table.name or 'table'}: {len(table)} prompts, {len(table.models)} models; encoding with {encoder}")
    X = encode_cached(loaded, texts)
    rows = np.flatnonzero(np.asarray([split == "train" for split in table.splits], dtype=bool))
    if not rows.size:
        raise DataError(f"{table.name or 'the table'} has no train split; it has {sorted(set(table.splits))}")
    name, parameters = parse_spec(router)
    evaluation = _evaluated(table, X, router, seed=seed, say=say)
    if evaluation is not None and router in evaluation.routers:
        parameters = dict(evaluation.routers[router].parameters) if name == "knn" else parameters
    elif name == "knn" and not parameters:
        parameters = _tuned(table.select(rows), X[rows], seed=seed, say=say)
    trained = fit(table.select(rows), X[rows], name=name, parameters=parameters)
    folder = artifact.save(
        trained,
        out,
        encoder=artifact.EncoderSpec(encoder, {}, loaded.fingerprint),
        training={"data": table.name, "prompts": int(rows.size), "router": router, "seed": seed},
        evaluation=results_as_json(evaluation) if evaluation is not None else None,
    )
    if promote:
        artifact.promote(folder)
    say(f"wrote {folder}" + (f" and made it {artifact.CURRENT}" if promote else ""))
    return Trained(folder, parameters, evaluation)


def fit(table: OutcomeTable, X: FloatArray, *, name: str, parameters: Mapping[str, Any]) -> TrainedRouters:
    """Fit quality and cost routers on every row of `table`; X is its embeddings, shape (n, d)."""
    pair = fit_pair(table, X, name=name, parameters=parameters)
    once = np.ones(len(table))
    quality, cost, tokens = (
        weighted_mean(values, once) for values in (table.quality, table.cost_usd, table.output_tokens)
    )
    estimated = np.asarray([estimate_tokens(text or "") for text in table.texts], dtype=np.float64)
    ratios = _ratios(table.input_tokens, estimated)
    known = cost[np.isfinite(cost)]
    reference = float(known.max()) if known.size and known.max() > 0 else 1.0
    return TrainedRouters(
        models=table.models,
        quality=pair.quality,
        cost=pair.cost,
        cost_unit=pair.cost_unit,
        reference_cost_usd=reference,
        router_name=name,
        cost_router_name=pair.cost_name,
        best_single=table.models[int(np.nanargmax(quality))],
        token_ratio=_named(table.models, ratios),
        mean_quality=_named(table.models, quality),
        mean_output_tokens=_named(table.models, tokens),
        prompt_ids=table.prompt_ids,
    )


def _tuned(train_split: OutcomeTable, X: FloatArray, *, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose the kNN parameters by cross-validation; a log of one model a prompt cannot be replayed, so it cannot."""
    try:
        return dict(tune_knn(train_split, X, seed=seed).parameters)
    except DataError as error:
        say(f"not tuned, using {dict(UNTUNED)}: {error}")
        return dict(UNTUNED)


def _evaluated(
    table: OutcomeTable, X: FloatArray, router: str, *, seed: int, say: Callable[[str], None]
) -> EvaluationResult | None:
    if not {"train", "test"} <= set(table.splits):
        say("no test split: not evaluated")
        return None
    try:
        return evaluate(table, X, routers=[router], seed=seed)
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
