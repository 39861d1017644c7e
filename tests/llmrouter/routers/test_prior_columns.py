"""A model that a router takes in before anything was observed of it."""

import json

import numpy as np
import pytest
from contracts.router_kit import data, topics, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import DataError, NotFittedError
from llmrouter.registry import available, create
from llmrouter.routers import KernelRidgeRouter, KNNRouter


def fitted(name="knn", m=3, **parameters):
    X, y, _ = topics(160, m=m)
    return create("router", name, **parameters).fit(X, y), X


@pytest.mark.parametrize("name", available("router"))
def test_every_router_takes_in_a_prior(name):
    X, y, _ = topics(60, m=3)
    router = create("router", name).fit(X, y)
    before = router.predict(X)
    router.add_prior_column(X, level=0.6, std=0.2)
    mean, std = router.estimate(X)
    assert mean.shape == (60, 4)
    assert np.isfinite(mean).all()
    assert (std[:, 3] > 0).all()
    if name not in ("best-single", "random", "cheapest"):
        np.testing.assert_allclose(mean[:, :3], before)


@pytest.mark.parametrize("name", ["knn", "kernel-ridge", "stack", "ridge"])
def test_a_column_apart_has_the_level_and_the_error_that_were_given(name):
    router, X = fitted(name)
    router.add_prior_column(X, level=0.55, std=0.23)
    mean, std = router.estimate(X)
    assert mean[:, 3].mean() == pytest.approx(0.55, abs=0.03)  # clipped to [0, 1] here and there
    np.testing.assert_allclose(std[:, 3], 0.23, rtol=1e-9)


@pytest.mark.parametrize("name", ["uniroute", "linear-bandit", "mean"])
def test_a_router_that_counts_outcomes_moves_towards_the_level(name):
    X, y, _ = topics(160, m=3)
    high, low = (create("router", name).fit(X, y) for _ in range(2))
    high.add_prior_column(X, level=0.95, std=0.2)
    low.add_prior_column(X, level=0.05, std=0.2)
    assert high.predict(X)[:, 3].mean() > low.predict(X)[:, 3].mean()


def test_weights_give_the_shape_of_the_likest_model():
    router, X = fitted()
    like_first = router.predict(X)[:, 0]
    router.add_prior_column(X, level=0.5, std=0.2, weights=np.array([1.0, 0.0, 0.0]))
    added = router.predict(X)[:, 3]
    np.testing.assert_allclose(added, np.clip(like_first - like_first.mean() + 0.5, 0, 1), atol=1e-9)


def test_weights_of_a_model_that_was_added_itself_fall_back_to_alike():
    router, X = fitted()
    router.add_prior_column(X, level=0.3, std=0.2)
    router.add_prior_column(X, level=0.5, std=0.2, weights=np.array([0, 0, 0, 1.0]))
    other, _ = fitted()
    other.add_prior_column(X, level=0.3, std=0.2).add_prior_column(X, level=0.5, std=0.2)
    np.testing.assert_allclose(router.predict(X), other.predict(X))


def test_amounts_scale_by_a_factor():
    X, _, truth = topics(160, m=3)
    tokens = np.array([100.0, 800.0, 3000.0]) * (0.5 + truth)
    router = KernelRidgeRouter().fit(X, tokens)
    router.add_prior_column(X, level=50.0, std=25.0)
    mean, std = router.estimate(X)
    assert mean[:, 3].mean() == pytest.approx(50.0, rel=0.05)
    assert (mean[:, 3] >= 0).all()
    np.testing.assert_allclose(std[:, 3], 25.0)


def test_it_survives_state_and_from_state_and_dropping():
    router, X = fitted()
    router.add_prior_column(X, level=0.5, std=0.2, weights=np.array([2.0, 1.0, 0.0]))
    arrays, values = router.state()
    again = KNNRouter.from_state(arrays, json.loads(json.dumps(values)), index=router.index_)
    for one, other in zip(again.estimate(X), router.estimate(X), strict=True):
        np.testing.assert_array_equal(one, other)
    router.drop_column(3)
    assert router.predict(X).shape[1] == 3


def test_a_scored_column_after_a_prior_one_has_its_own_place():
    router, X = fitted()
    router.add_prior_column(X, level=0.2, std=0.2)
    router.add_column(X[:40], np.ones(40))
    assert router.predict(X)[:, 3].mean() < 0.4
    assert router.predict(X)[:, 4].mean() > 0.8


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"level": 1.2, "std": 0.2}, "level must lie in"),
        ({"level": np.nan, "std": 0.2}, "level must lie in"),
        ({"level": 0.5, "std": 0.0}, "std must be a finite number > 0"),
        ({"level": 0.5, "std": np.inf}, "std must be a finite number > 0"),
        ({"level": 0.5, "std": 0.2, "weights": np.array([1.0, 1.0])}, "weights must be 3"),
        ({"level": 0.5, "std": 0.2, "weights": np.array([1.0, -1.0, 0.0])}, "weights must be 3"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(arguments, what):
    router, X = fitted()
    before = router.predict(X)
    with pytest.raises(DataError, match=what):
        router.add_prior_column(X, **arguments)
    np.testing.assert_array_equal(router.predict(X), before)


def test_no_prompts_and_no_fit_are_refused():
    router, X = fitted()
    with pytest.raises(DataError, match="needs prompts"):
        router.add_prior_column(X[:0], level=0.5, std=0.1)
    with pytest.raises(NotFittedError):
        KNNRouter().add_prior_column(X, level=0.5, std=0.1)


@settings(deadline=None, max_examples=50)
@given(
    level=st.floats(0, 1),
    std=st.floats(0.01, 1),
    weights=st.lists(st.floats(0, 10), min_size=3, max_size=3),
    seed=st.integers(0, 50),
)
def test_any_prior_gives_expectations_within_bounds(level, std, weights, seed):
    X, y = data(n=30, seed=seed)
    router = KNNRouter(k=5).fit(X, y).add_prior_column(X, level=level, std=std, weights=np.array(weights))
    queries = unit(np.random.default_rng(seed).normal(size=(20, X.shape[1])))
    mean, error = router.estimate(queries)
    assert ((mean[:, 3] >= 0) & (mean[:, 3] <= 1)).all()
    np.testing.assert_allclose(error[:, 3], std)
