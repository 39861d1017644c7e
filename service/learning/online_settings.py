"""Settings of online adaptation and of the drift alarm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from service.section import Section

if TYPE_CHECKING:
    from llmrouter.learning import DriftParameters, OnlineParameters


class OnlineSettings(Section):
    """Judged outcomes act on decisions within seconds, between two trainings.

    Attributes
    ----------
    enabled : bool
        Off leaves the artifact as it was trained.
    interval_s : float
        How often the log is looked at for new judgements.
    half_life_days : float or None
        After that many days an outcome counts half; None never forgets.
    max_influence : float
        Largest change of an expected quality (`method` ``residuals``).
    window : int
        Outcomes that are learned from: the newest.
    method : {"residuals", "partial_fit"}
        A bounded correction on top of any router, or the router's own way of learning on, where it has one.
    trust : bool
        Weigh judgements by who gave them, as section `trust` says; for gateways whose callers are not all known.
    snapshot : Path or None
        File from which a restart goes on, without prompt texts; None puts it beside the log. Each worker has its own.
    """

    enabled: bool = True
    interval_s: Annotated[float, Field(ge=0.05, le=3600)] = 2.0
    half_life_days: PositiveFloat | None = 7.0
    max_influence: Annotated[float, Field(gt=0, le=1)] = 0.3
    window: Annotated[int, Field(ge=1, le=100_000)] = 5000
    method: Literal["residuals", "partial_fit"] = "residuals"
    trust: bool = False
    snapshot: Path | None = None

    def parameters(self) -> OnlineParameters:
        """Return them as `llmrouter.learning.OnlineLearner` takes them."""
        from llmrouter.learning import OnlineParameters

        return OnlineParameters(
            method=self.method,
            half_life_days=self.half_life_days,
            max_influence=self.max_influence,
            window=self.window,
        )


class DriftSettings(Section):
    """An alarm where a model is no longer what the router expects of it.

    Attributes
    ----------
    enabled : bool
        Off watches nothing.
    tolerance : float
        A mean quality that far from the expected one is no drift.
    false_alarm_run : float
        Judged outcomes of a model until a false alarm, on average at least.
    window : int
        Newest judged outcomes of a model, for the calibration error and for the end of an alarm.
    min_weight : float
        Judgements of less weight are left out.
    """

    enabled: bool = True
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.05
    false_alarm_run: Annotated[float, Field(gt=1)] = 20_000.0
    window: Annotated[PositiveInt, Field(ge=20)] = 300
    min_weight: NonNegativeFloat = 0.5

    def parameters(self) -> DriftParameters:
        """Return them as `llmrouter.learning.DriftMonitor` takes them."""
        from llmrouter.learning import DriftParameters

        return DriftParameters(
            tolerance=self.tolerance,
            false_alarm_run=self.false_alarm_run,
            window=self.window,
            min_weight=self.min_weight,
        )
