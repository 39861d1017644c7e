"""The whole evaluation on tables whose answers are known."""

import json
import math

import numpy as np
import pytest

from llmrouter.evaluation import evaluate, format_result, tune
from llmrouter.evaluation._costs import make_evaluable
from llmrouter.evaluation._fit import fit_and_estimate
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.types import Price

REFERENCES = ["best-single", "random", "cheapest", "zero", "oracle"]


@pytest.fixture(scope="module")
def result(topics):
    table, X = topics
    return evaluate(table, X, routers=["knn:k=15", "knn"], resamples=200, seed=3, context={"encoder": "made-up"})


def test_references_are_always_there_in_order(result):
    assert list(result.routers) == ["knn:k=15", "knn", *REFERENCES]
    assert [r.kind for r in result.routers.values()] == ["router"] * 2 + ["baseline"] * 3 + ["bound"] * 2


def test_a_router_that_sees_the_topic_beats_every_mixture(result):
    knn = result.routers["knn:k=15"]
    gain = knn.intervals["aiq_minus_zero"]
    assert gain.low > 0
    assert gain.estimate == pytest.approx(knn.aiq - result.routers["zero"].aiq)
    assert knn.aiq < result.routers["oracle"].aiq
    assert knn.dearest_share < 0.5
    assert knn.parameters == {"k": 15}
    assert knn.cost_from == "usd"
    assert knn.fit_s >= 0
    assert knn.decide_us > 0


def test_zero_router_and_interval_are_those_of_the_test_prompts(result, topics):
    table, _ = topics
    test = table.split("test")
    assert result.model_cost == pytest.approx(test.cost_usd.mean(axis=0))
    assert result.model_quality == pytest.approx(test.quality.mean(axis=0))
    hull = result.routers["zero"].curve.hull
    assert result.cost_interval == (hull.cost[0], hull.cost[-1])
    assert result.routers["zero"].qnc == pytest.approx(1)


def test_best_single_is_chosen_on_train(table_of):
    # On train model-0 is better, on test model-1; the baseline keeps model-0 and its own figures.
    quality = np.array([[0.2, 0.9] if i % 2 == 0 else [0.8, 0.4] for i in range(20)])
    result = evaluate(table_of(quality, [1.0, 2.0]), None, resamples=0)
    assert result.best_single == "org/model-0"
    assert result.routers["best-single"].peak_quality == pytest.approx(0.2)
    assert result.routers["zero"].peak_quality == pytest.approx(0.9)


def test_baseline_figures_are_its_own_point(table_of):
    quality = np.tile([0.9, 0.1, 0.2], (10, 1))
    result = evaluate(table_of(quality, [1.0, 2.0, 3.0]), None, resamples=0)
    random = result.routers["random"]
    assert random.peak_quality == pytest.approx(0.4)
    assert random.peak_cost == pytest.approx(2.0)


def test_best_single_curve_is_joined_with_the_cheapest_model(table_of):
    quality = np.tile([0.4, 0.8], (10, 1))
    result = evaluate(table_of(quality, [1.0, 2.0]), None, resamples=0)
    assert result.routers["best-single"].aiq == pytest.approx(0.6)
    assert result.routers["cheapest"].aiq == pytest.approx(0.4)
    assert result.routers["zero"].aiq == pytest.approx(0.6)
    # integral 0.6 from cost 1 to 2, divided by 2
    assert result.routers["zero"].aiq_code == pytest.approx(0.3)


def test_operating_points_are_in_the_policys_unit(result, topics):
    table, _ = topics
    reference = table.split("train").cost_usd.mean(axis=0).max()
    assert result.reference_cost == pytest.approx(reference)
    points = result.routers["knn:k=15"].operating_points
    assert points[0].cost_weight == 0
    assert points[-1].cost_weight == math.inf
    assert points[-1].shares == pytest.approx({result.cheapest: 1.0, "org/model-1": 0.0, "org/model-2": 0.0})
    for point in points:
        assert sum(point.shares.values()) == pytest.approx(1)
        weight = result.routers["knn:k=15"].curve.weights[point.index]
        assert point.cost_weight == pytest.approx(weight * reference)


def test_only_training_outcomes_decide(topics):
    """Changing every test outcome must not change a single choice."""
    table, X = topics
    test = np.array([split == "test" for split in table.splits])
    quality, cost = table.quality.copy(), table.cost_usd.copy()
    quality[test] = 1 - quality[test]
    cost[test] = cost[test][:, ::-1]
    other = type(table)(**{**vars(table), "quality": quality, "cost_usd": cost})
    first = evaluate(table, X, routers=["knn"], resamples=0).routers["knn"]
    second = evaluate(other, X, routers=["knn"], resamples=0).routers["knn"]
    assert first.parameters == second.parameters
    assert (first.curve.choices == second.curve.choices).all()


