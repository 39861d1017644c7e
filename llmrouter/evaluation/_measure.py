"""Turn curves into figures: metrics, intervals and operating points of one router."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from llmrouter.evaluation._configurations import pareto_distances
from llmrouter.evaluation._entry import Entry, Setting
from llmrouter.evaluation._figures import figures, pareto_points
from llmrouter.evaluation._intervals import Interval, bootstrap_aiq, bootstrap_means, percentile_interval
from llmrouter.evaluation._metrics import aiq, aiq_code, cost_share_to_match, qnc, undefined_reasons
from llmrouter.evaluation._replay import Curve
from llmrouter.evaluation._result import OperatingPoint, RouterResult

# Cost weights (in the policy's unit) whose nearest swept points are reported one by one.
_REPORTED_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def measure_all(
    entries: Sequence[Entry],
    setting: Setting,
    *,
    resamples: int,
    seed: int,
    level: float,
    against: Sequence[str] = (),
) -> dict[str, RouterResult]:
    """Return the figures of all routers of one evaluation, by name and in their order.

    Parameters
    ----------
    entries : sequence of Entry
        The bound ``zero`` and the baseline ``best-single`` among them.
    setting : Setting
        What they share; `max_cost` is set here.
    resamples, seed, level : int, int, float
        Of the bootstrap; no intervals with 0 resamples.
    against : sequence of str
        Routers to which all others are compared too.
    """
    largest = max(float(entry.curve.hull.cost[-1]) for entry in entries)
    setting = dataclasses.replace(setting, max_cost=largest)
    distances = pareto_distances(pareto_points(list(entries)))
    intervals = _intervals(entries, setting, resamples=resamples, seed=seed, level=level, against=against)
    return {
        entry.name: measure(
            entry, setting, intervals.get(entry.name, {}), pareto_distance=distances.get(entry.name, math.nan)
        )
        for entry in entries
    }


def _intervals(
    entries: Sequence[Entry],
    setting: Setting,
    *,
    resamples: int,
    seed: int,
    level: float,
    against: Sequence[str],
) -> dict[str, dict[str, Interval]]:
    """Return the intervals of every router, from one set of resamples; empty without resamples."""
    if not resamples:
        return {}
    curves = {entry.name: entry.curve for entry in entries}
    qualities = {entry.name: entry.curve.quality[entry.own_point] for entry in entries}
    samples = {
        "aiq": bootstrap_aiq(curves, curves["zero"], resamples=resamples, seed=seed),
        "quality": bootstrap_means(qualities, resamples=resamples, seed=seed),
    }
    point = {
        "aiq": {name: aiq(curve.hull, setting.interval) for name, curve in curves.items()},
        "quality": {name: float(values.mean()) for name, values in qualities.items()},
    }
    compared = [("aiq", "zero"), ("aiq", "best-single"), ("quality", "best-single")]
    compared += [("aiq", other) for other in against if other in curves]
    found = {}
    for name in curves:
        found[name] = {
            metric: percentile_interval(samples[metric][name], point[metric][name], level=level) for metric in samples
        }
        for metric, other in compared:
            if other != name:
                difference = samples[metric][name] - samples[metric][other]
                estimate = point[metric][name] - point[metric][other]
                label = f"{metric}_minus_{other.replace('-', '_')}"
                found[name][label] = percentile_interval(difference, estimate, level=level)
    return found


def measure(
    entry: Entry, setting: Setting, intervals: Mapping[str, Interval], *, pareto_distance: float = math.nan
) -> RouterResult:
    """Return the figures of one router."""
    found, calibrated = figures(entry, setting, pareto_distance=pareto_distance)
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
        notes=(
            *undefined_reasons(
                curve.hull,
                setting.interval,
                best_cost=float(model_cost[most_accurate].min()),
                best_quality=float(model_quality.max()),
            ),
            *_luck_notes(found.metrics),
            *entry.notes,
        ),
        metrics=found.metrics,
        undefined=found.undefined,
        calibration=None if calibrated is None else calibrated.pooled,
        model_calibration={} if calibrated is None else calibrated.models,
    )


def _luck_notes(metrics: Mapping[str, float]) -> list[str]:
    by_luck = metrics.get("oracle_independent", math.nan)
    if math.isnan(by_luck):
        return []
    note = (
        "the oracle picks whichever single draw came out well, so chance inflates it (arXiv 2607.03436): a pool as "
        f"accurate on every task whose successes were independent of the prompt would have an oracle of {by_luck:.4f}"
    )
    return [note]


def operating_points(curve: Curve, setting: Setting) -> tuple[OperatingPoint, ...]:
    """Pick weight 0, the swept weights nearest to `_REPORTED_WEIGHTS`, and what does not come from a weight."""
    scale = setting.weight_scale
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
