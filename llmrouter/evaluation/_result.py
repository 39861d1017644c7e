"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrouter.evaluation._calibration import Reliability
from llmrouter.evaluation._intervals import Interval
from llmrouter.evaluation._replay import Curve
from llmrouter.types import FloatArray

Kind = Literal["router", "baseline", "bound", "policy", "flow"]


@dataclass(frozen=True)
class OperatingPoint:
    """One point of a curve that could be deployed.

    `cost_weight` is in the policy's unit (utility = quality - cost_weight x cost / reference cost), inf for
    "everything to the cheapest model"; `shares` says which share of the prompts each model gets.
    """

    index: int
    cost_weight: float
    cost: float
    quality: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class RouterResult:
    """Figures of one router, baseline or bound on the test prompts.

    Attributes
    ----------
    name : str
        As asked for, e.g. ``knn:k=40``.
    kind : str
        ``router`` (learned), ``baseline``, ``bound`` (sees the outcomes), ``policy`` or ``flow``.
    parameters : mapping
        Constructor parameters, the tuned ones included.
    curve : Curve
        Operating points, prompt by prompt.
    aiq, aiq_code : float
        See `llmrouter.evaluation.aiq` and `aiq_code`; NaN where undefined.
    qnc : float
        Cost of matching the most accurate model as a share of its cost; inf if never.
    dearest_share : float
        Cost of matching the dearest model as a share of its cost; inf if never.
    peak_quality, peak_cost : float
        The best point of the sweep in hindsight, as RouterBench reads it, and what it costs. Of a baseline its own
        point, even where the cheapest model, which its curve also holds, happens to be better.
    intervals : mapping of str to Interval
        ``aiq``, ``aiq_minus_zero``, ``aiq_minus_best_single``, and ``quality``, ``quality_minus_best_single``: the mean
        quality where quality alone counts (see `metrics`). Empty without resamples.
    operating_points : tuple of OperatingPoint
        A few of the curve's points.
    expected_quality, expected_cost : array of shape (n, m), or None
        What the router expected; None for baselines and bounds.
    cost_from : str
        What the cost estimate was learned from; "" for baselines and bounds.
    fit_s, decide_us : float
        Seconds to fit; microseconds a prompt to estimate, in batches, without encoding. NaN for baselines and bounds.
    tuning : mapping
        How the parameters were chosen; empty if they were given.
    notes : tuple of str
        Why a figure is undefined, and other things to know.
    metrics : mapping of str to float
        The published metrics below; NaN where undefined.
    undefined : mapping of str to str
        For each metric that is NaN, why.
    calibration : Reliability or None
        Reliability curve of the predicted quality, pooled over prompts and models; None if nothing is predicted.
    model_calibration : mapping of str to mapping
        For each model: ``ece``, ``ece_equal_width``, ``brier``, ``predicted`` and ``observed`` (means), ``count``.

    Notes
    -----
    Metrics and the operating point each is taken at. *Quality alone* is cost weight 0 where the curve has it, a
    baseline's own point, and otherwise the peak; *hindsight* means that the point is chosen by its test outcomes, which
    flatters.

    - ``apgr``, ``apgr_exact``, ``cpt_20``, ``cpt_50``, ``cpt_80`` (RouteLLM): the weak model is the cheapest, the
      strong one the best single model, both by train; a threshold on the difference of their expected qualities sweeps
      from none to all, at RouteLLM's 10 quantiles, and at every threshold for ``apgr_exact``. Where there are choices
      only, of two models, the curve's own points are taken.
    - ``deferral_area``, ``deferral_area_50`` (UniRoute): the whole curve.
    - ``arena_score`` (RouterArena, in [0, 1], US dollars only): the point of the highest score, in hindsight;
      ``arena_cost_per_1k``, ``optimal_selection``, ``optimal_cost``, ``optimal_accuracy``: at the same point.
    - ``avg_acc``, ``gain_random``, ``gain_best``, ``gap_oracle`` (LLMRouterBench): quality alone, mean over tasks;
      ``gain_best`` is relative to the best single model by train.
    - ``perf_gain``, ``cost_save`` (LLMRouterBench): the best point, and the cheapest point at least as good as the best
      single model by train; both in hindsight. ``pareto_dist``: all points, against those of all routers, policies,
      flows and baselines compared.
    - ``regret_W``: at cost weight W in the policy's unit: the router's choice at exactly W; from choices alone the
      nearest swept weight, or, of what has no weights, the point of the highest utility, in hindsight.
    - ``ece``, ``ece_equal_width``, ``brier``: all expectations, no operating point.
    - ``oracle_independent``, of the oracle only: see `llmrouter.evaluation.independent_oracle`.
    """

    name: str
    kind: Kind
    parameters: Mapping[str, Any]
    curve: Curve
    aiq: float
    aiq_code: float
    qnc: float
    dearest_share: float
    peak_quality: float
    peak_cost: float
    intervals: Mapping[str, Interval]
    operating_points: tuple[OperatingPoint, ...]
    expected_quality: FloatArray | None
    expected_cost: FloatArray | None
    cost_from: str
    fit_s: float
    decide_us: float
    tuning: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    calibration: Reliability | None = None
    model_calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of all routers on one data set.

    Attributes
    ----------
    data : mapping
        Name and hash of the data set, counts, what was left out.
    models : tuple of str
        Compared models, m of them.
    model_cost, model_quality : array of shape (m,)
        Means on the test prompts.
    prompt_ids : tuple of str
        Of the n test prompts.
    quality, cost : array of shape (n, m)
        Outcomes of the test prompts.
    cost_axis, cost_unit : str
        What cost means here.
    cost_interval : tuple of float
        Of the Zero router's hull: every AIQ is taken over it.
    reference_cost : float
        The dearest model's mean train cost, the unit of the cost weight; NaN if all is free.
    best_single, cheapest, dearest : str
        Chosen on the train split.
    routers : mapping of str to RouterResult
        In the order asked for, then baselines, then bounds.
    settings, versions : mapping
        How the figures were made.
    notes : tuple of str
        Things to know about the whole comparison.
    tasks : tuple of (str or None)
        Of the n test prompts; routers never see them.
    train_quality_mean : array of shape (m,), or None
        Mean quality of each model on the train prompts; NaN for one never observed there.
    """

    data: Mapping[str, Any]
    models: tuple[str, ...]
    model_cost: FloatArray
    model_quality: FloatArray
    prompt_ids: tuple[str, ...]
    quality: FloatArray
    cost: FloatArray
    cost_axis: str
    cost_unit: str
    cost_interval: tuple[float, float]
    reference_cost: float
    best_single: str
    cheapest: str
    dearest: str
    routers: Mapping[str, RouterResult]
    settings: Mapping[str, Any]
    versions: Mapping[str, str | None]
    notes: tuple[str, ...] = ()
    tasks: tuple[str | None, ...] = ()
    train_quality_mean: FloatArray | None = None
