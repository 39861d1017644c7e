"""How far outcomes are believed: the numbers behind `TrustPolicy`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmrouter.exceptions import ConfigError


@dataclass(frozen=True)
class TrustSettings:
    """Limits on what one source of judgements, or all new ones together, can make a router believe.

    Attributes
    ----------
    source_share : float
        Largest share of the weight around an outcome that one source may hold, in (0, 1]. Where the log has few
        established sources it is one part in as many.
    concentration : float
        How many times its share of the log a source may hold around an outcome.
    overall_share : float
        Largest share of the log's weight that one source may hold.
    new_share : float
        Largest share that all new sources together may hold around an outcome, in [0, 1); 0 leaves them out.
    min_sources : int
        Established sources, others than its own, that an outcome needs within reach to count in full.
    lone_weight : float
        Weight, in prompts, of all that lies around an outcome which has fewer.
    min_age_days, min_outcomes : float, int
        A source is established when its first outcome in the log is that old and it gave that many judged ones.
    neighbours : int
        Outcomes of established others that make up a neighbourhood.
    disagreement : float
        Standard errors by which a source may differ from the others nearby before it loses weight.
    bias : float
        Mean difference from the others that a source may have on one model, whatever its standard error. Beyond it,
        and beyond `disagreement` standard errors, it counts as new for that model.
    max_weight : float
        Largest weight of one judged outcome, whatever its judgements claim.
    least : float
        An outcome left with a smaller share of its weight is left out altogether, so that it takes no neighbour's
        place.
    trusted : tuple of str
        Key ids that count as established from their first outcome, and are not limited.
    """

    source_share: float = 0.15
    concentration: float = 2.0
    overall_share: float = 0.5
    new_share: float = 0.02
    min_sources: int = 5
    lone_weight: float = 0.5
    min_age_days: float = 7.0
    min_outcomes: int = 20
    neighbours: int = 10
    disagreement: float = 2.5
    bias: float = 0.1
    max_weight: float = 2.0
    least: float = 0.1
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("source_share", 0.0, 1.0),
            ("overall_share", 0.0, 1.0),
            ("concentration", 0.0, math.inf),
            ("disagreement", 0.0, math.inf),
            ("max_weight", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if not low < value <= high:
                raise ConfigError(f"{name} must be above {low:g} and at most {high:g}; got {value!r}")
        for name, high in (("new_share", 1.0), ("least", 1.0)):
            value = getattr(self, name)
            if not 0.0 <= value < high:
                raise ConfigError(f"{name} must be in [0, {high:g}); got {value!r}")
        for name in ("bias", "lone_weight", "min_age_days", "min_outcomes", "min_sources"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name} must be >= 0; got {value!r}")
        if self.neighbours < 1:
            raise ConfigError(f"neighbours must be a whole number >= 1; got {self.neighbours!r}")
