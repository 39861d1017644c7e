"""What an engine would do with logged requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import LLMRouterError
from llmrouter.learning._training_log import TrainingLog
from llmrouter.types import FloatArray

_BLOCK = 512


def union_of_models(log: TrainingLog, *engines: RoutingEngine) -> tuple[str, ...]:
    """Return the log's models, then those of the engines' pools that it lacks."""
    pool = (card.name for engine in engines for card in engine.cards)
    return tuple(dict.fromkeys((*log.models, *pool)))


def decided_by(engine: RoutingEngine, log: TrainingLog, columns: tuple[str, ...]) -> FloatArray:
    """Return the probability with which the engine's policy chooses each model, shape (n, columns).

    Nothing is explored or counted. A row is NaN where the engine can take none of the models.

    Raises
    ------
    DataError
        If the engine has another encoder and the log holds embeddings in place of texts.
    """
    X = log.X
    if engine.encoder.fingerprint != log.fingerprint:
        X = np.asarray(log.table.encoded(engine.encoder.dimension, engine.encoder.encode), dtype=np.float32)
    column = {model: number for number, model in enumerate(columns)}
    pool = {card.name for card in engine.cards}
    probabilities = np.full((len(log), len(columns)), np.nan)
    requests = [
        request
        if request.allowed_models is None
        else replace(request, allowed_models=tuple(name for name in request.allowed_models if name in pool))
        for request in log.requests()
    ]
    for start in range(0, len(log), _BLOCK):
        block = slice(start, start + _BLOCK)
        decisions = engine.route_embedded(requests[block], X[block])
        for row, decision in enumerate(decisions, start=start):
            if isinstance(decision, LLMRouterError):
                continue
            probabilities[row] = 0.0
            chances = {entry.model: entry.propensity for entry in decision.ranking}
            if not np.isfinite(list(chances.values())).all():  # a policy that does not say: what it chose, it chooses
                chances = {decision.model: 1.0}
            for model, chance in chances.items():
                probabilities[row, column[model]] = chance
    return probabilities


def widened(log: TrainingLog, columns: tuple[str, ...]) -> TrainingLog:
    """Return the log with more columns: models that were in no pool when it was written, so could not be chosen."""
    added = len(columns) - len(log.models)
    if not added:
        return log

    def wider(values: FloatArray, fill: float) -> FloatArray:
        return np.concatenate([values, np.full((len(values), added), fill)], axis=1)

    table = log.table
    known = np.isfinite(log.propensities).all(axis=1)
    propensities = wider(log.propensities, np.nan)
    propensities[known, len(log.models) :] = 0.0
    return replace(
        log,
        table=replace(
            table,
            models=columns,
            prices=(*table.prices, *(None,) * added),
            weight=None if table.weight is None else wider(table.weight, np.nan),
            quality=wider(table.quality, np.nan),
            cost_usd=wider(table.cost_usd, np.nan),
            input_tokens=wider(table.input_tokens, np.nan),
            output_tokens=wider(table.output_tokens, np.nan),
            propensity=wider(table.propensity, np.nan),
        ),
        propensities=propensities,
    )
