"""Held-out estimates, tuning of any router, the guard, and policies and flows on the plane."""

import dataclasses

import numpy as np
import pytest

from llmrouter.evaluation import Guard, choose, cross_fit, evaluate, prepare, tune, tune_guard
from llmrouter.evaluation._tune import UNTUNED_GUARD
from llmrouter.exceptions import ConfigError
from llmrouter.policy import TrainingFacts, UtilityPolicy
from llmrouter.registry import create
from llmrouter.types import Candidate, Estimates, ModelCard, Price, RoutingRequest


def train_part(topics):
    table, X = topics
    rows = np.array([split == "train" for split in table.splits])
    return table.select(rows), X[rows]


@pytest.mark.parametrize("name", ["knn", "ridge", "knn-select"])
def test_every_prompt_is_estimated_by_a_router_that_has_not_seen_it(topics, name):
    train, X = train_part(topics)
    crossed = cross_fit(train, X, name=name, parameters={}, seed=3)
    assert np.array_equal(crossed.rows, np.arange(len(train)))
    fold = crossed.folds[2]
    assert set(fold.rest) | set(fold.held_out) == set(range(len(train)))
    assert not set(fold.rest) & set(fold.held_out)
    again = create("router", name).fit(X[fold.rest], train.quality[fold.rest])
    np.testing.assert_allclose(crossed.quality[fold.held_out], again.predict(X[fold.held_out]), atol=1e-9)
    np.testing.assert_allclose(crossed.std[fold.held_out], again.predict_std(X[fold.held_out]), atol=1e-9)
    assert np.isfinite(crossed.cost).all()


def test_known_costs_are_not_predicted(topics):
    train, X = train_part(topics)
    known = np.tile([1.0, 2.0, 3.0], (len(train), 1))
    crossed = cross_fit(train, X, name="ridge", parameters={}, known_cost=known)
    np.testing.assert_array_equal(crossed.cost, known)


def test_prompts_without_an_outcome_belong_to_no_fold(topics):
    train, X = train_part(topics)
    quality = train.quality.copy()
    quality[:7] = np.nan
    crossed = cross_fit(dataclasses.replace(train, quality=quality), X, name="ridge", parameters={})
    assert np.isnan(crossed.quality[:7]).all()
    assert crossed.rows.min() == 7


def test_tuning_tries_the_grid_of_any_router(topics):
    train, X = train_part(topics)
    found = tune("uniroute", train, X)
    assert [entry["clusters"] for entry in found.scores] == [10, 20, 40, 80]
    assert found.score == max(entry["score"] for entry in found.scores)
    only = tune("uniroute", train, X, grid=[{"clusters": 2}])
    assert dict(only.parameters) == {"clusters": 2}


def test_prepare_takes_given_parameters_as_they_are(topics):
    train, X = train_part(topics)
    ready = prepare("knn:k=7", train, X)
    assert (dict(ready.parameters), dict(ready.tuning), ready.guard, ready.crossed) == ({"k": 7}, {}, None, None)
    assert prepare("knn:k=7", train, X, crossed=True).crossed is not None


# The guard


def guard_of(z):
    return Guard(z, np.array([0.6, 0.5, 0.9]), np.array([1.0, 2.0, 10.0]))


def test_a_guard_keeps_the_best_single_model_unless_the_gain_is_sure():
    quality = np.array([[0.80, 0.2, 0.7], [0.95, 0.2, 0.7], [0.1, 0.2, 0.7]])
    std = np.full((3, 3), 0.1)
    cost = np.tile([1.0, 2.0, 10.0], (3, 1))
    weights = np.array([0.0])
    assert choose(quality, cost, weights).tolist() == [[0, 0, 2]]
    # the gain must exceed z * sqrt(2) * 0.1: 0.1 and 0.25 against 0.141 and 0.283
    assert choose(quality, cost, weights, guard=guard_of(1.0), expected_std=std).tolist() == [[2, 0, 2]]
    assert choose(quality, cost, weights, guard=guard_of(2.0), expected_std=std).tolist() == [[2, 2, 2]]


def test_the_best_single_model_depends_on_the_weight_of_cost():
    assert guard_of(1.0).best_single(0.0) == 2
    assert guard_of(1.0).best_single(0.1) == 0


