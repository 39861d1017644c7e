"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrouter.evaluation._intervals import Interval
from llmrouter.evaluation._replay import Curve
from llmrouter.types import FloatArray

Kind = Literal["router", "baseline", "bound"]


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
        ``router`` (learned), ``baseline`` or ``bound`` (sees the outcomes).
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
        ``aiq``, ``aiq_minus_zero``, ``aiq_minus_best_single``; empty without resamples.
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
