"""What every registered flow must do. `check_flow` runs all of it on one flow, fitted on a small table."""

import math

import numpy as np
import pytest

from llmrouter.exceptions import BackendConnectError, BackendStatusError, NoEligibleModelError, RoutingError
from llmrouter.flows import Answer, Flow, FlowTable, LearnedFlow, drive
from llmrouter.registry import create
from llmrouter.types import Candidate, Estimates, ModelCard, Preference, Price, RoutingRequest

MODELS = ("small", "middle", "large", "other")
WEIGHTS = np.array([0.0, 0.5, 2.0, 10.0, 50.0])


def flow_table(n=160, *, seed=0, informative=True, models=MODELS):
    """Return outcomes of models of rising price and quality; where informative, good answers are the long ones."""
    random = np.random.default_rng(seed)
    m = len(models)
    ease = random.random((n, 1))
    chance = np.clip(ease * np.linspace(0.7, 1.2, m), 0.02, 0.98)
    quality = (random.random((n, m)) < chance).astype(float)
    expected_cost = np.tile(0.01 * 3.0 ** np.arange(m), (n, 1))
    length = random.normal(scale=0.3, size=(n, m)) + (0.8 * (quality - 0.5) if informative else 0.0)
    return FlowTable(
        models=models,
        quality=quality,
        cost=expected_cost * np.exp(length),
        expected_quality=np.clip(chance + random.normal(scale=0.1, size=(n, m)), 0.01, 0.99),
        expected_std=np.full((n, m), 0.1),
        expected_cost=expected_cost,
    )


def fitted(name, *, table=None, **parameters):
    return create("flow", name, **parameters).fit(flow_table() if table is None else table, weights=WEIGHTS)


def candidates(eligible=(True,) * 4, *, windows=(None,) * 4, models=MODELS):
    return [
        Candidate(ModelCard(name, Price(1, 1), context_window=window), flag, "" if flag else "switched off")
        for name, flag, window in zip(models, eligible, windows)
    ]


def estimates(quality=(0.4, 0.5, 0.6, 0.65), cost=(0.01, 0.03, 0.09, 0.27), models=MODELS):
    m = len(models)
    return Estimates(models, np.array(quality, float), np.full(m, 0.1), np.array(cost, float), np.full(m, np.nan))


def request(cost_weight=0.5, **preference):
    return RoutingRequest("question", preference=Preference(cost_weight=cost_weight, **preference))


def play(flow, asked, pool, expected, *, failing=(), random=None, as_answers=False):
    """Drive a run with random outcomes; return (final, steps taken)."""
    random = random or np.random.default_rng(0)
    steps = []
    price = dict(zip(expected.models, expected.cost_usd.tolist()))

    def call(step):
        steps.append(step)
        if step.model in failing:
            error = BackendConnectError("down", model=step.model)
            if as_answers:
                return Answer(step.model, error=error)
            raise error
        return Answer(step.model, cost_usd=price[step.model] * float(np.exp(random.normal(scale=0.5))))

    return drive(flow.start(asked, pool, expected), call), steps


def check_flow(name):
    flow = fitted(name)
    assert isinstance(flow, Flow)
    assert isinstance(flow, LearnedFlow)
    assert not flow.sees_outcomes
    assert "oracle" not in flow.name
    check_runs(flow)
    check_budget(flow)
    check_failures(flow)
    check_overflow(flow)
    check_hang_up(flow)
    check_refusals(flow)
    check_state(flow)
    check_other_pools(flow)


def check_runs(flow):
    """Only eligible models, each at most once; what is kept was obtained; it ends."""
    random = np.random.default_rng(1)
    for trial in range(40):
        eligible = tuple((random.random(4) < 0.7).tolist())
        if not any(eligible):
            continue
        expected = estimates(random.random(4), 0.01 * 10 ** random.uniform(0, 2, size=4))
        final, steps = play(flow, request(float(random.choice(WEIGHTS))), candidates(eligible), expected, random=random)
        names = [step.model for step in steps]
        assert len(set(names)) == len(names), trial
        assert all(eligible[MODELS.index(name)] for name in names), trial
        assert [answer.model for answer in final.answers] == names
        assert final.kept in final.answers
        assert all(step.expected_cost_usd == expected.cost_usd[MODELS.index(step.model)] for step in steps)


