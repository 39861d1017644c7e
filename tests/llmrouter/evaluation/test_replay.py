"""Replay: choices, the swept weights, and agreement with the policy that serves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.evaluation import choose, replay, sweep_weights
from llmrouter.evaluation._replay import cheapest_model
from llmrouter.exceptions import DataError
from llmrouter.policy import UtilityPolicy
from llmrouter.types import Candidate, Estimates, ModelCard, Price, RoutingRequest


def test_sweep_weights_are_zero_and_73_values_over_the_range_of_train_costs():
    weights = sweep_weights(np.array([[1.0, 3.0], [3.0, 9.0]]))  # means 2 and 6
    assert len(weights) == 74
    assert weights[0] == 0
    assert weights[[1, 37, 73]] == pytest.approx([1e-3 / 4, 1 / 4, 1e3 / 4])


def test_sweep_weights_without_a_range_is_zero_alone():
    assert sweep_weights(np.ones((3, 2))).tolist() == [0]
    assert sweep_weights(np.full((3, 2), np.nan)).tolist() == [0]


def test_sweep_weights_leave_unobserved_out():
    known = sweep_weights(np.array([[1.0, 3.0], [3.0, 9.0]]))
    assert sweep_weights(np.array([[1.0, 3.0, np.nan], [3.0, 9.0, np.nan]])) == pytest.approx(known)


def test_choose_hand_computed():
    quality = np.array([[0.5, 0.9], [0.5, 0.6]])
    cost = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert choose(quality, cost, np.array([0.0, 0.2, 1.0])).tolist() == [[1, 1], [1, 0], [0, 0]]


def test_ties_go_to_the_model_cheaper_for_the_prompt():
    quality = np.full((2, 2), 0.5)
    cost = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert choose(quality, cost, np.zeros(1)).tolist() == [[1, 0]]
    almost = quality + np.array([1e-15, 0.0])  # rounding does not break a tie
    assert choose(almost, cost, np.zeros(1)).tolist() == [[1, 0]]


def test_unknown_estimates_are_never_chosen():
    quality = np.array([[np.nan, 0.1, 0.9]])
    cost = np.array([[0.0, 1.0, np.nan]])
    assert choose(quality, cost, np.array([0.0, 100.0])).tolist() == [[1], [1]]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.3, 2.0]))
def test_the_serving_policy_chooses_the_same(seed, cost_weight):
    random = np.random.default_rng(seed)
    quality = random.integers(0, 4, size=5) / 4  # ties are common
    cost = random.integers(0, 4, size=5) / 4
    names = tuple("abcde")
    candidates = [Candidate(ModelCard(name, Price(1.0, 1.0))) for name in names]
    estimates = Estimates(names, quality, np.zeros(5), cost, np.full(5, np.nan))
    decision = UtilityPolicy(cost_weight, reference_cost_usd=0.8).choose(RoutingRequest("x"), candidates, estimates)
    column = choose(quality[None], cost[None], np.array([cost_weight / 0.8]))[0, 0]
    assert decision.model == names[column]


def test_replay_reads_what_happened_and_adds_the_cheapest_point():
    expected_quality = np.array([[0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])
    expected_cost = np.tile([1.0, 2.0], (3, 1))
    quality = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    cost = np.array([[1.0, 3.0], [2.0, 9.0], [3.0, 6.0]])
    curve = replay(
        expected_quality, expected_cost, quality=quality, cost=cost, weights=np.array([0.0, 9.0]), cheapest=0
    )
    assert curve.choices.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert curve.mean_cost.tolist() == pytest.approx([11 / 3, 2, 2])
    assert curve.mean_quality.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert curve.weights.tolist() == [0, 9, np.inf]
    assert curve.peak == 1  # the cheapest of equally good points
    assert curve.shares(0, models=2).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_replay_refuses_holes_and_shapes():
    full = np.ones((2, 2))
    holed = np.array([[1.0, np.nan], [1.0, 1.0]])
    with pytest.raises(DataError, match="every model on every prompt"):
        replay(full, full, quality=holed, cost=full, weights=np.zeros(1), cheapest=0)
    with pytest.raises(DataError, match="one shape"):
        replay(full, full, quality=full[:1], cost=full, weights=np.zeros(1), cheapest=0)


def test_cheapest_model_is_the_better_of_equally_cheap_ones():
    cost = np.tile([2.0, 1.0, 1.0], (2, 1))
    quality = np.tile([0.9, 0.2, 0.4], (2, 1))
    assert cheapest_model(cost, quality) == 2
    assert cheapest_model(np.tile([np.nan, 1.0], (2, 1)), quality[:, :2]) == 1
