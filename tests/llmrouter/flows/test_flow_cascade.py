"""Cascades: sequences and thresholds by hand, the oracle judge, and generator against simulation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError, NotFittedError
from llmrouter.flows import Answer, Cascade, FlowTable, drive
from llmrouter.flows._sequences import learn_plans
from llmrouter.registry import create

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from flow_kit import WEIGHTS, candidates, estimates, fitted, flow_table, play, request


def plans_for(quality, cost, scores, *, weights, max_calls=2):
    """Return plans where the score of a model's answer is a given column, whatever was called before."""
    return learn_plans(
        np.asarray(quality, float),
        np.asarray(cost, float),
        scorer=lambda calls: np.asarray(scores, float)[:, calls[-1]],
        columns=range(np.asarray(quality).shape[1]),
        weights=np.asarray(weights, float),
        max_calls=max_calls,
    )


def test_a_telling_score_makes_the_cheap_model_go_first():
    # The cheap model is right on half of the prompts, and its score says on which; the dear one is always right.
    right = np.arange(40) % 2
    quality, cost = np.stack([right, np.ones(40)], 1), np.tile([1.0, 10.0], (40, 1))
    plans = plans_for(quality, cost, np.stack([right, np.ones(40)], 1), weights=[0.001, 0.01, 1.0])
    # Alone: cheap 0.5 at 1, dear 1 at 10. Cascade: 1 at 1 + 0.5 * 10 = 6.
    assert plans.sequences.tolist() == [[0, 1], [0, 1], [0, -1]]
    assert plans.thresholds[0, 0] == 1
    assert plans.quality.tolist() == [1, 1, 0.5]
    assert plans.cost.tolist() == [6, 6, 1]
    assert plans.sequence(2) == [(0, -np.inf)]


def test_a_score_that_says_nothing_makes_no_cascade():
    right = np.arange(40) % 2
    quality, cost = np.stack([right, np.ones(40)], 1), np.tile([1.0, 10.0], (40, 1))
    score = np.repeat([0.2, 0.8], 20)
    plans = plans_for(quality, cost, np.stack([score, score], 1), weights=[0.001, 1.0])
    assert plans.sequences.tolist() == [[1, -1], [0, -1]]


def test_three_calls_where_each_knows_its_own_third():
    kind = np.arange(60) % 3
    quality = np.stack([kind == 0, kind == 1, np.ones(60)], 1).astype(float)
    cost = np.tile([1.0, 2.0, 100.0], (60, 1))
    plans = plans_for(quality, cost, quality, weights=[0.001], max_calls=3)
    assert plans.sequences.tolist() == [[0, 1, 2]]
    assert plans.quality[0] == 1
    assert plans.cost[0] == pytest.approx(1 + 2 * 2 / 3 + 100 / 3)


def test_plans_are_found_by_weight_and_by_mean_cost():
    right = np.arange(40) % 2
    quality, cost = np.stack([right, np.ones(40)], 1), np.tile([1.0, 10.0], (40, 1))
    plans = plans_for(quality, cost, np.stack([right, np.ones(40)], 1), weights=[0.0, 0.01, 1.0])
    assert [plans.nearest(weight) for weight in (0.0, 1e-9, 0.02, 0.2, 50.0)] == [0, 1, 1, 2, 2]
    assert plans.cost[plans.within(7.0)] == 6
    assert plans.cost[plans.within(5.0)] == 1
    assert plans.cost[plans.within(0.5)] == 1


def test_too_few_complete_prompts():
    quality = np.full((40, 2), np.nan)
    quality[:20, 0] = quality[20:, 1] = 1.0
    with pytest.raises(DataError, match="at least 20 training prompts .* 0 have them"):
        plans_for(quality, np.ones((40, 2)), quality, weights=[0.1])


@pytest.mark.parametrize("judge_error", [None, 0.1])
def test_generator_and_simulation_agree(judge_error):
    table = flow_table(50, seed=7)
    verdict = None if judge_error is None else table.quality > 0.5
    train = flow_table(200)
    if judge_error is not None:
        train = FlowTable(**{**vars(train), "verdict": train.quality > 0.5})
    flow = fitted("cascade", table=train, judge_error=judge_error)
    table = FlowTable(**{**vars(table), "verdict": verdict})
    trace = flow.simulate(table, weights=WEIGHTS)
    pool = candidates()
    for point, weight in enumerate(WEIGHTS.tolist()):
        for row in range(len(table)):
            expected = estimates(table.expected_quality[row], table.expected_cost[row])

            def call(step, row=row):
                column = table.models.index(step.model)
                score = None if verdict is None else float(verdict[row, column])
                return Answer(step.model, cost_usd=float(table.cost[row, column]), score=score)

            final = drive(flow.start(request(weight), pool, expected), call)
            assert final.kept.model == table.models[trace.kept[point, row]]
            assert {a.model for a in final.answers} == {
                name for name, called in zip(table.models, trace.called[point, row]) if called
            }
    assert trace.mean_calls.max() > 1.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 1.0, 5.0]))
