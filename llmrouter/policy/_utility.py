"""The utility policy: quality minus weighted cost."""

from __future__ import annotations

import math
from typing import Self

from llmrouter.exceptions import ConfigError, QualityFloorError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._checks import require
from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._learn_then_test import FloorCalibrator
from llmrouter.policy._ranking import Appraisal, View

FLOOR_CONFIDENCE = 0.95
"""Confidence of floors that single requests ask for."""
_REMEMBERED_WEIGHTS = 256
_QUALITY_AMONG_EQUAL_COSTS = 1e-9


class UtilityPolicy(BasePolicy):
    """Rank by ``quality - cost_weight * cost / reference_cost``, best first, ties to the cheaper.

    The reference cost gives the weight a unit: at weight 0.3 a model as dear as the dearest of the training data must
    be expected 0.3 better than a free one.

    Parameters
    ----------
    cost_weight : float
        Weight of cost, >= 0; 0 is quality alone. A request may set its own.
    guard : float, None or "auto"
        z of a lower confidence bound; ``auto`` is the one that training chose for the artifact's routers. The
        train-chosen best single model b (highest training mean of the utility, at the weight in force) is left only
        for a model a with ``gain - guard * sqrt(std_a^2 + std_b^2) > 0``, the gain being a's expected utility less
        b's. None is no guard. A number needs the facts of an artifact (`bind`).
    reference_cost_usd : float
        The dearest model's mean cost on the training data, US dollars; frozen in the artifact's manifest.
    """

    def __init__(
        self, cost_weight: float = 0.3, *, guard: float | str | None = "auto", reference_cost_usd: float = 1.0
    ) -> None:
        self.cost_weight = require("cost_weight", cost_weight, least=0)
        self.guard: float | str | None
        if guard is None or guard == "auto":
            self.guard = guard
        elif isinstance(guard, str):
            raise ConfigError(f"guard must be 'auto', a number >= 0 or null; got {guard!r}")
        else:
            self.guard = require("guard", guard, least=0)
        self.reference_cost_usd = require("reference_cost_usd", reference_cost_usd, above=0)
        self._facts: TrainingFacts | None = None
        self._calibrator: FloorCalibrator | None = None
        self._best_singles: dict[float, str] = {}

    @property
    def name(self) -> str:
        """Name with settings."""
        return self._named(self.cost_weight)

    def current_cost_weight(self) -> float:
        """Return the configured weight."""
        return self.cost_weight

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy in the unit of an artifact, with its best single model and its calibration."""
        return self._with(
            reference_cost_usd=facts.reference_cost_usd,
            _facts=facts,
            _best_singles={},
            _calibrator=None if facts.calibration is None else FloorCalibrator(facts),
        )

    def appraise(self, view: View, /) -> Appraisal:
        """Value the candidates by their utility.

        The request's own `cost_weight` goes before the policy's. For a `quality_floor` see `floor_appraisal`.
        """
        preference = view.request.preference
        if preference.quality_floor is not None:
            return floor_appraisal(
                view, preference.quality_floor, calibrator=self._calibrator, reference_cost_usd=self.reference_cost_usd
            )
        weight = self.cost_weight if preference.cost_weight is None else preference.cost_weight
        scores = utilities(view, weight, reference_cost_usd=self.reference_cost_usd)
        guard = self._guard_in_force
        if guard is not None:
            scores = self._guarded(view, scores, weight, guard=guard)
        policy = self._named(weight)
        return Appraisal(scores, policy, weight, self.reference_cost_usd)

    @property
    def _guard_in_force(self) -> float | None:
        if isinstance(self.guard, str):
            return None if self._facts is None else self._facts.guard
        return self.guard

    def _guarded(self, view: View, scores: list[float], weight: float, *, guard: float) -> list[float]:
        """Lower the scores of the models whose gain over the best single model is not sure to that lower bound."""
        if self._facts is None:
            raise ConfigError(
                f"guard={guard:g} compares with the best single model of the training data, and the policy was "
                "bound to none; load it with an artifact, call bind(facts), or leave the guard out"
            )
        single = view.position(self._best_single(self._facts, weight))
        if single is None:
            return scores
        guarded = list(scores)
        for i in view.eligible:
            if i != single:
                margin = guard * math.hypot(view.std[i], view.std[single])
                # Not "<=": a NaN margin is no evidence either.
                if not scores[i] - scores[single] - margin > 0:
                    guarded[i] = min(scores[i], scores[single]) - margin
        return guarded

    def _best_single(self, facts: TrainingFacts, weight: float) -> str:
        model = self._best_singles.get(weight)
        if model is None:
            if len(self._best_singles) >= _REMEMBERED_WEIGHTS:  # weights come from clients, too
                self._best_singles.clear()
            model = self._best_singles[weight] = facts.best_at(weight)
        return model

    def _named(self, weight: float) -> str:
        guard = f",guard={self.guard:g}" if isinstance(self.guard, float) else ""
        return f"utility({weight:g}{guard})"


def utilities(view: View, cost_weight: float, *, reference_cost_usd: float) -> list[float]:
    """Return ``quality - cost_weight * cost / reference_cost`` of every candidate."""
    rate = cost_weight / reference_cost_usd
    return [quality - rate * cost for quality, cost in zip(view.quality, view.cost, strict=True)]


def floor_appraisal(
    view: View,
    floor: float,
    *,
    calibrator: FloorCalibrator | None,
    reference_cost_usd: float,
    policy: str = "utility",
) -> Appraisal:
    """Value the candidates for a request that asks for a quality floor.

    Where there is a calibration that supports the floor, the utility at the calibrated cost weight ranks, and on
    prompts like the calibration's the mean quality is at least that share of the best single model's with a
    confidence of 95%. Elsewhere the cheapest model goes first among those whose expected quality is at least that
    share of the best eligible one's, without a guarantee.
    """
    warnings: tuple[str, ...] = ()
    if calibrator is not None:
        try:
            weight = calibrator.certificate(floor, confidence=FLOOR_CONFIDENCE).cost_weight
        except QualityFloorError:
            warnings = (f"the quality floor of {floor:g} is applied to expectations: the data cannot guarantee it",)
        else:
            scores = utilities(view, weight, reference_cost_usd=reference_cost_usd)
            return Appraisal(scores, f"{policy}(floor={floor:g},calibrated)", weight, reference_cost_usd)
    needed = floor * max(view.quality[i] for i in view.eligible)
    dearest = max(view.cost[i] for i in view.eligible) or 1.0
    above = [quality >= needed for quality in view.quality]
    scores = [
        _QUALITY_AMONG_EQUAL_COSTS * quality - cost / dearest if enough else quality
        for quality, cost, enough in zip(view.quality, view.cost, above, strict=True)
    ]
    return Appraisal(
        scores,
        f"{policy}(floor={floor:g})",
        reference_cost_usd / dearest,
        reference_cost_usd,
        tiers=[0 if enough else 1 for enough in above],
        warnings=warnings,
    )
