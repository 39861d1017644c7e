"""What lies around a judged outcome, and how much of its weight that leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from llmrouter.learning._trust_limits import Backing, BoolArray, Rules
from llmrouter.learning._trust_settings import TrustSettings
from llmrouter.types import FloatArray, IntArray

KEPT, NEW, CAPPED, DISAGREES, ALONE = range(5)
"""Why an outcome has the weight it has; see `REASONS`."""
REASONS = ("kept", "new source", "share of its source", "disagrees with others", "too few sources nearby")

_WIDER = 4
_WELL_SERVED = 0.9
_LEAST_SPREAD = 0.09
"""Variance of an outcome is never taken for less: that of a coin of 0.9."""
_ROUNDING = 1e-6
_FILLINGS = 4
_EASED = 1.2
"""Where few sources are, each may hold this much of an equal part: their shares must sum to more than one."""


@dataclass(frozen=True)
class Crowd:
    """Judged outcomes of one model, c of them, sorted by source.

    Attributes
    ----------
    X : array of shape (c, d)
        Embeddings.
    source : array of shape (c,), int
        Code of each outcome's source, ascending.
    established : array of shape (c,), bool
        Whether that source is established.
    quality, weight : arrays of shape (c,)
        Judgements and their weights.
    """

    X: FloatArray
    source: IntArray
    established: BoolArray
    quality: FloatArray
    weight: FloatArray

    @property
    def starts(self) -> IntArray:
        """Where each source begins, (s,)."""
        changes = np.flatnonzero(np.diff(self.source)) + 1
        return np.concatenate([np.zeros(min(len(self.source), 1), dtype=np.int64), changes])


def distances(X: FloatArray, crowd: Crowd) -> FloatArray:
    """Return cosine distances (b, c) of rows of unit length."""
    return np.maximum(1.0 - (X @ crowd.X.T).astype(np.float64), 0.0)


def reach_of(crowd: Crowd, sources: float, backing: Backing, *, most: int = 1000) -> float:
    """Return the distance within which nine in ten established outcomes find that many established other sources.

    Sources count by their voices, see `Backing`.

    Of larger crowds an evenly spread sample of `most` outcomes is measured. Infinite where no outcome finds them.
    """
    rows = np.flatnonzero(crowd.established)
    if not sources or not len(rows):
        return np.inf
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))]
    nearest = _nearest_of_sources(distances(crowd.X[rows], crowd), crowd, crowd.source[rows], 1)
    needed = _radius(nearest, backing.voices(crowd.source[crowd.starts]), sources, np.inf)
    needed = needed[np.isfinite(needed)]
    return float(np.quantile(needed, _WELL_SERVED)) if len(needed) else np.inf


def _nearest_of_sources(away: FloatArray, crowd: Crowd, own: IntArray, each: int) -> FloatArray:
    """Return the distances to the nearest outcomes of every established source but one's own, (b, each * s)."""
    starts = crowd.starts
    shut = ~crowd.established[starts][None, :] | (crowd.source[starts][None, :] == own[:, None])
    place = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(crowd.source))))
    left, found = away, []
    for _ in range(each):
        nearest = np.minimum.reduceat(left, starts, axis=1)
        found.append(np.where(shut, np.inf, nearest))
        if len(found) < each:
            left = np.where(left <= nearest[:, place], np.inf, left)
    return np.concatenate(found, axis=1)


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
    nearest = _nearest_of_sources(away, crowd, own, limits.votes)
    voices = rules.backing.voices(sources)
    heard = np.where(nearest[:, : len(sources)] <= reach + _ROUNDING, voices, 0.0).sum(axis=1)
    alone = heard < limits.sources - _ROUNDING
    filled = np.tile(rules.backing.filled(sources, rules), limits.votes)
    radius = _radius(nearest, filled, settings.neighbours, reach) + _ROUNDING
    inside = away <= radius[:, None]
    weight = np.where(inside, crowd.weight, 0.0)
    weight_own = np.where(mine, weight, 0.0).sum(axis=1)
    totals = np.add.reduceat(weight, crowd.starts, axis=1) * crowd.established[crowd.starts]
    is_own = sources[None, :] == own[:, None]
    allowed, others = _within_shares(totals, is_own, rules.backing.share[sources], voices, rules)
    weight_new = np.where(crowd.established[None, :], 0.0, weight).sum(axis=1)

    kept, reason = np.ones(b), np.full(b, KEPT, dtype=np.int64)

    def lower(allowed: FloatArray, where: BoolArray, why: int) -> None:
        tighter = where & (allowed < kept)
        kept[tighter] = allowed[tighter]
        reason[tighter] = why

    # What a source says here is backed by what it said elsewhere.
    elsewhere = np.maximum(rules.backing.share[own] - weight_own / max(rules.backing.outcomes, 1.0), 0.0)
    lone = settings.lone_weight * np.minimum(elsewhere * rules.backing.established, 1.0)
    lower(np.where(alone, 0.0, _ratio(limits.new_odds * others, weight_new)), fresh, NEW)
    lower(_ratio(lone, weight_own), ~fresh & alone, ALONE)
    lower(_ratio(allowed, weight_own), ~fresh & ~alone, CAPPED)
    found = vote(away, crowd, own, rules).disagreement
    believed = np.where(fresh, 1.0, np.minimum(settings.disagreement / np.maximum(found, 1e-12), 1.0) ** 2)
    reason[believed < kept] = DISAGREES
    kept *= believed
    return kept, reason


