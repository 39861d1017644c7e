"""Drift: whether the pool's models still are what the router expects of them, told from judged outcomes."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning._online_window import served
from llmrouter.outcomes import Event
from llmrouter.types import Outcome, is_missing

# Shares of the largest bet that cannot lose everything: small ones find small changes, large ones find large ones soon.
_BETS = np.array([0.05, 0.1, 0.2, 0.4])
_SIDES = ("worse", "better")
_REMEMBERED = 20_000
_EDGE = 1e-6


@dataclass(frozen=True)
class DriftParameters:
    """When a `DriftMonitor` raises the alarm.

    Attributes
    ----------
    tolerance : float
        A mean quality that far from the expected one is no drift, in [0, 1).
    false_alarm_run : float
        Judged outcomes of a model from the start to a false alarm, on average at least.
    window : int
        Newest outcomes of a model, for the calibration error and to tell when an alarm is over.
    bins : int
        Of expected quality, for the calibration error.
    min_weight : float
        Judgements of less weight are left out: hints such as a retry are no measurement of quality.
    """

    tolerance: float = 0.05
    false_alarm_run: float = 20_000.0
    window: int = 300
    bins: int = 10
    min_weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < 1.0:
            raise ConfigError(f"tolerance must lie in [0, 1); got {self.tolerance!r}")
        if not self.false_alarm_run > 1.0:
            raise ConfigError(f"false_alarm_run must be above 1; got {self.false_alarm_run!r}")
        if self.window < 20 or self.bins < 1:
            raise ConfigError(f"window must be >= 20 and bins >= 1; got {self.window!r} and {self.bins!r}")


@dataclass(frozen=True)
class ModelDrift:
    """How a model stands.

    Attributes
    ----------
    outcomes : int
        Looked at.
    alarm : str
        ``worse`` or ``better`` than expected while an alarm is on, else "".
    alarms : int
        Raised so far.
    since : float or None
        Time of the outcome that raised the alarm, seconds since the epoch.
    evidence : float
        In [0, 1]: how far the way to an alarm is, on a logarithmic scale.
    gap : float or None
        Mean of observed less expected quality over the window.
    calibration_error : float or None
        Expected calibration error over the window.
    """

    outcomes: int
    alarm: str
    alarms: int
    since: float | None
    evidence: float
    gap: float | None
    calibration_error: float | None


@dataclass
class _Watch:
    """One model's evidence: a Shiryaev-Roberts sum a side and bet, and the newest outcomes."""

    evidence: np.ndarray[Any, np.dtype[np.float64]] = field(default_factory=lambda: np.zeros((2, len(_BETS))))
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    outcomes: int = 0
    alarms: int = 0
    alarm: str = ""
    since: float | None = None
    at: int = 0