def test_same_seed_same_figures(topics, result):
    table, X = topics
    again = evaluate(table, X, routers=["knn:k=15", "knn"], resamples=200, seed=3)
    for name, router in result.routers.items():
        assert again.routers[name].aiq == router.aiq
        assert again.routers[name].intervals == router.intervals


def test_list_price_and_calls_axes(topics):
    table, X = topics
    prices = evaluate(table, X, routers=["knn:k=15"], cost="list_price", resamples=0)
    assert prices.cost_interval[0] == pytest.approx(1.0)
    assert prices.routers["knn:k=15"].cost_from == "constant"
    calls = evaluate(table, X, routers=["knn:k=15"], cost="calls", resamples=0)
    assert calls.data["strongest_model"] == "org/model-2"
    assert calls.routers["zero"].curve.mean_cost.tolist() == [0, 0, 1]


def test_costs_are_learned_from_tokens_where_there_are_tokens_and_prices(table_of):
    random = np.random.default_rng(0)
    topic = random.integers(0, 2, size=60)
    output_tokens = np.where(topic[:, None] == 0, [10.0, 100.0], [1000.0, 20.0])
    input_tokens = np.full((60, 2), 50.0)
    prices = [Price(1.0, 2.0), Price(3.0, 4.0)]
    cost = (input_tokens * [1.0, 3.0] + output_tokens * [2.0, 4.0]) / 1e6
    quality = random.random((60, 2))
    table = table_of(quality, cost, prices=prices, tokens=(input_tokens, output_tokens))
    X = np.eye(2, dtype=np.float32)[topic]
    estimates = fit_and_estimate(make_evaluable(table, "usd"), X, name="knn", parameters={"k": 5})
    assert estimates.cost_from == "output_tokens"
    test = np.array([split == "test" for split in table.splits])
    assert estimates.cost == pytest.approx(cost[test])


def test_tuning_finds_the_useful_neighbourhood_and_records_it(result):
    knn = result.routers["knn"]
    assert knn.tuning["folds"] == 5
    assert knn.tuning["objective"] == "aiq"
    assert knn.parameters == knn.tuning["parameters"]
    scores = {(entry["k"], entry["shrinkage"]): entry["score"] for entry in knn.tuning["scores"]}
    assert scores[(knn.parameters["k"], knn.parameters["shrinkage"])] == max(scores.values())
    assert max(k for k, _ in scores) == 80  # 100 train prompts, a fifth held out
    # as many neighbours as there are prompts, heavily shrunk, cannot see the topic
    assert max(scores.values()) > scores[(80, 20.0)] + 0.02


def test_tuning_sees_the_training_rows_only(result, topics):
    table, X = topics
    train = np.array([split == "train" for split in table.splits])
    alone = tune("knn", table.select(train), X[train], seed=3)
    assert result.routers["knn"].tuning["score"] == alone.score
    assert result.routers["knn"].parameters == alone.parameters


def test_a_tuning_score_is_the_mean_aiq_of_evaluating_each_fold(topics):
    table, X = topics
    tuning = tune("knn", table, X, seed=11, grid=[{"k": 7, "shrinkage": 2.0}])
    scores = []
    for held_out in np.array_split(np.random.default_rng(11).permutation(len(table)), 5):
        splits = ["test" if row in set(held_out.tolist()) else "train" for row in range(len(table))]
        folded = type(table)(**{**vars(table), "splits": tuple(splits)})
        routers = evaluate(folded, X, routers={"fold": "knn:k=7,shrinkage=2.0"}, resamples=0).routers
        scores.append(routers["fold"].aiq)
    assert tuning.score == pytest.approx(np.mean(scores))


def test_tuning_needs_complete_rows(table_of):
    quality = np.full((20, 2), np.nan)
    quality[np.arange(20), np.arange(20) % 2] = 1.0
    train = table_of(quality, [1.0, 2.0], splits=["train"] * 20)
    with pytest.raises(DataError, match="Give the parameters instead"):
        tune("knn", train, np.eye(20))


def test_tuning_falls_back_to_quality_where_aiq_is_undefined(table_of):
    random = np.random.default_rng(1)
    train = table_of(random.random((30, 2)), [1.0, 1.0], splits=["train"] * 30)
    assert tune("knn", train, random.standard_normal((30, 3))).objective == "quality"


