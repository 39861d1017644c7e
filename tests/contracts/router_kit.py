"""What every registered router must do."""

import numpy as np
import pytest

from llmrouter.exceptions import DataError, NotFittedError
from llmrouter.registry import create


def data(n=80, d=6, m=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X, rng.integers(0, 2, size=(n, m)).astype(float)


def check_router(name):
    X, y = data()
    check_shapes_and_range(name, X, y)
    check_missing(name, X, y)
    check_state(name, X, y)
    check_refusals(name, X, y)


def check_shapes_and_range(name, X, y):
    router = create("router", name)
    before = router.get_params()
    assert router.fit(X, y) is router
    assert router.get_params() == before, "fit must not change parameters"
    mean, std = router.predict(X[:5]), router.predict_std(X[:5])
    assert mean.shape == std.shape == (5, 3)
    assert np.isfinite(mean).all()
    assert ((mean >= 0) & (mean <= 1)).all()
    assert (std >= 0).all()
    np.testing.assert_array_equal(mean, create("router", name).fit(X, y).predict(X[:5]))
    np.testing.assert_allclose(mean[2:3], router.predict(X[2:3]), rtol=1e-12)


def check_missing(name, X, y):
    sparse = y.copy()
    sparse[np.random.default_rng(1).random(y.shape) < 0.6] = np.nan
    sparse[:, 2] = np.nan
    predicted = create("router", name).fit(X, sparse).predict(X[:4])
    assert np.isfinite(predicted[:, :2]).all()
    assert np.isnan(predicted[:, 2]).all(), "a model that was never observed must stay NaN"


def check_state(name, X, y):
    router = create("router", name).fit(X, y)
    arrays, values = router.state()
    again = type(router).from_state(arrays, values, index=getattr(router, "index_", None))
    np.testing.assert_array_equal(router.predict(X), again.predict(X))
    np.testing.assert_array_equal(router.predict_std(X), again.predict_std(X))


def check_refusals(name, X, y):
    with pytest.raises(NotFittedError):
        create("router", name).predict(X)
    with pytest.raises(DataError):
        create("router", name).fit(X[:2], y)
    with pytest.raises(DataError):
        create("router", name).fit(X, y).predict(X[:, :2])
