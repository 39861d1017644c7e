"""Monotone maps from scores to outcomes."""

import numpy as np
import pytest

from llmrouter.routers._calibration import MonotoneMaps


def test_few_prompts_give_their_mean():
    maps = MonotoneMaps.fit(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [1.0]]), np.ones(3), upper=1.0)
    mean, error = maps.expected(np.array([[-5.0], [1.5], [9.0]]))
    np.testing.assert_allclose(mean, 2 / 3)
    # One bin: squares 2/3 and one presumed prompt of the same variance 2/9, over 4; the mean of 3 prompts.
    np.testing.assert_allclose(error, np.sqrt((2 / 3 + 2 / 9) / 4 / 3))


def test_weights_count_as_repetitions():
    scores, y = np.zeros((2, 1)), np.array([[0.0], [1.0]])
    mean, _ = MonotoneMaps.fit(scores, y, np.array([1.0, 3.0]), upper=1.0).expected(scores)
    np.testing.assert_allclose(mean, 0.75)


def test_a_rising_map_is_recovered_and_never_falls():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 10, size=(4000, 2))
    y = np.stack([rng.random(4000) < scores[:, 0] / 10, rng.random(4000) < 1 - scores[:, 1] / 10], axis=1).astype(float)
    maps = MonotoneMaps.fit(scores, y, np.ones(4000), upper=1.0)
    grid = np.tile(np.linspace(0.5, 9.5, 40)[:, None], (1, 2))
    mean, error = maps.expected(grid)
    np.testing.assert_allclose(mean[:, 0], grid[:, 0] / 10, atol=0.08)
    assert (np.diff(mean, axis=0) >= -1e-12).all()
    np.testing.assert_allclose(mean[:, 1], y[:, 1].mean(), atol=1e-6)  # a falling truth: the best rising map is flat
    assert ((error > 0) & (error < 0.06)).all()


def test_missing_outcomes_and_a_model_without_any():
    scores = np.tile(np.linspace(0, 1, 60)[:, None], (1, 2))
    y = np.stack([np.where(np.arange(60) % 2, 0.5, np.nan), np.full(60, np.nan)], axis=1)
    mean, error = MonotoneMaps.fit(scores, y, np.ones(60), upper=1.0).expected(scores[:3])
    np.testing.assert_allclose(mean[:, 0], 0.5)
    assert np.isnan(mean[:, 1]).all()
    assert np.isnan(error[:, 1]).all()


def test_the_order_of_the_log_does_not_matter():
    rng = np.random.default_rng(1)
    scores, y = rng.integers(0, 5, size=(200, 1)) / 5.0, rng.integers(0, 2, size=(200, 1)).astype(float)
    order = rng.permutation(200)
    first = MonotoneMaps.fit(scores, y, np.ones(200), upper=1.0)
    second = MonotoneMaps.fit(scores[order], y[order], np.ones(200), upper=1.0)
    np.testing.assert_allclose(first.values, second.values)
    again = MonotoneMaps.from_arrays(first.arrays())
    np.testing.assert_array_equal(again.expected(scores)[0], first.expected(scores)[0])
    assert first.values.shape == (1, 33)
    assert first.lowest[0] == pytest.approx(scores.min())
