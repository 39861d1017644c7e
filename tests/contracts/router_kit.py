"""What every registered router must do: `CHECKS`, each a function of the registry name."""

import copy
import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmrouter.exceptions import DataError, NotFittedError
from llmrouter.index import load_index
from llmrouter.registry import available, create, resolve
from llmrouter.routers import NeighbourRouter, OnlineRouter

NOT_LEARNING = {
    "random": "draws its expectations",
    "cheapest": "expects the same of every model on purpose",
    "best-single": "expects nothing of all models but one on purpose",
}
"""Routers whose expectations are no estimates; checks of accuracy leave them out."""

OLD_COLUMNS_MAY_MOVE = {"best-single": "a new model that is better takes over, which is what its name says"}


SMALL = {
    "stack-full": {
        "members": "forest:trees=8;forest:trees=8,depth=6,seed=1;kernel-ridge:landmarks=50;"
        "kernel-ridge:landmarks=80,length=0.2;ridge;uniroute;logistic;mlp:hidden=16,members=2,epochs=20",
        "folds": 2,
    },
    "stack": {"members": "forest:trees=10;kernel-ridge:landmarks=60;ridge;uniroute", "folds": 3},
    "boosting": {"members": 2, "rounds": 30, "depth": 3},
    "forest": {"trees": 20},
    "mlp": {"members": 3, "hidden": 32},
    "routerdc": {"members": 2, "dimension": 16, "hidden": 32},
    "cscr": {"members": 2},
}
"""Settings of routers whose defaults are too slow to be fitted hundreds of times; every kind of member is there."""


def make(name):
    """Return an unfitted router of that name, as the checks use it."""
    return create("router", name, **SMALL.get(name, {}))


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def data(n=80, d=6, m=3, seed=0):
    """Embeddings (n, d) and outcomes (n, m) that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(n, d))), rng.integers(0, 2, size=(n, m)).astype(float)


def topics(n, *, seed=0, d=6, m=4):
    """Embeddings (n, d) around four directions, outcomes (n, m) and their true expectation (n, m)."""
    centres = np.eye(d)[:4]
    expected = np.random.default_rng(7).uniform(0.1, 0.9, size=(4, m))
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 4, size=n)
    X = unit(centres[topic] + 0.15 * rng.normal(size=(n, d)))
    truth = expected[topic]
    return X, (rng.random((n, m)) < truth).astype(float), truth


def amounts(n=400, *, seed=0):
    """Embeddings (n, 6) and heavy-tailed token counts (n, 3) whose means differ by a factor of thirty."""
    X, _, truth = topics(n, seed=seed, m=3)
    rng = np.random.default_rng(seed + 1)
    return X, np.array([100.0, 800.0, 3000.0]) * (0.5 + truth) * rng.lognormal(-0.125, 0.5, size=(n, 3))


def one_armed(y, seed=3):
    """Outcomes with one observed model a prompt, as a log has them."""
    keep = np.random.default_rng(seed).integers(0, y.shape[1], size=len(y))
    sparse = np.full_like(y, np.nan)
    sparse[np.arange(len(y)), keep] = y[np.arange(len(y)), keep]
    return sparse


@cache
def _fitted(name):
    return make(name).fit(*data())


@cache
def _fitted_to_three(name, n):
    X, y, _ = topics(n)
    return make(name).fit(X, y[:, :3])


def fitted(name):
    """Return a router fitted to `data()`, which is done once; it is the caller's own to change."""
    return copy.deepcopy(_fitted(name))


def fitted_to_three(name, n):
    """Return a router fitted to the first three models of `topics(n)`, in the same way."""
    return copy.deepcopy(_fitted_to_three(name, n))


def check_router(name):
    for check in CHECKS:
        check(name)


# Fitting and predicting


def check_shapes_and_range(name):
    X, y = data()
    router = make(name)
    before = router.get_params()
    assert router.fit(X, y) is router
    assert router.get_params() == before, "fit must not change parameters"
    mean, std = router.predict(X[:5]), router.predict_std(X[:5])
    assert mean.shape == std.shape == (5, 3)
    assert np.isfinite(mean).all()
    assert ((mean >= 0) & (mean <= 1)).all()
    assert (std > 0).all()
    both = router.estimate(X[:5])
    np.testing.assert_array_equal(both[0], mean)
    np.testing.assert_array_equal(both[1], std)
    assert router.predict(X[:0]).shape == router.predict_std(X[:0]).shape == (0, 3)


