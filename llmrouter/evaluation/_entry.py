"""What is known of a router between its replay and its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrouter.evaluation._costs import Evaluable
from llmrouter.evaluation._crossfit import CrossFit
from llmrouter.evaluation._fit import FittedEstimates
from llmrouter.evaluation._replay import Curve, Guard
from llmrouter.evaluation._result import Kind
from llmrouter.types import FloatArray


@dataclass(frozen=True)
class Setting:
    """What all routers of one evaluation share."""

    data: Evaluable
    weights: FloatArray
    cheapest: int
    best_single: int
    dearest: int
    reference_cost: float
    interval: tuple[float, float]
    max_cost: float = float("nan")

    @property
    def weight_scale(self) -> float:
        """Return how many units of a policy's cost weight one unit of the swept weight is; 1 where all is free."""
        return self.reference_cost if self.reference_cost > 0 else 1.0


@dataclass(frozen=True)
class Entry:
    """A router on the way to its result."""

    name: str
    kind: Kind
    curve: Curve
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    estimates: FittedEstimates | None = None
    notes: tuple[str, ...] = ()
    spec: str = ""
    crossed: CrossFit | None = None
    guard: Guard | None = None

    @property
    def own_point(self) -> int:
        """Return the operating point that stands for the router where quality alone counts.

        Cost weight 0 where the curve has it; a baseline's own point; else the peak, which is chosen in hindsight.
        """
        quality_alone = np.flatnonzero(self.curve.weights == 0)
        if quality_alone.size:
            return int(quality_alone[0])
        return 0 if self.kind == "baseline" else self.curve.peak

    @property
    def own_points(self) -> slice:
        """Return the points that are the router's own: a baseline's curve also holds the cheapest model's."""
        return slice(0, 1) if self.kind == "baseline" else slice(None)
