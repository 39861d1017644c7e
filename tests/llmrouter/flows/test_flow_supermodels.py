"""E[max], the sets, and that pruning loses nothing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.flows._supermodels import additions, best_addition, normal_samples, sampled_qualities, tabulate


def test_samples_are_standard_normal():
    samples = normal_samples(5)
    np.testing.assert_allclose(samples.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(samples.std(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(samples, normal_samples(5))
    assert np.abs(np.corrcoef(samples) - np.eye(5)).max() < 0.2


def test_expected_maximum_of_two_normals():
    # E[max(X, Y)] of independent N(a, s), N(b, t) is a F(d) + b F(-d) + h f(d), h = sqrt(s^2 + t^2), d = (a - b) / h.
    estimate, deviation = np.array([[0.6, 0.5]]), np.array([[0.1, 0.2]])
    sampled = sampled_qualities(estimate, deviation, normal_samples(2, samples=1024))
    found = tabulate(sampled, np.ones((1, 2)), called=(), sets=[(0,), (1,), (0, 1)])
    h = math.hypot(0.1, 0.2)
    d = 0.1 / h
    below = 0.5 * (1 + math.erf(d / math.sqrt(2)))
    expected = 0.6 * below + 0.5 * (1 - below) + h * math.exp(-d * d / 2) / math.sqrt(2 * math.pi)
    assert found.quality[0, :2] == pytest.approx([0.6, 0.5])
    assert found.quality[0, 2] == pytest.approx(expected, abs=3e-3)


def test_additions():
    assert additions((), models=3, combinable=[0, 2], max_calls=2) == [(0,), (1,), (2,), (0, 2)]
    assert additions((2,), models=3, combinable=[0, 1, 2], max_calls=3) == [(), (0,), (1,), (0, 1)]
    assert additions((1, 2), models=3, combinable=[0, 1, 2], max_calls=2) == [()]
    assert additions((), models=2, combinable=[0, 1], max_calls=1) == [(0,), (1,)]


def test_stops_when_certain_and_calls_the_cheapest_of_the_best_set_first():
    samples = normal_samples(3)
    estimate, cost = np.array([[0.5, 0.5, 0.2]]), np.array([[0.02, 0.01, 0.001]])
    uncertain = sampled_qualities(estimate, np.array([[0.3, 0.3, 0.0]]), samples)
    sets = additions((), models=3, combinable=[0, 1, 2], max_calls=2)
    table = tabulate(uncertain, cost, called=(), sets=sets)
    assert table.decide(np.array([0.1, 1000.0])).ravel().tolist() == [1, 2]
    after = tabulate(
        sampled_qualities(np.array([[0.5, 0.9, 0.2]]), np.array([[0.01, 0.0, 0.0]]), samples),
        cost,
        called=(1,),
        sets=additions((1,), models=3, combinable=[0, 1, 2], max_calls=2),
    )
    assert after.decide(np.array([0.1])).ravel().tolist() == [-1]


def test_a_model_without_an_estimate_or_a_cost_is_not_taken():
    sampled = sampled_qualities(np.array([[np.nan, 0.9, 0.1]]), np.zeros((1, 3)), normal_samples(3))
    cost = np.array([[0.0, np.nan, 1.0]])
    sets = additions((), models=3, combinable=[0, 1, 2], max_calls=3)
    assert tabulate(sampled, cost, called=(), sets=sets).decide(np.zeros(1)).tolist() == [[2]]
    search = {"called": [], "open_models": [0, 1, 2], "combinable": [0, 1, 2], "weight": 0.0, "max_calls": 3}
    assert best_addition(sampled[0], cost[0], budget=math.inf, **search) == (2,)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.4), st.floats(0.001, 1)), min_size=1, max_size=5),
    st.floats(0, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.one_of(st.just(math.inf), st.floats(0, 2)),
)
def test_the_pruned_search_finds_the_best_set(models, weight, max_calls, already, budget):
    estimate, deviation, cost = (np.array(column) for column in zip(*models))
    m = len(models)
    called = list(range(min(already, m - 1)))
    sampled = sampled_qualities(estimate[None], deviation[None], normal_samples(5)[:m])[0]
    found = best_addition(
        sampled,
        cost,
        called=called,
        open_models=[j for j in range(m) if j not in called],
        combinable=list(range(m)),
        weight=weight,
        max_calls=max_calls,
        budget=budget,
    )

    def value(added):
        return sampled[[*called, *added]].max(axis=0).mean() - weight * cost[list(added)].sum()

    free = [j for j in range(m) if j not in called]
    room = max(max_calls - len(called), 0)
    possible = [
        added
        for size in range(0 if called else 1, room + 1)
        for added in itertools.combinations(free, size)
        if cost[list(added)].sum() <= budget
    ]
    if possible:
        assert cost[list(found)].sum() <= budget
        assert found or called
        assert value(found) == pytest.approx(max(value(added) for added in possible), abs=1e-9)
    else:
        assert found == ()
