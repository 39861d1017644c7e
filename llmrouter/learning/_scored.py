"""Scored prompts of a model out of what there is: a profile, a file, or the log's own outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmrouter.encoders import Encoder
from llmrouter.engine import TrainedRouters
from llmrouter.exceptions import DataError
from llmrouter.learning._columns import ScoredPrompts
from llmrouter.learning._profile import ProfilePlan, ProfileResult, aligned
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray, IntArray, Price, estimate_tokens

_NUMBERS = ("quality", "input_tokens", "output_tokens", "cost_usd", "weight")
_FIELDS = frozenset({"prompt", "prompt_id", *_NUMBERS})
_MOST_TOKENS = 1e9


def scored_from_profile(
    trained: TrainedRouters, plan: ProfilePlan, result: ProfileResult, table: OutcomeTable, X: FloatArray
) -> ScoredPrompts:
    """Return what a profile found; `table` and `X` (n, d) are what it was planned on.

    Raises
    ------
    DataError
        If no answer has a score.
    """
    pairs = [
        (row, kept)
        for row, kept in zip(plan.rows.tolist(), result.answers, strict=True)
        if kept is not None and kept.quality is not None
    ]
    if not pairs:
        reason = f"; the first failure: {result.failures[0]}" if result.failures else ""
        raise DataError(f"none of {len(result.answers)} answers has a score{reason}")
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    kept_answers = [kept for _, kept in pairs]
    return _scored(
        trained,
        table,
        X,
        rows,
        quality=[kept.quality for kept in kept_answers],
        output_tokens=[kept.output_tokens for kept in kept_answers],
        input_tokens=[kept.input_tokens for kept in kept_answers],
        cost_usd=[kept.cost_usd for kept in kept_answers],
    )


def scored_from_table(trained: TrainedRouters, table: OutcomeTable, X: FloatArray, name: str) -> ScoredPrompts:
    """Return what a log or table itself holds of a model: the rows on which it was observed.

    Raises
    ------
    DataError
        If it was never judged there.
    """
    if name not in table.models:
        raise DataError(f"{table.name or 'the table'} has no outcome of {name!r}")
    own = table.models.index(name)
    rows = np.flatnonzero(np.isfinite(table.quality[:, own]))
    if not rows.size:
        raise DataError(
            f"{table.name or 'the table'} has no judged outcome of {name!r}; let it be explored, and give feedback"
        )
    return _scored(
        trained,
        table,
        X,
        rows,
        quality=table.quality[rows, own],
        output_tokens=table.output_tokens[rows, own],
        input_tokens=table.input_tokens[rows, own],
        cost_usd=table.cost_usd[rows, own],
        weight=None if table.weight is None else np.nan_to_num(table.weight[rows, own]),
    )


def scored_from_rows(
    trained: TrainedRouters,
    rows: Sequence[Any],
    *,
    price: Price,
    encoder: Encoder,
    table: OutcomeTable | None = None,
    source: str = "scores",
) -> ScoredPrompts:
    """Return scores that were given: objects with ``prompt`` or ``prompt_id``, ``quality``, and tokens where known.

    Parameters
    ----------
    trained : TrainedRouters
        The artifact.
    rows : sequence
        Parsed JSON. ``quality`` in [0, 1] is required; ``input_tokens``, ``output_tokens``, ``cost_usd`` and ``weight``
        are optional. A missing cost is worked out from tokens and price.
    price : Price
        Of the new model.
    encoder : Encoder
        Of the artifact.
    table : OutcomeTable, optional
        For ``prompt_id``, and for what the present models did on the same prompts.
    source : str
        Named in errors.

    Raises
    ------
    DataError
        If a row is wrong, or names a prompt that is not there.
    """
    by_id = {} if table is None else {prompt_id: row for row, prompt_id in enumerate(table.prompt_ids)}
    by_text = {} if table is None else {text: row for row, text in enumerate(table.texts) if text}
    if not rows:
        raise DataError(f"{source} holds no score")
    texts: list[str] = []
    places: list[int] = []
    numbers: dict[str, list[float]] = {name: [] for name in _NUMBERS}
    for number, row in enumerate(rows):
        where = f"{source}[{number}]"
        values = _checked_row(row, where)
        text, prompt_id = row.get("prompt"), row.get("prompt_id")
        place = by_id.get(prompt_id, -1) if text is None else by_text.get(text, -1)
        if text is None:
            text = None if table is None or place < 0 else table.texts[place]
        if not isinstance(text, str) or not text:
            raise DataError(f"{where}: no text is known for the prompt {prompt_id!r}; write prompt, or give its table")
        texts.append(text)
        places.append(place)
        for name in _NUMBERS:
            numbers[name].append(values.get(name, 1.0 if name == "weight" else math.nan))
    m = len(trained.models)
    known = {name: np.full((len(texts), m), np.nan) for name in ("quality", "output_tokens", "cost_usd")}
    found = [i for i, place in enumerate(places) if place >= 0]
    if table is not None and found:
        full = aligned(table, trained.models)
        for name, values_of in known.items():
            values_of[found] = getattr(full, name)[[places[i] for i in found]]
    read, written = np.array(numbers["input_tokens"]), np.array(numbers["output_tokens"])
    estimated = np.array([estimate_tokens(text) for text in texts], dtype=np.float64)
    cost = np.array(numbers["cost_usd"])
    priced = (np.where(np.isfinite(read), read, estimated) * price.input + written * price.output) / 1e6
    return ScoredPrompts(
        X=encoder.encode(texts),
        quality=np.array(numbers["quality"]),
        output_tokens=written,
        input_tokens=read,
        cost_usd=np.where(np.isfinite(cost), cost, priced + price.per_request),
        estimated_tokens=estimated,
        known_quality=known["quality"],
        known_output_tokens=known["output_tokens"],
        known_cost_usd=known["cost_usd"],
        weight=np.array(numbers["weight"]),
    )


def _checked_row(row: Any, where: str) -> dict[str, float]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} must be an object with prompt or prompt_id, and quality; got {row!r:.80}")
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(_FIELDS))}")
    for name in ("prompt", "prompt_id"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise DataError(f"{where}: {name} must be a string; got {row[name]!r:.80}")
    values: dict[str, float] = {}
    for name in _NUMBERS:
        value = row.get(name)
        if value is None:
            continue
        most = 1.0 if name == "quality" else _MOST_TOKENS
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise DataError(f"{where}: {name} must be a number in [0, {most:g}]; got {value!r:.80}")
        values[name] = float(value)
    if "quality" not in values:
        raise DataError(f"{where}: quality is required, a number in [0, 1]")
    return values


def _scored(
    trained: TrainedRouters,
    table: OutcomeTable,
    X: FloatArray,
    rows: IntArray,
    *,
    quality: Any,
    output_tokens: Any,
    input_tokens: Any,
    cost_usd: Any,
    weight: FloatArray | None = None,
) -> ScoredPrompts:
    full = aligned(table.select(rows), trained.models)
    return ScoredPrompts(
        X=X[rows],
        quality=np.array(quality, dtype=np.float64),
        output_tokens=np.array(output_tokens, dtype=np.float64),
        input_tokens=np.array(input_tokens, dtype=np.float64),
        cost_usd=np.array(cost_usd, dtype=np.float64),
        estimated_tokens=np.array([estimate_tokens(text or "") for text in full.texts], dtype=np.float64),
        known_quality=full.quality,
        known_output_tokens=full.output_tokens,
        known_cost_usd=full.cost_usd,
        weight=weight,
    )