def check_determinism(name):
    X, y = data()
    first, second = (router.estimate(X) for router in (fitted(name), make(name).fit(X, y)))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def check_inputs_are_not_changed(name):
    X, y = data()
    y[3, 1] = np.nan
    kept = X.copy(), y.copy()
    router = make(name).fit(X, y)
    router.estimate(X)
    router.add_column(X, y[:, 0])
    np.testing.assert_array_equal(X, kept[0])
    np.testing.assert_array_equal(y, kept[1])


def check_missing(name):
    X, y = data()
    sparse = y.copy()
    sparse[np.random.default_rng(1).random(y.shape) < 0.6] = np.nan
    sparse[:, 2] = np.nan
    mean, std = make(name).fit(X, sparse).estimate(X[:4])
    assert np.isfinite(mean[:, :2]).all()
    assert (std[:, :2] > 0).all()
    assert np.isnan(mean[:, 2]).all(), "a model that was never observed must stay NaN"
    assert np.isnan(std[:, 2]).all()


def check_one_armed_log(name):
    X, y, truth = topics(600)
    mean, std = make(name).fit(X, one_armed(y)).estimate(X)
    assert np.isfinite(mean).all()
    assert ((mean >= 0) & (mean <= 1)).all()
    assert (std > 0).all()
    if name not in NOT_LEARNING:
        np.testing.assert_allclose(mean.mean(axis=0), truth.mean(axis=0), atol=0.12)


def check_it_learns(name):
    if name in NOT_LEARNING or name == "mean":
        return
    X, y, truth = topics(800)
    predicted = make(name).fit(X, y).predict(X)
    constant = rmse(np.tile(y.mean(axis=0), (len(y), 1)), truth)
    assert rmse(predicted, truth) < 0.8 * constant


def check_few_prompts(name):
    for n in (1, 2, 6):
        X, y = data(n=n)
        mean, std = make(name).fit(X, y).estimate(data(n=5, seed=9)[0])
        assert np.isfinite(mean).all()
        assert ((mean >= 0) & (mean <= 1)).all()
        assert (std > 0).all()


def check_one_model(name):
    X, y = data(m=1)
    mean, std = make(name).fit(X, y).estimate(X[:3])
    assert mean.shape == std.shape == (3, 1)
    assert np.isfinite(mean).all()


def check_amounts(name):
    X, y = amounts()
    router = make(name)
    mean, std = router.fit(X, y).estimate(X)
    assert np.isfinite(mean).all()
    assert (mean >= 0).all()
    assert (std > 0).all()
    if router.cost_router is None:
        np.testing.assert_allclose(mean.mean(axis=0), y.mean(axis=0), rtol=0.3)
    else:
        assert router.cost_router in available("router")
        assert resolve("router", router.cost_router).cost_router in (None, router.cost_router)


def check_small_amounts_keep_their_scale(name):
    """Costs in dollars lie in [0, 1] like qualities, a thousand times smaller."""
    X, y = amounts()
    router = make(name)
    if router.cost_router is not None:
        return
    mean, _ = router.fit(X, y * 1e-6).estimate(X)
    np.testing.assert_allclose(mean.mean(axis=0), 1e-6 * y.mean(axis=0), rtol=0.5)


# Independence


def check_order_and_batch(name):
    queries = data(n=17, seed=5)[0]
    router = fitted(name)
    together = np.stack(router.estimate(queries))
    order = np.random.default_rng(0).permutation(len(queries))
    np.testing.assert_allclose(np.stack(router.estimate(queries[order])), together[:, order], rtol=1e-9, atol=1e-9)
    alone = np.concatenate([np.stack(router.estimate(query[None])) for query in queries], axis=1)
    np.testing.assert_allclose(alone, together, rtol=1e-9, atol=1e-9)


def check_weight_zero_removes_a_prompt(name):
    X, y = data(n=120)
    weight = np.ones(len(X))
    weight[::4] = 0.0
    flipped = y.copy()
    flipped[::4] = 1.0 - flipped[::4]
    first, second = (make(name).fit(X, outcomes, weight).estimate(X) for outcomes in (y, flipped))
    np.testing.assert_allclose(first[0], second[0], atol=1e-9)
    np.testing.assert_allclose(first[1], second[1], atol=1e-9)


# Standard errors


def check_standard_errors_fall_with_data(name):
    small, large = (make(name).fit(*data(n=n)).predict_std(data(n=40, seed=5)[0]) for n in (25, 1000))
    assert large.mean() < small.mean()


def check_equal_outcomes_are_not_certain(name):
    X, y = data()
    for value in (0.0, 1.0):
        std = make(name).fit(X, np.full_like(y, value)).predict_std(X[:5])
        assert (std > 1e-4).all()


# Models that come and go


