"""Weights against poisoned outcomes: what one source can make a router believe.

Whoever may send prompts and feedback may try to own a region of the embedding space (AgentPoison, arXiv 2407.12784:
below 0.1% of the entries, gathered where nobody else is, are enough to be retrieved). Outcomes are therefore weighed
by who judged them and by who else is near, before a router is fitted on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.learning._judged import Judgements, Standing, first_seen, judgements
from llmrouter.learning._trust_crowd import Crowd, distances, reach_of
from llmrouter.learning._trust_limits import Backing, BoolArray, Limits, Rules, odds
from llmrouter.learning._trust_region import (
    CAPPED,
    DISAGREES,
    KEPT,
    factors,
)
from llmrouter.learning._trust_report import SourceTrust, TrustReport, report_of
from llmrouter.learning._trust_settings import TrustSettings
from llmrouter.learning._trust_vote import Vote, contradicting, vote
from llmrouter.types import FloatArray, IntArray, Outcome, is_missing

__all__ = ["SourceTrust", "TrustPolicy", "TrustReport", "trusted_weights"]

DAY_S = 86_400.0
_BLOCK = 1024
_MOST = 20_000
_ROUNDS = 5
_GIVEN_BACK = 3.0
"""Largest factor by which weights that the shares lowered are raised again."""


class TrustPolicy:
    """Weigh judged outcomes by who judged them and by who else is near.

    1. A source is **new** until its first outcome is `min_age_days` old and it gave `min_outcomes`. All new sources
       together hold at most `new_share` of the weight around any outcome, however many keys they are; where no
       established source is, they hold nothing.
    2. An established source holds at most `concentration` times its share of the log's outcomes, of those of the
       sources that are there, of the weight around any of its outcomes; at most `source_share`, and `overall_share`
       of the log's weight. Below the mean number of outcomes a source's share counts for less, in proportion: who
       divides its outcomes among more keys holds less. The same part holds of the core of the ball, the `neighbours`
       nearest outcomes of others, so that a wide ball backs nothing that lies close together. What the shares took
       off everybody is given back to those held least, by what stands behind them.
    3. Where the other established sources within reach count for fewer than `min_sources`, an outcome's source counts
       for `lone_weight` prompts, times the square of its voice: such a region stays near its prior. A source's voice
       is one from the mean number of outcomes on, and less with fewer; what it said in that region does not count for
       it. The reach is measured on the log: nine in ten established outcomes find that many sources within it.
    4. A source that differs from its neighbours' mean (one vote each, less for small ones) by more than `disagreement`
       standard errors loses weight by the square. One whose judgements of a model differ from those of its neighbours
       by more than `bias` on average, and by `disagreement` standard errors, counts as new for that model: honest ones
       err both ways.

    "Around" is the ball that holds `neighbours` outcomes of established others, of the same model, within reach; a
    source fills no more of it than it may hold.

    Parameters
    ----------
    settings : TrustSettings, optional
        The numbers.
    """

    def __init__(self, settings: TrustSettings | None = None) -> None:
        self.settings = settings or TrustSettings()

    def weights(self, judged: Judgements, *, known: Mapping[str, Standing] | None = None) -> TrustReport:
        """Return the weight of every judged outcome; the same for any order of the rows.

        Parameters
        ----------
        judged : Judgements
            The log, or a window of it.
        known : mapping of str to Standing, optional
            What sources did before it, see `standings`: a window alone would take them for new.

        Raises
        ------
        DataError
            If an embedding is not finite.
        """
        if not np.isfinite(judged.X).all():
            raise DataError("embeddings must be finite; encode the prompts again")
        claimed = np.minimum(judged.weight, self.settings.max_weight)
        established, counts, bootstrapping = self._standing(judged, known or {})
        named = np.array([name in self.settings.trusted for name in judged.names], dtype=bool)
        backing = Backing.of(counts, established, named)
        limits = Limits.of(self.settings, backing)
        kept, reason = np.ones(len(judged)), np.full(len(judged), KEPT, dtype=np.int64)
        for model in np.unique(judged.model).tolist():
            rows = np.flatnonzero(judged.model == model)
            kept[rows], reason[rows] = self._of_model(judged, rows, claimed, established, limits, backing)
        _give_back(judged, claimed, kept, reason, backing.voices(np.arange(len(judged.names))))
        self._cap_overall(judged, claimed, established, kept, reason)
        free = named[judged.source]
        kept[free], reason[free] = 1.0, KEPT
        kept[kept < self.settings.least] = 0.0
        return report_of(judged, claimed, kept, reason, established=established, bootstrapping=bootstrapping)

    def _standing(self, judged: Judgements, known: Mapping[str, Standing]) -> tuple[BoolArray, FloatArray, bool]:
        """Return which sources are established and their numbers of outcomes, (s,), and whether none was."""
        before = [known.get(name, Standing(np.inf, 0)) for name in judged.names]
        count = np.bincount(judged.source, minlength=len(judged.names)) + [one.outcomes for one in before]
        first = np.minimum(first_seen(judged), [one.first_seen for one in before])
        newest = judged.time.max() if len(judged) else 0.0
        old = newest - first >= self.settings.min_age_days * DAY_S
        named = np.array([name in self.settings.trusted for name in judged.names], dtype=bool)
        established = named | (old & (count >= self.settings.min_outcomes))
        if not established.any():
            return np.ones(len(judged.names), dtype=bool), count, True
        return established, count, False

    def _of_model(
        self,
        judged: Judgements,
        rows: IntArray,
        claimed: FloatArray,
        established: BoolArray,
        limits: Limits,
        backing: Backing,
    ) -> tuple[FloatArray, IntArray]:
        # Sorted by source, then by content: the result must not depend on the order of the log.
        sources = judged.source[rows]
        order = np.argsort(sources, kind="stable")
        picked = order
        scale = 1.0
        if len(order) > _MOST:
            picked = order[np.unique(np.linspace(0, len(order) - 1, _MOST).astype(np.int64))]
            scale = len(order) / len(picked)
        inner = rows[picked]
        crowd = Crowd(
            X=judged.X[inner],
            source=judged.source[inner],
            established=established[judged.source[inner]],
            quality=judged.quality[inner],
            weight=claimed[inner] * scale,
        )
        own, blocks = judged.source[rows], range(0, len(rows), _BLOCK)
        rules = Rules(limits, self.settings, backing, reach_of(crowd, limits.sources, backing))

        def away(start: int) -> tuple[FloatArray, Crowd, IntArray]:
            part = slice(start, start + _BLOCK)
            return distances(judged.X[rows[part]], crowd), crowd, own[part]

        # One that loses its standing no longer votes for its fellows, who may lose theirs then.
        standing = established.copy()
        for _ in range(_ROUNDS):
            heard = Vote.joined([vote(*away(start), rules) for start in blocks])
            biased = contradicting(judged.quality[rows], own, heard, self.settings)
            biased = biased[standing[biased]]
            if not biased.size:
                break
            standing[biased] = False
            crowd = replace(crowd, established=standing[crowd.source])
        fresh = ~standing[own]
        found = [factors(*away(start), fresh[start : start + _BLOCK], rules) for start in blocks]
        reason = np.concatenate([why for _, why in found])
        reason[fresh & established[own]] = DISAGREES
        return np.concatenate([kept for kept, _ in found]), reason

    def _cap_overall(
        self, judged: Judgements, claimed: FloatArray, established: BoolArray, kept: FloatArray, reason: IntArray
    ) -> None:
        share = max(self.settings.overall_share, 1.0 / max(int(established.sum()), 1))
        totals = np.bincount(judged.source, weights=claimed * kept, minlength=len(judged.names))
        if share >= 1.0:
            return
        for source in np.flatnonzero(totals > odds(share) * (totals.sum() - totals)).tolist():
            others = totals.sum() - totals[source]
            if others > 0:
                rows = judged.source == source
                kept[rows] *= odds(share) * others / totals[source]
                reason[rows & (reason == KEPT)] = CAPPED


def _give_back(judged: Judgements, claimed: FloatArray, kept: FloatArray, reason: IntArray, voices: FloatArray) -> None:
    """Raise what the shares lowered, to no more than was claimed, until half of the sources have all.

    The shares limit parts; what they take off everybody would only make a router doubt everything. A source is raised
    the more, the more stands behind it, and not where it is held by more than is usual.
    """
    rows = np.isin(reason, (KEPT, CAPPED))
    own, size = judged.source[rows], len(judged.names)
    asked = np.bincount(own, weights=claimed[rows], minlength=size)
    given = np.bincount(own, weights=(claimed * kept)[rows], minlength=size)
    part = np.divide(given, asked, out=np.ones(size), where=asked > 0)
    usual = float(np.median(part[asked > 0])) if (asked > 0).any() else 1.0
    more = min(1.0 / max(usual, 1e-12), _GIVEN_BACK) - 1.0
    factor = 1.0 + more * voices * (part >= usual)
    kept[rows] = np.minimum(kept[rows] * factor[own], 1.0)


def trusted_weights(
    outcomes: Sequence[Outcome],
    embeddings: FloatArray,
    settings: TrustSettings | None = None,
    *,
    known: Mapping[str, Standing] | None = None,
) -> TrustReport:
    """Return how much each logged outcome is to count in training.

    Parameters
    ----------
    outcomes : sequence of Outcome, length n
        The log; what nobody judged has weight 1 and no influence on the others.
    embeddings : array of shape (n, d)
        Of their prompts.
    settings : TrustSettings, optional
        The numbers.
    known : mapping of str to Standing, optional
        What sources did before these outcomes, where they are a window of a log (`standings`).

    Raises
    ------
    DataError
        If there is not one finite embedding for each outcome.
    """
    X = np.asarray(embeddings, dtype=np.float32)
    if X.ndim != 2 or len(X) != len(outcomes):
        raise DataError(f"embeddings must be ({len(outcomes)}, d), one row an outcome; got {X.shape}")
    rows = [row for row, outcome in enumerate(outcomes) if not is_missing(outcome.quality)]
    report = TrustPolicy(settings).weights(judgements([outcomes[row] for row in rows], X[rows]), known=known)
    weight, reason = np.ones(len(outcomes)), [""] * len(outcomes)
    weight[rows] = report.weight
    for row, why in zip(rows, report.reason, strict=True):
        reason[row] = why
    return TrustReport(weight, report.quarantined, report.sources, tuple(reason), report.bootstrapping)
