"""Matrix factorisation and item response routers: derivatives, recovery of a low rank, new models."""

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.routers._axes import sigmoid
from llmrouter.routers._bilinear_fit import Bilinear, fit_bilinear
from llmrouter.routers._factorisation import FactorisationRouter
from llmrouter.routers._interaction import Interaction, _loss
from llmrouter.routers._irt import MIRTRouter, NIRTRouter
from llmrouter.routers._logistic_fit import LogisticProblem

KINDS = (FactorisationRouter, MIRTRouter, NIRTRouter)


def abilities(n=600, d=8, m=6, seed=0):
    """Outcomes (n, m) of a one-dimensional item response model, and their chances."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    discrimination, difficulty = 1.0 + 2.0 * X @ rng.normal(size=d), 2.0 * X @ rng.normal(size=d)
    chance = sigmoid(np.outer(discrimination, np.linspace(-1.5, 1.5, m)) - difficulty[:, None])
    return X, (rng.random((n, m)) < chance).astype(float), chance


def rmse(first, second):
    return float(np.sqrt(((first - second) ** 2).mean()))


def bilinear(rng, *, levels=1):
    sizes = ((levels,), (5,), (5, 2), (3, 2), (2,))
    return [rng.normal(size=size) for size in sizes]


def nudged(parts, number):
    moved = [part.copy() for part in parts]
    moved[number][(0,) * moved[number].ndim] += 1e-6
    return moved


@pytest.mark.parametrize("levels", [1, 3])
def test_bilinear_gradient(levels):
    rng = np.random.default_rng(0)
    problem = LogisticProblem.make(rng.normal(size=(30, 5)), rng.random((30, 3)), np.ones(30))
    parts = bilinear(rng, levels=levels)
    value, slope = problem.log_loss(Bilinear(*parts).theta)
    for number, by_part in enumerate(Bilinear(*parts).gradient(slope)):
        moved, _ = problem.log_loss(Bilinear(*nudged(parts, number)).theta)
        assert (moved - value) / 1e-6 == pytest.approx(by_part[(0,) * by_part.ndim], rel=1e-3)


def test_interaction_gradient_and_slopes():
    rng = np.random.default_rng(0)
    y = rng.random((30, 3))
    y[rng.random(y.shape) < 0.3] = np.nan
    problem = LogisticProblem.make(rng.normal(size=(30, 5)), y, np.ones(30))
    parts = bilinear(rng) + [rng.normal(size=size) for size in ((4, 3), (4,), (4,))]
    value, gradients = _loss(problem, Bilinear(*parts[:5]), Interaction(*parts[5:]))
    for number, by_part in enumerate(gradients):
        moved = nudged(parts, number)
        after, _ = _loss(problem, Bilinear(*moved[:5]), Interaction(*moved[5:]))
        assert (after - value) / 1e-6 == pytest.approx(by_part[(0,) * by_part.ndim], rel=1e-3)
    layer, u = Interaction(*parts[5:]), rng.normal(size=(1, 1, 3))
    for axis in range(3):
        step = np.eye(3)[axis] * 1e-6
        expected = (layer.logits(u + step) - layer.logits(u)) / 1e-6
        np.testing.assert_allclose(layer.slopes(u)[:, :, axis], expected, rtol=1e-3)


def test_full_rank_factorisation_has_the_nuclear_norm_penalty():
    X, y, _ = abilities(n=200, d=4, m=3)
    problem = LogisticProblem.make(X, y, np.ones(200))
    found = fit_bilinear(problem, 3, penalty=3.0, item_response=False)
    # at the optimum both factors carry the square roots of the singular values
    singular = np.linalg.svd(found.maps @ found.vectors.T, compute_uv=False)
    assert (found.maps**2).sum() == pytest.approx(singular.sum(), rel=0.02)
    assert (found.vectors**2).sum() == pytest.approx(singular.sum(), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_of_one_describes_one_ability(kind):
    X, y, chance = abilities(n=2000)
    router = kind(1 if kind is not FactorisationRouter else 2, penalty=1.0).fit(X, y)
    assert rmse(router.predict(X), chance) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_leaves_the_known_ones_bit_equal(kind):
    X, y, _ = abilities()
    router = kind().fit(X, y[:, :5])
    before = router.estimate(X)
    router.add_column(X[:40], y[:40, 5])
    after = router.estimate(X)
    assert router.n_models_ == 6
    np.testing.assert_array_equal(after[0][:, :5], before[0])
    np.testing.assert_array_equal(after[1][:, :5], before[1])
    again = type(router).from_state(*router.state())
    np.testing.assert_array_equal(again.predict(X), router.predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_is_average_at_first_and_itself_later(kind):
    X, y, chance = abilities(n=2000)
    known = kind(penalty=2.0).fit(X, y[:, :5])
    others = known.predict(X).mean(axis=1)
    errors, stds = [], []
    for count in (1, 50, 1000):
        router = kind(penalty=2.0).fit(X, y[:, :5]).add_column(X[:count], y[:count, 5])
        predicted, std = router.estimate(X)
        errors.append(rmse(predicted[:, 5], chance[:, 5]))
        stds.append(std[:, 5].mean())
        if count == 1:
            assert rmse(predicted[:, 5], others) < 0.25
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.06
    assert stds[2] < stds[1] < stds[0]


def test_a_new_model_uses_what_a_few_prompts_say_better_than_alone():
    X, y, chance = abilities(n=2000, m=12)
    rest = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    new = MIRTRouter(penalty=2.0).fit(X, y[:, rest]).add_column(X[:40], y[:40, 10]).predict(X)[:, -1]
    alone = FactorisationRouter(penalty=2.0).fit(X[:40], y[:40, [10]]).predict(X)[:, 0]
    assert rmse(new, chance[:, 10]) < 0.8 * rmse(alone, chance[:, 10])


@pytest.mark.parametrize("parameters", [{"rank": 0}, {"rank": 1.5}, {"penalty": 0.0}, {"hidden": 0}])
def test_bad_parameters(parameters):
    X, y, _ = abilities(n=30)
    with pytest.raises(ConfigError, match=r"rank must|penalty must|hidden must"):
        NIRTRouter(**parameters).fit(X, y)
