"""The quality-floor policy: as cheap as possible above a share of the best single model's quality."""

from __future__ import annotations

from typing import Self

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._checks import require
from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._learn_then_test import FloorCalibrator, FloorCertificate, checked_bound
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._utility import floor_appraisal, utilities


class QualityFloorPolicy(BasePolicy):
    """As cheap as possible while the mean quality is at least `floor` times the train-chosen best single model's.

    The utility ranks, at the largest cost weight that the calibration shows to keep the floor (see `FloorCalibrator`:
    Learn-then-Test, arXiv 2110.01052). A request's own `cost_weight` takes over, and its own `quality_floor` is
    calibrated in the same way; both are then in the decision's policy name.

    Parameters
    ----------
    floor : float
        Share of the best single model's mean quality, in (0, 1].
    confidence : float
        Of the promise, over the draw of the calibration prompts; in (0, 1).
    bound : {"betting", "normal"}
        "betting" holds for any number of prompts; "normal" needs many, and is a little less strict.
    """

    def __init__(self, floor: float = 0.97, *, confidence: float = 0.95, bound: str = "betting") -> None:
        self.floor = require("floor", floor, above=0, most=1)
        self.confidence = require("confidence", confidence, above=0, most=1 - 1e-9)
        self.bound = checked_bound(bound)
        self._calibrator: FloorCalibrator | None = None
        self._certificate: FloorCertificate | None = None
        self._reference_cost_usd = 1.0

    @property
    def name(self) -> str:
        """Name with settings."""
        return f"quality_floor({self.floor:g})"

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy calibrated on an artifact's held-out estimates.

        Raises
        ------
        QualityFloorError
            If the data cannot support the floor; says how many more outcomes would.
        """
        calibrator = FloorCalibrator(facts)
        return self._with(
            _calibrator=calibrator,
            _certificate=calibrator.certificate(self.floor, confidence=self.confidence, bound=self.bound),
            _reference_cost_usd=facts.reference_cost_usd,
        )

    def certificate(self) -> FloorCertificate:
        """Return what was shown on the calibration: weight, prompts, bound, estimated quality share and cost.

        Raises
        ------
        ConfigError
            If the policy was bound to no artifact.
        """
        if self._certificate is None:
            raise ConfigError(
                f"the policy {self.name} is calibrated on the held-out estimates of an artifact, and was bound to "
                "none; load it with an artifact or call bind(facts)"
            )
        return self._certificate

    def current_cost_weight(self) -> float:
        """Return the calibrated weight."""
        return self.certificate().cost_weight

    def appraise(self, view: View, /) -> Appraisal:
        """Value the candidates by their utility at the calibrated cost weight."""
        weight, name = self.certificate().cost_weight, self.name
        preference = view.request.preference
        if preference.quality_floor is not None and preference.quality_floor != self.floor:
            return floor_appraisal(
                view,
                preference.quality_floor,
                calibrator=self._calibrator,
                reference_cost_usd=self._reference_cost_usd,
                policy="quality_floor",
            )
        if preference.quality_floor is None and preference.cost_weight is not None:
            weight, name = preference.cost_weight, f"utility({preference.cost_weight:g})"
        scores = utilities(view, weight, reference_cost_usd=self._reference_cost_usd)
        return Appraisal(scores, name, weight, self._reference_cost_usd)