def test_with_a_perfect_judge_the_cascade_is_never_below_its_last_model(seed, weight):
    random = np.random.default_rng(seed)
    train, test = flow_table(80, seed=seed), flow_table(60, seed=seed + 1)
    train = FlowTable(**{**vars(train), "verdict": train.quality >= 1})
    test = FlowTable(**{**vars(test), "verdict": test.quality >= 1})
    weights = np.array([weight, float(random.uniform(0, 10))])
    flow = Cascade(judge_error=0.0).fit(train, weights=weights)
    trace = flow.simulate(test, weights=weights)
    rows = np.arange(len(test))
    for point, value in enumerate(weights.tolist()):
        last = flow.plans_.sequence(flow.plans_.nearest(value))[-1][0]
        assert (test.quality[rows, trace.kept[point]] >= test.quality[:, last]).all()


def test_an_oracle_judge_is_named_and_cannot_serve():
    train = flow_table()
    flow = create("flow", "cascade", judge_error=0.1)
    assert flow.sees_outcomes
    assert flow.name == "cascade(0.3, oracle judge with error 0.1)"
    with pytest.raises(DataError, match="needs verdicts"):
        flow.fit(train, weights=WEIGHTS)
    flow.fit(FlowTable(**{**vars(train), "verdict": train.quality > 0.5}), weights=WEIGHTS)
    with pytest.raises(ConfigError, match="exists in replay only"):
        play(flow, request(), candidates(), estimates())


def test_a_score_from_outside_goes_before_the_learned_one():
    flow = fitted("cascade")
    sequence = flow.plans_.sequence(flow.plans_.nearest(0.5))
    assert len(sequence) > 1

    def scored(score):
        def call(step):
            return Answer(step.model, cost_usd=step.expected_cost_usd, score=score)

        return drive(flow.start(request(0.5), candidates(), estimates()), call)

    assert len(scored(1.0).answers) == 1
    assert len(scored(0.0).answers) == len(sequence)


def test_features_of_the_answer():
    train = flow_table()
    plain = FlowTable(**{**vars(train), "cost": train.expected_cost})
    told = FlowTable(**{**vars(plain), "extra": train.quality[:, :, None]})
    hook = {"good": 1.0, "bad": 0.0}
    flow = Cascade(features=lambda answer: [hook[answer.text]]).fit(told, weights=WEIGHTS)
    assert len(flow.plans_.sequence(flow.plans_.nearest(0.5))) > 1

    def run(text):
        return drive(
            flow.start(request(0.5), candidates(), estimates()),
            lambda step: Answer(step.model, cost_usd=step.expected_cost_usd, text=text),
        )

    assert len(run("good").answers) < len(run("bad").answers)
    silent = Cascade.from_state(*flow.state())
    with pytest.raises(ConfigError, match="pass the `features` it was trained with"):
        play(silent, request(0.5), candidates(), estimates())


def test_a_mean_cost_chooses_the_plan_and_the_request_may_overrule_it():
    flow = fitted("cascade", mean_cost_usd=0.02)
    cheap = flow.plans_.sequence(flow.plans_.within(0.02))
    asked = request(None)
    _, steps = play(flow, asked, candidates(), estimates())
    assert steps[0].model == flow.answers_.models[cheap[0][0]]
    _, steps = play(flow, request(0.0), candidates(), estimates())
    assert steps[0].model == flow.answers_.models[flow.plans_.sequence(flow.plans_.nearest(0.0))[0][0]]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cost_weight": -1}, "cost_weight"),
        ({"reference_cost_usd": 0}, "reference_cost_usd"),
        ({"max_calls": 4}, "max_calls of a cascade"),
        ({"max_calls": 0}, "max_calls"),
        ({"max_models": 1.5}, "max_models"),
        ({"judge_error": 0.6}, "judge_error"),
        ({"mean_cost_usd": 0}, "mean_cost_usd"),
    ],
)
def test_bad_settings(parameters, message):
    with pytest.raises(ConfigError, match=message):
        Cascade(**parameters)


def test_before_fit_and_on_other_columns():
    with pytest.raises(NotFittedError):
        Cascade().start(request(), candidates(), estimates())
    with pytest.raises(NotFittedError):
        Cascade().state()
    other = flow_table(30, models=("a", "b", "c", "d"))
    with pytest.raises(DataError, match="fit it again"):
        fitted("cascade").simulate(other, weights=WEIGHTS)
    arrays, values = fitted("cascade").state()
    del arrays["plan_cost"]
    with pytest.raises(DataError, match="lack plan_cost"):
        Cascade.from_state(arrays, values)
