"""Flows on the cost-quality plane: sums of costs, the oracle judge's verdicts, and driving against simulating."""

import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter.evaluation._flows import curve_of_trace, replay_flow, trace_by_driving, with_verdicts
from llmrouter.evaluation._replay import replay
from llmrouter.exceptions import DataError
from llmrouter.flows import FlowTable, FlowTrace
from llmrouter.registry import available, create

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from flow_kit import WEIGHTS, fitted, flow_table


def test_the_cost_of_a_flow_is_the_sum_of_its_calls():
    quality, cost = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 10.0], [2.0, 20.0]])
    table = FlowTable(("a", "b"), quality, cost, quality, quality, cost)
    trace = FlowTrace(np.array([[0, 1]], dtype=np.int16), np.array([[[True, False], [True, True]]]))
    curve = curve_of_trace(trace, table, weights=np.array([0.5]), cheapest=0)
    assert curve.cost.tolist() == [[1.0, 22.0], [1.0, 2.0]]
    assert curve.quality.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    assert curve.weights.tolist() == [0.5, np.inf]
    assert curve.choices.tolist() == [[0, 1], [0, 0]]
    assert trace.mean_calls == pytest.approx([1.5])


@pytest.mark.parametrize("name", available("flow"))
def test_replay_is_driving(name):
    test = flow_table(30, seed=4)
    curve = replay_flow(create("flow", name), train=flow_table(), test=test, weights=WEIGHTS, cheapest=0)
    driven = trace_by_driving(fitted(name), test, weights=WEIGHTS)
    again = curve_of_trace(driven, test, weights=WEIGHTS, cheapest=0)
    np.testing.assert_array_equal(curve.choices, again.choices)
    np.testing.assert_allclose(curve.cost, again.cost)
    assert curve.mean_quality[-1] == test.quality[:, 0].mean()


def test_cascade_routing_with_one_call_gives_the_curve_of_routing():
    test = flow_table(80, seed=4)
    flow = create("flow", "cascade-routing", max_calls=1)
    curve = replay_flow(flow, train=flow_table(), test=test, weights=WEIGHTS, cheapest=0)
    routed = replay(
        test.expected_quality, test.expected_cost, quality=test.quality, cost=test.cost, weights=WEIGHTS, cheapest=0
    )
    np.testing.assert_array_equal(curve.choices, routed.choices)
    np.testing.assert_array_equal(curve.cost, routed.cost)


def test_verdicts_are_drawn_by_seed_and_apart_for_train_and_test():
    table = flow_table(400)
    drawn = with_verdicts(table, error=0.2, good=1.0, seed=0)
    np.testing.assert_array_equal(drawn.verdict, with_verdicts(table, error=0.2, good=1.0, seed=0).verdict)
    assert (drawn.verdict != with_verdicts(table, error=0.2, good=1.0, seed=1).verdict).any()
    assert with_verdicts(drawn, error=0.0, good=1.0, seed=5) is drawn
    flow = create("flow", "cascade", judge_error=0.2)
    first = replay_flow(flow, train=table, test=table, weights=WEIGHTS, cheapest=0, seed=3)
    again = replay_flow(flow, train=table, test=table, weights=WEIGHTS, cheapest=0, seed=3)
    np.testing.assert_array_equal(first.choices, again.choices)


def test_a_perfect_judge_is_worth_more_than_a_bad_one():
    train, test = flow_table(400), flow_table(400, seed=1)
    weights = np.array([0.5])
    utility = []
    for error in (0.0, 0.1, 0.5):
        flow = create("flow", "cascade", judge_error=error)
        curve = replay_flow(flow, train=train, test=test, weights=weights, cheapest=0)
        utility.append(curve.mean_quality[0] - 0.5 * curve.mean_cost[0])
    assert utility[0] > utility[1] > utility[2]


def test_missing_test_outcomes():
    table = flow_table(40)
    quality = table.quality.copy()
    quality[3, 1] = np.nan
    with pytest.raises(DataError, match="drop rows with NaN first"):
        replay_flow(
            create("flow", "cascade"),
            train=flow_table(),
            test=FlowTable(**{**vars(table), "quality": quality}),
            weights=WEIGHTS,
            cheapest=0,
        )