def _radius(nearest: FloatArray, filled: FloatArray, wanted: float, reach: float) -> FloatArray:
    """Return the distance at which the nearest outcomes, (b, c), fill what is wanted, at most `reach`, (b,)."""
    order = np.argsort(nearest, axis=1, kind="stable")
    enough = np.cumsum(filled[order], axis=1) >= wanted - _ROUNDING
    last = np.take_along_axis(np.take_along_axis(nearest, order, axis=1), enough.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.asarray(np.minimum(np.where(enough.any(axis=1), last, np.inf), reach))


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
    limited = own < 1.0 - _ROUNDING
    ratio = np.divide(own, 1.0 - own, out=np.zeros(len(own)), where=limited)
    return np.where(limited, ratio * others, np.inf), others


def _ratio(allowed: FloatArray, claimed: FloatArray) -> FloatArray:
    return np.minimum(np.divide(allowed, claimed, out=np.ones(len(claimed)), where=claimed > 0), 1.0)


@dataclass(frozen=True)
class Vote:
    """What established others say around each of b outcomes, one vote a source or less (`Backing.voices`).

    One vote at most, so that a source with many outcomes cannot outvote the others by their number.

    Attributes
    ----------
    mean : array of shape (b,)
        Mean of the sources' means.
    spread : array of shape (b,)
        Variance of one outcome there.
    error : array of shape (b,)
        Variance of `mean`.
    tested : array of shape (b,), bool
        Whether enough sources voted.
    own_mean, own : arrays of shape (b,)
        Mean and weight of the outcome's own source there.
    """

    mean: FloatArray
    spread: FloatArray
    error: FloatArray
    tested: BoolArray
    own_mean: FloatArray
    own: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[Vote]) -> Vote:
        """Return several blocks as one."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @property
    def disagreement(self) -> FloatArray:
        """Standard errors between the outcome's source and the others, (b,); 0 where not tested."""
        error = np.sqrt(self.spread / np.maximum(self.own, 1e-12) + self.error)
        return np.asarray(np.where(self.tested & (self.own > 0), np.abs(self.own_mean - self.mean) / error, 0.0))


def vote(away: FloatArray, crowd: Crowd, own: IntArray, rules: Rules) -> Vote:
    """Ask the established others around each outcome; see `factors` for the arguments."""
    limits, settings, reach = rules.limits, rules.settings, rules.reach
    starts, mine = crowd.starts, crowd.source[None, :] == own[:, None]
    sources = crowd.source[starts]
    nearest = _nearest_of_sources(away, crowd, own, limits.votes)
    filled = np.tile(rules.backing.filled(sources, rules), limits.votes)
    inside = away <= _radius(nearest, filled, _WIDER * settings.neighbours, reach)[:, None] + _ROUNDING
    weight = np.where(inside, crowd.weight, 0.0)
    totals = np.add.reduceat(weight, starts, axis=1)
    sums = np.add.reduceat(weight * crowd.quality, starts, axis=1)
    voting = crowd.established[starts][None, :] & (totals > 0) & ~mine[:, starts]
    voices = np.where(voting, rules.backing.voices(sources), 0.0)
    count = np.maximum(voices.sum(axis=1), 1e-12)
    means = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
    mean = (voices * means).sum(axis=1) / count
    spread = np.maximum(mean * (1.0 - mean), _LEAST_SPREAD)
    inverse = np.where(voting, voices**2 / np.maximum(totals, 1e-12), 0.0).sum(axis=1) / count**2
    weight_own = np.where(mine, weight, 0.0).sum(axis=1)
    own_sum = np.where(mine, weight * crowd.quality, 0.0).sum(axis=1)
    return Vote(
        mean=mean,
        spread=spread,
        error=spread * inverse,
        tested=voices.sum(axis=1) >= max(limits.sources, 1) - _ROUNDING,
        own_mean=np.divide(own_sum, weight_own, out=np.zeros(len(own)), where=weight_own > 0),
        own=weight_own,
    )


def contradicting(quality: FloatArray, own: IntArray, heard: Vote, settings: TrustSettings) -> IntArray:
    """Return the sources whose outcomes of this model differ from their neighbours' all in one direction.

    Their mean difference exceeds `bias` by more than `disagreement` standard errors: an honest source errs both ways.
    """
    found = []
    for source in np.unique(own[heard.tested]).tolist():
        rows = heard.tested & (own == source)
        spread = float(heard.spread[rows].mean())
        error = np.sqrt(spread / rows.sum() + float(heard.error[rows].mean()))
        difference = abs(float((quality[rows] - heard.mean[rows]).mean()))
        if difference - settings.bias > settings.disagreement * error:
            found.append(source)
    return np.array(found, dtype=np.int64)