class DriftMonitor:
    """Watches expected against observed quality, model by model.

    An e-detector (Shin, Ramdas & Rinaldo, arXiv 2203.03532): for each model, bets are laid on every outcome that its
    mean quality lies more than the tolerance below (above) what was expected at decision time; while expectations are
    right no bet gains on average, whatever the distribution of qualities in [0, 1]. The gains of bets begun at every
    past outcome are added up (Shiryaev-Roberts), averaged over both sides and several stakes, and the alarm goes at
    `false_alarm_run`. From this follows, without any assumption but right expectations up to the tolerance: a false
    alarm comes after `false_alarm_run` outcomes of a model on average at the earliest, and within the first n with
    probability at most ``n / false_alarm_run``.

    After an alarm the evidence is gathered anew; the alarm is over when the mean gap over a full window of outcomes
    since is within the tolerance. A function of the events alone, so replicas agree. Not thread-safe.

    Parameters
    ----------
    parameters : DriftParameters, optional
        When to raise it.
    """

    def __init__(self, parameters: DriftParameters | None = None) -> None:
        self.parameters = DriftParameters() if parameters is None else parameters
        self._watches: dict[str, _Watch] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()

    def watch(self, events: Sequence[Event]) -> list[tuple[str, str]]:
        """Take in events, in order; return the alarms they raise, as (model, ``worse`` or ``better``).

        Of a request the first judgement counts, as what was expected of it was said once. Answers from the cache, and
        models of which nothing was expected (a named model), are left out.
        """
        raised = []
        for event in events:
            found = self._pair(event.outcome)
            if found is not None and not self._known(event.outcome.request_id):
                model = served(event.outcome)
                side = self._take(self._watches.setdefault(model, _Watch()), *found, time=event.outcome.time)
                if side:
                    raised.append((model, side))
        return raised

    def state(self) -> dict[str, ModelDrift]:
        """Return how each model stands."""
        return {model: self._standing(watch) for model, watch in sorted(self._watches.items())}

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON values, for `restore`."""
        watches = {
            model: {**vars(watch), "evidence": watch.evidence.tolist(), "recent": [list(pair) for pair in watch.recent]}
            for model, watch in self._watches.items()
        }
        return {"watches": watches, "seen": list(self._seen)}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take back a snapshot.

        Raises
        ------
        DataError
            If it is none; nothing is changed then.
        """
        try:
            watches = {}
            for model, values in snapshot["watches"].items():
                evidence = np.array(values["evidence"], dtype=np.float64).reshape(2, len(_BETS))
                recent = deque((float(expected), float(observed)) for expected, observed in values["recent"])
                watches[str(model)] = _Watch(**{**values, "evidence": evidence, "recent": recent})
            seen = OrderedDict.fromkeys(str(name) for name in snapshot["seen"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"that is no snapshot of a drift monitor ({error!r})") from error
        self._watches, self._seen = watches, seen

    def _pair(self, outcome: Outcome) -> tuple[float, float] | None:
        """Return expected and observed quality, or None where one is not known."""
        if outcome.quality is None or is_missing(outcome.quality) or outcome.cache:
            return None
        if (1.0 if outcome.quality_weight is None else outcome.quality_weight) < self.parameters.min_weight:
            return None
        expected = outcome.candidates.get(served(outcome), {}).get("quality")
        if expected is None or is_missing(expected):
            return None
        return min(max(float(expected), 0.0), 1.0), outcome.quality

    def _known(self, request_id: str) -> bool:
        if request_id in self._seen:
            return True
        self._seen[request_id] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _take(self, watch: _Watch, expected: float, observed: float, *, time: float) -> str:
        watch.outcomes += 1
        watch.recent.append((expected, observed))
        while len(watch.recent) > self.parameters.window:
            watch.recent.popleft()
        watch.evidence = (watch.evidence + 1.0) * _gains(expected, observed, self.parameters.tolerance)
        if float(watch.evidence.mean()) >= self.parameters.false_alarm_run:
            side = _SIDES[int(watch.evidence.mean(axis=1).argmax())]
            watch.evidence = np.zeros_like(watch.evidence)
            new = watch.alarm != side
            watch.alarm, watch.at = side, watch.outcomes
            if new:
                watch.alarms += 1
                watch.since = time
                return side
        elif watch.alarm and watch.outcomes - watch.at >= self.parameters.window:
            gap = _gap(watch)
            if gap is not None and abs(gap) <= self.parameters.tolerance:
                watch.alarm, watch.since = "", None
        return ""

    def _standing(self, watch: _Watch) -> ModelDrift:
        total = float(watch.evidence.mean())
        way = math.log1p(total) / math.log1p(self.parameters.false_alarm_run)
        return ModelDrift(
            outcomes=watch.outcomes,
            alarm=watch.alarm,
            alarms=watch.alarms,
            since=watch.since,
            evidence=min(max(way, 0.0), 1.0),
            gap=_gap(watch),
            calibration_error=calibration_error(list(watch.recent), bins=self.parameters.bins),
        )


def _gains(expected: float, observed: float, tolerance: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return what each bet is multiplied with, (2, bets): at most 1 on average while expectations are right."""
    least, most = max(expected - tolerance, 0.0), min(expected + tolerance, 1.0)
    # A mean cannot lie below 0 or above 1: there nobody bets, nor where the odds would be beyond all numbers.
    worse = 1.0 + _BETS / (1.0 - least) * (least - observed) if 0.0 < least < 1.0 - _EDGE else np.ones(len(_BETS))
    better = 1.0 + _BETS / most * (observed - most) if _EDGE < most < 1.0 else np.ones(len(_BETS))
    return np.stack([worse, better])


def _gap(watch: _Watch) -> float | None:
    if not watch.recent:
        return None
    return math.fsum(observed - expected for expected, observed in watch.recent) / len(watch.recent)


def calibration_error(pairs: Sequence[tuple[float, float]], *, bins: int = 10) -> float | None:
    """Return the expected calibration error of (expected, observed) qualities over equal bins; None without pairs.

    It is above 0 for right expectations too, about ``0.4 sqrt(bins / n)`` for coin-like qualities: watch its changes.
    """
    if not pairs:
        return None
    values = np.array(pairs)
    bin_of = np.minimum((values[:, 0] * bins).astype(np.int64), bins - 1)
    sums = np.bincount(bin_of, weights=values[:, 1] - values[:, 0], minlength=bins)
    return float(np.abs(sums).sum() / len(values))
