"""The stack: weights, calibration, members, and the forest and kernel ridge below it."""

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.registry import create
from llmrouter.routers import ForestRouter, KernelRidgeRouter, RidgeRouter, StackRouter
from llmrouter.routers._stack import _isotonic_table, _look_up
from llmrouter.routers._steady import steadied
from llmrouter.routers._trees import FlatForest


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nonlinear(n=600, seed=0):
    """Two models: one is right inside a ball that no linear function describes, the other outside of it."""
    rng = np.random.default_rng(seed)
    X = unit(rng.normal(size=(n, 6)))
    inside = np.abs(X[:, 0]) < 0.35
    chance = np.stack([np.where(inside, 0.9, 0.2), np.where(inside, 0.2, 0.9)], axis=1)
    return X, (rng.random(chance.shape) < chance).astype(float), chance


def test_a_flat_forest_gives_scikit_learns_leaves():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 5)).astype(np.float32), rng.normal(size=(300, 2))
    grown = ExtraTreesRegressor(7, max_depth=6, random_state=1).fit(X, y)
    flat = FlatForest.from_sklearn([tree.tree_ for tree in grown.estimators_])
    queries = rng.normal(size=(50, 5)).astype(np.float32)
    leaves = flat.leaves(queries)
    for number, tree in enumerate(grown.estimators_):
        theirs, ours = tree.apply(queries), leaves[:, number]
        # the same prompts together, under other numbers
        assert len(set(zip(theirs.tolist(), ours.tolist()))) == len(set(theirs.tolist())) == len(set(ours.tolist()))
    np.testing.assert_array_equal(np.concatenate([flat.leaves(row[None]) for row in queries]), leaves)


def test_leaves_hold_means_shrunk_by_one_prompt():
    X = unit([[1, 0.1], [1, 0.2], [-1, 0.1], [-1, 0.2]])
    y = np.array([[1.0], [1.0], [0.0], [np.nan]])
    router = ForestRouter(5, depth=1, leaf=2, components=0, columns=1, features=1.0, shrinkage=1.0).fit(X, y)
    mean = 2 / 3
    left, right = (0.0 + mean) / 2, (2.0 + mean) / 3
    np.testing.assert_allclose(router.predict(X)[:, 0], [right, right, left, left], rtol=1e-12)


def test_forest_and_kernel_see_what_a_linear_router_cannot():
    X, y, chance = nonlinear()
    queries, _, truth = nonlinear(400, seed=1)
    errors = {
        name: ((create("router", name).fit(X, y).predict(queries) - truth) ** 2).mean()
        for name in ("forest", "kernel-ridge", "ridge")
    }
    assert errors["forest"] < 0.6 * errors["ridge"]
    assert errors["kernel-ridge"] < 0.6 * errors["ridge"]
    stack = ((StackRouter().fit(X, y).predict(queries) - truth) ** 2).mean()
    assert stack < 1.1 * min(errors.values())
    assert chance.shape == y.shape


def test_a_useless_member_gets_no_weight():
    X, y, _ = nonlinear()
    stack = StackRouter(members="forest;random").fit(X, y)
    assert stack.weights_["forest"] > 0.7
    assert stack.weights_.get("random", 0.0) < 0.1
    assert set(stack.members_) == set(stack.weights_)


def test_few_prompts_are_averaged_without_choosing():
    X, y, _ = nonlinear(30)
    stack = StackRouter(members="ridge;forest").fit(X, y)
    assert stack.weights_ == {"ridge": 0.5, "forest": 0.5}
    assert stack.blend_ == 0.0
    members = [create("router", name).fit(X, y).predict(X) for name in ("ridge", "forest")]
    np.testing.assert_allclose(stack.predict(X), np.mean(members, axis=0), atol=1e-12)


def test_isotonic_calibration_mends_a_distorted_member():
    """A ridge of strong penalty pulls everything to the mean; calibration spreads it out again."""
    rng = np.random.default_rng(0)
    X = unit(rng.normal(size=(1500, 4)))
    chance = np.clip(0.5 + 0.9 * X[:, :1], 0.02, 0.98)
    y = (rng.random(chance.shape) < chance).astype(float)
    stack = StackRouter(members="ridge:penalty=3000").fit(X, y)
    assert stack.blend_ > 0
    plain = RidgeRouter(penalty=3000).fit(X, y).predict(X)
    assert ((stack.predict(X) - chance) ** 2).mean() < 0.3 * ((plain - chance) ** 2).mean()


