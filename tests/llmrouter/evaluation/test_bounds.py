"""Bounds and baselines on tables small enough to compute by hand."""

import numpy as np
import pytest

from llmrouter.evaluation import Oracle, ZeroRouter
from llmrouter.evaluation._bounds import best_single_model, random_curve, single_model_curve
from llmrouter.registry import create

QUALITY = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
COST = np.array([[1.0, 2.0, 9.0], [1.0, 9.0, 2.0], [3.0, 2.0, 1.0]])


def test_oracle_takes_the_best_and_the_cheapest_of_equals():
    curve = Oracle().curve(QUALITY, COST, weights=np.array([0.0]), cheapest=0)
    assert curve.choices[0].tolist() == [0, 2, 2]
    assert curve.mean_quality[0] == pytest.approx(2 / 3)
    assert curve.mean_cost[0] == pytest.approx(4 / 3)


def test_no_choice_beats_the_oracle_at_any_weight():
    random = np.random.default_rng(0)
    quality, cost = random.random((30, 4)), random.random((30, 4))
    weights = np.array([0.0, 0.1, 1.0, 5.0])
    curve = Oracle().curve(quality, cost, weights=weights, cheapest=0)
    for _ in range(50):
        choice = random.integers(0, 4, size=30)
        rows = np.arange(30)
        for index, weight in enumerate(weights):
            utility = (quality[rows, choice] - weight * cost[rows, choice]).mean()
            assert utility <= curve.mean_quality[index] - weight * curve.mean_cost[index] + 1e-12


def test_zero_router_is_the_hull_of_single_models():
    curve = ZeroRouter().curve(QUALITY, COST, weights=np.zeros(1), cheapest=0)
    assert curve.mean_cost == pytest.approx(COST.mean(axis=0))
    assert curve.mean_quality == pytest.approx(QUALITY.mean(axis=0))
    assert curve.hull.cost == pytest.approx([5 / 3, 13 / 3])


def test_best_single_model_is_the_cheaper_of_equals():
    assert best_single_model(QUALITY, COST) == 1
    quality = np.array([[1.0, 1.0, np.nan]])
    assert best_single_model(quality, np.array([[3.0, 2.0, 1.0]])) == 1


def test_single_model_curve_holds_its_point_and_the_cheapest():
    curve = single_model_curve(1, cheapest=0, quality=QUALITY, cost=COST)
    assert curve.mean_cost == pytest.approx([13 / 3, 5 / 3])
    assert np.isnan(curve.weights[0])
    assert curve.weights[1] == np.inf
    assert single_model_curve(0, cheapest=0, quality=QUALITY, cost=COST).mean_cost == pytest.approx([5 / 3])


def test_random_curve_is_the_exact_expectation():
    curve = random_curve(cheapest=0, quality=QUALITY, cost=COST)
    assert curve.mean_cost[0] == pytest.approx(COST.mean())
    assert curve.mean_quality[0] == pytest.approx(QUALITY.mean())
    assert np.isnan(curve.shares(0, models=3)).all()


def test_bounds_are_registered():
    assert isinstance(create("bound", "oracle"), Oracle)
    assert isinstance(create("bound", "zero"), ZeroRouter)
