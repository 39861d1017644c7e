"""The contract kit over the whole registry, and what the baselines promise."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import DataError
from llmrouter.registry import available
from llmrouter.routers import BestSingleRouter, CheapestRouter, MeanRouter, RandomRouter

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from router_kit import CHECKS, data, make, one_armed, through_a_file


@pytest.mark.parametrize("name", available("router"))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check, name):
    check(name)


@pytest.mark.parametrize("name", available("router"))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(8, 60), d=st.integers(2, 8), m=st.integers(1, 4), sparse=st.booleans(), seed=st.integers(0, 2**31 - 1)
)
def test_order_batch_and_saving_do_not_matter(name, n, d, m, sparse, seed):
    X, y = data(n=n, d=d, m=m, seed=seed)
    queries, _ = data(n=6, d=d, seed=seed + 1)
    router = make(name).fit(X, one_armed(y) if sparse else y)
    together = np.stack(router.estimate(queries))
    np.testing.assert_allclose(np.stack(router.estimate(queries[::-1]))[:, ::-1], together, rtol=1e-9, atol=1e-9)
    alone = np.concatenate([np.stack(router.estimate(query[None])) for query in queries], axis=1)
    np.testing.assert_allclose(alone, together, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(np.stack(through_a_file(router).estimate(queries)), together)


def test_best_single_is_chosen_on_train():
    X, _ = data()
    y = np.tile([0.2, 0.9, 0.5], (len(X), 1))
    predicted = BestSingleRouter().fit(X, y).predict(X[:2])
    assert (predicted.argmax(axis=1) == 1).all()
    assert predicted[0, 1] == pytest.approx(0.9)


def test_best_single_needs_an_outcome():
    X, y = data()
    with pytest.raises(DataError, match="no best single"):
        BestSingleRouter().fit(X, np.full_like(y, np.nan)).predict(X)


def test_cheapest_expects_the_same_of_all():
    X, y = data()
    row = CheapestRouter().fit(X, y).predict(X[:1])[0]
    assert (row == row[0]).all()


def test_random_covers_all_models_evenly_and_depends_on_the_seed():
    X, y = data(n=3000)
    chosen = RandomRouter(seed=1).fit(X, y).predict(X).argmax(axis=1)
    assert np.bincount(chosen, minlength=3).min() > 900
    other = RandomRouter(seed=2).fit(X, y).predict(X).argmax(axis=1)
    assert (chosen != other).mean() > 0.5


def test_a_new_mean_is_drawn_towards_the_others():
    X, _ = data(n=100)
    y = np.tile([0.4, 0.6], (100, 1))
    y[::2] += 0.1
    router = MeanRouter().fit(X, y)
    outcomes = np.array([1.0, 1.0, 0.0, 1.0])
    router.add_column(X[:4], outcomes)
    # The variance of the four with one presumed prompt is that of the four, 0.1875; between the models it is 0.02.
    strength = 0.1875 / 0.02
    assert router.predict(X[:1])[0, 2] == pytest.approx((4 * 0.75 + strength * 0.55) / (4 + strength))
    assert router.predict_std(X[:1])[0, 2] == pytest.approx(np.sqrt(0.1875 / (4 + strength)))


def test_standard_error_of_a_mean():
    X, y = data(n=64, m=1)
    std = MeanRouter().fit(X, y).predict_std(X[:1])[0, 0]
    assert std == pytest.approx(np.sqrt(y.var() / 64))
    # Equal outcomes: no spread, and one presumed prompt of variance 1/4.
    assert MeanRouter().fit(X, np.ones((64, 1))).predict_std(X[:1])[0, 0] == pytest.approx(np.sqrt(0.25 / 65 / 64))


def test_best_single_follows_models_that_come_and_go():
    X, _ = data(n=50)
    y = np.tile([0.2, 0.9, 0.5], (50, 1))
    router = BestSingleRouter().fit(X, y)
    router.add_column(X, np.full(50, 0.95))
    assert router.predict(X[:1]).argmax() == 3
    router.drop_column(3)
    assert router.predict(X[:1]).argmax() == 1
    router.drop_column(1)
    assert router.predict(X[:1]).tolist() == [[0.0, 0.5]]


def test_cheapest_expects_the_same_of_a_new_model_too():
    X, y = data()
    router = CheapestRouter().fit(X, y).add_column(X, np.ones(len(X)))
    assert len(set(router.predict(X[:1])[0].tolist())) == 1
