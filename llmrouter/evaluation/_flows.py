"""Replay of flows: what cascades would have cost and achieved on a table where every model was observed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from llmrouter.evaluation._replay import Curve
from llmrouter.exceptions import DataError
from llmrouter.flows import (
    Answer,
    Final,
    Flow,
    FlowTable,
    FlowTrace,
    LearnedFlow,
    Step,
    drive,
    good_quality,
    judge_verdicts,
)
from llmrouter.types import Candidate, Estimates, FloatArray, ModelCard, Preference, Price, RoutingRequest

# Verdicts on train and on test are drawn apart, or a flow could learn which of them are wrong.
_TEST_SEED_OFFSET = 1_000_003


@runtime_checkable
class Judged(Protocol):
    """A flow that may have an oracle judge rule on its answers."""

    judge_error: float | None


def replay_flow(
    flow: LearnedFlow, *, train: FlowTable, test: FlowTable, weights: FloatArray, cheapest: int, seed: int = 0
) -> Curve:
    """Fit a flow on the training prompts and sweep the weight of cost over the test prompts.

    Parameters
    ----------
    flow : LearnedFlow
        From the registry kind ``flow``. If it has an oracle judge (`flow.sees_outcomes`), the curve is a bound, and is
        to be reported as one under `flow.name`.
    train, test : FlowTable
        Outcomes with the estimates of the router that stands below, held out on train. Where the tables have no
        verdicts and the flow has a judge, they are drawn here.
    weights : array of shape (p,)
        Of a unit of cost, see `sweep_weights`.
    cheapest : int
        The model of the added point "everything to the cheapest model".
    seed : int
        Of the verdicts.

    Returns
    -------
    Curve
        With p + 1 points, the added one last. The cost of a prompt is the sum over its calls; the choice is the model
        whose answer was kept.

    Raises
    ------
    DataError
        If an outcome of the test prompts is missing, or there is too little to learn from.
    """
    error = flow.judge_error if isinstance(flow, Judged) else None
    if error is not None:
        good = good_quality(train.quality)
        train = with_verdicts(train, error=error, good=good, seed=seed)
        test = with_verdicts(test, error=error, good=good, seed=seed + _TEST_SEED_OFFSET)
    flow.fit(train, weights=weights)
    return curve_of_trace(flow.simulate(test, weights=weights), test, weights=weights, cheapest=cheapest)


def with_verdicts(table: FlowTable, *, error: float, good: float, seed: int) -> FlowTable:
    """Return the table with the verdicts of a simulated judge, unless it has some already."""
    if table.verdict is not None:
        return table
    verdict = judge_verdicts(table.quality, error=error, good=good, seed=seed)
    return dataclasses.replace(table, verdict=verdict)


def curve_of_trace(trace: FlowTrace, table: FlowTable, *, weights: FloatArray, cheapest: int) -> Curve:
    """Return the curve (p + 1 points) of what a flow did on a table.

    Raises
    ------
    DataError
        If an outcome is missing.
    """
    if not (np.isfinite(table.quality).all() and np.isfinite(table.cost).all()):
        raise DataError("replay needs an outcome of every model on every prompt; drop rows with NaN first")
    kept = np.concatenate([trace.kept, np.full((1, len(table)), cheapest, dtype=np.int16)])
    cost = np.empty(kept.shape)
    for index, called in enumerate(trace.called):
        cost[index] = np.where(called, table.cost, 0.0).sum(axis=1)
    cost[-1] = table.cost[:, cheapest]
    quality = table.quality[np.arange(len(table)), kept]
    return Curve(cost=cost, quality=quality, weights=np.append(weights, np.inf), choices=kept)


def trace_by_driving(
    flow: Flow, table: FlowTable, *, weights: FloatArray, reference_cost_usd: float = 1.0
) -> FlowTrace:
    """Return what a flow does on a table by driving its generator prompt by prompt, as a gateway would.

    For flows that cannot be simulated all at once, and to check those that can.

    Parameters
    ----------
    flow : Flow
        Ready to start.
    table : FlowTable
        n prompts; `verdict`, where there is one, becomes the score of the answers.
    weights : array of shape (p,)
        Of a unit of cost.
    reference_cost_usd : float
        Of the flow: weights times this are cost weights.
    """
    n, m = table.quality.shape
    kept = np.empty((len(weights), n), dtype=np.int16)
    called = np.zeros((len(weights), n, m), dtype=bool)
    candidates = [Candidate(ModelCard(name, Price(0.0, 0.0))) for name in table.models]
    for index, weight in enumerate(weights.tolist()):
        request = RoutingRequest("", preference=Preference(cost_weight=weight * reference_cost_usd))
        for row in range(n):
            final = _drive_row(flow, table, row, request, candidates)
            columns = [table.models.index(answer.model) for answer in final.answers]
            kept[index, row] = table.models.index(final.kept.model) if final.kept else -1
            called[index, row, columns] = True
    return FlowTrace(kept, called)


def _drive_row(
    flow: Flow, table: FlowTable, row: int, request: RoutingRequest, candidates: Sequence[Candidate]
) -> Final:
    missing = np.full(len(table.models), np.nan)
    estimates = Estimates(
        models=table.models,
        quality=table.expected_quality[row],
        quality_std=table.expected_std[row],
        cost_usd=table.expected_cost[row],
        output_tokens=missing if table.expected_tokens is None else table.expected_tokens[row],
    )

    def call(step: Step) -> Answer:
        column = table.models.index(step.model)
        return Answer(
            step.model,
            cost_usd=float(table.cost[row, column]),
            output_tokens=float("nan") if table.output_tokens is None else float(table.output_tokens[row, column]),
            score=None if table.verdict is None else float(table.verdict[row, column]),
        )

    return drive(flow.start(request, candidates, estimates), call)
