"""RouteLLM's, UniRoute's, RouterArena's and LLMRouterBench's figures: hand-computed, re-derived, degenerate."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.evaluation import (
    StrongCalls,
    apgr,
    arena_score,
    average_accuracy,
    call_performance_threshold,
    cost_save,
    deferral_area,
    gap_to_oracle,
    independent_oracle,
    optimality,
    pareto_distances,
    pareto_frontier,
    performance_gap_recovered,
    regret,
    relative_gain,
    strong_calls,
)
from llmrouter.exceptions import DataError

EIGHTHS = st.integers(0, 8).map(lambda i: i / 8)

# ---- RouteLLM


def test_performance_gap_recovered():
    assert performance_gap_recovered(np.array([0.4, 0.6, 0.9]), weak=0.4, strong=0.8) == pytest.approx([0, 0.5, 1.25])
    assert np.isnan(performance_gap_recovered(np.array([0.4]), weak=0.5, strong=0.5)).all()


def test_strong_calls_at_every_threshold():
    # Sent in the order of the scores: the second prompt gains 1, the first loses 1, the third changes nothing.
    curve = strong_calls(np.array([0.5, 0.9, 0.1]), np.array([1.0, 0.0, 1.0]), strong_quality=np.array([0.0, 1.0, 1.0]))
    assert curve.share == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert curve.quality == pytest.approx([2 / 3, 1, 2 / 3, 2 / 3])


def test_equal_scores_are_never_told_apart():
    curve = strong_calls(np.array([0.5, 0.5, 0.1]), np.zeros(3), strong_quality=np.array([1.0, 0.0, 1.0]))
    assert curve.share == pytest.approx([0, 2 / 3, 1])
    assert curve.quality == pytest.approx([0, 1 / 3, 2 / 3])


def test_apgr_is_the_mean_of_the_gap_recovered():
    curve = StrongCalls(np.array([0, 0.25, 0.5, 1.0]), np.array([0.4, 0.6, 0.8, 0.8]))
    # PGR 0, .5, 1, 1: trapezoids .0625 + .1875 + .5
    assert apgr(curve, weak=0.4, strong=0.8) == pytest.approx(0.75)


def test_call_performance_threshold_interpolates_the_first_crossing():
    curve = StrongCalls(np.array([0, 0.2, 0.4, 0.6, 1.0]), np.array([0.0, 0.6, 0.4, 1.2, 1.0]))
    find = lambda level: call_performance_threshold(curve, level, weak=0, strong=1)  # noqa: E731
    assert find(0.3) == pytest.approx(0.1)
    assert find(0.5) == pytest.approx(0.2 * 0.5 / 0.6)  # not the later crossing between 0.4 and 0.6
    assert find(0.8) == pytest.approx(0.5)
    assert find(0) == 0
    assert find(1.3) == math.inf


def test_a_router_without_a_clue_recovers_half():
    quality = np.random.default_rng(0).random((2, 40))
    weak, strong = quality[0], quality[0] + 0.1
    for quantiles in (None, 10):
        curve = strong_calls(np.zeros(40), weak, strong_quality=strong, quantiles=quantiles)
        assert apgr(curve, weak=weak.mean(), strong=strong.mean()) == pytest.approx(0.5)
        at = call_performance_threshold(curve, 0.8, weak=weak.mean(), strong=strong.mean())
        assert at == pytest.approx(0.8)


def test_apgr_without_a_gap_or_a_curve_is_nan():
    curve = StrongCalls(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    assert math.isnan(apgr(curve, weak=0.5, strong=0.5))
    assert math.isnan(apgr(curve, weak=0.6, strong=0.5))
    unknown = strong_calls(np.array([np.nan, 1.0]), np.zeros(2), strong_quality=np.ones(2))
    assert unknown.share.size == 0
    assert math.isnan(apgr(unknown, weak=0.0, strong=1.0))
    assert math.isnan(call_performance_threshold(unknown, 0.5, weak=0.0, strong=1.0))
    with pytest.raises(DataError, match="one length"):
        strong_calls(np.zeros(2), np.zeros(3), strong_quality=np.zeros(3))


@given(st.lists(st.tuples(st.integers(0, 5), EIGHTHS, EIGHTHS), min_size=1, max_size=25))
def test_strong_calls_by_definition(rows):
    score, weak, strong = np.array(rows, dtype=float).T
    curve = strong_calls(score, weak, strong_quality=strong)
    expected = []
    for threshold in [*np.unique(score), np.inf]:
        sent = score >= threshold
        expected.append((sent.mean(), np.where(sent, strong, weak).mean()))
    expected.sort()
    assert curve.share == pytest.approx([share for share, _ in expected])
    assert curve.quality == pytest.approx([quality for _, quality in expected])


@given(st.lists(st.tuples(st.integers(0, 30), EIGHTHS, EIGHTHS), min_size=2, max_size=40))
def test_apgr_of_quantile_thresholds_is_that_of_routellms_procedure(rows):
    """Thresholds at the deciles, duplicates dropped, the last one strict; constant curves on the same grid."""
    score, weak, strong = np.array(rows, dtype=float).T
    edges = np.unique(np.quantile(score, np.linspace(0, 1, 11)))
    if len(edges) < 2 or not strong.mean() > weak.mean() + 1e-9:
        return
    points = []
    for index, edge in enumerate(edges):
        sent = score > edge if index == len(edges) - 1 else score >= edge
        points.append((sent.mean(), np.where(sent, strong, weak).mean()))
    points.sort()
    share, quality = np.array(points).T
    constant = [np.trapezoid(np.full(len(share), level), share) for level in (weak.mean(), strong.mean())]
    expected = (np.trapezoid(quality, share) - constant[0]) / (constant[1] - constant[0])
    curve = strong_calls(score, weak, strong_quality=strong, quantiles=10)
    assert apgr(curve, weak=weak.mean(), strong=strong.mean()) == pytest.approx(expected)


# ---- UniRoute


def test_deferral_area_hand_computed():
    cost, quality = np.array([2.0, 4.0]), np.array([0.4, 0.8])
    # From (0, 0) over (.5, .4) to (1, .8): a triangle.
    assert deferral_area(cost, quality, dearest_cost=4) == pytest.approx(0.4)
    assert deferral_area(cost, quality, dearest_cost=4, up_to=0.5) == pytest.approx(0.1)
    # Flat beyond the last point: (0,0), (.25,.4), (.5,.8), (1,.8).
    assert deferral_area(cost, quality, dearest_cost=8) == pytest.approx(0.05 + 0.15 + 0.4)


def test_deferral_curve_is_no_hull():
    cost, quality = np.array([0.0, 1.0, 2.0]), np.array([0.6, 0.2, 0.6])
    assert deferral_area(cost, quality, dearest_cost=2) == pytest.approx(0.4)


def test_deferral_area_keeps_the_best_of_equal_costs_and_cuts_what_is_dearer_than_the_dearest_model():
    cost, quality = np.array([0.0, 0.0, 2.0]), np.array([0.1, 0.5, 1.0])
    assert deferral_area(cost, quality, dearest_cost=1) == pytest.approx((0.5 + 0.75) / 2)


def test_deferral_area_degenerate():
    assert math.isnan(deferral_area(np.array([0.0]), np.array([0.5]), dearest_cost=0))
    assert math.isnan(deferral_area(np.array([np.nan]), np.array([0.5]), dearest_cost=1))
    assert deferral_area(np.array([1.0]), np.array([0.5]), dearest_cost=1) == pytest.approx(0.25)
    assert deferral_area(np.array([0.0]), np.array([0.5]), dearest_cost=1) == pytest.approx(0.5)
    with pytest.raises(DataError, match="one length"):
        deferral_area(np.zeros(2), np.zeros(3), dearest_cost=1)


@given(st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=1, max_size=8), st.sampled_from([0.5, 1.0]))
def test_deferral_area_is_the_numeric_integral(points, up_to):
    best = {}
    for cost, quality in points:
        best[cost] = max(best.get(cost, 0), quality)
    best.setdefault(0.0, 0.0)
    known = sorted(best)
    middles = (np.arange(8000) + 0.5) / 8000 * up_to
    heights = np.interp(middles, known, [best[cost] for cost in known])
    cost, quality = np.array(points).T
    assert deferral_area(cost, quality, dearest_cost=1, up_to=up_to) == pytest.approx(heights.mean() * up_to, abs=1e-3)


# ---- RouterArena


@pytest.mark.parametrize(
    ("accuracy", "cost", "board", "printed"),
    [
        (0.7969, 0.27, 77.62, 0.01),  # Paix2
        (0.7597, 0.11, 75.38, 0.01),  # vLLM-SR
        (0.6721, 2.06, 63.87, 0.01),  # CARROT
        (0.5869, 4.27, 55.48, 0.01),  # RouterBench kNN
        (0.6162, 4.83, 57.56, 0.01),  # RouterBench MLP
        (0.7123, 0.06, 71.60, 0.01),  # R2-Router
        (0.7851, 0.49, 75.75, 0.01),  # one model everywhere
        (0.80, 0.10, 79.07, 0.01),
        (0.80, 1.00, 75.74, 0.01),
    ],
)
def test_arena_score_reproduces_the_board(accuracy, cost, board, printed):
    # The board prints the cost with two digits, which moves the score by a few hundredths at low costs.
    ends = arena_score(accuracy, np.array([cost + 0.005, cost, cost - 0.005])) * 100
    assert ends[0] - printed <= board <= ends[2] + printed
    assert ends[1] == pytest.approx(board, abs=0.08)


def test_arena_score_at_the_ends_of_the_cost_scale():
    assert arena_score(0.8, 200.0) == 0
    assert arena_score(0.8, 1000.0) == 0  # cut, not negative
    best = 1.1 * 0.8 / (0.08 + 1)
    assert arena_score(0.8, 0.0044) == pytest.approx(best)
    assert arena_score(0.8, 0.0) == pytest.approx(best)
    assert arena_score(0.0, 200.0) == 0
    assert np.isnan(arena_score(np.array([0.8, np.nan]), np.array([np.nan, 1.0]))).all()


def test_arena_score_is_the_weighted_harmonic_mean():
    cheapness = (math.log2(200) - math.log2(3)) / (math.log2(200) - math.log2(0.0044))
    expected = 1.1 / (1 / 0.7 + 0.1 / cheapness)
    assert arena_score(0.7, 3.0) == pytest.approx(expected)


QUALITY = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
COST = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])


def chosen(columns):
    rows = np.arange(len(columns))
    return QUALITY[rows, columns], COST[rows, columns]


def test_optimality_hand_computed():
    found = optimality(*chosen([0, 2, 0, 1]), quality=QUALITY, cost=COST)
    # best: model 0, model 1, none, model 0. Chosen: right, right but dear, wrong anyway, wrong.
    assert found.selection == pytest.approx(1 / 4)
    assert found.cost == pytest.approx((1 + 2 + 1) / (1 + 4 + 2))
    assert found.accuracy == pytest.approx(2 / 3)
    best = optimality(*chosen([0, 1, 0, 0]), quality=QUALITY, cost=COST)
    assert (best.selection, best.cost, best.accuracy) == pytest.approx((3 / 4, 1, 1))


def test_optimality_degenerate():
    nobody = optimality(np.zeros(2), np.ones(2), quality=np.zeros((2, 2)), cost=np.ones((2, 2)))
    assert nobody.selection == 0
    assert math.isnan(nobody.cost)
    assert math.isnan(nobody.accuracy)
    free = optimality(np.ones(2), np.zeros(2), quality=np.ones((2, 1)), cost=np.zeros((2, 1)))
    assert (free.selection, free.accuracy) == (1, 1)
    assert math.isnan(free.cost)
    with pytest.raises(DataError, match="the choices"):
        optimality(np.ones(3), np.ones(3), quality=QUALITY, cost=COST)


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 3, st.integers(0, 2)), min_size=1, max_size=12))
def test_optimality_by_definition(rows):
    quality = np.array([row[:3] for row in rows], dtype=float)
    cost = np.tile([1.0, 2.0, 2.0], (len(rows), 1))
    columns = np.array([row[3] for row in rows])
    index = np.arange(len(rows))
    found = optimality(quality[index, columns], cost[index, columns], quality=quality, cost=cost)
    selected = right = solvable = best_cost = paid = 0
    for row, column in zip(quality, columns, strict=True):
        costs = [price for price, value in zip((1.0, 2.0, 2.0), row, strict=True) if value == 1]
        if costs:
            solvable += 1
            right += row[column] == 1
            best_cost += min(costs)
            paid += (1.0, 2.0, 2.0)[column]
            selected += row[column] == 1 and (1.0, 2.0, 2.0)[column] == min(costs)
    assert found.selection == pytest.approx(selected / len(rows))
    if solvable:
        assert found.accuracy == pytest.approx(right / solvable)
        assert found.cost == pytest.approx(best_cost / paid)


# ---- LLMRouterBench


def test_average_accuracy_counts_tasks_not_prompts():
    quality = np.array([1.0, 1.0, 1.0, 0.0, 0.5])
    assert average_accuracy(quality, ["a", "a", "a", "b", "b"]) == pytest.approx((1 + 0.25) / 2)
    assert average_accuracy(quality, [None] * 5) == pytest.approx(0.7)
    assert average_accuracy(np.array([1.0, np.nan]), ["a", "b"]) == 1
    assert math.isnan(average_accuracy(np.array([np.nan]), ["a"]))
    with pytest.raises(DataError, match="one value a task"):
        average_accuracy(quality, ["a"])


def test_gains_as_the_benchmark_prints_them():
    assert relative_gain(68.6, 66.0) == pytest.approx(0.04, abs=0.001)  # PerfGain +4.0%
    # Gap@O is relative to the oracle: two rows of the table give the same oracle only that way.
    oracle = 71.94 / (1 - 0.220)
    assert gap_to_oracle(71.24, oracle) == pytest.approx(0.228, abs=0.001)
    assert gap_to_oracle(70.29, oracle) == pytest.approx(0.237, abs=0.002)
    assert math.isnan(relative_gain(0.5, 0.0))
    assert math.isnan(gap_to_oracle(0.5, 0.0))


def test_cost_save():
    cost, quality = np.array([1.0, 3.0, 6.0]), np.array([0.5, 0.8, 0.9])
    assert cost_save(cost, quality, reference_cost=4, reference_quality=0.8) == pytest.approx(0.25)
    assert cost_save(cost, quality, reference_cost=4, reference_quality=0.85) == pytest.approx(-0.5)
    assert math.isnan(cost_save(cost, quality, reference_cost=4, reference_quality=0.95))
    assert math.isnan(cost_save(cost, quality, reference_cost=0, reference_quality=0.8))


def test_pareto_frontier_and_distances_hand_computed():
    cost, quality = np.array([0.0, 1.0, 1.0, 2.0, 2.0]), np.array([0.0, 0.5, 0.4, 0.5, 1.0])
    assert pareto_frontier(cost, quality).tolist() == [True, True, False, False, True]
    found = pareto_distances(
        {
            "good": (np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])),
            "bad": (np.array([1.0, 2.0]), np.array([0.4, 0.5])),
            "half": (np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.4, 0.4])),
            "unknown": (np.array([np.nan]), np.array([0.4])),
        }
    )
    assert found["good"] == 0
    # scaled (.5, .4) is .1 from (.5, .5); (1, .5) is .5 from both (.5, .5) and (1, 1)
    assert found["bad"] == pytest.approx((0.1 + 0.5) / 2)
    assert found["half"] == pytest.approx(0.05)  # the point it has twice counts once
    assert math.isnan(found["unknown"])
    assert pareto_distances({}) == {}


def test_pareto_distances_without_a_spread():
    found = pareto_distances({"a": (np.array([1.0]), np.array([0.5])), "b": (np.array([1.0]), np.array([0.3]))})
    assert found == {"a": 0, "b": 1}


@given(st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=1, max_size=10))
def test_pareto_frontier_by_definition(points):
    expected = [
        not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points) for cost, quality in points
    ]
    cost, quality = np.array(points).T
    assert pareto_frontier(cost, quality).tolist() == expected


# ---- regret


def test_regret_hand_computed():
    quality, cost = np.array([[0.2, 0.9], [0.8, 0.9]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    everything_dear = quality[:, 1], cost[:, 1]
    assert regret(*everything_dear, quality=quality, cost=cost, cost_weight=0) == 0
    # at weight .5: best .4 and .8, got .4 and .4
    assert regret(*everything_dear, quality=quality, cost=cost, cost_weight=0.5) == pytest.approx(0.2)


def test_regret_degenerate():
    assert math.isnan(regret(np.empty(0), np.empty(0), quality=np.empty((0, 2)), cost=np.empty((0, 2)), cost_weight=1))
    nothing = np.full((1, 2), np.nan)
    assert math.isnan(regret(np.ones(1), np.ones(1), quality=nothing, cost=nothing, cost_weight=1))
    with pytest.raises(DataError, match="cost_weight"):
        regret(np.ones(1), np.ones(1), quality=np.ones((1, 1)), cost=np.ones((1, 1)), cost_weight=math.inf)
    with pytest.raises(DataError, match="the choices"):
        regret(np.ones(2), np.ones(2), quality=np.ones((1, 1)), cost=np.ones((1, 1)), cost_weight=1)


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3, 2.0]))
def test_regret_is_never_negative_and_zero_for_the_best(seed, weight):
    random = np.random.default_rng(seed)
    quality, cost = random.random((6, 3)), random.random((6, 3))
    columns = random.integers(0, 3, size=6)
    rows = np.arange(6)
    assert regret(quality[rows, columns], cost[rows, columns], quality=quality, cost=cost, cost_weight=weight) >= 0
    best = (quality - weight * cost).argmax(axis=1)
    assert regret(
        quality[rows, best], cost[rows, best], quality=quality, cost=cost, cost_weight=weight
    ) == pytest.approx(0)


# ---- the oracle by luck


def test_independent_oracle_of_right_or_wrong_models():
    quality = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    # The two agree always; independent ones would be right somewhere in 3 of 4 cases.
    assert independent_oracle(quality, [None] * 4) == pytest.approx(0.75)
    # Within tasks nothing is left to luck.
    assert independent_oracle(quality, ["a", "a", "b", "b"]) == pytest.approx(0.5)
    assert independent_oracle(np.array([[1.0, np.nan], [0.0, np.nan]]), [None, None]) == pytest.approx(0.5)
    assert math.isnan(independent_oracle(np.full((2, 2), np.nan), [None, None]))


@settings(max_examples=25)
@given(st.lists(st.tuples(EIGHTHS, EIGHTHS, EIGHTHS), min_size=1, max_size=4))
def test_independent_oracle_is_the_mean_over_all_shuffles(rows):
    quality = np.array(rows)
    orders = list(itertools.permutations(range(len(rows))))
    best = [
        np.maximum(np.maximum(quality[:, 0], quality[list(first), 1]), quality[list(second), 2]).mean()
        for first in orders
        for second in orders
    ]
    assert independent_oracle(quality, [None] * len(rows)) == pytest.approx(np.mean(best))
