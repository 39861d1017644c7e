"""SVM, perceptrons, boosted trees and CARROT: parts against scikit-learn, differences and brute force."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from llmrouter.exceptions import ConfigError
from llmrouter.routers import KNNRouter
from llmrouter.routers._boosting import BoostingRouter, _grow
from llmrouter.routers._carrot import NEIGHBOURS, CarrotRouter, _best_k
from llmrouter.routers._ensemble import Targets, bootstraps, mean_and_error
from llmrouter.routers._linear import LogisticRouter, RidgeRouter
from llmrouter.routers._mlp import MLPRouter, _first_layers, _forward, _Training
from llmrouter.routers._svm import SVMRouter, _Machine


def problem(n=400, d=6, m=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    chance = 1 / (1 + np.exp(-(4.0 * np.sign(X[:, :m]) * X[:, :m] ** 2 + 0.5)))
    return X, (rng.random((n, m)) < chance).astype(float), chance


def rmse(first, second):
    return float(np.sqrt(((first - second) ** 2).mean()))


# Support vector machines


def test_svm_probabilities_are_calibrated_on_new_prompts():
    X, y, _ = problem(n=4000)
    predicted = SVMRouter(C=0.1).fit(X[:2000], y[:2000]).predict(X[2000:])
    for low, high in ((0.2, 0.5), (0.5, 0.7), (0.7, 0.95)):
        inside = (predicted >= low) & (predicted < high)
        assert inside.sum() > 100
        assert y[2000:][inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.06)


def test_platt_calibration_is_the_maximum_of_the_likelihood():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=5000)
    y = (rng.random(5000) < 1 / (1 + np.exp(-(2.0 * margins - 1.0)))).astype(float)
    machine = _Machine(margins[:, None], y, np.ones(5000), C=1.0, quality=True)
    slope, offset, level = machine.calibrate(margins)
    assert (slope, offset) == (pytest.approx(2.0, abs=0.15), pytest.approx(-1.0, abs=0.1))
    assert 0 < level < 0.01
    assert machine.calibrate(-margins)[0] == 0.0  # margins the wrong way round say nothing


def test_random_features_find_what_is_not_linear():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 2)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = (X[:, :1] * X[:, 1:] > 0).astype(float)  # opposite quarters of the circle
    linear, kernel = (SVMRouter(C=1.0, features=features).fit(X, y).predict(X) for features in (0, 200))
    assert rmse(linear, y) > 0.45
    assert rmse(kernel, y) < 0.3


# The ensemble over the Bayesian bootstrap


def test_bootstraps_hold_out_a_tenth_and_are_reproducible():
    first, second = (list(bootstraps(200, 3, seed=4)) for _ in range(2))
    for (weight, held_out, _), (again, _, _) in zip(first, second, strict=True):
        assert held_out.sum() == 20
        assert (weight[held_out] == 0).all()
        assert weight[~held_out].mean() == pytest.approx(1.0, abs=0.3)
        np.testing.assert_array_equal(weight, again)
    assert (first[0][0] != first[1][0]).any()
    assert not next(bootstraps(19, 1, seed=0))[1].any()


def test_standard_error_of_an_ensemble_by_hand():
    values = np.array([[[0.2]], [[0.4]]])
    mean, std = mean_and_error(values, np.array([0.04]), count=np.array([100.0]), quality=True)
    assert mean[0, 0] == pytest.approx(0.3)
    assert std[0, 0] == pytest.approx(np.sqrt(0.5 * 0.02 + 0.5 * 0.04 + 0.0001))


def test_perceptron_gradients():
    X, y, _ = problem(n=30)
    y[::4, 1] = np.nan
    targets = Targets.make(y, np.ones(30), bounds=(0.0, 1.0))
    training = _Training(X, targets, np.ones(30), learning_rate=1e-3, decay=0.01)
    training.cells, training.y = training.cells.astype(float), training.y.astype(float)
    generator = np.random.default_rng(0)
    layers = _first_layers((6, 5, 4, 3), targets.start, generator)
    # shifts off 0: a unit whose inputs are all silent would sit on the ReLU's kink
    layers = [(slopes.astype(float), shift + 0.1 * generator.normal(size=shift.shape)) for slopes, shift in layers]
    training.inputs = X.astype(float)
    rows = np.arange(30)

    def loss(layers):
        value = _forward(layers, training.inputs)[-1]
        entropy = (training.cells * (np.logaddexp(0.0, value) - training.y * value)).sum() / 30
        return entropy + 0.005 * sum((slopes**2).sum() for slopes, _ in layers)

    for number, (by_slopes, by_shift) in enumerate(training._gradients(layers, rows)):
        for part, by_part in ((0, by_slopes), (1, by_shift)):
            moved = [[a.copy(), b.copy()] for a, b in layers]
            cell = (0,) * by_part.ndim
            moved[number][part][cell] += 1e-6
            assert (loss(moved) - loss(layers)) / 1e-6 == pytest.approx(by_part[cell], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("router", [MLPRouter(), MLPRouter(hidden=20), MLPRouter(hidden=[30, 20]), BoostingRouter()])
def test_ensembles_learn_what_is_not_linear(router):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 2)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = (X[:, :1] * X[:, 1:] > 0).astype(float)
    y = np.hstack([y, 1 - y])
    y[rng.random(y.shape) < 0.5] = np.nan
    predicted = (
        router.set_params(decay=1e-4, epochs=200).fit(X, y).predict(X)
        if "decay" in router.get_params()
        else (router.fit(X, y).predict(X))
    )
    seen = np.isfinite(y)
    assert rmse(predicted[seen], y[seen]) < 0.35


# Boosting


def test_a_trees_leaves_are_newton_steps_over_observed_cells():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(200, 2)).astype(np.float32)
    gradient, curvature = rng.normal(size=(200, 2)), np.full((200, 2), 0.25)
    gradient[:50, 1] = curvature[:50, 1] = 0.0  # not observed
    tree = _grow(Z, gradient, curvature, weight=np.ones(200), depth=2, generator=np.random.default_rng(1))
    node = tree.nodes[0]
    rows = tree.nodes == node
    expected = gradient[rows].sum(axis=0) / (curvature[rows].sum(axis=0) + 1.0)
    np.testing.assert_allclose(tree.values[node], expected)


def test_traversal_ends_where_scikit_learns_does(monkeypatch):
    X, y, _ = problem()
    grown = []
    fit = DecisionTreeRegressor.fit
    monkeypatch.setattr(DecisionTreeRegressor, "fit", lambda self, *a, **k: grown.append(fit(self, *a, **k)) or self)
    router = BoostingRouter(components=4, rounds=5, members=1, learning_rate=1.0, depth=3).fit(X, y)
    Z = router._components(X)
    value = np.tile(router.start_, (len(X), 1))
    for tree, leaves in zip(grown[: len(router.owner_)], router.leaves_, strict=True):
        value += leaves[tree.apply(Z)]
    np.testing.assert_allclose(router.predict(X), 1 / (1 + np.exp(-value)), rtol=1e-12)


def test_boosting_without_signal_keeps_to_the_mean():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 5)).astype(np.float32)
    y = rng.integers(0, 2, size=(1000, 2)).astype(float)
    assert rmse(BoostingRouter().fit(X, y).predict(X), y.mean(axis=0)) < 0.1


# CARROT


def test_best_k_by_brute_force():
    X, y, _ = problem(n=150)
    y[::5, 2] = np.nan
    errors = dict.fromkeys([k for k in NEIGHBOURS if k <= 120], 0.0)
    for held_out in np.array_split(np.random.default_rng(0).permutation(150), 5):
        rest = np.setdiff1d(np.arange(150), held_out)
        for k in errors:
            predicted = KNNRouter(k, index="exact").fit(X[rest], y[rest]).predict(X[held_out])
            errors[k] += np.nansum((y[held_out] - predicted) ** 2 / np.nanvar(y, axis=0))
    assert _best_k(X, y, np.ones(150), seed=0) == min(errors, key=errors.get)


def test_carrot_is_its_estimators():
    X, y, _ = problem()
    tokens = 100.0 * y + 5.0
    knn = CarrotRouter().fit(X, y)
    same = KNNRouter(knn.inner_.k, index="exact").fit(X, y)
    np.testing.assert_array_equal(knn.predict(X), same.predict(X))
    linear = CarrotRouter("linear")
    np.testing.assert_array_equal(linear.fit(X, y).predict(X), LogisticRouter().fit(X, y).predict(X))
    np.testing.assert_array_equal(linear.fit(X, tokens).predict(X), RidgeRouter().fit(X, tokens).predict(X))
    perceptrons = CarrotRouter("mlp", seed=3).fit(X, y)
    np.testing.assert_array_equal(perceptrons.predict(X), MLPRouter(seed=3).fit(X, y).predict(X))


@pytest.mark.parametrize("estimator", ["knn", "linear", "mlp"])
def test_carrot_state_needs_no_index(estimator):
    X, y, _ = problem()
    router = CarrotRouter(estimator).fit(X, y).add_column(X[:30], y[:30, 0])
    again = CarrotRouter.from_state(*router.state())
    for found, expected in zip(again.estimate(X), router.estimate(X), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "router",
    [
        SVMRouter(0.0),
        SVMRouter(features=-1),
        SVMRouter(gamma=0.0),
        MLPRouter(()),
        MLPRouter(members=0),
        MLPRouter(learning_rate=0.0),
        BoostingRouter(depth=0),
        BoostingRouter(learning_rate=2.0),
        CarrotRouter("roberta"),
    ],
)
def test_bad_parameters(router):
    X, y, _ = problem(n=30)
    with pytest.raises(ConfigError, match=r"must be|must"):
        router.fit(X, y)
