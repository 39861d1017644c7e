"""Hull and metrics: hand-computed cases, degenerate ones, and an independent derivation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.evaluation import (
    Hull,
    aiq,
    aiq_code,
    cost_at_quality,
    cost_share_to_match,
    non_decreasing_hull,
    qnc,
    quality_at_cost,
)
from llmrouter.evaluation._metrics import undefined_reasons
from llmrouter.exceptions import DataError

EMPTY = Hull(np.empty(0), np.empty(0))


def hull(*points):
    costs, qualities = zip(*points, strict=True)
    return non_decreasing_hull(np.array(costs), np.array(qualities))


# ---- hull


def test_hull_drops_points_under_a_mixing_line_and_past_the_peak():
    found = hull((0, 0.2), (1, 0.3), (2, 0.8), (3, 0.7), (4, 0.9), (5, 0.5))
    assert found.cost.tolist() == [0, 2, 4]
    assert found.quality.tolist() == [0.2, 0.8, 0.9]


def test_hull_keeps_the_best_of_equal_costs_and_the_cheapest_of_equal_qualities():
    found = hull((1, 0.4), (1, 0.6), (2, 0.6), (3, 0.6))
    assert (found.cost.tolist(), found.quality.tolist()) == ([1], [0.6])


def test_hull_drops_collinear_points():
    assert hull((0, 0), (1, 0.25), (2, 0.5)).cost.tolist() == [0, 2]


def test_hull_leaves_out_nan_points_and_may_be_empty():
    found = non_decreasing_hull(np.array([1, np.nan, 3]), np.array([0.5, 0.6, np.nan]))
    assert (found.cost.tolist(), found.quality.tolist()) == ([1], [0.5])
    assert non_decreasing_hull(np.array([np.nan]), np.array([1.0])).cost.size == 0


@pytest.mark.parametrize(
    ("cost", "quality", "message"),
    [
        ([-1.0], [0.5], "costs must be finite"),
        ([np.inf], [0.5], "costs must be finite"),
        ([1.0], [np.inf], "qualities finite"),
        ([1.0, 2.0], [0.5], "one length"),
    ],
)
def test_hull_refuses_impossible_points(cost, quality, message):
    with pytest.raises(DataError, match=message):
        non_decreasing_hull(np.array(cost), np.array(quality))


# ---- reading the hull


def test_quality_at_cost_interpolates_flat_to_the_right_and_towards_nothing_to_the_left():
    found = quality_at_cost(hull((2, 0.4), (4, 0.8)), np.array([1.0, 2.0, 3.0, 4.0, 9.0]))
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert quality_at_cost(hull((0, 0.4), (4, 0.8)), 0.0) == pytest.approx(0.4)
    assert math.isnan(quality_at_cost(EMPTY, 1.0))


def test_cost_at_quality():
    found = hull((2, 0.4), (4, 0.8))
    assert cost_at_quality(found, 0.6) == pytest.approx(3)
    assert cost_at_quality(found, 0.1) == 2  # nothing cheaper exists
    assert cost_at_quality(found, 0.8) == 4
    assert cost_at_quality(found, 0.8 + 1e-15) == 4  # rounding is not "never"
    assert cost_at_quality(found, 0.81) == math.inf
    assert math.isnan(cost_at_quality(EMPTY, 0.5))
    assert math.isnan(cost_at_quality(found, math.nan))


# ---- AIQ


def test_aiq_is_the_mean_height_over_the_interval():
    found = hull((0, 0.2), (2, 0.8), (4, 0.9))
    # (0.2+0.8)/2*2 + (0.8+0.9)/2*2 = 2.7 over a length of 4
    assert aiq(found, (0, 4)) == pytest.approx(2.7 / 4)
    # cut inside: [1, 3] from 0.5 over 0.8 to 0.85
    assert aiq(found, (1, 3)) == pytest.approx((0.65 + 0.825) / 2)
    # beyond the right end it is flat
    assert aiq(found, (4, 10)) == pytest.approx(0.9)
    assert aiq(found, (0, 8)) == pytest.approx((2.7 + 4 * 0.9) / 8)


def test_aiq_left_of_the_curve_is_the_line_to_zero():
    # From (0, 0) to (2, 0.4): mean 0.2 over [0, 2], then flat 0.4.
    assert aiq(hull((2, 0.4)), (0, 4)) == pytest.approx(0.3)
    assert aiq(hull((2, 0.4)), (0, 1)) == pytest.approx(0.1)


def test_aiq_of_one_point():
    assert aiq(hull((1, 0.7)), (1, 3)) == pytest.approx(0.7)


@pytest.mark.parametrize("interval", [(1, 1), (2, 1), (math.nan, 1), (0, math.nan)])
def test_aiq_without_an_interval_is_nan(interval):
    assert math.isnan(aiq(hull((1, 0.7)), interval))
    assert math.isnan(aiq(EMPTY, (0, 1)))


def test_aiq_code_starts_at_the_own_cheapest_point_and_divides_by_the_largest_cost():
    # [1, 3] trapezoid 1.4, flat 0.8 to 5: 1.6; divided by 5, not by 4.
    assert aiq_code(hull((1, 0.6), (3, 0.8)), 5) == pytest.approx((1.4 + 1.6) / 5)
    assert aiq_code(hull((5, 0.6)), 5) == 0
    assert math.isnan(aiq_code(hull((0, 0.6)), 0))
    assert math.isnan(aiq_code(EMPTY, 1))


# ---- quality-neutral cost


def test_qnc_hand_computed():
    model_cost, model_quality = np.array([1.0, 10.0]), np.array([0.5, 0.9])
    assert qnc(hull((1, 0.5), (5, 0.9), (8, 0.95)), model_cost, model_quality) == pytest.approx(0.5)
    assert qnc(hull((1, 0.5), (5, 0.8)), model_cost, model_quality) == math.inf
    assert qnc(hull((20, 0.9)), model_cost, model_quality) == pytest.approx(2)  # may exceed 1


def test_qnc_compares_with_the_cheapest_of_equally_accurate_models():
    assert qnc(hull((2, 0.9)), np.array([4.0, 8.0]), np.array([0.9, 0.9])) == pytest.approx(0.5)


def test_qnc_degenerate():
    assert math.isnan(qnc(hull((0, 0.9)), np.array([0.0]), np.array([0.9])))  # the best model is free
    assert math.isnan(qnc(hull((0, 0.9)), np.array([np.nan]), np.array([np.nan])))
    assert math.isnan(qnc(EMPTY, np.array([1.0]), np.array([0.9])))
    # an unobserved model does not count
    assert qnc(hull((1, 0.9)), np.array([2.0, np.nan]), np.array([0.9, np.nan])) == pytest.approx(0.5)


def test_cost_share_to_match():
    found = hull((1, 0.5), (5, 0.9))
    assert cost_share_to_match(found, quality=0.7, cost=6) == pytest.approx(0.5)
    assert math.isnan(cost_share_to_match(found, quality=0.7, cost=0))
    assert math.isnan(cost_share_to_match(found, quality=0.7, cost=math.nan))


def test_undefined_values_have_reasons():
    fine = hull((1, 0.5), (5, 0.9))
    assert undefined_reasons(fine, (1, 5), best_cost=5, best_quality=0.9) == []
    assert "AIQ" in undefined_reasons(fine, (1, 1), best_cost=5, best_quality=0.9)[0]
    assert "costs nothing" in undefined_reasons(fine, (1, 5), best_cost=0, best_quality=0.9)[0]
    assert "never reached" in undefined_reasons(fine, (1, 5), best_cost=5, best_quality=0.95)[0]
    assert "no operating point" in undefined_reasons(EMPTY, (1, 5), best_cost=5, best_quality=0.95)[0]


# ---- independent derivation

POINTS = st.lists(
    st.tuples(st.integers(0, 40).map(lambda i: i / 8), st.integers(0, 20).map(lambda i: i / 20)),
    min_size=1,
    max_size=12,
)


def best_mixture(points, cost):
    """Best quality of any mixture of two points that costs at most `cost`; None if all cost more."""
    best = None
    for cost_a, quality_a in points:
        for cost_b, quality_b in points:
            if cost_a > cost:
                continue
            share = 1.0 if cost_b <= cost else (cost - cost_a) / (cost_b - cost_a)
            value = max(quality_a, quality_a + share * (quality_b - quality_a))
            best = value if best is None else max(best, value)
    return best


@given(POINTS)
def test_hull_is_the_best_mixture_everywhere(points):
    found = hull(*points)
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.quality) > 0).all()
    slopes = np.diff(found.quality) / np.diff(found.cost)
    assert (np.diff(slopes) < 1e-12).all()
    for cost in np.linspace(found.cost[0], 6, 25):
        assert quality_at_cost(found, cost) == pytest.approx(best_mixture(points, cost), abs=1e-12)


@given(POINTS, st.integers(0, 20), st.integers(1, 30))
def test_aiq_is_the_numeric_integral(points, start, length):
    found = hull(*points)
    low, high = start / 8, (start + length) / 8
    costs = np.linspace(low, high, 4001)
    assert aiq(found, (low, high)) == pytest.approx(np.mean(quality_at_cost(found, costs)), abs=2e-3)


@given(POINTS)
def test_aiq_code_is_the_integral_of_the_extended_mixtures(points):
    found = hull(*points)
    if found.cost[-1] == 0:
        return
    first = min(cost for cost, _ in points)
    costs = np.linspace(first, 6, 241)
    heights = [best_mixture(points, cost + 1e-12) for cost in costs]
    assert aiq_code(found, 6.0) == pytest.approx(np.trapezoid(heights, costs) / 6, abs=5e-3)


@given(POINTS, st.floats(0, 1))
def test_cost_at_quality_inverts_quality_at_cost(points, quality):
    found = hull(*points)
    cost = cost_at_quality(found, quality)
    if math.isinf(cost):
        assert found.quality[-1] < quality
    else:
        assert quality_at_cost(found, cost) >= quality - 1e-9
