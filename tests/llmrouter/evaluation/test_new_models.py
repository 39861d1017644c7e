"""New models: what is hidden stays hidden, what is scored is added, and how the prompts are chosen."""

import dataclasses
import math

import numpy as np
import pytest

from llmrouter.evaluation import ZeroRouter, aiq, choose_prompts, evaluate, new_models, replay
from llmrouter.evaluation._choose_prompts import _equal_parts
from llmrouter.evaluation._replay import cheapest_model, sweep_weights
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.routers import KNNRouter, MeanRouter
from llmrouter.types import Price

KNN = "knn:k=15"
NEW = "org/model-1"


def first_rows(table, X, router, n, seed):
    return np.arange(n)


@pytest.fixture(scope="module")
def result(topics):
    return new_models(*topics, router=KNN, hidden=[NEW], sizes=(10, 40, 1000), draws=3, seed=2)


def values(result, figure, scored):
    return result.find(KNN, figure, scored=scored).values


def test_everything_known_from_the_start_is_the_plain_evaluation(result, topics):
    expected = evaluate(*topics, routers=[KNN], resamples=0).routers[KNN]
    assert values(result, "aiq", "all") == pytest.approx([expected.aiq])
    assert values(result, "share_of_gain", "all") == (1,)
    assert values(result, "share_of_gain", 0) == (0,)


def test_without_the_hidden_model_by_hand(result, topics):
    table, X = topics
    train, test = (np.array([split == name for split in table.splits]) for name in ("train", "test"))
    known = [0, 2]
    quality, cost = table.quality[:, known], table.cost_usd[:, known]
    router = KNNRouter(k=15).fit(X[train], quality[train])
    priced = KNNRouter(k=15).fit(X[train], cost[train])
    curve = replay(
        router.predict(X[test]),
        priced.predict(X[test]),
        quality=quality[test],
        cost=cost[test],
        weights=sweep_weights(cost[train]),
        cheapest=cheapest_model(cost[train], quality[train]),
    )
    zero = ZeroRouter().curve(table.quality[test], table.cost_usd[test], weights=np.zeros(1), cheapest=0).hull
    expected = aiq(curve.hull, (zero.cost[0], zero.cost[-1]))  # the interval is that of all models
    assert values(result, "aiq", 0) == pytest.approx([expected])
    assert result.data["cost_interval"] == pytest.approx([zero.cost[0], zero.cost[-1]])


def test_draws_and_sizes(result):
    assert result.find(KNN, "aiq", scored=10).seeds == (2, 3, 4)
    assert len(set(values(result, "aiq", 10))) > 1
    assert values(result, "aiq", 100)  # 1,000 is cut to the 100 train prompts
    without, full = values(result, "aiq", 0)[0], values(result, "aiq", "all")[0]
    shares = [(value - without) / (full - without) for value in values(result, "aiq", 40)]
    assert values(result, "share_of_gain", 40) == pytest.approx(shares)


def test_scoring_more_prompts_gets_more_of_the_gain_back(result):
    assert result.find(KNN, "share_of_gain", scored=100).mean > 0.6
    assert result.find(KNN, "share_of_gain", scored=100).mean > result.find(KNN, "share_of_gain", scored=10).mean - 0.1


def test_outcomes_that_were_not_scored_do_not_matter(topics):
    table, X = topics
    train = np.flatnonzero([split == "train" for split in table.splits])
    column = table.models.index(NEW)
    quality, cost = table.quality.copy(), table.cost_usd.copy()
    quality[train[12:], column] = 1 - quality[train[12:], column]
    cost[train[12:], column] *= 50
    other = dataclasses.replace(table, quality=quality, cost_usd=cost)
    options = {"router": KNN, "hidden": [NEW], "sizes": (12,), "draws": 1, "choose": first_rows}
    found = [new_models(t, X, **options) for t in (table, other)]
    assert values(found[0], "aiq", 12) == values(found[1], "aiq", 12)
    assert values(found[0], "aiq", 0) == values(found[1], "aiq", 0)
    assert values(found[0], "aiq", "all") != values(found[1], "aiq", "all")