def check_add_column(name):
    X, y, _ = topics(400)
    queries = topics(30, seed=9)[0]
    for count in (1, 5, 50):
        router = fitted_to_three(name, 400)
        before = router.estimate(queries)
        assert router.add_column(X[:count], y[:count, 3]) is router
        mean, std = router.estimate(queries)
        assert mean.shape == std.shape == (30, 4)
        assert router.n_models_ == 4
        assert np.isfinite(mean).all()
        assert ((mean >= 0) & (mean <= 1)).all()
        assert (std > 0).all()
        if name not in OLD_COLUMNS_MAY_MOVE:
            np.testing.assert_array_equal(mean[:, :3], before[0])
            np.testing.assert_array_equal(std[:, :3], before[1])
        router.add_column(X[:20], y[:20, 1])
        np.testing.assert_array_equal(router.predict(queries)[:, 3], mean[:, 3] if name != "best-single" else 0.0)


def check_added_column_approaches_a_refit(name):
    if name in NOT_LEARNING:
        return
    X, y, truth = topics(500)
    refit = make(name).fit(X, y).predict(X)[:, 3]
    few, many = (fitted_to_three(name, 500).add_column(X[:n], y[:n, 3]).predict(X)[:, 3] for n in (5, len(X)))
    assert rmse(many, truth[:, 3]) < rmse(refit, truth[:, 3]) + 0.06
    assert rmse(many, refit) < max(rmse(few, refit), 0.06)


def check_add_column_to_amounts(name):
    X, y = amounts()
    router = make(name).fit(X, y[:, :2])
    mean, std = router.add_column(X[:100], y[:100, 2]).estimate(X)
    assert np.isfinite(mean).all()
    assert (mean >= 0).all()
    assert (std > 0).all()
    if router.cost_router is None:
        assert mean[:, 2].mean() == pytest.approx(y[:, 2].mean(), rel=0.3)


def check_add_column_where_a_model_is_unobserved(name):
    X, y = data()
    y[:, 1] = np.nan
    mean = make(name).fit(X, y).add_column(X[:20], y[:20, 0]).predict(X[:4])
    assert np.isnan(mean[:, 1]).all()
    assert np.isfinite(mean[:, [0, 2, 3]]).all()


def check_drop_column(name):
    X, y = data()
    y[:, 0] *= 0.5
    router = make(name).fit(X, y)
    before = router.estimate(X)
    assert router.drop_column(0) is router
    assert router.n_models_ == 2
    after = router.estimate(X)
    np.testing.assert_array_equal(after[0], before[0][:, 1:])
    np.testing.assert_array_equal(after[1], before[1][:, 1:])
    router.add_column(X[:20], y[:20, 0]).drop_column(1)
    mean = router.predict(X)
    assert mean.shape == (len(X), 2)
    if name != "best-single":
        np.testing.assert_array_equal(mean[:, 0], before[0][:, 1])


# Learning on


def check_partial_fit(name):
    X, y, _ = topics(300)
    router = make(name).fit(X, y)
    if not hasattr(router, "partial_fit"):
        return
    assert isinstance(router, OnlineRouter)
    before = router.predict(X).mean(axis=0)
    saved = router.state()[0]
    kept = {key: array.copy() for key, array in saved.items()}
    more, _, _ = topics(300, seed=4)
    outcomes = np.full((300, 4), np.nan)
    outcomes[:, 0], outcomes[:150, 1] = 1.0, 0.0
    assert router.partial_fit(more, outcomes) is router
    after = router.predict(X).mean(axis=0)
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1] - 0.05
    for key, array in kept.items():
        np.testing.assert_array_equal(saved[key], array, err_msg="learning on must not change a state taken before")
    again = through_a_file(router)
    np.testing.assert_array_equal(again.predict(X), router.predict(X))
    for wrong in (outcomes[:, :2], outcomes[:10], outcomes + 1.0, np.full_like(outcomes, np.inf)):
        with pytest.raises(DataError):
            router.partial_fit(more, wrong)
    np.testing.assert_array_equal(router.predict(X).mean(axis=0), after)
    fresh = make(name).partial_fit(X, y)
    np.testing.assert_array_equal(fresh.predict(X), make(name).fit(X, y).predict(X))


# State


def through_a_file(router):
    """Save a router as the artifact does (safetensors, JSON, the index beside them) and read it back."""
    arrays, values = router.state()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router.safetensors"
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, path)
        index = None
        if isinstance(router, NeighbourRouter):
            (Path(folder) / "index").mkdir()
            router.index_.save(Path(folder) / "index")
            index = load_index(Path(folder) / "index")
        return type(router).from_state(load_file(path), json.loads(json.dumps(values)), index=index)


