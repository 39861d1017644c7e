"""What the established sources around an outcome say, and who contradicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from llmrouter.learning._trust_crowd import ROUNDING, Crowd, nearest_of_sources, radius_of
from llmrouter.learning._trust_limits import BoolArray, Rules
from llmrouter.learning._trust_settings import TrustSettings
from llmrouter.types import FloatArray, IntArray

_WIDER = 4
_LEAST_SPREAD = 0.09
"""Variance of an outcome is never taken for less: that of a coin of 0.9."""


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
    nearest = nearest_of_sources(away, crowd, own, limits.votes)
    filled = np.tile(rules.backing.filled(sources, rules), limits.votes)
    inside = away <= radius_of(nearest, filled, _WIDER * settings.neighbours, reach)[:, None] + ROUNDING
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
        tested=voices.sum(axis=1) >= max(limits.sources, 1) - ROUNDING,
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