def check_budget(flow):
    """The calls together stay within the request's limit, in what was expected; too small a limit is refused."""
    random = np.random.default_rng(2)
    for _ in range(40):
        expected = estimates(random.random(4), 0.01 * 10 ** random.uniform(0, 1, size=4))
        limit = float(random.uniform(expected.cost_usd.min(), expected.cost_usd.sum()))
        asked = request(0.0, max_cost_usd=limit)
        _, steps = play(flow, asked, candidates(), expected, random=random)
        assert sum(step.expected_cost_usd for step in steps) <= limit * (1 + 1e-12)
    with pytest.raises(NoEligibleModelError, match="exceeds the limit of 0.001 USD"):
        flow.start(request(max_cost_usd=0.001), candidates(), estimates())


def check_failures(flow):
    """A failed call, thrown or sent, moves on; if all fail the most telling failure comes out."""
    for as_answers in (False, True):
        for working in MODELS:
            failing = [name for name in MODELS if name != working]
            final, _ = play(flow, request(), candidates(), estimates(), failing=failing, as_answers=as_answers)
            assert final.kept.model == working
            assert {failed.model for failed in final.failures} <= set(failing)
        with pytest.raises(BackendConnectError, match="down"):
            play(flow, request(), candidates(), estimates(), failing=MODELS, as_answers=as_answers)


def check_overflow(flow):
    """A prompt too long for one model goes to those with larger windows only; a fault of the request ends the run."""
    run = flow.start(request(), candidates(windows=(100, 100, 50, 1000)), estimates())
    first = next(run).model
    too_long = BackendStatusError("too long", model=first, status=400, body=b"maximum context length")
    window = dict(zip(MODELS, (100, 100, 50, 1000)))
    asked = []
    error = too_long
    while True:
        try:
            asked.append(run.throw(error).model)
        except StopIteration:
            break
        error = BackendConnectError("down", model=asked[-1])
    assert all(window[name] > window[first] for name in asked)
    run = flow.start(request(), candidates(), estimates())
    bad = BackendStatusError("bad request", model=next(run).model, status=400, body=b"unknown field")
    with pytest.raises(StopIteration) as stopped:
        run.throw(bad)
    assert [failed.error for failed in stopped.value.value.failures] == [bad]


def check_hang_up(flow):
    """A run can be closed before, between and after calls; errors that are no failures come out unchanged."""
    for steps in range(3):
        run = flow.start(request(0.0), candidates(), estimates())
        try:
            if steps:
                step = next(run)
                for _ in range(steps - 1):
                    step = run.send(Answer(step.model, cost_usd=step.expected_cost_usd))
        except StopIteration:
            pass
        run.close()
        with pytest.raises(StopIteration):
            next(run)
    run = flow.start(request(), candidates(), estimates())
    next(run)
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt())


def check_refusals(flow):
    with pytest.raises(NoEligibleModelError, match="small: switched off"):
        flow.start(request(), candidates((False,) * 4), estimates())
    run = flow.start(request(), candidates(), estimates())
    next(run)
    with pytest.raises(RoutingError, match="send back its own"):
        run.send(Answer("somebody else"))


def check_state(flow):
    arrays, values = flow.state()
    again = type(flow).from_state(arrays, values)
    table = flow_table(60, seed=5)
    before, after = flow.simulate(table, weights=WEIGHTS), again.simulate(table, weights=WEIGHTS)
    np.testing.assert_array_equal(before.kept, after.kept)
    np.testing.assert_array_equal(before.called, after.called)
    assert again.name == flow.name


def check_other_pools(flow):
    """The pool may lack models the flow knows and have others; what nobody can estimate is the last resort."""
    models = ("new", "large")
    expected = estimates((0.5, 0.6), (0.01, 0.02), models)
    final, _ = play(flow, request(), candidates((True, True), windows=(None, None), models=models), expected)
    assert final.kept.model in models
    expected = estimates((math.nan, 0.1), (0.01, 0.02), models)
    final, _ = play(flow, request(0.0), candidates((True, True), windows=(None, None), models=models), expected)
    assert final.kept.model == "large"
    expected = estimates((math.nan, math.nan), (0.01, math.nan), models)
    final, _ = play(flow, request(), candidates((True, True), windows=(None, None), models=models), expected)
    assert final.kept.model in models
