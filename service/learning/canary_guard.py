"""Whether one lane does worse than another, asked as often as one likes.

The bound is that of the mixture sequential probability ratio test for two streams (Johari, Koomen, Pekelis and Walsh,
"Always valid inference", Operations Research 70, 2022, equation 15 with a plugged-in variance; Robbins 1970): with
``V`` the variance of the difference of means and a normal prior of variance ``tau^2`` on it, the probability that the
true difference ever lies more than ``sqrt(2 V (V + tau^2) / tau^2 * (log(1 / alpha) + log((V + tau^2) / V) / 2))``
below the observed one is at most alpha, however often and whenever one looks; in large samples, for which
`min_outcomes` stands.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from llmrouter.types import Outcome
    from service.learning.canary_settings import GuardSettings

CANARY = "canary"
LIVE = ""

_REMEMBERED = 100_000
# What the prior of the difference is as wide as: an effect that matters.
_TAU = 0.05
_RELATIVE_TAU = 0.1
_BOUNDED = frozenset({"quality", "error_rate"})
# With fewer units the spread between them says nothing.
_FEWEST_UNITS = 10


class Verdict(NamedTuple):
    """What a guard says.

    Attributes
    ----------
    worse : bool
        Whether the canary is to be taken back.
    difference : float
        How much worse the canary is in the unit of `max_drop`, negative where it is better; NaN without outcomes.
    least : float
        Lower bound of that, valid at any time; -inf where nothing can be said yet.
    """

    worse: bool
    difference: float
    least: float


@dataclass
class Lane:
    """Values of one lane, by unit (a key or a session), so that what belongs together is not taken for independent."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    units: dict[str, tuple[int, float]] = field(default_factory=dict)
    groups: int = 0
    _counts_squared: float = 0.0
    _totals_squared: float = 0.0
    _products: float = 0.0

    def add(self, unit: str, value: float, sign: int = 1) -> None:
        """Add a value of a unit, or take it away."""
        self.count += sign
        self.total += sign * value
        self.squares += sign * value * value
        if unit not in self.units and len(self.units) >= _REMEMBERED:
            self._sum(1, value, sign)  # one of so many units is taken for one of its own each time
            return
        count, total = self.units.pop(unit, (0, 0.0))
        if count:
            self._sum(count, total, -1)
        count, total = count + sign, total + sign * value
        if count:
            self._sum(count, total, 1)
            self.units[unit] = (count, total)

    def _sum(self, count: int, total: float, sign: int) -> None:
        self.groups += sign
        self._counts_squared += sign * count * count
        self._totals_squared += sign * total * total
        self._products += sign * count * total

    @property
    def mean(self) -> float:
        """Mean of the values; NaN without any."""
        return self.total / self.count if self.count else math.nan

    def variance_of_mean(self, *, presumed: float, clustered: bool) -> float:
        """Return the variance of the mean; `presumed` is added to the sum of squared deviations."""
        mean = self.mean
        if clustered:
            # The sum over units of (total - mean * count)^2.
            spread = self._totals_squared - 2 * mean * self._products + mean * mean * self._counts_squared
            spread *= self.groups / (self.groups - 1)
        else:
            spread = self.squares - self.count * mean * mean
        return (max(spread, 0.0) + presumed) / self.count**2


class Guard:
    """One metric over both lanes.

    Parameters
    ----------
    settings : GuardSettings
        What is watched.
    alpha : float
        Probability of taking back a canary that is not worse, at most.
    """

    def __init__(self, settings: GuardSettings, *, alpha: float) -> None:
        self.settings = settings
        self.alpha = alpha
        self.lanes = {LIVE: Lane(), CANARY: Lane()}
        self._known: OrderedDict[str, tuple[str, str, float]] = OrderedDict()

    def take(self, outcome: Outcome, unit: str) -> None:
        """Count an outcome; one that was counted before is replaced, as when a judgement changes."""
        value = value_of(self.settings.metric, outcome)
        if value is None:
            return
        before = self._known.pop(outcome.request_id, None)
        if before is not None:
            lane, of, old = before
            self.lanes[lane].add(of, old, -1)
        self.lanes[outcome.lane].add(unit, value)
        self._known[outcome.request_id] = (outcome.lane, unit, value)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def verdict(self) -> Verdict:
        """Compare the lanes as they are now."""
        live, canary = self.lanes[LIVE], self.lanes[CANARY]
        if not live.count or not canary.count:
            return Verdict(worse=False, difference=math.nan, least=-math.inf)
        bounded = self.settings.metric in _BOUNDED
        # In relative terms the canary is compared with so much more than what the live lane has.
        factor = 1.0 if bounded else 1.0 + self.settings.max_drop
        sign = -1.0 if self.settings.metric == "quality" else 1.0
        worse_by = sign * (canary.mean - factor * live.mean)
        allowed = self.settings.max_drop if bounded else 0.0
        unit = 1.0 if bounded else abs(live.mean) or 1.0
        difference = sign * (canary.mean - live.mean) / unit
        if min(live.count, canary.count) < self.settings.min_outcomes:
            return Verdict(worse=False, difference=difference, least=-math.inf)
        clustered = min(live.groups, canary.groups) >= _FEWEST_UNITS
        # Two outcomes at the ends of the scale are presumed: no error among few is not yet none ever.
        presumed = 0.5 if bounded else 0.0
        variance = canary.variance_of_mean(presumed=presumed, clustered=clustered)
        variance += factor**2 * live.variance_of_mean(presumed=presumed, clustered=clustered)
        tau = _TAU if bounded else _RELATIVE_TAU * unit
        radius = _radius(variance, tau=tau, alpha=self.alpha)
        least = worse_by - radius
        shown = least if bounded else least / unit + self.settings.max_drop
        return Verdict(worse=least > allowed, difference=difference, least=shown)

    def state(self) -> dict[str, Any]:
        """Return it for people."""
        verdict = self.verdict()
        live, canary = self.lanes[LIVE], self.lanes[CANARY]
        return {
            "metric": self.settings.metric,
            "max_drop": self.settings.max_drop,
            "live": _shown(live),
            "canary": _shown(canary),
            "worse_by": _finite(verdict.difference),
            "worse_by_at_least": _finite(verdict.least),
            "needed": max(self.settings.min_outcomes - min(live.count, canary.count), 0),
        }


def value_of(metric: str, outcome: Outcome) -> float | None:
    """Return what an outcome says about a metric; None where it says nothing."""
    if outcome.lane not in (LIVE, CANARY) or outcome.cache or not outcome.candidates or outcome.status == "cancelled":
        return None
    if metric == "quality":
        return outcome.quality
    if metric == "error_rate":
        return float(outcome.status != "ok")
    if outcome.status != "ok":
        return None
    return outcome.cost_usd if metric == "cost" else outcome.latency_s


def _radius(variance: float, *, tau: float, alpha: float) -> float:
    if variance <= 0:
        return 0.0
    squared = tau * tau
    inner = math.log(1 / alpha) + 0.5 * math.log((variance + squared) / variance)
    return math.sqrt(2 * variance * (variance + squared) / squared * inner)


def _shown(lane: Lane) -> dict[str, Any]:
    return {"outcomes": lane.count, "mean": _finite(lane.mean)}


def _finite(value: float) -> float | None:
    return round(value, 9) if math.isfinite(value) else None
