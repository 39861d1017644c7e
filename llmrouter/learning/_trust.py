"""Weights against poisoned outcomes: what one source can make a router believe.

Whoever may send prompts and feedback may try to own a region of the embedding space (AgentPoison, arXiv 2407.12784:
below 0.1% of the entries, gathered where nobody else is, are enough to be retrieved). Outcomes are therefore weighed
by who judged them and by who else is near, before a router is fitted on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.learning._judged import Judgements, Standing, first_seen, judgements
from llmrouter.learning._trust_limits import Backing, BoolArray, Limits, Rules, odds
from llmrouter.learning._trust_region import (
    CAPPED,
    DISAGREES,
    KEPT,
    REASONS,
    Crowd,
    Vote,
    contradicting,
    distances,
    factors,
    reach_of,
    vote,
)
from llmrouter.learning._trust_settings import TrustSettings
from llmrouter.types import FloatArray, IntArray, Outcome, is_missing

DAY_S = 86_400.0
_BLOCK = 1024
_MOST = 20_000
_ROUNDS = 5


@dataclass(frozen=True)
class SourceTrust:
    """What became of one source.

    Attributes
    ----------
    name : str
        Key id, or "" for outcomes without a key.
    outcomes : int
        Judged ones.
    first_seen : float
        Seconds since the epoch.
    established : bool
        Whether it is past its quarantine.
    weight : float
        Of its outcomes together, as a share of all weights given.
    kept : float
        Weight given over weight claimed.
    """

    name: str
    outcomes: int
    first_seen: float
    established: bool
    weight: float
    kept: float


@dataclass(frozen=True)
class TrustReport:
    """Weights of n outcomes.

    Attributes
    ----------
    weight : array of shape (n,)
        What each is to count in fitting, >= 0; 1 where nobody judged.
    quarantined : tuple of str
        Sources that are new.
    sources : tuple of SourceTrust
        All of them, those with the most outcomes first.
    reason : tuple of str, length n
        Why: ``kept``, ``new source``, ``share of its source``, ``disagrees with others``, ``too few sources nearby``;
        "" where nobody judged.
    bootstrapping : bool
        Whether no source was established, so that all were taken for it.
    """

    weight: FloatArray
    quarantined: tuple[str, ...]
    sources: tuple[SourceTrust, ...]
    reason: tuple[str, ...]
    bootstrapping: bool

    @property
    def left_out(self) -> int:
        """Outcomes of weight 0."""
        return int((self.weight <= 0).sum())

    def summary(self) -> str:
        """Return one line for people."""
        counts = {why: self.reason.count(why) for why in REASONS if why != REASONS[KEPT] and why in self.reason}
        lowered = "; ".join(f"{count} {why}" for why, count in counts.items()) or "none lowered"
        new = f"{len(self.quarantined)} of {len(self.sources)} sources are new"
        start = ", none is established yet" if self.bootstrapping else ""
        return f"trust: {new}{start}; {self.left_out} of {len(self.weight)} outcomes left out ({lowered})"


class TrustPolicy:
    """Weigh judged outcomes by who judged them and by who else is near.

    1. A source is **new** until its first outcome is `min_age_days` old and it gave `min_outcomes`. All new sources
       together hold at most `new_share` of the weight around any outcome, however many keys they are; where no
       established source is, they hold nothing.
    2. An established source holds at most `concentration` times its share of the log's outcomes, of those of the
       sources that are there, of the weight around any of its outcomes; at most `source_share`, and `overall_share`
       of the log's weight. Shares add up: who divides its outcomes among more keys holds no more.
    3. Where the other established sources within reach count for fewer than `min_sources`, an outcome's source counts
       for `lone_weight` prompts: such a region stays near its prior. A source counts for one from the mean number of
       outcomes on, and for less with fewer; what it said in that region does not count for it. The reach is measured
       on the log: nine in ten established outcomes find that many sources within it.
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
        self._cap_overall(judged, claimed, established, kept, reason)
        free = named[judged.source]
        kept[free], reason[free] = 1.0, KEPT
        kept[kept < self.settings.least] = 0.0
        return self._report(judged, claimed, kept, reason, established=established, bootstrapping=bootstrapping)

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

    def _report(
        self,
        judged: Judgements,
        claimed: FloatArray,
        kept: FloatArray,
        reason: IntArray,
        *,
        established: BoolArray,
        bootstrapping: bool,
    ) -> TrustReport:
        weight = claimed * kept
        size = len(judged.names)
        count = np.bincount(judged.source, minlength=size)
        given = np.bincount(judged.source, weights=weight, minlength=size)
        asked = np.bincount(judged.source, weights=claimed, minlength=size)
        first, total = first_seen(judged), max(float(weight.sum()), 1e-12)
        order = sorted(np.flatnonzero(count).tolist(), key=lambda i: (-count[i], judged.names[i]))
        sources = tuple(
            SourceTrust(
                name=judged.names[i],
                outcomes=int(count[i]),
                first_seen=float(first[i]),
                established=bool(established[i]) and not bootstrapping,
                weight=float(given[i]) / total,
                kept=float(given[i] / asked[i]) if asked[i] > 0 else 0.0,
            )
            for i in order
        )
        return TrustReport(
            weight=weight,
            quarantined=tuple(source.name for source in sources if not source.established),
            sources=sources,
            reason=tuple(REASONS[why] for why in reason.tolist()),
            bootstrapping=bootstrapping,
        )


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
