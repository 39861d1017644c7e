"""Turn curves into figures: metrics, intervals and operating points of one router."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrouter.evaluation._costs import Evaluable
from llmrouter.evaluation._fit import FittedEstimates
from llmrouter.evaluation._intervals import Interval, percentile_interval
from llmrouter.evaluation._metrics import aiq, aiq_code, cost_share_to_match, qnc, undefined_reasons
from llmrouter.evaluation._replay import Curve
from llmrouter.evaluation._result import Kind, OperatingPoint, RouterResult
from llmrouter.types import FloatArray

# Cost weights (in the policy's unit) whose nearest swept points are reported one by one.
_REPORTED_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


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


@dataclass(frozen=True)
class Entry:
    """A router on the way to its result."""

    name: str
    kind: Kind
    curve: Curve
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    estimates: FittedEstimates | None = None


def intervals_of(
    name: str, point: Mapping[str, float], samples: Mapping[str, FloatArray], *, level: float
) -> dict[str, Interval]:
    """Return the intervals of one router from the resampled AIQs of all; empty without resamples."""
    if not samples:
        return {}
    found = {"aiq": percentile_interval(samples[name], point[name], level=level)}
    for other, label in (("zero", "aiq_minus_zero"), ("best-single", "aiq_minus_best_single")):
        if other != name:
            difference = samples[name] - samples[other]
            found[label] = percentile_interval(difference, point[name] - point[other], level=level)
    return found


def measure(entry: Entry, setting: Setting, intervals: Mapping[str, Interval]) -> RouterResult:
    """Return the figures of one router."""
    curve, estimates = entry.curve, entry.estimates
    model_cost, model_quality = setting.data.test_cost.mean(axis=0), setting.data.test.quality.mean(axis=0)
    most_accurate = model_quality >= model_quality.max()
    peak = 0 if entry.kind == "baseline" else curve.peak
    return RouterResult(
        name=entry.name,
        kind=entry.kind,
        parameters=entry.parameters,
        curve=curve,
        aiq=aiq(curve.hull, setting.interval),
        aiq_code=aiq_code(curve.hull, setting.max_cost),
        qnc=qnc(curve.hull, model_cost, model_quality),
        dearest_share=cost_share_to_match(
            curve.hull, quality=float(model_quality[setting.dearest]), cost=float(model_cost[setting.dearest])
        ),
        peak_quality=float(curve.mean_quality[peak]),
        peak_cost=float(curve.mean_cost[peak]),
        intervals=intervals,
        operating_points=operating_points(curve, setting) if entry.name != "zero" else (),
        expected_quality=None if estimates is None else estimates.quality,
        expected_cost=None if estimates is None else estimates.cost,
        cost_from="" if estimates is None else estimates.cost_from,
        fit_s=float("nan") if estimates is None else estimates.fit_s,
        decide_us=float("nan") if estimates is None else estimates.decide_us,
        tuning=entry.tuning,
        notes=tuple(
            undefined_reasons(
                curve.hull,
                setting.interval,
                best_cost=float(model_cost[most_accurate].min()),
                best_quality=float(model_quality.max()),
            )
        ),
    )


def operating_points(curve: Curve, setting: Setting) -> tuple[OperatingPoint, ...]:
    """Pick weight 0, the swept weights nearest to `_REPORTED_WEIGHTS`, and what does not come from a weight."""
    scale = setting.reference_cost if setting.reference_cost > 0 else 1.0
    swept = np.flatnonzero(np.isfinite(curve.weights) & (curve.weights > 0))
    picked = np.flatnonzero(~np.isfinite(curve.weights) | (curve.weights == 0)).tolist()
    if swept.size:
        distance = np.abs(np.log(curve.weights[swept] * scale)[None, :] - np.log(_REPORTED_WEIGHTS)[:, None])
        picked += swept[distance.argmin(axis=1)].tolist()
    models = setting.data.test.models
    return tuple(
        OperatingPoint(
            index=index,
            cost_weight=float(curve.weights[index] * scale),
            cost=float(curve.mean_cost[index]),
            quality=float(curve.mean_quality[index]),
            shares=dict(zip(models, curve.shares(index, models=len(models)).tolist(), strict=True)),
        )
        for index in sorted(set(picked))
    )