def test_the_chooser_sees_neither_the_hidden_model_nor_the_test_split(topics):
    table, X = topics
    seen = []

    def spy(train, embeddings, router, n, seed):
        seen.append((train.models, set(train.splits), embeddings.shape, router.n_models_, n, seed))
        return np.arange(n)

    result = new_models(table, X, router=KNN, hidden=[NEW], sizes=(5,), draws=2, choose=spy, seed=8)
    assert seen == [(("org/model-0", "org/model-2"), {"train"}, (100, 4), 2, 5, seed) for seed in (8, 9)]
    assert result.settings["choose"] == "spy"


def test_prompts_on_which_a_hidden_model_was_not_observed_cannot_be_scored(topics):
    table, X = topics
    train = np.flatnonzero([split == "train" for split in table.splits])
    quality = table.quality.copy()
    quality[train[7:], table.models.index(NEW)] = np.nan
    result = new_models(dataclasses.replace(table, quality=quality), X, router=KNN, hidden=[NEW], sizes=(50,), draws=1)
    assert math.isfinite(values(result, "aiq", 7)[0])
    quality[train, table.models.index(NEW)] = np.nan
    with pytest.raises(DataError, match="every hidden model"):
        new_models(dataclasses.replace(table, quality=quality), X, router=KNN, hidden=[NEW], draws=1)


@pytest.mark.parametrize("axis", ["calls", "list_price"])
def test_axes_without_a_cost_to_predict(topics, axis):
    result = new_models(*topics, router=KNN, hidden=[NEW], sizes=(50,), draws=2, cost=axis)
    expected = evaluate(*topics, routers=[KNN], cost=axis, resamples=0).routers[KNN].aiq
    assert values(result, "aiq", "all") == pytest.approx([expected])


def test_costs_from_tokens(table_of):
    random = np.random.default_rng(0)
    topic = random.integers(0, 2, size=120)
    output = np.where(topic[:, None] == 0, [10.0, 100.0, 50.0], [1000.0, 20.0, 50.0])
    tokens = (np.full((120, 3), 50.0), output)
    prices = [Price(1.0, 2.0), Price(3.0, 4.0), Price(5.0, 6.0)]
    cost = (50 * np.array([1.0, 3.0, 5.0]) + output * np.array([2.0, 4.0, 6.0])) / 1e6
    quality = (random.random((120, 3)) < np.where(topic[:, None] == 0, [0.9, 0.2, 0.6], [0.1, 0.9, 0.7])).astype(float)
    table = table_of(quality, cost, prices=prices, tokens=tokens)
    X = np.eye(2, dtype=np.float32)[topic]
    result = new_models(table, X, router=KNN, hidden=["org/model-0"], sizes=(30,), draws=2)
    assert values(result, "aiq", "all") == pytest.approx(
        [evaluate(table, X, routers=[KNN], resamples=0).routers[KNN].aiq]
    )
    assert all(math.isfinite(value) for value in values(result, "aiq", 30))


def test_a_worthless_model_has_no_share_of_gain(table_of):
    quality = np.tile([0.5, 0.9, 0.1], (40, 1))
    table = table_of(quality, [1.0, 2.0, 3.0])
    result = new_models(table, np.eye(40), router="mean", hidden=["org/model-2"], sizes=(5,), draws=1)
    assert math.isnan(result.find("mean", "share_of_gain", scored=5).mean)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": ["org/model-9"]}, "org/model-0, org/model-1, org/model-2; got org/model-9"),
        ({"hidden": []}, "got none"),
        ({"hidden": ["org/model-0", "org/model-1", "org/model-2"]}, "not all"),
        ({"hidden": [NEW], "sizes": (0,)}, "sizes"),
        ({"hidden": [NEW], "sizes": ()}, "sizes"),
        ({"hidden": [NEW], "draws": 0}, "draws"),
        ({"hidden": [NEW], "choose": "best"}, "unknown rule 'best'"),
    ],
)
def test_bad_settings(topics, options, match):
    with pytest.raises(ConfigError, match=match):
        new_models(*topics, router=KNN, **options)


