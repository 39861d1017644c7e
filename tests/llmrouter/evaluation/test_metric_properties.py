"""Properties of curves and metrics, and their re-derivation by linear programming."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from llmrouter.evaluation import (
    Oracle,
    ZeroRouter,
    aiq,
    aiq_code,
    choose,
    cost_at_quality,
    cost_save,
    deferral_area,
    non_decreasing_hull,
    pareto_distances,
    qnc,
    quality_at_cost,
    replay,
    sweep_weights,
)
from llmrouter.evaluation._replay import cheapest_model

SEEDS = st.integers(0, 100_000)
POINTS = st.lists(
    st.tuples(st.integers(0, 40).map(lambda i: i / 8), st.integers(0, 20).map(lambda i: i / 20)),
    min_size=1,
    max_size=8,
)


def outcomes(seed, *, coarse):
    """Return (quality, cost), each (n, m); coarse values make ties common."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 12)), int(random.integers(1, 6)))
    if coarse:
        return random.integers(0, 3, shape) / 2, random.integers(0, 4, shape) / 4
    return random.random(shape), random.random(shape) * random.random(shape[1])


# ---- linear programming


def best_mixture(points, cost):
    """Highest quality of a mixture that costs at most `cost`."""
    costs, qualities = np.array(points).T
    solved = linprog(-qualities, A_ub=[costs], b_ub=[cost], A_eq=[np.ones(len(points))], b_eq=[1])
    assert solved.success
    return -solved.fun


