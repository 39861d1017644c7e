"""The prior that known models give a new one, and the presumed variances."""

import numpy as np
import pytest

from llmrouter.routers._population import Population, presumed_variance, prudent_variance

PROFILES = np.array([[0.2, 0.4, np.nan], [0.6, 0.6, 0.5]])
MEANS = np.array([0.4, 0.5, 0.5])


def test_population_by_hand():
    population = Population.of(PROFILES, MEANS, np.ones(2), noise=0.2, new_mean=None)
    np.testing.assert_allclose(population.centre, [0.3, 0.6])
    np.testing.assert_allclose(population.deviations, [[-0.1, 0.1], [0.0, 0.0]])
    assert population.offset == pytest.approx(0.04), "the models' levels differ by less than a fifth of the noise"
    assert population.local == pytest.approx(0.01)
    covariance = population.covariance(2.0, 0.5)
    np.testing.assert_allclose(covariance, [[0.04 + 0.04 + 0.005, 0.04], [0.04, 0.04 + 0.005]])


def test_amounts_differ_by_a_factor():
    profiles = np.array([[100.0, 1000.0], [300.0, 3000.0]])
    population = Population.of(profiles, np.array([200.0, 2000.0]), np.ones(2), noise=100.0, new_mean=50.0)
    np.testing.assert_allclose(population.centre, [25.0, 75.0])
    np.testing.assert_allclose(population.deviations, 0.0)
    assert population.offset == pytest.approx(20.0)


def test_no_known_model_leaves_a_wide_prior():
    population = Population.of(np.full((2, 1), np.nan), np.array([np.nan]), np.ones(2), noise=0.25, new_mean=None)
    np.testing.assert_allclose(population.centre, [0.5, 0.5])
    assert population.deviations.shape == (2, 0)
    assert np.linalg.eigvalsh(population.covariance(1.0, 1.0)).min() > 0


def test_likelihood_tells_a_shape_of_its_own_from_the_others():
    rng = np.random.default_rng(0)
    profiles = 0.5 + 0.2 * rng.normal(size=(20, 1)) + 0.01 * rng.normal(size=(20, 6))
    population = Population.of(profiles, profiles.mean(axis=0), np.ones(20), noise=0.2, new_mean=None)
    noise = np.full(20, 0.002)
    like, unlike = profiles[:, 0], 0.5 + 0.2 * rng.normal(size=20)
    narrow, wide = (np.trace(population.fitted_covariance(np.eye(20), target, noise)) for target in (like, unlike))
    assert wide > narrow


def test_presumed_variances():
    np.testing.assert_allclose(presumed_variance(np.array([0.5, 1.0]), np.array([0.2, 0.0]), 1.0), [0.2, 0.25])
    np.testing.assert_allclose(presumed_variance(np.array([30.0]), np.array([0.0]), np.inf), [900.0])
    kept, equal, unseen = prudent_variance(
        np.array([0.2, 0.0, np.nan]), np.array([0.5, 1.0, np.nan]), np.array([9.0, 9.0, 0.0]), 1.0
    )
    assert kept == pytest.approx(0.2)
    assert equal == pytest.approx(0.025)
    assert np.isnan(unseen)
