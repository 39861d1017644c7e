"""What became of judged outcomes and of their sources, once weighed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.learning._judged import Judgements, first_seen
from llmrouter.learning._trust_limits import BoolArray
from llmrouter.learning._trust_region import KEPT, REASONS
from llmrouter.types import FloatArray, IntArray


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


def report_of(
    judged: Judgements,
    claimed: FloatArray,
    kept: FloatArray,
    reason: IntArray,
    *,
    established: BoolArray,
    bootstrapping: bool,
) -> TrustReport:
    """Return the report of outcomes claimed and kept in these parts, and why, each (n,)."""
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
