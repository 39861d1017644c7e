"""Quality floors with a guarantee: the largest cost weight whose mean quality is surely high enough."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from llmrouter.exceptions import ConfigError, QualityFloorError
from llmrouter.policy._checks import require
from llmrouter.policy._facts import Calibration, TrainingFacts
from llmrouter.policy._mean_bounds import METHODS, enough, p_value, upper_bound
from llmrouter.types import FloatArray, IntArray

WEIGHTS: FloatArray = np.concatenate(([0.0], np.geomspace(1e-3, 1e3, 121)))
"""Cost weights that are tested, in order."""
FLOOR_STEP = 1e-3
"""Floors are rounded up to multiples of it, so that clients cannot ask for endlessly many calibrations."""
_REMEMBERED = 256
_DIGITS = 12


@dataclass(frozen=True)
class FloorCertificate:
    """What was shown for a quality floor.

    Attributes
    ----------
    floor, confidence : float
        With that confidence (over the draw of the calibration prompts) the mean quality, on prompts like the
        calibration's, is at least `floor` times the best single model's.
    method : str
        ``betting`` (holds for any number of prompts) or ``normal`` (for many).
    cost_weight : float
        The largest weight that was shown to keep the floor.
    n : int
        Calibration prompts on which both the best single and the chosen model were observed.
    upper_bound : float
        Upper confidence bound on the mean shortfall ``floor * q_best - q_chosen``; below zero.
    quality_share, cost_share : float
        Estimated mean quality and cost of the choices as shares of the best single model's.
    mean_cost_usd : float
        Estimated mean cost of the choices, US dollars.
    best_single : str
        The model compared with.
    """

    floor: float
    confidence: float
    method: str
    cost_weight: float
    n: int
    upper_bound: float
    quality_share: float
    cost_share: float
    mean_cost_usd: float
    best_single: str


class FloorCalibrator:
    """Find the cost weight of a quality floor by Learn-then-Test (arXiv 2110.01052) with fixed-sequence testing.

    For each weight, from 0 upward, the hypothesis "the mean shortfall is not negative" is tested at level
    ``1 - confidence``; the first weight that is not rejected ends the sequence, and the last one that is rejected is
    taken. Whatever the estimates are worth, the chance that the taken weight misses the floor is at most
    ``1 - confidence``. The weights of the sequence run from the best expected quality to the cheapest model, so the
    last one is also the cheapest.

    The promise holds for prompts drawn as the calibration's were, for the pool that was trained on with all its models
    eligible, and for estimates as good as the cross-fitted ones. Prompts on which one of the two models was not
    observed are left out: where outcomes are missing for a reason that quality depends on, nothing is promised.

    Parameters
    ----------
    facts : TrainingFacts
        With a calibration.

    Raises
    ------
    QualityFloorError
        If there is no calibration, or the best single model is none of its columns.
    """

    def __init__(self, facts: TrainingFacts) -> None:
        if facts.calibration is None:
            raise QualityFloorError(
                "a quality floor is calibrated on held-out estimates, and the artifact holds none; train it again with "
                "this version, or use the utility policy"
            )
        if facts.best_single not in facts.calibration.models:
            raise QualityFloorError(
                f"the best single model {facts.best_single!r} is no column of the calibration; train the artifact again"
            )
        self._facts = facts
        self._calibration = facts.calibration
        self._lock = threading.Lock()
        self._results: OrderedDict[tuple[int, float, str], FloorCertificate | QualityFloorError] = OrderedDict()
        self._choices: list[IntArray] | None = None

    def certificate(self, floor: float, *, confidence: float = 0.95, bound: str = "betting") -> FloorCertificate:
        """Return what can be shown for a floor; the results are remembered.

        Parameters
        ----------
        floor : float
            Share of the best single model's mean quality, in (0, 1]; rounded up to `FLOOR_STEP`.
        confidence : float
            In (0, 1).
        bound : {"betting", "normal"}
            See `FloorCertificate.method`.

        Raises
        ------
        QualityFloorError
            If the data cannot support the floor; says how many more outcomes would.
        """
        floor = require("quality_floor", floor, above=0, most=1)
        steps = max(math.ceil(round(floor / FLOOR_STEP, 6)), 1)
        key = (steps, require("confidence", confidence, above=0, most=1 - 1e-9), checked_bound(bound))
        with self._lock:
            result = self._results.get(key)
            if result is None:
                result = self._results[key] = self._calibrated(steps * FLOOR_STEP, confidence, bound)
                if len(self._results) > _REMEMBERED:
                    self._results.popitem(last=False)
        if isinstance(result, QualityFloorError):
            raise QualityFloorError(str(result), more_outcomes=result.more_outcomes)
        return result

    def _calibrated(self, floor: float, confidence: float, bound: str) -> FloorCertificate | QualityFloorError:
        calibration = self._calibration
        order = np.random.default_rng(0).permutation(len(calibration))  # bets depend on the order; rows may be sorted
        best = calibration.quality[order, calibration.models.index(self._facts.best_single)]
        passed, failed = -1, np.empty(0)
        for step, choice in enumerate(self._chosen()):
            chosen = calibration.quality[order, choice[order]]
            shortfall = floor * best - chosen
            shortfall = shortfall[~np.isnan(shortfall)]
            if p_value(shortfall, most=floor, level=1 - confidence, method=bound) > 1 - confidence:
                failed = shortfall
                break
            passed = step
        if passed < 0:
            return self._refusal(floor, confidence, failed)
        return self._certified(floor, confidence, bound, passed)

    def _chosen(self) -> list[IntArray]:
        """Return the chosen column of every prompt at every weight, as the utility policy would choose."""
        if self._choices is None:
            calibration, reference = self._calibration, self._facts.reference_cost_usd
            by_cost = np.argsort(calibration.expected_cost_usd, axis=1, kind="stable")
            quality = np.take_along_axis(calibration.expected_quality, by_cost, axis=1)
            cost = np.take_along_axis(calibration.expected_cost_usd, by_cost, axis=1) / reference
            rows = np.arange(len(calibration))
            self._choices = [
                by_cost[rows, np.round(quality - weight * cost, _DIGITS).argmax(axis=1)] for weight in WEIGHTS
            ]
        return self._choices

    def _certified(self, floor: float, confidence: float, bound: str, step: int) -> FloorCertificate:
        calibration, choice = self._calibration, self._chosen()[step]
        rows, best = np.arange(len(calibration)), calibration.models.index(self._facts.best_single)
        both = ~np.isnan(calibration.quality[:, best]) & ~np.isnan(calibration.quality[rows, choice])
        order = np.random.default_rng(0).permutation(len(calibration))
        order = order[both[order]]
        shortfall = floor * calibration.quality[order, best] - calibration.quality[order, choice[order]]
        paid = calibration.paid_usd()
        spent, spent_best = float(paid[rows, choice].mean()), float(paid[:, best].mean())
        return FloorCertificate(
            floor=floor,
            confidence=confidence,
            method=bound,
            cost_weight=float(WEIGHTS[step]),
            n=int(both.sum()),
            upper_bound=upper_bound(shortfall, least=-1.0, most=floor, level=1 - confidence, method=bound),
            quality_share=_share(
                float(calibration.quality[rows, choice][both].mean()), float(calibration.quality[both, best].mean())
            ),
            cost_share=_share(spent, spent_best),
            mean_cost_usd=spent,
            best_single=self._facts.best_single,
        )

    def _refusal(self, floor: float, confidence: float, shortfall: FloatArray) -> QualityFloorError:
        n, needed = shortfall.size, enough(shortfall, level=1 - confidence)
        start = (
            f"the data cannot support a quality floor of {floor:g} of {self._facts.best_single!r} "
            f"with a confidence of {confidence:g}: "
        )
        if n == 0:
            return QualityFloorError(
                f"{start}no calibration prompt was answered by both it and the chosen model; "
                "run the models on the same prompts"
            )
        if needed is None:
            return QualityFloorError(
                f"{start}on {n} held-out prompts the router falls short of it by {shortfall.mean():.4f} on average "
                "even at cost weight 0; lower the floor, or train a better router"
            )
        more = max(needed - n, 1)
        return QualityFloorError(
            f"{start}{n} held-out prompts are too few; about {more} more outcomes of that kind would do "
            f"(mean margin {-shortfall.mean():.4f}), or a lower floor",
            more_outcomes=more,
        )


def checked_bound(bound: str) -> str:
    """Return the name of a bound, or raise ConfigError."""
    if bound not in METHODS:
        raise ConfigError(f"bound must be one of {', '.join(METHODS)}; got {bound!r}")
    return bound


def calibration_of(facts: TrainingFacts, policy: str) -> Calibration:
    """Return the calibration, or raise ConfigError that names the policy which needs it."""
    if facts.calibration is None or len(facts.calibration) == 0:
        raise ConfigError(
            f"the policy {policy!r} is fitted on the held-out estimates of an artifact, and this one holds none; "
            "train it again with this version, or use another policy"
        )
    return facts.calibration


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
