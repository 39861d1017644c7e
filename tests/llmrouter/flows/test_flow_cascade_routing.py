"""Cascade routing: equal to routing where it must be, better where answers tell something."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.evaluation import choose
from llmrouter.exceptions import ConfigError, DataError, NotFittedError
from llmrouter.flows import Answer, CascadeRouting, FlowTable, drive

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from flow_kit import MODELS, WEIGHTS, candidates, estimates, fitted, flow_table, play, request


def judged(table):
    return FlowTable(**{**vars(table), "verdict": table.quality > 0.5})


@pytest.fixture(scope="module")
def one_call():
    return fitted("cascade-routing", max_calls=1)


def utility(trace, table, weight, point):
    rows = np.arange(len(table))
    cost = np.where(trace.called[point], table.cost, 0.0).sum(axis=1)
    return (table.quality[rows, trace.kept[point]] - weight * cost).mean()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_with_one_call_it_is_routing(one_call, seed, weights):
    weights = np.array(weights)
    test = flow_table(40, seed=seed)
    trace = one_call.simulate(test, weights=weights)
    np.testing.assert_array_equal(trace.kept, choose(test.expected_quality, test.expected_cost, weights))
    assert (trace.called.sum(axis=2) == 1).all()


def test_with_one_model_allowed_it_is_routing():
    flow = fitted("cascade-routing", max_models=1)
    test = flow_table(40, seed=9)
    trace = flow.simulate(test, weights=WEIGHTS)
    np.testing.assert_array_equal(trace.kept, choose(test.expected_quality, test.expected_cost, WEIGHTS))


def test_where_calls_reveal_nothing_it_is_routing():
    train, test = flow_table(200), flow_table(60, seed=1)
    train, test = (FlowTable(**{**vars(table), "cost": table.expected_cost}) for table in (train, test))
    trace = fitted("cascade-routing", table=train).simulate(test, weights=WEIGHTS)
    np.testing.assert_array_equal(trace.kept, choose(test.expected_quality, test.expected_cost, WEIGHTS))
    assert (trace.called.sum(axis=2) == 1).all()


def test_where_answers_tell_it_beats_routing_and_calls_more_than_once():
    train, test = flow_table(600), flow_table(1000, seed=1)
    weights = np.array([0.2, 0.5, 1.0])
    flow = CascadeRouting().fit(train, weights=weights)
    once = CascadeRouting(max_calls=1).fit(train, weights=weights).simulate(test, weights=weights)
    trace = flow.simulate(test, weights=weights)
    assert trace.mean_calls.max() > 1.1
    gain = [utility(trace, test, w, p) - utility(once, test, w, p) for p, w in enumerate(weights)]
    assert min(gain) > 0


def test_a_better_judge_is_worth_more():
    train, test = flow_table(400), flow_table(1000, seed=1)
    weights = np.array([0.5])
    found = []
    for error in (0.0, 0.2, 0.5):
        random = np.random.default_rng(0)
        tables = [
            FlowTable(**{**vars(t), "verdict": (t.quality > 0.5) != (random.random(t.quality.shape) < error)})
            for t in (train, test)
        ]
        flow = CascadeRouting(judge_error=error).fit(tables[0], weights=weights)
        found.append(utility(flow.simulate(tables[1], weights=weights), test, 0.5, 0))
    routing = CascadeRouting(max_calls=1).fit(train, weights=weights).simulate(test, weights=weights)
    assert found[0] > found[1] > found[2]
    assert found[2] == utility(routing, test, 0.5, 0)


@pytest.mark.parametrize("judge_error", [None, 0.1])
def test_generator_and_simulation_agree(judge_error):
    train, table = judged(flow_table(200)), judged(flow_table(40, seed=7))
    flow = fitted("cascade-routing", table=train, judge_error=judge_error)
    trace = flow.simulate(table, weights=WEIGHTS)
    for point, weight in enumerate(WEIGHTS.tolist()):
        for row in range(len(table)):
            expected = estimates(table.expected_quality[row], table.expected_cost[row])

            def call(step, row=row):
                column = table.models.index(step.model)
                score = None if judge_error is None else float(table.verdict[row, column])
                return Answer(step.model, cost_usd=float(table.cost[row, column]), score=score)

            final = drive(flow.start(request(weight), candidates(), expected), call)
            assert final.kept.model == table.models[trace.kept[point, row]]
            assert {a.model for a in final.answers} == {
                name for name, called in zip(table.models, trace.called[point, row]) if called
            }
    assert trace.mean_calls.max() > 1.1


def test_blocks_of_prompts_do_not_matter():
    flow, table = fitted("cascade-routing"), flow_table(600, seed=3)
    whole = flow.simulate(table, weights=WEIGHTS)
    some = np.arange(250, 300)
    part = flow.simulate(table.select(some), weights=WEIGHTS)
    np.testing.assert_array_equal(whole.kept[:, some], part.kept)
    np.testing.assert_array_equal(whole.called[:, some], part.called)


def test_a_score_from_outside_goes_before_the_learned_one():
    flow = fitted("cascade-routing")

    def scored(scores):
        return drive(
            flow.start(request(0.3), candidates(), estimates()),
            lambda step: Answer(step.model, cost_usd=step.expected_cost_usd, score=scores[step.model]),
        )

    assert len(scored(dict.fromkeys(MODELS, 1.0)).answers) == 1
    many = scored(dict.fromkeys(MODELS, 0.0))
    assert len(many.answers) == 3
    second = many.answers[1].model
    assert scored({**dict.fromkeys(MODELS, 0.0), second: 0.1}).kept.model == second


def test_an_oracle_judge_is_named_and_cannot_serve():
    flow = fitted("cascade-routing", judge_error=0.2)
    assert flow.sees_outcomes
    assert "oracle judge with error 0.2" in flow.name
    with pytest.raises(ConfigError, match="exists in replay only"):
        play(flow, request(), candidates(), estimates())
    with pytest.raises(DataError, match="needs verdicts"):
        flow.simulate(flow_table(10), weights=WEIGHTS)


def test_before_fit_and_on_other_columns():
    with pytest.raises(NotFittedError):
        CascadeRouting().start(request(), candidates(), estimates())
    with pytest.raises(DataError, match="fit it again"):
        fitted("cascade-routing").simulate(flow_table(30, models=("a", "b", "c", "d")), weights=WEIGHTS)
    arrays, values = fitted("cascade-routing").state()
    del arrays["samples"]
    with pytest.raises(DataError, match="lack samples"):
        CascadeRouting.from_state(arrays, values)
