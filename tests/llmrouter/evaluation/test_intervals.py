"""The paired bootstrap, against a plain loop that does everything again."""

import numpy as np
import pytest

from llmrouter.evaluation import Oracle, ZeroRouter, aiq, bootstrap_aiq, non_decreasing_hull, percentile_interval
from llmrouter.evaluation._bounds import random_curve
from llmrouter.exceptions import ConfigError

RANDOM = np.random.default_rng(3)
QUALITY = RANDOM.random((60, 3)) * np.array([0.5, 0.8, 1.0])
COST = RANDOM.random((60, 3)) * np.array([1.0, 2.0, 4.0])
WEIGHTS = np.array([0.0, 0.1, 0.5, 2.0])
CURVES = {
    "zero": ZeroRouter().curve(QUALITY, COST, weights=WEIGHTS, cheapest=0),
    "oracle": Oracle().curve(QUALITY, COST, weights=WEIGHTS, cheapest=0),
    "random": random_curve(cheapest=0, quality=QUALITY, cost=COST),
}


def test_it_equals_recomputing_everything_on_each_resample():
    found = bootstrap_aiq(CURVES, CURVES["zero"], resamples=250, seed=7)  # more than one chunk
    drawn = np.random.default_rng(7)
    rows = np.concatenate([drawn.integers(0, 60, size=(200, 60)), drawn.integers(0, 60, size=(50, 60))])
    for index in (0, 1, 199, 200, 249):
        pick = rows[index]
        zero = non_decreasing_hull(COST[pick].mean(axis=0), QUALITY[pick].mean(axis=0))
        interval = (zero.cost[0], zero.cost[-1])
        for name, curve in CURVES.items():
            again = non_decreasing_hull(curve.cost[:, pick].mean(axis=1), curve.quality[:, pick].mean(axis=1))
            assert found[name][index] == pytest.approx(aiq(again, interval))


def test_the_seed_decides():
    one = bootstrap_aiq(CURVES, CURVES["zero"], resamples=20, seed=1)
    same = bootstrap_aiq(CURVES, CURVES["zero"], resamples=20, seed=1)
    other = bootstrap_aiq(CURVES, CURVES["zero"], resamples=20, seed=2)
    assert (one["oracle"] == same["oracle"]).all()
    assert (one["oracle"] != other["oracle"]).any()


def test_differences_are_paired():
    found = bootstrap_aiq({"zero": CURVES["zero"], "again": CURVES["zero"]}, CURVES["zero"], resamples=30)
    assert (found["zero"] == found["again"]).all()


def test_resamples_without_an_interval_are_left_out_and_counted():
    interval = percentile_interval(np.array([np.nan, 1.0, 2.0, 3.0]), 2.0, level=0.5)
    assert (interval.low, interval.high, interval.undefined) == (1.5, 2.5, 1)
    nothing = percentile_interval(np.full(3, np.nan), np.nan)
    assert np.isnan(nothing.low)
    assert nothing.undefined == 3


def test_equal_costs_are_undefined_everywhere():
    flat = ZeroRouter().curve(QUALITY, np.ones((60, 3)), weights=WEIGHTS, cheapest=0)
    assert np.isnan(bootstrap_aiq({"zero": flat}, flat, resamples=5)["zero"]).all()


def test_bad_settings():
    with pytest.raises(ConfigError, match="resamples"):
        bootstrap_aiq(CURVES, CURVES["zero"], resamples=0)
    with pytest.raises(ConfigError, match="level"):
        percentile_interval(np.ones(3), 1.0, level=1.0)


def test_coverage_of_a_known_difference():
    """A 90% interval of a mean difference must hold the truth about nine times in ten."""
    random = np.random.default_rng(5)
    hits = 0
    for trial in range(60):
        quality = (random.random((80, 2)) < [0.4, 0.8]).astype(float)
        cost = np.tile([1.0, 2.0], (80, 1))
        zero = ZeroRouter().curve(quality, cost, weights=np.zeros(1), cheapest=0)
        samples = bootstrap_aiq({"zero": zero}, zero, resamples=200, seed=trial)["zero"]
        interval = percentile_interval(samples, 0.6, level=0.9)
        hits += interval.low <= 0.6 <= interval.high
    assert 46 <= hits <= 60
