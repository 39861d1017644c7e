"""Which outcomes of the log stand behind a decision: read for the command and for the route."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeStore
from llmrouter.policy import BasePolicy
from llmrouter.types import FloatArray, Outcome, RoutingRequest, estimate_tokens, is_missing

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.learning import Audit
    from service.learning.trust_settings import TrustSettings

MOST = 5000
"""Judged outcomes that are read, the newest; encoding their prompts takes most of the time."""
_BATCH = 256


def audit_request(
    store: OutcomeStore, engine: RoutingEngine, trust: TrustSettings, *, outcome: Outcome, most: int = MOST
) -> Audit:
    """Return the audit of a logged request, against the outcomes that came before it.

    Raises
    ------
    DataError
        If nothing was judged before it, or neither text nor embedding of its prompt was kept.
    """
    if not _kept(outcome):
        raise DataError(
            f"of the prompt of request {outcome.request_id!r} neither text nor embedding was kept (log.prompts); "
            "audit a text"
        )
    before = (other for other in store.scan() if other.time < outcome.time)
    costs = {name: expected.get("cost_usd", math.nan) for name, expected in outcome.candidates.items()}
    return _audited(before, engine, trust, _embedded([outcome], engine)[0], costs, outcome.model, most)


def audit_text(
    store: OutcomeStore, engine: RoutingEngine, trust: TrustSettings, text: str, *, most: int = MOST
) -> Audit:
    """Return the audit of a prompt as it would be routed now; no model is called.

    Raises
    ------
    DataError
        If no outcome of the log was judged.
    NoEligibleModelError
        If no model of the pool can take it.
    """
    decision = engine.route(RoutingRequest(text=text, prompt_tokens=estimate_tokens(text), dry_run=True, explore=False))
    costs = {entry.model: entry.expected_cost_usd for entry in decision.ranking}
    return _audited(store.scan(), engine, trust, engine.encoder.encode([text])[0], costs, decision.model, most)


def _audited(
    outcomes: Iterable[Outcome],
    engine: RoutingEngine,
    trust: TrustSettings,
    embedding: FloatArray,
    costs: dict[str, float],
    decided: str,
    most: int,
) -> Audit:
    from llmrouter.learning import audit, trusted_weights

    judged = deque(
        (outcome for outcome in outcomes if not is_missing(outcome.quality) and not outcome.cache and _kept(outcome)),
        maxlen=most,
    )
    log = list(judged)
    X = _embedded(log, engine)
    weight = engine.policy.current_cost_weight() if isinstance(engine.policy, BasePolicy) else 0.0
    rate = weight / engine.trained.reference_cost_usd
    return audit(
        embedding,
        log,
        X,
        trusted_weights(log, X, trust.limits()),
        penalty={name: rate * cost for name, cost in costs.items() if math.isfinite(cost)},
        decided=decided,
    )


def _kept(outcome: Outcome) -> bool:
    return outcome.prompt is not None or outcome.embedding is not None


def _embedded(outcomes: list[Outcome], engine: RoutingEngine) -> FloatArray:
    """Return the embeddings, (n, d): the stored ones, else of the texts."""
    X = np.zeros((len(outcomes), engine.encoder.dimension), dtype=np.float32)
    texts = [row for row, outcome in enumerate(outcomes) if outcome.prompt is not None]
    for start in range(0, len(texts), _BATCH):
        rows = texts[start : start + _BATCH]
        X[rows] = engine.encoder.encode([outcomes[row].prompt or "" for row in rows])
    for row, outcome in enumerate(outcomes):
        if outcome.prompt is None and outcome.embedding is not None:
            if len(outcome.embedding) != X.shape[1]:
                raise DataError(
                    f"request {outcome.request_id!r} was logged with an embedding of {len(outcome.embedding)} numbers, "
                    f"and the router's encoder gives {X.shape[1]}: it was another encoder's"
                )
            X[row] = outcome.embedding
    return X
