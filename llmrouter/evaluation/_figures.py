"""The published metrics of one router, each taken at a stated operating point; see `RouterResult.metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llmrouter.evaluation._arena import arena_score, optimality
from llmrouter.evaluation._bounds import independent_oracle
from llmrouter.evaluation._calibration import Calibration, calibration
from llmrouter.evaluation._configurations import average_accuracy, cost_save, gap_to_oracle, relative_gain
from llmrouter.evaluation._deferral import deferral_area
from llmrouter.evaluation._entry import Entry, Setting
from llmrouter.evaluation._regret import regret
from llmrouter.evaluation._replay import choose
from llmrouter.evaluation._strong_weak import StrongCalls, apgr, call_performance_threshold, strong_calls
from llmrouter.types import FloatArray

# Cost weights, in the policy's unit, at which regret is reported.
REGRET_WEIGHTS = (0.0, 0.1, 0.3, 1.0)
# RouteLLM's number of quantile thresholds, and the levels of its CPT.
_QUANTILES = 10
_LEVELS = (20, 50, 80)
_PROMPTS_PER_COST_UNIT = 1000

# Baselines and bounds that do not look at the prompt: mixtures of the two models on a straight line.
_BLIND = ("best-single", "random", "zero")


@dataclass
class Figures:
    """Metrics by name, and for each that is NaN the reason."""

    metrics: dict[str, float] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, *, reason: str) -> None:
        """Record a metric; `reason` says why, should it be NaN."""
        self.metrics[name] = float(value)
        if math.isnan(value):
            self.undefined[name] = reason


def figures(entry: Entry, setting: Setting, *, pareto_distance: float = math.nan) -> tuple[Figures, Calibration | None]:
    """Return all metrics of a router, and the calibration of its predicted quality if it predicts any.

    Parameters
    ----------
    entry : Entry
        The router.
    setting : Setting
        Of the evaluation.
    pareto_distance : float
        Of this router, which takes all routers to compute; NaN for a bound.
    """
    found = Figures()
    _strong_weak_figures(found, entry, setting)
    _deferral_figures(found, entry, setting)
    _arena_figures(found, entry, setting)
    _gain_figures(found, entry, setting)
    found.add(
        "pareto_dist", pareto_distance, reason="a bound sees the outcomes; it is no part of the joint Pareto frontier"
    )
    for weight in REGRET_WEIGHTS:
        found.add(f"regret_{weight:g}", _regret_at(entry, setting, weight), reason="an outcome is missing")
    calibrated = None
    if entry.kind == "router" and entry.estimates is not None:
        test = setting.data.test
        calibrated = calibration(entry.estimates.quality, test.quality, test.models)
    reason = "the router expects nothing of the models" if calibrated is None else "no expectation is finite"
    found.add("ece", math.nan if calibrated is None else calibrated.ece, reason=reason)
    found.add("ece_equal_width", math.nan if calibrated is None else calibrated.ece_equal_width, reason=reason)
    found.add("brier", math.nan if calibrated is None else calibrated.brier, reason=reason)
    if entry.name == "oracle":
        test = setting.data.test
        found.add("oracle_independent", independent_oracle(test.quality, test.tasks), reason="no quality was observed")
    return found, calibrated


# RouteLLM


def _pair_score(entry: Entry, setting: Setting) -> FloatArray | None:
    """Return how much better the strong model is expected to be on each prompt, shape (n,); None if it says nothing."""
    weak, strong = setting.cheapest, setting.best_single
    if entry.name in _BLIND:
        return np.zeros(len(setting.data.test))
    if entry.name == "oracle":
        expected = setting.data.test.quality
    elif entry.estimates is not None and entry.kind == "router":
        expected = entry.estimates.quality
    else:
        return None
    return np.asarray(expected[:, strong] - expected[:, weak])


def _pair_curves(entry: Entry, setting: Setting) -> tuple[StrongCalls, StrongCalls]:
    """Return the curve over quantile thresholds and the one over all thresholds; empty ones where undefined."""
    quality = setting.data.test.quality
    weak, strong = quality[:, setting.cheapest], quality[:, setting.best_single]
    score = _pair_score(entry, setting)
    if score is not None:
        return (
            strong_calls(score, weak, strong_quality=strong, quantiles=_QUANTILES),
            strong_calls(score, weak, strong_quality=strong),
        )
    choices = entry.curve.choices
    if choices is None or quality.shape[1] != 2 or entry.kind == "baseline":
        empty = StrongCalls(np.empty(0), np.empty(0))
        return empty, empty
    share = np.append((choices == setting.best_single).mean(axis=1), [0.0, 1.0])
    height = np.append(entry.curve.mean_quality, [weak.mean(), strong.mean()])
    order = np.lexsort((-height, share))
    share, first = np.unique(share[order], return_index=True)
    curve = StrongCalls(share, height[order][first])
    return curve, curve


def _strong_weak_figures(found: Figures, entry: Entry, setting: Setting) -> None:
    quality = setting.data.test.quality.mean(axis=0)
    weak, strong = float(quality[setting.cheapest]), float(quality[setting.best_single])
    by_quantile, exact = _pair_curves(entry, setting)
    if setting.cheapest == setting.best_single:
        reason = "the cheapest model is also the best on train, so there is no weak and strong pair"
    elif not strong > weak:
        reason = "the strong model (best on train) is no better than the weak one (the cheapest) on the test prompts"
    else:
        reason = "nothing says for which prompts it would rather call the strong model, or one of the two is unknown"
    found.add("apgr", apgr(by_quantile, weak=weak, strong=strong), reason=reason)
    found.add("apgr_exact", apgr(exact, weak=weak, strong=strong), reason=reason)
    for level in _LEVELS:
        threshold = call_performance_threshold(by_quantile, level / 100, weak=weak, strong=strong)
        found.add(f"cpt_{level}", threshold, reason=reason)


# UniRoute, RouterArena


def _deferral_figures(found: Figures, entry: Entry, setting: Setting) -> None:
    curve = entry.curve
    cost, quality = curve.mean_cost, curve.mean_quality
    if entry.kind in ("baseline", "bound") and entry.name != "oracle":
        cost, quality = curve.hull  # mixtures of models: the points between are their own
    dearest = float(setting.data.test_cost.mean(axis=0).max())
    reason = "every model is free, so costs cannot be normalised"
    found.add("deferral_area", deferral_area(cost, quality, dearest_cost=dearest), reason=reason)
    found.add("deferral_area_50", deferral_area(cost, quality, dearest_cost=dearest, up_to=0.5), reason=reason)


def _arena_figures(found: Figures, entry: Entry, setting: Setting) -> None:
    curve, names = entry.curve, ("optimal_selection", "optimal_cost", "optimal_accuracy")
    if setting.data.axis != "usd":
        for name in ("arena_score", "arena_cost_per_1k", *names):
            found.add(name, math.nan, reason=f"RouterArena counts US dollars; the cost axis is {setting.data.axis}")
        return
    per_1k = curve.mean_cost[entry.own_points] * _PROMPTS_PER_COST_UNIT
    scores = arena_score(curve.mean_quality[entry.own_points], per_1k)
    best = int(scores.argmax())
    found.add("arena_score", float(scores[best]), reason="quality or cost is unknown")
    found.add("arena_cost_per_1k", float(per_1k[best]), reason="the cost is unknown")
    values = (math.nan,) * 3
    reason = "the operating point is an average over models"
    if curve.choices is not None:
        values = optimality(
            curve.quality[best], curve.cost[best], quality=setting.data.test.quality, cost=setting.data.test_cost
        )
        reason = "no prompt is solved by any model, or all choices were free"
    for name, value in zip(names, values, strict=True):
        found.add(name, value, reason=reason)


# LLMRouterBench


def _gain_figures(found: Figures, entry: Entry, setting: Setting) -> None:
    test, curve = setting.data.test, entry.curve
    single = test.quality[:, setting.best_single]
    own = average_accuracy(curve.quality[entry.own_point], test.tasks)
    unknown = "the reference's mean quality is 0"
    found.add("avg_acc", own, reason="no quality was observed")
    random = average_accuracy(test.quality.mean(axis=1), test.tasks)
    found.add("gain_random", relative_gain(own, random), reason=unknown)
    found.add("gain_best", relative_gain(own, average_accuracy(single, test.tasks)), reason=unknown)
    oracle = average_accuracy(test.quality.max(axis=1), test.tasks)
    found.add("gap_oracle", gap_to_oracle(own, oracle), reason=unknown)
    cost, quality = curve.mean_cost[entry.own_points], curve.mean_quality[entry.own_points]
    single_cost = float(setting.data.test_cost[:, setting.best_single].mean())
    found.add("perf_gain", relative_gain(float(quality.max()), float(single.mean())), reason=unknown)
    saved = cost_save(cost, quality, reference_cost=single_cost, reference_quality=float(single.mean()))
    free = "the best single model is free"
    never = "no operating point is as good as the best single model"
    found.add("cost_save", saved, reason=never if single_cost > 0 else free)


# regret


def _regret_at(entry: Entry, setting: Setting, weight: float) -> float:
    """Return the regret at a cost weight in the policy's unit.

    Estimates are asked at exactly that weight. A curve without estimates is read at the swept weight nearest to it; one
    without weights at its own point (a baseline) or at the best of its points in hindsight.
    """
    test, cost = setting.data.test, setting.data.test_cost
    per_unit = weight / setting.weight_scale
    rows = np.arange(len(test))
    if entry.name == "oracle" or (entry.kind == "router" and entry.estimates is not None):
        known = entry.estimates
        expected = (test.quality, cost) if known is None else (known.quality, known.cost)
        std = None if known is None else known.std
        chosen = choose(*expected, np.array([per_unit]), guard=entry.guard, expected_std=std)[0]
        got, paid = test.quality[rows, chosen], cost[rows, chosen]
    else:
        index = _point_at(entry, per_unit)
        got, paid = entry.curve.quality[index], entry.curve.cost[index]
    return regret(got, paid, quality=test.quality, cost=cost, cost_weight=per_unit)


def _point_at(entry: Entry, weight: float) -> int:
    curve = entry.curve
    swept = np.flatnonzero(np.isfinite(curve.weights))
    if entry.kind == "baseline":
        return 0
    if not swept.size:
        return int((curve.mean_quality - weight * curve.mean_cost).argmax())
    known = curve.weights[swept]
    if weight == 0:
        return int(swept[known.argmin()])
    return int(swept[np.abs(np.log(np.maximum(known, np.finfo(float).tiny) / weight)).argmin()])


def pareto_points(entries: list[Entry]) -> Mapping[str, tuple[FloatArray, FloatArray]]:
    """Return the configurations of everything that does not see the outcomes, for `pareto_distances`."""
    return {
        entry.name: (entry.curve.mean_cost[entry.own_points], entry.curve.mean_quality[entry.own_points])
        for entry in entries
        if entry.kind != "bound"
    }