def test_a_model_never_observed_on_train_is_noted_and_never_chosen(topics):
    table, X = topics
    quality = table.quality.copy()
    quality[[split == "train" for split in table.splits], 2] = np.nan
    hidden = type(table)(**{**vars(table), "quality": quality})
    result = evaluate(hidden, X, routers=["knn:k=15"], resamples=0)
    assert not (result.routers["knn:k=15"].curve.choices == 2).any()
    assert any("never observed on train" in note for note in result.notes)
    assert result.best_single != "org/model-2"


# ---- degenerate tables give reasons, not crashes


@pytest.mark.parametrize(
    ("quality", "cost"),
    [
        ([[0.5], [0.5]] * 5, [1.0]),  # one model
        ([[0.5, 0.9], [0.4, 0.8]] * 5, [1.0, 1.0]),  # equal costs
        ([[0.9, 0.5], [0.8, 0.4]] * 5, [1.0, 2.0]),  # the cheapest is the best
        ([[0.5, 0.9], [0.4, 0.8]] * 5, [0.0, 0.0]),  # all free
    ],
)
def test_degenerate_tables(table_of, quality, cost):
    table = table_of(quality, cost)
    X = np.eye(len(quality), dtype=np.float32)
    result = evaluate(table, X, routers=["knn:k=2", "knn"], resamples=20)
    for router in result.routers.values():
        assert math.isnan(router.aiq)
        assert any("AIQ is undefined" in note for note in router.notes)
        assert math.isnan(router.intervals["aiq"].low)
        assert 0 <= router.peak_quality <= 1
    text = format_result(result)
    assert "AIQ is undefined" in text
    assert "nan" not in text


def test_a_free_best_model_has_no_quality_neutral_cost(table_of):
    result = evaluate(table_of([[0.9, 0.5]] * 6, [0.0, 1.0]), None, resamples=0)
    assert math.isnan(result.routers["zero"].qnc)


# ---- bad input


def test_bad_embeddings(topics):
    table, X = topics
    with pytest.raises(DataError, match="routers need embeddings"):
        evaluate(table, None, routers=["knn:k=5"])
    with pytest.raises(DataError, match=r"\(200, d\)"):
        evaluate(table, X[:-1], routers=["knn:k=5"])
    with pytest.raises(DataError, match="NaN"):
        evaluate(table, np.full_like(X, np.nan), routers=["knn:k=5"])


def test_bad_routers(topics):
    table, X = topics
    with pytest.raises(ConfigError, match="unknown router 'knnn'"):
        evaluate(table, X, routers=["knnn"])
    with pytest.raises(ConfigError, match="kk"):
        evaluate(table, X, routers=["knn:kk=3"])
    with pytest.raises(ConfigError, match="must be a list"):
        evaluate(table, X, routers="knn")
    with pytest.raises(ConfigError, match="taken by a baseline"):
        evaluate(table, X, routers={"zero": "knn:k=5"})


def test_baselines_asked_for_by_name_appear_once(topics):
    table, X = topics
    result = evaluate(table, X, routers=["random", "best-single", "knn:k=5", "oracle"], resamples=0)
    assert list(result.routers) == ["knn:k=5", *REFERENCES]


def test_display_names(topics):
    table, X = topics
    result = evaluate(table, X, routers={"ours": "knn:k=5"}, resamples=0)
    assert result.routers["ours"].parameters == {"k": 5}
    assert result.routers["ours"].intervals == {}


def test_every_look_at_the_test_split_is_logged(topics, tmp_path):
    table, X = topics
    log = tmp_path / "deep" / "looks.jsonl"
    for seed in (1, 2):
        evaluate(table, X, routers=["knn:k=5"], resamples=0, seed=seed, look_log=log)
    looks = [json.loads(line) for line in log.read_text().splitlines()]
    assert [look["seed"] for look in looks] == [1, 2]
    assert looks[0]["routers"] == ["knn:k=5"]
    assert looks[0]["data"] == "made-up"
    assert looks[0]["sha256"] == evaluate(table, None, resamples=0).data["sha256"]
    assert looks[0]["time"].endswith("+00:00")


def test_the_data_hash_sees_every_outcome(topics):
    table, _ = topics
    quality = table.quality.copy()
    quality[0, 0] = 1 - quality[0, 0]
    changed = type(table)(**{**vars(table), "quality": quality})
    digests = {evaluate(t, None, resamples=0).data["sha256"] for t in (table, changed)}
    assert len(digests) == 2