def cheapest_mixture(points, quality):
    """Lowest cost of a mixture of at least `quality`; None if there is none."""
    costs, qualities = np.array(points).T
    solved = linprog(costs, A_ub=[-qualities], b_ub=[-quality], A_eq=[np.ones(len(points))], b_eq=[1])
    return solved.fun if solved.success else None


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_hull_is_the_best_mixture_of_all_points(points):
    hull = non_decreasing_hull(*np.array(points).T)
    for cost in np.linspace(min(cost for cost, _ in points), 6, 9):
        assert quality_at_cost(hull, cost) == pytest.approx(best_mixture(points, cost), abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(POINTS, st.floats(0.1, 5))
def test_aiq_is_the_integral_of_the_best_mixtures(points, length):
    hull = non_decreasing_hull(*np.array(points).T)
    low = min(cost for cost, _ in points)
    high = low + length
    # Between neighbouring costs of points the best mixture is linear, so the trapezoid rule is exact.
    grid = sorted({low, high, *(cost for cost, _ in points if low < cost < high)})
    heights = [best_mixture(points, cost) for cost in grid]
    assert aiq(hull, (low, high)) == pytest.approx(np.trapezoid(heights, grid) / length, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(POINTS, POINTS)
def test_qnc_is_the_cheapest_mixture_as_good_as_the_best_model(points, models):
    model_cost, model_quality = np.array(models).T + np.array([[0.5], [0.0]])
    hull = non_decreasing_hull(*np.array(points).T)
    target = model_quality.max()
    own = min(cost for cost, quality in zip(model_cost, model_quality, strict=True) if quality == target)
    expected = cheapest_mixture(points, target - 1e-12)
    found = qnc(hull, model_cost, model_quality)
    if expected is None:
        assert found == np.inf
    else:
        assert found == pytest.approx(expected / own, abs=1e-7)


# ---- monotone in the cost weight


@given(SEEDS, st.booleans())
def test_the_expected_cost_of_the_choice_never_rises_with_the_cost_weight(seed, coarse):
    quality, cost = outcomes(seed, coarse=coarse)
    weights = np.concatenate([[0.0], np.logspace(-3, 3, 40)])
    chosen = choose(quality, cost, weights)
    paid = cost[np.arange(len(cost)), chosen]
    assert (np.diff(paid, axis=0) <= 1e-9).all()


@given(SEEDS, st.booleans())
def test_cost_and_quality_never_rise_with_the_cost_weight_where_the_estimates_are_true(seed, coarse):
    quality, cost = outcomes(seed, coarse=coarse)
    weights, cheapest = sweep_weights(cost), cheapest_model(cost, quality)
    curve = replay(quality, cost, quality=quality, cost=cost, weights=weights, cheapest=cheapest)
    swept = slice(0, len(weights))
    assert (np.diff(curve.mean_cost[swept]) <= 1e-9).all()
    assert (np.diff(curve.mean_quality[swept]) <= 1e-9).all()
    # On the hull the dearer vertex belongs to a weight at most as high; the added point "all to the cheapest model" has
    # none, and may be a vertex where prompt by prompt another model is cheaper.
    found = [np.flatnonzero(np.isclose(curve.mean_cost[swept], c)) for c in curve.hull.cost[1:]]
    for matches, vertex in zip(found, curve.hull.cost[1:]):
        assert matches.size or vertex == pytest.approx(curve.mean_cost[-1])
    on_hull = [int(matches[0]) for matches in found if matches.size]
    assert on_hull == sorted(on_hull, reverse=True)


# ---- order and repetition


@given(SEEDS)
def test_metrics_depend_neither_on_the_order_of_the_prompts_nor_on_repeated_points(seed):
    quality, cost = outcomes(seed, coarse=False)
    random = np.random.default_rng(seed)
    estimate = random.random(quality.shape)
    weights, cheapest = sweep_weights(cost), cheapest_model(cost, quality)

    def metrics(order, repeat):
        q, c = quality[order], cost[order]
        curve = replay(estimate[order], c, quality=q, cost=c, weights=np.repeat(weights, repeat), cheapest=cheapest)
        hull, means = curve.hull, (c.mean(axis=0), q.mean(axis=0))
        dearest = float(means[0].max())
        points = (curve.mean_cost, curve.mean_quality)
        return [
            aiq(hull, (float(means[0].min()), dearest)),
            aiq_code(hull, dearest),
            qnc(hull, *means),
            cost_at_quality(hull, float(means[1].mean())),
            deferral_area(*points, dearest_cost=dearest),
            cost_save(*points, reference_cost=dearest, reference_quality=float(means[1].min()) - 1e-6),
            pareto_distances({"a": points, "b": means})["a"],
        ]

    first = metrics(np.arange(len(quality)), 1)
    assert metrics(random.permutation(len(quality)), 1) == pytest.approx(first, nan_ok=True)
    assert metrics(np.arange(len(quality)), 3) == pytest.approx(first, nan_ok=True)


# ---- bounds


def every_weight(quality, cost):
    """Weights between all those at which the true best model of some prompt changes: no operating point is missed."""
    gain = quality[:, :, None] - quality[:, None, :]
    price = cost[:, :, None] - cost[:, None, :]
    turns = np.unique(gain[(gain > 0) & (price > 0)] / price[(gain > 0) & (price > 0)])
    ends = np.concatenate([[0.0], turns, [turns.max(initial=1.0) * 2]])
    return np.concatenate([[0.0], (ends[1:] + ends[:-1]) / 2, ends[-1:]])


@given(SEEDS, st.booleans())
def test_aiq_lies_between_the_zero_router_and_the_oracle_and_within_the_qualities(seed, coarse):
    quality, cost = outcomes(seed, coarse=coarse)
    weights, cheapest = every_weight(quality, cost), cheapest_model(cost, quality)
    zero = ZeroRouter().curve(quality, cost, weights=weights, cheapest=cheapest)
    oracle = Oracle().curve(quality, cost, weights=weights, cheapest=cheapest)
    interval = (float(zero.hull.cost[0]), float(zero.hull.cost[-1]))
    low, high = aiq(zero.hull, interval), aiq(oracle.hull, interval)
    if np.isnan(low):
        assert not interval[1] > interval[0]
        return
    assert low <= high + 1e-9
    for curve, value in ((zero, low), (oracle, high)):
        assert curve.mean_quality.min() - 1e-9 <= value <= curve.mean_quality.max() + 1e-9
    assert oracle.mean_quality[0] == pytest.approx(quality.max(axis=1).mean())
