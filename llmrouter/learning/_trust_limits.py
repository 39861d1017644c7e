"""What a source may make a router believe: limits, and what stands behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.learning._trust_settings import TrustSettings
from llmrouter.types import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]
_PART_HEARD = 0.5


@dataclass(frozen=True)
class Limits:
    """The settings' limits, eased where the log has few established sources.

    Attributes
    ----------
    source_share : float
        Of the weight around an outcome that one source may have.
    new_odds : float
        Weight that all new ones may have for each unit of weight of the established others.
    votes : int
        Outcomes of one source that count as neighbours, at most.
    sources : float
        Established others an outcome needs within reach, by their voices (`Backing`): at most half of all there are.
    """

    source_share: float
    new_odds: float
    votes: int
    sources: float

    @classmethod
    def of(cls, settings: TrustSettings, backing: Backing) -> Limits:
        """Return the limits for a log with such sources."""
        share = max(settings.source_share, 1.0 / max(backing.established, 1))
        others = max(float(backing.voices(np.arange(len(backing.share))).sum()) - 1.0, 0.0)
        return cls(
            source_share=share,
            new_odds=odds(settings.new_share),
            votes=min(max(round(share * settings.neighbours), 1), settings.neighbours),
            sources=min(settings.min_sources, _PART_HEARD * others),
        )


def odds(share: float) -> float:
    """Return the weight a share stands for, per unit of all else."""
    return np.inf if share >= 1.0 else share / (1.0 - share)


@dataclass(frozen=True)
class Backing:
    """What stands behind each of s sources: its part of the outcomes of all established ones.

    Influence is counted in this unit and not in sources, so that an attacker who divides its outcomes among more keys
    gains nothing (Sybil attacks).

    Attributes
    ----------
    share : array of shape (s,)
        In [0, 1]; 1 for those that are not limited, 0 for new ones.
    outcomes : float
        Of all established sources.
    established : int
        How many they are.
    """

    share: FloatArray
    outcomes: float
    established: int

    @classmethod
    def of(cls, counts: FloatArray, established: BoolArray, unlimited: BoolArray) -> Backing:
        """Return the backing of sources with these numbers of outcomes, (s,)."""
        total = float(counts[established].sum())
        share = np.where(established, counts / max(total, 1.0), 0.0)
        return cls(np.where(unlimited, 1.0, share), total, int(established.sum()))

    def voices(self, sources: IntArray) -> FloatArray:
        """Return for how many sources each counts: 1 from the mean number of outcomes on, less below it."""
        return np.asarray(np.minimum(self.share[sources] * self.established, 1.0))

    def filled(self, sources: IntArray, rules: Rules) -> FloatArray:
        """Return what each of a source's nearest outcomes fills of a ball, so that all together fill its share."""
        most = rules.settings.concentration * self.share[sources] * rules.settings.neighbours
        return np.asarray(np.minimum(most / rules.limits.votes, 1.0))


@dataclass(frozen=True)
class Rules:
    """What is allowed around an outcome of one model.

    Attributes
    ----------
    limits : Limits
        For each source.
    settings : TrustSettings
        The numbers.
    backing : Backing
        What the sources did, over all models.
    reach : float
        See `reach_of`.
    """

    limits: Limits
    settings: TrustSettings
    backing: Backing
    reach: float
