"""The gateway's own log as a table to train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.outcomes._base import OutcomeStore
from llmrouter.outcomes._identity import DEFAULT_TEST_SHARE, assign_split
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import FloatArray, Outcome, Price, is_missing

_FIELDS = ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity", "weight")


def store_to_table(
    outcomes: OutcomeStore | Iterable[Outcome],
    *,
    models: Sequence[str] | None = None,
    prices: Mapping[str, Price] | None = None,
    since: float = 0.0,
    test_share: float = DEFAULT_TEST_SHARE,
    name: str = "log",
) -> OutcomeTable:
    """Return logged outcomes as a table: one row a request, in which the model that served it is observed.

    Requests that failed and were judged by nobody say nothing and are left out.

    Parameters
    ----------
    outcomes : OutcomeStore or iterable of Outcome
        The log; a store is scanned.
    models : sequence of str, optional
        The columns; outcomes of other models are left out. By default all served models, in order of appearance.
    prices : mapping of model name to Price, optional
        List prices of the columns.
    since : float
        Leave out outcomes before this time, seconds since the epoch.
    test_share : float
        Share of prompts for the test split; equal texts fall on the same side (`assign_split`).
    name : str
        Of the table.

    Returns
    -------
    OutcomeTable
        `prompt_ids` are request ids. The propensity is the logged one where the chosen model served the request, and
        NaN where a fallback did, since nobody chose it. Where the log keeps embeddings in place of texts, they are in
        `embeddings`.

    Raises
    ------
    DataError
        If no outcome is left, a request comes twice, or embeddings were logged with encoders of different dimensions.
    """
    logged = outcomes.scan(since) if isinstance(outcomes, OutcomeStore) else outcomes
    wanted = None if models is None else frozenset(models)
    kept = [outcome for outcome in logged if outcome.time >= since and _says_something(outcome, wanted)]
    if not kept:
        raise DataError(f"{name} has no usable outcome since {since:g}; let the gateway serve requests first")
    columns = list(dict.fromkeys(_served(outcome) for outcome in kept)) if models is None else list(models)
    column_of = {model: column for column, model in enumerate(columns)}
    arrays: dict[str, FloatArray] = {field: np.full((len(kept), len(columns)), np.nan) for field in _FIELDS}
    for row, outcome in enumerate(kept):
        values = (
            outcome.quality,
            outcome.cost_usd,
            outcome.input_tokens,
            outcome.output_tokens,
            outcome.propensity if _served(outcome) == outcome.model else None,
            _weight(outcome),
        )
        for field, value in zip(_FIELDS, values, strict=True):
            if value is not None:
                arrays[field][row, column_of[_served(outcome)]] = value
    weight = arrays.pop("weight")
    all_alike = bool((np.isnan(weight) | (weight == 1.0)).all())
    return OutcomeTable(
        prompt_ids=tuple(outcome.request_id for outcome in kept),
        models=tuple(columns),
        texts=tuple(outcome.prompt for outcome in kept),
        tasks=tuple(outcome.task for outcome in kept),
        splits=tuple(assign_split(_identity(outcome), test_share=test_share) for outcome in kept),
        prices=tuple((prices or {}).get(model) for model in columns),
        name=name,
        weight=None if all_alike else weight,
        embeddings=_embeddings(kept, name),
        **arrays,
    )


def _embeddings(outcomes: Sequence[Outcome], name: str) -> FloatArray | None:
    """Return the logged embeddings, shape (n, d), NaN rows where there is none; None where there is none at all."""
    logged = {row: outcome.embedding for row, outcome in enumerate(outcomes) if outcome.embedding is not None}
    if not logged:
        return None
    dimensions = sorted({len(vector) for vector in logged.values()})
    if len(dimensions) > 1:
        raise DataError(
            f"{name} holds embeddings of dimensions {', '.join(map(str, dimensions))}: the encoder was changed; "
            "take the outcomes since then (`since`)"
        )
    X = np.full((len(outcomes), dimensions[0]), np.nan, dtype=np.float32)
    for row, vector in logged.items():
        X[row] = vector
    return X


def _served(outcome: Outcome) -> str:
    return outcome.served_by or outcome.model


def _weight(outcome: Outcome) -> float | None:
    if is_missing(outcome.quality):
        return None
    return 1.0 if outcome.quality_weight is None else outcome.quality_weight


def _says_something(outcome: Outcome, models: frozenset[str] | None) -> bool:
    judged = not is_missing(outcome.quality)
    return (outcome.status == "ok" or judged) and (models is None or _served(outcome) in models)


def _identity(outcome: Outcome) -> str:
    """Return what decides the split: the text, or what the log keeps in its place."""
    return outcome.prompt or outcome.prompt_sha256 or outcome.request_id
