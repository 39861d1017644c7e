"""The Bayesian linear regression of each arm, checked against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.routers import LinearBanditRouter, OnlineRouter


def task(n=200, m=3, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    theta = rng.normal(size=(m, d)) * 0.2
    return X, np.clip(0.5 + X @ theta.T + 0.05 * rng.normal(size=(n, m)), 0, 1)


def by_hand(X, y, *, penalty, weight=None):
    """Posterior mean and inverse precision of one arm, from the normal equations."""
    rows = np.c_[X.astype(float), np.ones(len(X))]
    weight = np.ones(len(X)) if weight is None else weight
    prior = penalty * np.eye(rows.shape[1])
    prior[-1, -1] = 0.01
    precision = prior + rows.T @ (weight[:, None] * rows)
    return np.linalg.solve(precision, rows.T @ (weight * y)), np.linalg.inv(precision)


def test_posterior_by_hand():
    X, y = task()
    router = LinearBanditRouter(penalty=3.0).fit(X, y)
    rows = np.c_[X[:5].astype(float), np.ones(5)]
    for arm in range(3):
        theta, inverse = by_hand(X, y[:, arm], penalty=3.0)
        np.testing.assert_allclose(router.theta_[arm], theta, atol=1e-9)
        np.testing.assert_allclose(router.predict(X[:5])[:, arm], np.clip(rows @ theta, 0, 1), atol=1e-9)
        expected = np.sqrt(router.noise_[arm] * np.einsum("ij,jk,ik->i", rows, inverse, rows))
        np.testing.assert_allclose(router.predict_std(X[:5])[:, arm], expected, rtol=1e-9)
    assert router.precision_.shape[0] == 1, "arms asked on the same prompts share a precision"


def test_arms_learn_from_their_own_prompts():
    X, y = task()
    y[::2, 0], y[1::3, 1] = np.nan, np.nan
    router = LinearBanditRouter(penalty=2.0).fit(X, y)
    for arm in range(3):
        seen = np.isfinite(y[:, arm])
        np.testing.assert_allclose(router.theta_[arm], by_hand(X[seen], y[seen, arm], penalty=2.0)[0], atol=1e-9)
    assert router.precision_.shape[0] == 3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 59), st.floats(0.1, 30.0), st.integers(0, 2**31 - 1))
def test_partial_fit_is_exact(cut, penalty, seed):
    X, y = task(n=60, seed=seed)
    y[np.random.default_rng(seed).random(y.shape) < 0.3] = np.nan
    y[0], y[-1] = 0.0, 1.0  # so that both parts note the same bounds
    together = LinearBanditRouter(penalty=penalty).fit(X, y)
    parts = LinearBanditRouter(penalty=penalty).fit(X[:cut], y[:cut]).partial_fit(X[cut:], y[cut:])
    np.testing.assert_allclose(parts.predict(X), together.predict(X), atol=1e-8)
    np.testing.assert_allclose(parts.predict_std(X), together.predict_std(X), atol=1e-8)


def test_offline_prompts_may_count_less():
    X, y = task()
    router = LinearBanditRouter(penalty=2.0, offline_weight=0.25).fit(X, y)
    theta, _ = by_hand(X, y[:, 0], penalty=2.0, weight=np.full(len(X), 0.25))
    np.testing.assert_allclose(router.theta_[0], theta, atol=1e-9)
    full = LinearBanditRouter(penalty=2.0).fit(X, y)
    assert (router.predict_std(X) > full.predict_std(X)).all()
    moved = [r.partial_fit(X[:50], np.zeros((50, 3))).predict(X).mean() for r in (router, full)]
    assert moved[0] < moved[1] - 0.05, "a light prior gives way sooner"


def test_width_shrinks_where_an_arm_was_asked():
    X, y = task()
    router = LinearBanditRouter().fit(X, y)
    before = router.predict_std(X[:1])
    asked = np.tile([[0.5, np.nan, np.nan]], (100, 1))
    after = router.partial_fit(np.repeat(X[:1], 100, axis=0), asked).predict_std(X[:1])
    assert after[0, 0] < 0.5 * before[0, 0]
    np.testing.assert_array_equal(after[0, 1:], before[0, 1:])


def test_samples_follow_the_posterior():
    X, y = task()
    router = LinearBanditRouter(seed=1).fit(X, y)
    drawn = np.stack([router.sample(X[:3], draw=number) for number in range(3000)])
    assert drawn.shape == (3000, 3, 3)
    np.testing.assert_allclose(drawn.mean(axis=0), router.predict(X[:3]), atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), router.predict_std(X[:3]), rtol=0.1)
    np.testing.assert_array_equal(router.sample(X[:3], draw=5), drawn[5])
    # One draw is one set of coefficients: the sample of a row does not depend on the other rows.
    np.testing.assert_allclose(router.sample(X[1:2], draw=5), drawn[5][1:2])
    assert router.drop_column(0).sample(X[:3]).shape == (3, 2)


def test_a_new_arm_starts_from_the_population():
    rng = np.random.default_rng(2)
    X, _ = task(n=1000)
    direction = np.array([0.3, -0.2, 0.1, 0.0])
    levels = np.array([0.3, 0.4, 0.5, 0.6])
    y = np.clip(levels + (X @ direction)[:, None] + 0.1 * rng.normal(size=(1000, 4)), 0, 1)
    router = LinearBanditRouter(penalty=1.0).fit(X, y[:, :3])
    few = router.add_column(X[:6], y[:6, 3]).predict(X)[:, 3]
    assert np.corrcoef(few, X @ direction)[0, 1] > 0.95, "six prompts place the model on the others' shape"
    assert few.mean() == pytest.approx(y[:, 3].mean(), abs=0.1)
    many = LinearBanditRouter(penalty=1.0).fit(X, y[:, :3]).add_column(X, 1.0 - y[:, 3]).predict(X)[:, 3]
    assert np.sqrt(np.mean((many - (1.0 - 0.6 - X @ direction)) ** 2)) < 0.03, "many prompts speak for themselves"


def test_a_new_arm_goes_on_exactly():
    X, y = task(n=300, m=4)
    parts = LinearBanditRouter().fit(X, y[:, :3]).add_column(X[:40], y[:40, 3])
    outcomes = np.full((60, 4), np.nan)
    outcomes[:, 3] = y[40:100, 3]
    before = parts.predict(X)[:, :3]
    precision, response = parts.precision_[parts.group_[3]].copy(), parts.response_[3].copy()
    parts.partial_fit(X[40:100], outcomes)
    rows = np.c_[X[40:100].astype(float), np.ones(60)]
    theta = np.linalg.solve(precision + rows.T @ rows, response + rows.T @ y[40:100, 3])
    np.testing.assert_allclose(parts.theta_[3], theta, atol=1e-8)
    np.testing.assert_array_equal(parts.predict(X)[:, :3], before)


def test_it_is_an_online_router_and_checks_its_parameters():
    X, y = task(n=20)
    assert isinstance(LinearBanditRouter(), OnlineRouter)
    with pytest.raises(ConfigError, match="penalty must be > 0"):
        LinearBanditRouter(penalty=0.0).fit(X, y)
    with pytest.raises(ConfigError, match="offline_weight must be > 0"):
        LinearBanditRouter(offline_weight=-1.0).fit(X, y)
    with pytest.raises(DataError, match="as the outcomes in training did"):
        LinearBanditRouter().fit(X, y).partial_fit(X, y + 1.0)
