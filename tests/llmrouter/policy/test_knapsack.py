"""The multiple-choice knapsack against brute force and scipy's mixed-integer solver."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import Bounds, LinearConstraint, milp

from llmrouter.policy._knapsack import best_assignment, upper_hull


def brute_force(value, cost, budget):
    rows = np.arange(len(value))
    best = -np.inf
    for options in itertools.product(range(value.shape[1]), repeat=len(value)):
        if cost[rows, options].sum() <= budget + 1e-12:
            best = max(best, value[rows, options].sum())
    return best


def test_by_hand():
    value = np.array([[0.1, 0.5, 0.9], [0.2, 0.3, 0.8]])
    cost = np.array([[0.0, 1.0, 3.0], [0.0, 1.0, 2.0]])
    assert best_assignment(value, cost, budget=3.0).options == (1, 2)
    assert best_assignment(value, cost, budget=2.0).options == (0, 2)  # 0.9 against 0.8 and 0.7
    assert best_assignment(value, cost, budget=5.0).options == (2, 2)
    assert best_assignment(value, cost, budget=np.inf).cost == 5.0
    assert best_assignment(value, cost, budget=0.0).options == (0, 0)
    assert best_assignment(value, cost + 1, budget=1.5) is None


def test_equal_values_go_to_the_cheaper():
    found = best_assignment(np.array([[0.5, 0.5, 0.4]]), np.array([[2.0, 1.0, 0.0]]), budget=9.0)
    assert found.options == (1,)


def test_hull_by_hand():
    # from (0, 0) to (1, 3) and (3, 4); (2, 3.2) lies below the line, (4, 4) gains nothing
    assert upper_hull(np.array([0, 1, 3, 2, 4.0]), np.array([0, 3, 4, 3.2, 4.0])) == [0, 1, 2]
    assert upper_hull(np.array([1.0, 1.0]), np.array([0.5, 0.7])) == [1]


small = st.integers(0, 8).map(lambda k: k / 8)


@settings(max_examples=150, deadline=None)
@given(arrays(float, (4, 3), elements=small), arrays(float, (4, 3), elements=small), st.floats(0, 4))
def test_is_as_good_as_brute_force(value, cost, budget):
    found, best = best_assignment(value, cost, budget=budget), brute_force(value, cost, budget)
    if found is None:
        assert best == -np.inf
        return
    rows = np.arange(4)
    assert found.exact
    assert found.value == pytest.approx(best)
    assert value[rows, found.options].sum() == pytest.approx(found.value)
    assert cost[rows, found.options].sum() == pytest.approx(found.cost)
    assert found.cost <= budget + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_is_as_good_as_a_mixed_integer_solver(seed):
    rng = np.random.default_rng(seed)
    classes, options = 40, 11
    cost = rng.lognormal(0, 1.5, size=(classes, options))
    value = np.log1p(cost) + 0.5 * rng.random((classes, options))
    budget = float(cost.min(axis=1).sum() + 0.3 * (cost.max(axis=1).sum() - cost.min(axis=1).sum()))
    found = best_assignment(value, cost, budget=budget)
    one_each = np.kron(np.eye(classes), np.ones(options))
    solved = milp(
        -value.ravel(),
        integrality=np.ones(value.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost.ravel(), -np.inf, budget)],
        options={"mip_rel_gap": 1e-9},
    )
    assert found.exact
    assert found.cost <= budget + 1e-9
    assert found.value == pytest.approx(-solved.fun, rel=1e-7)
