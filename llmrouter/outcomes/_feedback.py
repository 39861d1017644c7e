"""Judgements joined to the outcomes that they judge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from llmrouter.exceptions import DataError
from llmrouter.outcomes._base import Feedback
from llmrouter.types import Outcome, is_missing

VERIFIER, JUDGE, IMPLICIT = "verifier:", "judge:", "implicit:"
"""What the sources of the gateway's own signals begin with."""


def check_feedback(feedback: Feedback) -> None:
    """Raise `DataError` if a judgement cannot be stored."""
    if not feedback.request_id or not feedback.source:
        empty = "source" if feedback.request_id else "request_id"
        raise DataError(f"feedback.{empty} is empty; give the request that is judged and who judges it")
    if not 0.0 <= feedback.quality <= 1.0:
        raise DataError(f"feedback.quality {feedback.quality!r} is outside [0, 1]; rescale it")
    if not (feedback.weight > 0.0 and math.isfinite(feedback.weight)):
        raise DataError(f"feedback.weight {feedback.weight!r} must be a finite number above 0; 1 is the usual weight")
    if not 0.0 <= feedback.cost_usd < math.inf:
        raise DataError(f"feedback.cost_usd {feedback.cost_usd!r} must be a finite number of US dollars, at least 0")


def check_outcome(outcome: Outcome) -> None:
    """Raise `DataError` if an outcome cannot be stored."""
    if not outcome.request_id or not outcome.model:
        empty = "model" if outcome.request_id else "request_id"
        raise DataError(f"outcome.{empty} is empty (request {outcome.request_id!r}); every outcome needs one")
    if not math.isfinite(outcome.time):
        raise DataError(f"outcome.time {outcome.time!r} of request {outcome.request_id!r} is not a time in seconds")
    if not (is_missing(outcome.quality) or 0.0 <= (outcome.quality or 0.0) <= 1.0):
        raise DataError(f"outcome.quality {outcome.quality!r} of request {outcome.request_id!r} is outside [0, 1]")


def replaces(feedback: Feedback, before: Feedback | None) -> bool:
    """Return whether a judgement changes what its source said before: it says something else, and is not older."""
    if before is None:
        return True
    same = (before.quality, before.weight) == (feedback.quality, feedback.weight)
    return not same and feedback.time >= before.time


def join_feedback(outcome: Outcome, judgements: Iterable[Feedback]) -> Outcome:
    """Return `outcome` with the weighted mean quality over its sources.

    A quality that the outcome was stored with counts as a judgement of its own source, until that source judges
    again. Guesses from what the client did next (sources ``implicit:...``) count only while nobody has judged.
    `quality_weight` is the sum of the weights that count, `quality_source` names their sources, `quality_time` is the
    latest, `quality_by` are the keys that judged. What judging cost, guesses or not, is added to `overhead_cost_usd`.
    """
    by_source = {judgement.source: judgement for judgement in judgements}
    if not by_source:
        return outcome
    if outcome.quality is not None and not is_missing(outcome.quality):
        source = outcome.quality_source or "outcome"
        weight = 1.0 if outcome.quality_weight is None else outcome.quality_weight
        own = Feedback(outcome.request_id, outcome.quality, source, weight, outcome.quality_time or outcome.time)
        by_source.setdefault(source, own)
    spent = math.fsum(judgement.cost_usd for judgement in by_source.values())
    judged = {source: judgement for source, judgement in by_source.items() if not source.startswith(IMPLICIT)}
    by_source = judged or by_source
    weight = math.fsum(judgement.weight for judgement in by_source.values())
    quality = math.fsum(judgement.weight * judgement.quality for judgement in by_source.values()) / weight
    return dataclasses.replace(
        outcome,
        quality=min(max(quality, 0.0), 1.0),
        quality_source=", ".join(sorted(by_source)),
        quality_weight=weight,
        quality_time=max(judgement.time for judgement in by_source.values()),
        quality_by=tuple(sorted({judgement.by for judgement in by_source.values()})),
        overhead_cost_usd=(outcome.overhead_cost_usd or 0.0) + spent if spent else outcome.overhead_cost_usd,
    )
