"""Tests and bounds on a mean, against known distributions and an independent quantile."""

import math

import numpy as np
import pytest
from scipy import stats

from llmrouter.policy._mean_bounds import enough, p_value, upper_bound


def test_normal_agrees_with_scipy():
    values = np.random.default_rng(0).normal(-0.02, 0.3, size=200).clip(-1, 1)
    expected = stats.ttest_1samp(values, 0, alternative="less").statistic
    assert p_value(values, most=1.0, level=0.05, method="normal") == pytest.approx(stats.norm.cdf(expected))
    bound = values.mean() + stats.norm.ppf(0.95) * values.std(ddof=1) / math.sqrt(200)
    assert upper_bound(values, least=-1, most=1, level=0.05, method="normal") == pytest.approx(bound, abs=1e-9)


def test_betting_by_hand():
    # Two values: the first bet uses the prior variance 1, capped at 0.75; wealth (1 - bet * x).
    values, level = np.array([-0.5, -1.0]), 0.05
    first = min(math.sqrt(2 * math.log(20) / 2), 0.75)
    mean = -0.5 / 2
    variance = (1.0 + (-0.5 - mean) ** 2) / 2
    second = min(math.sqrt(2 * math.log(20) / (2 * variance)), 0.75)
    wealth = (1 + first * 0.5) * (1 + second * 1.0)
    assert p_value(values, most=1.0, level=level) == pytest.approx(1 / wealth)


def test_nothing_is_shown_by_nothing_or_by_a_positive_mean():
    for method in ("betting", "normal"):
        assert p_value(np.empty(0), most=1.0, level=0.05, method=method) == 1.0
        assert p_value(np.full(1000, 0.1), most=1.0, level=0.05, method=method) == 1.0
        assert upper_bound(np.empty(0), least=-1, most=1, level=0.05, method=method) == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("n", [20, 200])
def test_betting_rejects_a_true_hypothesis_at_most_at_its_level(share, n):
    # Values with mean exactly zero: the hardest case that the hypothesis allows.
    rng = np.random.default_rng(1)
    low, high = -share, 1 - share
    rejected = 0
    for _ in range(1000):
        values = np.where(rng.random(n) < share, high, low)
        rejected += p_value(values, most=high, level=0.1) <= 0.1
    assert rejected <= stats.binom.ppf(0.999, 1000, 0.1)


def test_the_upper_bound_covers_and_matches_the_test():
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(300):
        values = rng.choice([-1.0, -0.03, 0.97], size=150, p=[0.1, 0.8, 0.1])
        bound = upper_bound(values, least=-1, most=0.97, level=0.1)
        missed += bound < -0.027
        assert (bound < 0) == (p_value(values, most=0.97, level=0.1) <= 0.1)
        assert bound >= values.mean()
    assert missed <= stats.binom.ppf(0.999, 300, 0.1)


def test_enough_is_about_what_is_needed():
    rng = np.random.default_rng(3)
    values = rng.choice([-1.0, -0.03, 0.97], size=100_000, p=[0.11, 0.79, 0.10])
    needed = enough(values, level=0.05)
    shown = [p_value(rng.choice(values, size=needed), most=0.97, level=0.05) <= 0.05 for _ in range(200)]
    assert 0.3 < np.mean(shown) < 0.9
    assert enough(np.array([0.1, 0.2]), level=0.05) is None
    assert enough(np.empty(0), level=0.05) is None
