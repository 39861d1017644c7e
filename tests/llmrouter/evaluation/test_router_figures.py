"""The metrics of a whole evaluation: at which operating point each is taken, and why one is undefined."""

import dataclasses
import json
import math

import numpy as np
import pytest

from llmrouter.evaluation import Curve, apgr, arena_score, evaluate, replay, results_as_json, strong_calls
from llmrouter.evaluation._costs import make_evaluable
from llmrouter.evaluation._entry import Entry
from llmrouter.evaluation._evaluate import _make_setting
from llmrouter.evaluation._figures import REGRET_WEIGHTS, figures
from llmrouter.evaluation._fit import fit_and_estimate
from llmrouter.evaluation._replay import Guard

NAMES = {
    "apgr", "apgr_exact", "cpt_20", "cpt_50", "cpt_80", "deferral_area", "deferral_area_50", "arena_score",
    "arena_cost_per_1k", "optimal_selection", "optimal_cost", "optimal_accuracy", "avg_acc", "gain_random", "gain_best",
    "gap_oracle", "perf_gain", "cost_save", "pareto_dist", "regret_0", "regret_0.1", "regret_0.3", "regret_1", "ece",
    "ece_equal_width", "brier",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(topics):
    table, X = topics
    tasks = tuple("right" if x[0] > x[1] else "left" for x in X)
    return dataclasses.replace(table, tasks=tasks), X


@pytest.fixture(scope="module")
def result(data):
    return evaluate(*data, routers=["knn:k=15"], resamples=100)


def test_every_metric_is_there_and_every_nan_has_its_reason(result):
    for name, router in result.routers.items():
        assert set(router.metrics) == NAMES | ({"oracle_independent"} if name == "oracle" else set())
        assert {metric for metric, value in router.metrics.items() if math.isnan(value)} == set(router.undefined)
        assert all(router.undefined.values())
    assert result.routers["knn:k=15"].undefined == {}


def test_quality_alone_is_cost_weight_zero(result, data):
    table, _ = data
    knn = result.routers["knn:k=15"]
    test = table.split("test")
    chosen = knn.curve.choices[0]
    got = test.quality[np.arange(len(test)), chosen]
    tasks = np.array(test.tasks)
    accuracy = np.mean([got[tasks == task].mean() for task in ("left", "right")])
    best = result.models.index(result.best_single)
    single = np.mean([test.quality[tasks == task, best].mean() for task in ("left", "right")])
    ideal = np.mean([test.quality[tasks == task].max(axis=1).mean() for task in ("left", "right")])
    anyone = np.mean([test.quality[tasks == task].mean() for task in ("left", "right")])
    assert knn.metrics["avg_acc"] == pytest.approx(accuracy)
    assert knn.metrics["gain_best"] == pytest.approx(accuracy / single - 1)
    assert knn.metrics["gain_random"] == pytest.approx(accuracy / anyone - 1)
    assert knn.metrics["gap_oracle"] == pytest.approx(1 - accuracy / ideal)
    assert result.routers["best-single"].metrics["gain_best"] == pytest.approx(0)
    assert result.routers["random"].metrics["gain_random"] == pytest.approx(0)
    assert result.routers["oracle"].metrics["gap_oracle"] == pytest.approx(0)


def test_hindsight_metrics_by_looking_at_every_point(result):
    knn = result.routers["knn:k=15"]
    best = result.models.index(result.best_single)
    quality, cost = result.model_quality[best], result.model_cost[best]
    points = list(zip(knn.curve.mean_cost.tolist(), knn.curve.mean_quality.tolist(), strict=True))
    assert knn.metrics["perf_gain"] == pytest.approx(max(q for _, q in points) / quality - 1)
    assert knn.metrics["cost_save"] == pytest.approx(1 - min(c for c, q in points if q >= quality - 1e-12) / cost)
    scores = [(float(arena_score(q, 1000 * c)), 1000 * c) for c, q in points]
    assert knn.metrics["arena_score"] == pytest.approx(max(scores)[0])
    assert knn.metrics["arena_cost_per_1k"] == pytest.approx(max(scores)[1])


def test_regret_is_taken_at_exactly_the_weight(result):
    knn, rows = result.routers["knn:k=15"], np.arange(len(result.quality))
    for weight in REGRET_WEIGHTS:
        per_unit = weight / result.reference_cost
        utility = result.quality - per_unit * result.cost
        chosen = (knn.expected_quality - per_unit * knn.expected_cost).argmax(axis=1)
        expected = (utility.max(axis=1) - utility[rows, chosen]).mean()
        assert knn.metrics[f"regret_{weight:g}"] == pytest.approx(expected)
        assert result.routers["oracle"].metrics[f"regret_{weight:g}"] == pytest.approx(0)
        single = utility[:, result.models.index(result.best_single)]
        assert result.routers["best-single"].metrics[f"regret_{weight:g}"] == pytest.approx(
            (utility.max(axis=1) - single).mean()
        )


def test_the_weak_and_strong_pair_is_the_cheapest_and_the_best_on_train(result):
    weak, strong = result.models.index(result.cheapest), result.models.index(result.best_single)
    knn = result.routers["knn:k=15"]
    score = knn.expected_quality[:, strong] - knn.expected_quality[:, weak]
    curve = strong_calls(score, result.quality[:, weak], strong_quality=result.quality[:, strong])
    means = {"weak": result.model_quality[weak], "strong": result.model_quality[strong]}
    assert knn.metrics["apgr_exact"] == pytest.approx(apgr(curve, **means))
    for name in ("random", "zero", "best-single"):
        assert result.routers[name].metrics["apgr"] == pytest.approx(0.5)
        assert result.routers[name].metrics["cpt_80"] == pytest.approx(0.8)
    assert math.isnan(result.routers["cheapest"].metrics["apgr"])


def test_pareto_distance_leaves_bounds_out(result):
    assert math.isnan(result.routers["oracle"].metrics["pareto_dist"])
    assert result.routers["cheapest"].metrics["pareto_dist"] == 0
    assert result.routers["random"].metrics["pareto_dist"] > result.routers["knn:k=15"].metrics["pareto_dist"]


def test_calibration_of_what_is_expected(result):
    knn = result.routers["knn:k=15"]
    assert knn.calibration.count.sum() == result.quality.size
    assert knn.metrics["ece"] == pytest.approx(knn.calibration.ece)
    assert knn.metrics["brier"] == pytest.approx(((knn.expected_quality - result.quality) ** 2).mean())
    assert set(knn.model_calibration) == set(result.models)
    assert result.routers["oracle"].calibration is None


def test_the_oracle_says_how_much_of_it_is_luck(result):
    oracle = result.routers["oracle"]
    assert oracle.metrics["oracle_independent"] >= result.model_quality.max()
    assert any("2607.03436" in note and "chance" in note for note in oracle.notes)


def test_interval_of_the_quality_at_cost_weight_zero(result):
    knn, single = result.routers["knn:k=15"], result.routers["best-single"]
    interval = knn.intervals["quality"]
    assert interval.estimate == pytest.approx(knn.curve.mean_quality[0])
    assert interval.low < interval.estimate < interval.high
    gain = knn.intervals["quality_minus_best_single"]
    assert gain.estimate == pytest.approx(knn.curve.mean_quality[0] - single.curve.mean_quality[0])
    assert "quality_minus_best_single" not in single.intervals


def test_result_carries_tasks_and_train_means(result, data):
    table, _ = data
    assert result.tasks == table.split("test").tasks
    assert result.train_quality_mean == pytest.approx(table.split("train").quality.mean(axis=0))


def test_json_carries_them(result):
    document = json.loads(json.dumps(results_as_json(result), allow_nan=False))
    knn = document["routers"]["knn:k=15"]
    assert knn["metrics"]["apgr"] == result.routers["knn:k=15"].metrics["apgr"]
    assert len(knn["reliability"]["predicted"]) == len(knn["reliability"]["standard_error"])
    assert set(knn["reliability"]["models"]) == set(result.models)
    assert document["routers"]["random"]["reliability"] is None
    assert document["routers"]["random"]["metrics"]["cost_save"] is None
    assert "as good" in document["routers"]["random"]["undefined"]["cost_save"]
    assert document["models"][0]["train_quality_mean"] == pytest.approx(result.train_quality_mean[0])


@pytest.mark.parametrize(
    ("quality", "cost", "undefined"),
    [
        ([[0.5], [0.5]] * 5, [1.0], {"apgr"}),  # one model
        ([[0.5, 0.9], [0.4, 0.8]] * 5, [1.0, 1.0], {"apgr"}),  # equal costs
        ([[0.5, 0.9], [0.4, 0.8]] * 5, [0.0, 0.0], {"apgr", "deferral_area", "cost_save", "optimal_cost"}),  # all free
        ([[0.0, 0.0], [0.0, 0.0]] * 5, [1.0, 2.0], {"apgr", "gain_best", "gap_oracle", "optimal_accuracy"}),  # no skill
        ([[0.9, 0.5], [0.8, 0.4]] * 5, [1.0, 2.0], {"apgr"}),  # the cheapest is the best
    ],
)
def test_degenerate_tables_have_reasons(table_of, quality, cost, undefined):
    result = evaluate(table_of(quality, cost), np.eye(len(quality)), routers=["knn:k=2"], resamples=10)
    for router in result.routers.values():
        assert {metric for metric, value in router.metrics.items() if math.isnan(value)} == set(router.undefined)
    assert undefined <= set(result.routers["knn:k=2"].undefined)
    json.dumps(results_as_json(result), allow_nan=False)


def test_a_model_without_any_train_outcome_is_no_reason_to_fail(data):
    table, X = data
    quality = table.quality.copy()
    quality[[split == "train" for split in table.splits], 0] = np.nan
    hidden = dataclasses.replace(table, quality=quality)
    knn = evaluate(hidden, X, routers=["knn:k=15"], resamples=0).routers["knn:k=15"]
    assert math.isnan(knn.metrics["apgr"])  # the cheapest model is the unknown one
    assert math.isnan(knn.model_calibration["org/model-0"]["ece"])
    assert math.isfinite(knn.metrics["ece"])


def test_dollar_metrics_need_dollars(data):
    router = evaluate(*data, routers=["knn:k=15"], cost="calls", resamples=0).routers["knn:k=15"]
    assert "US dollars" in router.undefined["arena_score"]
    assert math.isfinite(router.metrics["regret_0.3"])


def test_policies_and_flows_are_read_off_their_choices(table_of):
    random = np.random.default_rng(0)
    quality = np.stack([random.random(40) * 0.5, random.random(40) * 0.5 + 0.4], axis=1)
    setting = _make_setting(make_evaluable(table_of(quality, [1.0, 3.0]), "usd"))
    test, cost = setting.data.test.quality, setting.data.test_cost
    half = np.arange(20) % 2
    curve = Curve(cost[np.arange(20), half][None], test[np.arange(20), half][None], np.array([np.nan]), half[None])
    found, calibrated = figures(Entry("p", "policy", curve), setting)
    weak, strong = test.mean(axis=0)
    recovered = (test[np.arange(20), half].mean() - weak) / (strong - weak)
    assert found.metrics["apgr"] == pytest.approx((recovered / 2 + (1 + recovered) / 2) / 2)
    assert found.metrics["avg_acc"] == pytest.approx(test[np.arange(20), half].mean())
    assert found.metrics["regret_0"] > 0
    assert calibrated is None
    assert "ece" in found.undefined


def test_a_guarded_router_is_measured_with_its_guard(data):
    table, X = data
    setting = _make_setting(make_evaluable(table, "usd"))
    test, rows = setting.data.test, np.arange(100)
    estimates = fit_and_estimate(setting.data, X, name="knn", parameters={"k": 15})
    guard = Guard(1e6, setting.data.train.quality.mean(axis=0), setting.data.train_cost.mean(axis=0))
    curve = replay(
        estimates.quality,
        estimates.cost,
        quality=test.quality,
        cost=setting.data.test_cost,
        weights=setting.weights,
        cheapest=setting.cheapest,
        guard=guard,
        expected_std=estimates.std,
    )
    found, _ = figures(Entry("knn", "router", curve, estimates=estimates, guard=guard), setting)
    single = test.quality[rows, guard.best_single(0.0)]  # nothing is sure enough to leave it
    assert found.metrics["regret_0"] == pytest.approx((test.quality.max(axis=1) - single).mean())