def test_bad_embeddings(topics):
    table, X = topics
    with pytest.raises(DataError, match="X must have 200 rows"):
        new_models(table, X[:3], router=KNN, hidden=[NEW])


# ---- which prompts are scored


@pytest.fixture(scope="module")
def known(topics):
    table, X = topics
    return table, X, MeanRouter().fit(X, table.quality)


@pytest.mark.parametrize("rule", ["random", "informative", first_rows])
def test_chosen_rows_are_distinct_ascending_and_as_many_as_there_are(known, rule):
    table, X, router = known
    rows = choose_prompts(table, X, router=router, n=30, seed=1, rule=rule)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 30
    assert rows.tolist() == choose_prompts(table, X, router=router, n=30, seed=1, rule=rule).tolist()
    assert choose_prompts(table, X, router=router, n=999, seed=1, rule=rule).tolist() == list(range(200))


def test_informative_prompts_cover_both_topics_in_proportion(known):
    table, X, router = known
    share = (X[:, 0] > X[:, 1]).mean()
    for seed in range(5):
        rows = choose_prompts(table, X, router=router, n=20, seed=seed)
        assert (X[rows, 0] > X[rows, 1]).mean() == pytest.approx(share, abs=0.1)


def test_informative_prompts_place_an_unseen_model_better_than_random_ones(topics):
    """The mean of a model that was not looked at, estimated from 20 prompts, errs less."""
    table, X = topics
    others, column = table.select_models(["org/model-0", "org/model-2"]), table.models.index(NEW)
    router = KNNRouter(k=15).fit(X, others.quality)
    truth = table.quality[:, column].mean()

    def error(rule):
        found = [
            table.quality[choose_prompts(others, X, router=router, n=20, seed=seed, rule=rule), column].mean()
            for seed in range(30)
        ]
        return np.sqrt(np.mean((np.array(found) - truth) ** 2))

    assert error("informative") < error("random")


def test_informative_prompts_prefer_disagreement_within_the_middle_of_a_part(table_of):
    # One place in space; the outcomes alone make parts. Prompts on which all agree are not left out, either.
    quality = np.array([[1.0, 1.0]] * 40 + [[1.0, 0.0]] * 40)
    table, X = table_of(quality), np.ones((80, 2))
    rows = choose_prompts(table, X, router=MeanRouter().fit(X, quality), n=8, seed=0)
    agreed = (quality[rows].std(axis=1) == 0).sum()
    assert agreed == 4


def test_equal_parts_are_equal_and_disjoint():
    space = np.random.default_rng(0).random((103, 5))
    parts = _equal_parts(space, 10, np.random.default_rng(1))
    assert sorted(row for part in parts for row in part.tolist()) == list(range(103))
    assert {len(part) for part in parts} <= {9, 10, 11, 12}


def test_unobserved_outcomes_do_not_stop_the_choice(known):
    table, X, _ = known
    quality = table.quality.copy()
    quality[::2, 0] = np.nan
    quality[:, 2] = np.nan
    holed = dataclasses.replace(table, quality=quality)
    router = KNNRouter(k=5).fit(X, quality)
    assert len(choose_prompts(holed, X, router=router, n=10, seed=0)) == 10


@pytest.mark.parametrize("rows", [[0, 0], [0], [0, 500], [-1, 2]])
def test_a_rule_that_returns_nonsense_is_named(known, rows):
    table, X, router = known
    with pytest.raises(DataError, match="2 distinct rows"):
        choose_prompts(table, X, router=router, n=2, seed=0, rule=lambda *_: np.array(rows))


def test_choose_prompts_checks_its_input(known):
    table, X, router = known
    with pytest.raises(ConfigError, match="n must be"):
        choose_prompts(table, X, router=router, n=0, seed=0)
    with pytest.raises(DataError, match="200 rows"):
        choose_prompts(table, X[:5], router=router, n=2, seed=0)
