"""The numbers behind the report page, by hand: operating points, savings, tasks, outcome counts, regret, confusion."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.evaluation import evaluate, optimality, regret
from llmrouter.evaluation._labels import spread
from llmrouter.evaluation._page._breakdown import NO_TASK, task_cell, task_names, task_rows
from llmrouter.evaluation._page._calibration_section import chosen_reliability
from llmrouter.evaluation._page._diagnosis import (
    OutcomeCounts,
    cheapest_best,
    confusion,
    count_outcomes,
    largest_regrets,
    regret_by_task,
    regret_of_prompts,
)
from llmrouter.evaluation._page._points import matched_point, policy_weight, weight_text
from llmrouter.evaluation._page._savings import savings, shares_of_cost

# three prompts and models: all right; only the dear one right; nobody right
QUALITY = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.2, 0.4]])
COST = np.array([[1.0, 2.0, 4.0]] * 3)


@pytest.fixture(scope="module")
def result(topics):
    table, X = topics
    tasks = tuple("even" if row % 4 == 0 else "odd" for row in range(len(table)))
    return evaluate(dataclasses.replace(table, tasks=tasks), X, routers=["knn:k=15"], resamples=40)


def chosen(columns):
    rows = np.arange(len(columns))
    return QUALITY[rows, columns], COST[rows, columns]


@pytest.mark.parametrize(
    ("columns", "counts"),
    [
        ([0, 2, 0], OutcomeCounts(2, 0, 0, 0, 1)),
        ([2, 2, 2], OutcomeCounts(1, 1, 0, 0, 1)),
        ([1, 1, 1], OutcomeCounts(0, 1, 1, 0, 1)),
        ([0, 0, 0], OutcomeCounts(1, 0, 1, 0, 1)),
    ],
)
def test_outcome_counts(columns, counts):
    quality, cost = chosen(columns)
    assert count_outcomes(quality, cost, quality=QUALITY, cost=COST) == counts
    assert counts.total == 3


def test_paying_the_price_of_the_correct_model_and_being_wrong():
    quality, cost = np.array([[0.0, 1.0]]), np.array([[2.0, 2.0]])
    found = count_outcomes(np.array([0.0]), np.array([2.0]), quality=quality, cost=cost)
    assert found == OutcomeCounts(0, 0, 0, 1, 0)


@given(st.integers(0, 2**32 - 1))
def test_outcome_counts_agree_with_optimality_and_cover_every_prompt(seed):
    random = np.random.default_rng(seed)
    n, m = random.integers(1, 30), random.integers(1, 5)
    quality, cost = random.integers(0, 3, size=(n, m)) / 2, random.integers(1, 4, size=(n, m)).astype(float)
    columns = random.integers(0, m, size=n)
    got, paid = quality[np.arange(n), columns], cost[np.arange(n), columns]
    found = count_outcomes(got, paid, quality=quality, cost=cost)
    assert found.total == n
    assert found.optimal / n == pytest.approx(optimality(got, paid, quality=quality, cost=cost).selection)


def test_cheapest_best_and_confusion():
    assert cheapest_best(QUALITY, COST).tolist() == [0, 2, -1]
    counts = confusion(np.array([2, 2, 1], dtype=np.int16), QUALITY, cost=COST)
    assert counts.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]


def test_regret_is_the_mean_regret_of_the_metric():
    quality, cost = chosen([0, 0, 2])
    found = regret_of_prompts(quality, cost, quality=QUALITY, cost=COST, cost_weight=0.1)
    assert found.tolist() == pytest.approx([0.0, 0.6 - (0.0 - 0.1), 0.0])
    assert found.mean() == pytest.approx(regret(quality, cost, quality=QUALITY, cost=COST, cost_weight=0.1))


def test_regret_by_task_and_the_largest():
    lost = np.array([0.0, 1.0, 1.0, 2.0])
    first, second = regret_by_task(lost, ["a", "a", "b", "b"])
    assert (first.task, first.count, first.mean, first.share, first.share_of_prompts) == ("b", 2, 1.5, 0.75, 0.5)
    assert (second.task, second.share) == ("a", 0.25)
    assert largest_regrets(lost, np.array([0.0, 0.1, 0.5, math.nan])) == [3, 2, 1]
    assert largest_regrets(lost, np.full(4, math.nan), most=2) == [3, 1]
    assert regret_by_task(np.zeros(2), ["a", "b"])[0].share == 0.0


def test_task_cell_by_hand():
    cell = task_cell(
        np.array([1.0, 0.0, 1.0, 1.0]),
        np.full(4, 1.0),
        single_quality=np.array([0.0, 0.0, 1.0, 0.0]),
        single_cost=np.full(4, 4.0),
    )
    assert (cell.quality, cell.difference, cell.cost_share) == (0.75, 0.5, 0.25)
    assert cell.standard_error == pytest.approx(math.sqrt(1 / 3) / 2)
    assert not cell.clear
    one = task_cell(np.ones(1), np.ones(1), single_quality=np.zeros(1), single_cost=np.zeros(1))
    assert math.isnan(one.standard_error)
    assert math.isnan(one.cost_share)
    assert not one.clear


def test_matched_point_keeps_the_budget_and_is_not_chosen_by_quality(result):
    router = result.routers["knn:k=15"]
    single = result.model_cost[result.models.index(result.best_single)]
    for budget in (1.0, 0.5, 0.25):
        point = matched_point(router, result, budget=budget)
        affordable = router.curve.mean_cost <= budget * single * (1 + 1e-9)
        assert affordable[point]
        assert router.curve.mean_cost[point] == pytest.approx(router.curve.mean_cost[affordable].max())
    nothing = matched_point(router, result, budget=1e-9)
    assert router.curve.mean_cost[nothing] == router.curve.mean_cost.min()
    assert matched_point(result.routers["random"], result) == 0


def test_weights_are_in_the_policys_unit(result):
    router = result.routers["knn:k=15"]
    assert policy_weight(router, 1, result) == pytest.approx(router.curve.weights[1] * result.reference_cost)
    assert weight_text(router, 0, result) == "cost weight 0"
    assert weight_text(router, len(router.curve.weights) - 1, result) == "everything to the cheapest model"
    flow = dataclasses.replace(
        router, kind="flow", curve=dataclasses.replace(router.curve, weights=np.full(75, math.nan))
    )
    assert weight_text(flow, 3, result) == "operating point 4"


def test_task_rows_add_up_to_all_prompts(result):
    rows, everything = task_rows(result, [result.routers["knn:k=15"]])
    counts = [row.count for row in rows]
    assert [row.task for row in rows] == ["even", "odd"] or [row.task for row in rows] == ["odd", "even"]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == everything.count == len(result.prompt_ids)
    point = matched_point(result.routers["knn:k=15"], result)
    assert everything.cells[0].quality == pytest.approx(result.routers["knn:k=15"].curve.mean_quality[point])
    weighted = sum(row.count * row.cells[0].quality for row in rows) / everything.count
    assert weighted == pytest.approx(everything.cells[0].quality)
    assert everything.oracle == pytest.approx(result.routers["oracle"].peak_quality)
    assert all(row.best_single <= row.best_model_quality <= row.oracle for row in rows)


def test_small_tasks_are_put_together(result):
    names = tuple(f"task {min(row, 5)}" for row in range(len(result.prompt_ids)))
    rows, _ = task_rows(dataclasses.replace(result, tasks=names), [], most=3)
    assert [row.task for row in rows][-1] == "the 3 smaller tasks"
    assert len(rows) == 4
    assert sum(row.count for row in rows) == len(names)
    rows, _ = task_rows(dataclasses.replace(result, tasks=names), [], most=5)
    assert len(rows) == 6


def test_prompts_without_a_task(result):
    names = ("a", *(None for _ in result.prompt_ids[1:]))
    assert task_names(dataclasses.replace(result, tasks=names)).tolist()[:2] == ["a", NO_TASK]
    assert set(task_names(dataclasses.replace(result, tasks=())).tolist()) == {NO_TASK}


def test_shares_of_cost_by_hand():
    cost, quality = np.array([1.0, 2.0, 4.0]), np.array([0.4, 0.8, 0.9])
    found = shares_of_cost(cost, quality, single_cost=4.0, single_quality=0.8, kept=(1.0, 0.75, 0.5, 1.2))
    assert found == pytest.approx([0.5, 0.375, 0.25, math.inf])
    assert all(map(math.isnan, shares_of_cost(cost, quality, single_cost=0.0, single_quality=0.8, kept=(1.0, 0.5))))


def test_savings_hold_their_estimate_and_grow_with_what_is_given_up(result):
    found = savings(result.routers["knn:k=15"], result)
    assert [one.kept for one in found] == [1.0, 0.99, 0.97, 0.95, 0.9]
    costs = [one.share for one in found]
    assert costs == sorted(costs, reverse=True)
    assert all(one.low <= one.high for one in found)
    assert found[0].share == pytest.approx(result.routers["knn:k=15"].dearest_share)  # the dearest is the best single
    again = savings(result.routers["knn:k=15"], result)
    assert again == found
    without = savings(
        result.routers["knn:k=15"], dataclasses.replace(result, settings={**result.settings, "resamples": 0})
    )
    assert [one.share for one in without] == costs
    assert all(math.isnan(one.low) for one in without)


def test_chosen_reliability_is_of_the_chosen_models(result):
    router = result.routers["knn:k=15"]
    found = chosen_reliability(router, result)
    point = matched_point(router, result)
    assert found.count.sum() == len(result.prompt_ids)
    assert (found.count * found.observed).sum() / found.count.sum() == pytest.approx(router.curve.mean_quality[point])
    assert chosen_reliability(result.routers["random"], result) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_spread_keeps_names_apart_inside_and_in_order(wanted):
    wanted = sorted(wanted)
    placed = spread(wanted, 5.0, low=0.0, high=100.0)
    step = min(5.0, 100.0 / max(1, len(wanted) - 1))
    assert placed[0] >= -1e-9
    assert placed[-1] <= 100 + 1e-9
    assert all(b - a >= step - 1e-9 for a, b in itertools.pairwise(placed))


def test_spread_leaves_names_that_are_apart():
    assert spread([10.0, 50.0, 90.0], 20.0, low=0.0, high=100.0) == [10.0, 50.0, 90.0]
    assert spread([50.0, 50.0], 20.0, low=0.0, high=100.0) == [50.0, 70.0]
