"""Policies and flows on the cost-quality plane: what they do with a router's estimates, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrouter.evaluation._costs import column_means
from llmrouter.evaluation._crossfit import CrossFit
from llmrouter.evaluation._entry import Entry, Setting
from llmrouter.evaluation._fit import FittedEstimates
from llmrouter.evaluation._flows import replay_flow
from llmrouter.evaluation._replay import curve_of_choices
from llmrouter.exceptions import ConfigError
from llmrouter.flows import FlowTable
from llmrouter.policy import Calibration, Policy, TrainingFacts
from llmrouter.registry import create, parse_spec, resolve
from llmrouter.types import Candidate, Estimates, FloatArray, ModelCard, Price, RoutingRequest

_WEIGHTS = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_BUDGETS = 10
_PER_1K = 1000.0


@dataclass(frozen=True)
class Below:
    """The router whose estimates policies and flows use.

    Attributes
    ----------
    name : str
        As it stands in the results.
    crossed : CrossFit
        Its held-out estimates of the training prompts.
    estimates : FittedEstimates
        Its estimates of the test prompts.
    X_train, X_test : array of shape (n, d)
        Embeddings of the two splits.
    """

    name: str
    crossed: CrossFit
    estimates: FittedEstimates
    X_train: FloatArray
    X_test: FloatArray


def policy_entry(spec: str, setting: Setting, below: Below) -> Entry:
    """Replay a policy on the test prompts, in their order, over a router's estimates.

    A spec with all its settings, e.g. ``quality_floor:floor=0.97``, is one operating point. Left out, the budget of
    ``budget`` and ``category_map``, and the cost weight of the others, are swept.

    Raises
    ------
    ConfigError
        If the policy does not exist, or the training data cannot support what it promises; the note of an entry
        without points is the way this is reported in a leaderboard.
    """
    facts = training_facts(setting, below)
    points = [policy.bind(facts) for policy in policies_of(spec, facts)]
    choices = np.stack([_choices(policy, setting, below) for policy in points])
    cheapest = np.full((1, choices.shape[1]), setting.cheapest, dtype=np.int16)
    curve = curve_of_choices(
        np.concatenate([choices, cheapest]),
        np.append(np.full(len(points), np.nan), np.inf),
        quality=setting.data.test.quality,
        cost=setting.data.test_cost,
    )
    notes = [f"over the estimates of {below.name}"]
    certificate = getattr(points[0], "certificate", None)
    if callable(certificate) and len(points) == 1:
        notes.append(f"calibrated on {len(below.crossed.rows)} held-out training prompts: {certificate()}")
    return Entry(spec, "policy", curve, parse_spec(spec)[1], notes=tuple(notes))


def flow_entry(spec: str, setting: Setting, below: Below, *, seed: int) -> Entry:
    """Fit a flow on held-out training estimates and replay it on the test prompts.

    A flow with an oracle judge sees outcomes: it is a bound, and named as one.
    """
    kind, parameters = parse_spec(spec)
    flow = create("flow", kind, **parameters)
    rows = below.crossed.rows
    complete = np.isfinite(setting.data.train.quality[rows]).all(axis=1) & np.isfinite(
        setting.data.train_cost[rows]
    ).all(axis=1)
    rows = rows[complete]
    train = FlowTable(
        models=setting.data.train.models,
        quality=setting.data.train.quality[rows],
        cost=setting.data.train_cost[rows],
        expected_quality=below.crossed.quality[rows],
        expected_std=below.crossed.std[rows],
        expected_cost=below.crossed.cost[rows],
    )
    test = FlowTable(
        models=setting.data.test.models,
        quality=setting.data.test.quality,
        cost=setting.data.test_cost,
        expected_quality=below.estimates.quality,
        expected_std=below.estimates.std,
        expected_cost=below.estimates.cost,
    )
    curve = replay_flow(flow, train=train, test=test, weights=setting.weights, cheapest=setting.cheapest, seed=seed)
    sees = bool(getattr(flow, "sees_outcomes", False))
    notes = [f"over the estimates of {below.name}"]
    if sees:
        notes.append("an oracle judge rules on its answers: a bound, not something that can be deployed")
    return Entry(spec, "bound" if sees else "flow", curve, parameters, notes=tuple(notes))


def training_facts(setting: Setting, below: Below) -> TrainingFacts:
    """Return what a policy may know of the training, costs on the axis of the evaluation."""
    data, rows = setting.data, below.crossed.rows
    known = np.isfinite(below.crossed.quality[rows]).all(axis=1) & np.isfinite(below.crossed.cost[rows]).all(axis=1)
    rows = rows[known]
    models = data.train.models
    mean_quality, mean_cost = column_means(data.train.quality), column_means(data.train_cost)
    calibration = Calibration(
        models=models,
        embeddings=below.X_train[rows],
        expected_quality=below.crossed.quality[rows],
        expected_std=below.crossed.std[rows],
        expected_cost_usd=below.crossed.cost[rows],
        quality=data.train.quality[rows],
        cost_usd=data.train_cost[rows],
        tasks=tuple(data.train.tasks[row] for row in rows.tolist()),
    )
    return TrainingFacts(
        models=models,
        reference_cost_usd=setting.weight_scale,
        best_single=models[setting.best_single],
        mean_quality=dict(zip(models, mean_quality.tolist(), strict=True)),
        mean_cost_usd=dict(zip(models, mean_cost.tolist(), strict=True)),
        calibration=calibration,
    )


def policies_of(spec: str, facts: TrainingFacts) -> list[Policy]:
    """Return the policies a spec stands for: one, or a sweep of what it leaves open."""
    kind, parameters = parse_spec(spec)
    resolve("policy", kind)
    return [create("policy", kind, **parameters, **extra) for extra in _sweep(kind, parameters, facts)]


def _sweep(kind: str, parameters: Mapping[str, Any], facts: TrainingFacts) -> Sequence[Mapping[str, Any]]:
    if kind in ("budget", "category_map") and "usd_per_1k" not in parameters:
        costs = np.array(list(facts.mean_cost_usd.values()))
        # a little above the cheapest model, whose cost on the calibration's prompts may be a little higher than on all
        low, high = max(1.1 * float(costs.min()), 1e-3 * float(costs.max())), float(costs.max())
        return [{"usd_per_1k": _PER_1K * budget} for budget in np.geomspace(low, high, _BUDGETS).tolist()]
    if kind in ("utility", "ucb", "thompson") and "cost_weight" not in parameters:
        return [{"cost_weight": weight} for weight in _WEIGHTS]
    if kind in ("subset", "latency", "quota", "sticky") and "base" not in parameters:
        return [{"base": {"kind": "utility", "cost_weight": weight}} for weight in _WEIGHTS]
    return [{}]


def _choices(policy: Policy, setting: Setting, below: Below) -> np.ndarray[Any, np.dtype[np.int16]]:
    models = setting.data.test.models
    place = {name: column for column, name in enumerate(models)}
    candidates = [Candidate(ModelCard(name, Price(0.0, 0.0))) for name in models]
    missing = np.full(len(models), np.nan)
    chosen = np.empty(len(setting.data.test), dtype=np.int16)
    quality, std = _usable(below.estimates.quality, setting), below.estimates.std
    for row in range(len(chosen)):
        estimates = Estimates(
            models=models,
            quality=quality[row],
            quality_std=std[row],
            cost_usd=below.estimates.cost[row],
            output_tokens=missing,
            embedding=below.X_test[row],
        )
        request = RoutingRequest("", request_id=setting.data.test.prompt_ids[row])
        chosen[row] = place[policy.choose(request, candidates, estimates).model]
    return chosen


def _usable(quality: FloatArray, setting: Setting) -> FloatArray:
    if np.isnan(quality).any():
        unseen = [setting.data.test.models[column] for column in np.flatnonzero(np.isnan(quality).any(axis=0)).tolist()]
        raise ConfigError(f"policies cannot be replayed with models never observed on train: {', '.join(unseen)}")
    return quality