def test_replay_and_policy_guard_alike():
    """The evaluator's guard and the one that serves decide the same on random estimates."""
    rng = np.random.default_rng(0)
    n, m = 200, 4
    quality, std, cost = rng.random((n, m)), 0.2 * rng.random((n, m)), rng.random((n, m))
    mean_quality, mean_cost = rng.random(m), rng.random(m)
    names = tuple(f"m{j}" for j in range(m))
    facts = TrainingFacts(
        names,
        1.0,
        names[int(mean_quality.argmax())],
        dict(zip(names, mean_quality.tolist())),
        dict(zip(names, mean_cost.tolist())),
        guard=0.7,
    )
    candidates = [Candidate(ModelCard(name, Price(1, 1))) for name in names]
    for weight in (0.0, 0.3, 2.0):
        policy = UtilityPolicy(weight).bind(facts)
        guard = Guard(0.7, mean_quality, mean_cost)
        ours = choose(quality, cost, np.array([weight]), guard=guard, expected_std=std)[0]
        for row in range(n):
            estimates = Estimates(names, quality[row], std[row], cost[row], np.full(m, np.nan))
            assert policy.choose(RoutingRequest("x"), candidates, estimates).model == names[ours[row]]


def test_the_guard_is_chosen_on_held_out_estimates(topics):
    train, X = train_part(topics)
    crossed = cross_fit(train, X, name="ridge", parameters={})
    guard, tried = tune_guard(crossed, train)
    best = max(entry["score"] for entry in tried)
    enough = [entry["guard"] for entry in tried if entry["score"] >= best - 0.001]
    assert guard == enough[-1]
    # noise instead of estimates: only the strongest guard brings back the best single model
    rng = np.random.default_rng(0)
    noise = dataclasses.replace(crossed, quality=rng.random(crossed.quality.shape), std=np.full(crossed.std.shape, 9.0))
    assert tune_guard(noise, train)[0] == 1.0


def test_a_guard_that_cannot_be_chosen_has_a_default(topics):
    train, X = train_part(topics)
    quality = train.quality.copy()
    quality[np.arange(len(train)), np.arange(len(train)) % 3] = np.nan
    one_sided = dataclasses.replace(train, quality=quality)
    assert tune_guard(cross_fit(one_sided, X, name="ridge", parameters={}), one_sided) == (UNTUNED_GUARD, ())


# Policies and flows over a router's estimates


def test_policies_and_flows_stand_beside_their_router(topics):
    table, X = topics
    result = evaluate(
        table,
        X,
        routers=["ridge", "knn:k=9"],
        policies=["utility:cost_weight=0.3", "budget", "category_map", "subset:max_models=1"],
        flows=["cascade-routing", "cascade:judge_error=0.0"],
        below="ridge",
        against=["ridge"],
        resamples=20,
    )
    kinds = {name: router.kind for name, router in result.routers.items()}
    assert kinds["budget"] == kinds["category_map"] == "policy"
    assert (kinds["cascade-routing"], kinds["cascade:judge_error=0.0"]) == ("flow", "bound")
    assert "over the estimates of ridge" in result.routers["budget"].notes
    ridge = result.routers["ridge"].curve
    weight = 0.3 / result.reference_cost
    alone = choose(result.routers["ridge"].expected_quality, result.routers["ridge"].expected_cost, np.array([weight]))
    np.testing.assert_array_equal(result.routers["utility:cost_weight=0.3"].curve.choices[0], alone[0])
    assert "aiq_minus_ridge" in result.routers["knn:k=9"].intervals
    assert "aiq_minus_ridge" not in result.routers["ridge"].intervals
    assert len(result.routers["budget"].curve.weights) == 11
    assert ridge.mean_quality.max() > result.routers["subset:max_models=1"].curve.mean_quality.max()


def test_a_floor_that_the_data_cannot_support_is_left_out(topics, caplog):
    table, X = topics
    result = evaluate(table, X, routers=["ridge"], policies=["quality_floor:floor=0.999"], resamples=0)
    assert "quality_floor:floor=0.999" not in result.routers
    assert "quality_floor:floor=0.999 is left out" in caplog.text


def test_policies_need_a_router_below_them(topics):
    table, X = topics
    with pytest.raises(ConfigError, match="need a router below"):
        evaluate(table, X, policies=["budget"])
    with pytest.raises(ConfigError, match="'knn' is not among the routers"):
        evaluate(table, X, routers=["ridge"], policies=["budget"], below="knn")


def test_task_mean_knows_the_task(topics):
    table, X = topics
    topic = np.where(X[:, 0] > X[:, 1], "first", "second")
    told = dataclasses.replace(table, tasks=tuple(topic.tolist()))
    routers = evaluate(told, X, routers=["knn:k=20"], resamples=0).routers
    assert "task-mean" not in evaluate(table, X, resamples=0).routers
    assert routers["task-mean"].kind == "bound"
    assert routers["task-mean"].aiq > routers["zero"].aiq
    assert routers["task-mean"].aiq == pytest.approx(routers["knn:k=20"].aiq, abs=0.03)