def test_amounts_are_not_calibrated_and_keep_their_scale():
    rng = np.random.default_rng(0)
    X = unit(rng.normal(size=(300, 5)))
    tokens = np.exp(3 + X[:, :2]) * [1.0, 50.0]
    stack = StackRouter().fit(X, tokens)
    assert stack.blend_ == 0.0
    np.testing.assert_allclose(stack.predict(X).mean(axis=0), tokens.mean(axis=0), rtol=0.05)


def test_look_up_is_linear_between_grid_points():
    table = np.linspace(0, 1, 65)[:, None] ** 2
    values = np.array([[0.0], [1 / 64], [1.5 / 64], [1.0], [np.nan]])
    expected = np.array([[0.0], [1 / 64**2], [(1 / 64**2 + 4 / 64**2) / 2], [1.0], [np.nan]])
    np.testing.assert_allclose(_look_up(table, values), expected)


def test_isotonic_tables_never_fall_and_leave_a_hardly_seen_model_alone():
    rng = np.random.default_rng(0)
    predicted = rng.random((400, 2))
    y = (rng.random((400, 2)) < predicted).astype(float)
    y[10:, 1] = np.nan
    table = _isotonic_table(predicted, y, np.ones(400))
    assert (np.diff(table, axis=0) >= 0).all()
    np.testing.assert_allclose(table[:, 1], np.linspace(0, 1, 65))


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ("", "at least one router"),
        ("ridge;ridge", "distinct"),
        ("ridge;knn", "without an index"),
        ("stack", "without an index"),
        ("rigde", "unknown router"),
    ],
)
def test_bad_members(members, match):
    X, y, _ = nonlinear(60)
    with pytest.raises(ConfigError, match=match):
        StackRouter(members=members).fit(X, y)


@pytest.mark.parametrize(
    "parameters", [{"trees": 0}, {"features": 0.0}, {"components": 0, "columns": 0}, {"shrinkage": -1}]
)
def test_bad_forests(parameters):
    X, y, _ = nonlinear(60)
    with pytest.raises(ConfigError, match=f"{next(iter(parameters))}|nothing to split"):
        ForestRouter(**parameters).fit(X, y)


@pytest.mark.parametrize("parameters", [{"landmarks": 0}, {"length": 0.0}])
def test_bad_kernels(parameters):
    X, y, _ = nonlinear(60)
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        KernelRidgeRouter(**parameters).fit(X, y)


def test_a_kernel_is_less_certain_far_from_all_landmarks():
    rng = np.random.default_rng(0)
    near = unit(np.array([1, 0, 0, 0]) + 0.1 * rng.normal(size=(200, 4)))
    router = KernelRidgeRouter().fit(near, (rng.random((200, 1)) < 0.5).astype(float))
    std = router.predict_std(unit([[1, 0, 0, 0], [-1, 0, 0, 0]]))
    assert std[1, 0] > 2 * std[0, 0]


# A new model's scores without the luck of the draw


def test_steadied_outcomes_vary_less_and_keep_their_mean():
    rng = np.random.default_rng(0)
    population, draws, means, plain = 4000, 300, [], []
    hardness = rng.normal(size=population)
    known = 0.5 + 0.2 * hardness[:, None] + 0.1 * rng.normal(size=(population, 4))
    new = 0.6 + 0.2 * hardness + 0.1 * rng.normal(size=population)
    for _ in range(draws):
        rows = rng.choice(population, 40, replace=False)
        steady = steadied(new[rows], np.ones(40), known[rows], np.full((40, 4), known.mean()))
        means.append(steady.mean())
        plain.append(new[rows].mean())
    assert np.mean(means) == pytest.approx(new.mean(), abs=0.01)
    assert np.std(means) < 0.6 * np.std(plain)


def test_known_outcomes_must_fit():
    X, y, _ = nonlinear(80)
    router = RidgeRouter().fit(X, y)
    with pytest.raises(DataError, match=r"known must be \(5, 2\)"):
        router.add_column(X[:5], y[:5, 0], known=y[:5, :1])
    router.add_column(X[:5], y[:5, 0], known=np.full((5, 2), np.nan))
    assert router.n_models_ == 3