def assert_same_estimates(first, second, X):
    for one, other in zip(first.estimate(X), second.estimate(X), strict=True):
        np.testing.assert_array_equal(one, other)


def check_state(name):
    X, y = data()
    queries = data(n=9, seed=5)[0]
    for outcomes in (y, one_armed(y), np.where(np.arange(3) == 1, np.nan, y), 900.0 * y):
        router = fitted(name) if outcomes is y else make(name).fit(X, outcomes)
        arrays, values = router.state()
        again = type(router).from_state(arrays, values, index=getattr(router, "index_", None))
        assert_same_estimates(router, again, queries)
        assert_same_estimates(router, through_a_file(router), queries)
        assert again.get_params() == router.get_params()


def check_state_with_columns_that_came_and_went(name):
    X, y = data(m=4)
    router = make(name).fit(X, y[:, :3])
    router.add_column(X[:30], y[:30, 3]).drop_column(1)
    again = through_a_file(router)
    assert again.n_models_ == 3
    assert_same_estimates(router, again, X)
    router.add_column(X[:9], y[:9, 0])
    again.add_column(X[:9], y[:9, 0])
    np.testing.assert_allclose(again.predict(X), router.predict(X), atol=1e-9)


# Refusals and scikit-learn's protocol


def check_refusals(name):
    X, y = data()
    unfitted = make(name)
    for call in (unfitted.predict, unfitted.predict_std, unfitted.estimate):
        with pytest.raises(NotFittedError):
            call(X)
    with pytest.raises(NotFittedError):
        unfitted.state()
    with pytest.raises(NotFittedError):
        unfitted.add_column(X, y[:, 0])
    with pytest.raises(NotFittedError):
        unfitted.drop_column(0)
    wrong_weight = -np.ones(len(X))
    for wrong in ((X[:2], y), (X[:0], y[:0]), (X * np.nan, y), (X, y + np.inf), (X, y, wrong_weight), (X[0], y)):
        with pytest.raises(DataError):
            make(name).fit(*wrong)
    router = fitted(name)
    for wrong in (X[:, :2], X[0], X * np.nan):
        with pytest.raises(DataError):
            router.predict(wrong)
    for wrong in ((X, y[:5, 0]), (X, y), (X, y[:, 0] * np.nan), (X, y[:, 0] + 0.7), (X[:, :2], y[:, 0])):
        with pytest.raises(DataError):
            router.add_column(*wrong)
    for column in (-1, 3):
        with pytest.raises(DataError):
            router.drop_column(column)
    router.drop_column(0).drop_column(0)
    with pytest.raises(DataError, match="only model"):
        router.drop_column(0)


def check_parameters(name):
    from sklearn.base import clone

    router = make(name)
    parameters = router.get_params()
    copy = clone(router)
    assert type(copy) is type(router)
    assert copy is not router
    assert copy.get_params() == parameters
    assert router.set_params(**parameters) is router
    with pytest.raises(ValueError, match="Invalid parameter"):
        router.set_params(no_such_parameter=1)
    for setting in type(router).grid:
        assert setting.keys() <= parameters.keys()
    json.dumps(parameters)


def check_every_setting_of_the_grid_works(name):
    X, y, _ = topics(120)
    settings = resolve("router", name).grid
    for setting in (settings[0], settings[-1]) if settings else ():
        assert np.isfinite(create("router", name, **setting).fit(X, y).predict(X[:3])).all()


def check_docstring(name):
    text = " ".join((resolve("router", name).__doc__ or "").lower().split())
    assert "new model" in text, "the docstring must say what taking in a new model needs"


def rmse(first, second):
    return float(np.sqrt(np.mean((first - second) ** 2)))


CHECKS = (
    check_shapes_and_range,
    check_determinism,
    check_inputs_are_not_changed,
    check_missing,
    check_one_armed_log,
    check_it_learns,
    check_few_prompts,
    check_one_model,
    check_amounts,
    check_small_amounts_keep_their_scale,
    check_order_and_batch,
    check_weight_zero_removes_a_prompt,
    check_standard_errors_fall_with_data,
    check_equal_outcomes_are_not_certain,
    check_add_column,
    check_added_column_approaches_a_refit,
    check_add_column_to_amounts,
    check_add_column_where_a_model_is_unobserved,
    check_drop_column,
    check_partial_fit,
    check_state,
    check_state_with_columns_that_came_and_went,
    check_refusals,
    check_parameters,
    check_every_setting_of_the_grid_works,
    check_docstring,
)
