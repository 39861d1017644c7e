"""What lies around a judged outcome, and how much of its weight that leaves it."""

from __future__ import annotations

import numpy as np

from llmrouter.learning._trust_crowd import ROUNDING, Crowd, nearest_of_sources, nth_smallest, radius_of
from llmrouter.learning._trust_limits import BoolArray, Rules
from llmrouter.learning._trust_vote import vote
from llmrouter.types import FloatArray, IntArray

KEPT, NEW, CAPPED, DISAGREES, ALONE = range(5)
"""Why an outcome has the weight it has; see `REASONS`."""
REASONS = ("kept", "new source", "share of its source", "disagrees with others", "too few sources nearby")

_FILLINGS = 4
_QUIETEST = 0.3
"""A source of few outcomes holds this much of its proportional part at least."""
_EASED = 1.2
"""Where few sources are, each may hold this much of an equal part: their shares must sum to more than one."""


def factors(
    away: FloatArray,
    crowd: Crowd,
    own: IntArray,
    fresh: BoolArray,
    rules: Rules,
) -> tuple[FloatArray, IntArray]:
    """Return the share of its weight that each outcome keeps, (b,), and why.

    Parameters
    ----------
    away : array of shape (b, c)
        Distances of the outcomes to the crowd, in which they are themselves.
    crowd : Crowd
        Outcomes of the same model.
    own : array of shape (b,), int
        Code of their source.
    fresh : array of shape (b,), bool
        Whether that source is new.
    rules : Rules
        What is allowed.
    """
    limits, settings, reach = rules.limits, rules.settings, rules.reach
    b, sources = len(away), crowd.source[crowd.starts]
    mine = crowd.source[None, :] == own[:, None]
    nearest = nearest_of_sources(away, crowd, own, limits.votes)
    voices = rules.backing.voices(sources)
    heard = np.where(nearest[:, : len(sources)] <= reach + ROUNDING, voices, 0.0).sum(axis=1)
    alone = heard < limits.sources - ROUNDING
    filled = np.tile(rules.backing.filled(sources, rules), limits.votes)
    radius = radius_of(nearest, filled, settings.neighbours, reach) + ROUNDING
    inside = away <= radius[:, None]
    weight = np.where(inside, crowd.weight, 0.0)
    weight_own = np.where(mine, weight, 0.0).sum(axis=1)
    totals = np.add.reduceat(weight, crowd.starts, axis=1) * crowd.established[crowd.starts]
    is_own = sources[None, :] == own[:, None]
    backed = rules.backing.share[sources] * np.maximum(voices, _QUIETEST)
    allowed, others = _within_shares(totals, is_own, backed, voices, rules)
    core_part, own_core = _core(away, crowd, mine, radius, settings.neighbours)
    weight_new = np.where(crowd.established[None, :], 0.0, weight).sum(axis=1)

    kept, reason = np.ones(b), np.full(b, KEPT, dtype=np.int64)

    def lower(allowed: FloatArray, where: BoolArray, why: int) -> None:
        tighter = where & (allowed < kept)
        kept[tighter] = allowed[tighter]
        reason[tighter] = why

    # What a source says here is backed by what it said elsewhere.
    elsewhere = np.maximum(rules.backing.share[own] - weight_own / max(rules.backing.outcomes, 1.0), 0.0)
    lone = settings.lone_weight * np.minimum(elsewhere * rules.backing.established, 1.0) ** 2
    lower(np.where(alone, 0.0, _ratio(limits.new_odds * others, weight_new)), fresh, NEW)
    lower(_ratio(lone, weight_own), ~fresh & alone, ALONE)
    lower(_ratio(allowed, weight_own), ~fresh & ~alone, CAPPED)
    # Of the core alone nothing is left out: there small sources have too little of it to be told from a crowd.
    lower(np.maximum(_ratio(allowed * core_part, own_core), settings.least), ~fresh & ~alone, CAPPED)
    found = vote(away, crowd, own, rules).disagreement
    believed = np.where(fresh, 1.0, np.minimum(settings.disagreement / np.maximum(found, 1e-12), 1.0) ** 2)
    reason[believed < kept] = DISAGREES
    kept *= believed
    return kept, reason


def _core(
    away: FloatArray, crowd: Crowd, mine: BoolArray, radius: FloatArray, neighbours: int
) -> tuple[FloatArray, FloatArray]:
    """Return which part of the others' weight in a ball is in its core, and the own weight there, each (b,).

    The core holds the nearest `neighbours` outcomes of established others. A ball is wide where few sources are; what
    lies close together in it would otherwise be backed by all of it.
    """
    theirs = np.where(mine | ~crowd.established[None, :], np.inf, away)
    core = (np.minimum(nth_smallest(theirs, neighbours), radius) + ROUNDING)[:, None]
    own = np.where(mine & (away <= core), crowd.weight, 0.0).sum(axis=1)
    seen = np.isfinite(theirs)
    others = np.where(seen & (theirs <= core), crowd.weight, 0.0).sum(axis=1)
    whole = np.where(seen & (theirs <= radius[:, None]), crowd.weight, 0.0).sum(axis=1)
    return np.divide(others, whole, out=np.ones(len(away)), where=whole > 0), own


def _within_shares(
    totals: FloatArray, is_own: BoolArray, share: FloatArray, voices: FloatArray, rules: Rules
) -> tuple[FloatArray, FloatArray]:
    """Return the weight that the outcome's own source may have in its ball, and that of the others, each (b,).

    Every source may hold at most `concentration` times its part of the outcomes, in the log, of all that are in the
    ball. What is cut off one lowers what the others may have, until all are within their shares.
    """
    present = (totals > 0) | is_own
    part = np.where(present, share, 0.0)
    part /= np.maximum(part.sum(axis=1, keepdims=True), 1e-12)
    heard = np.maximum(np.where(present, voices, 0.0).sum(axis=1, keepdims=True), 1e-12)
    most = np.maximum(rules.limits.source_share, np.minimum(_EASED / heard, 1.0))
    part = np.minimum(rules.settings.concentration * part, most)
    held = totals
    for _ in range(_FILLINGS):
        held = np.minimum(totals, part * held.sum(axis=1, keepdims=True))
    others = np.where(is_own, 0.0, held).sum(axis=1)
    own = np.where(is_own, part, 0.0).sum(axis=1)
    limited = own < 1.0 - ROUNDING
    ratio = np.divide(own, 1.0 - own, out=np.zeros(len(own)), where=limited)
    return np.where(limited, ratio * others, np.inf), others


def _ratio(allowed: FloatArray, claimed: FloatArray) -> FloatArray:
    return np.minimum(np.divide(allowed, claimed, out=np.ones(len(claimed)), where=claimed > 0), 1.0)
