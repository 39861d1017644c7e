"""Ridge and logistic routers against scikit-learn and explicit algebra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from llmrouter.exceptions import ConfigError
from llmrouter.routers._axes import LinearVariance, PrincipalAxes, are_qualities, patterns
from llmrouter.routers._linear import LogisticRouter, RidgeRouter, _common_penalty, _Group
from llmrouter.routers._logistic_fit import LogisticProblem, choose_penalty, criterion, minimise


def problem(n=300, d=5, m=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    chance = 1 / (1 + np.exp(-(X @ rng.normal(scale=2.0, size=(d, m)) + rng.normal(size=m))))
    return X, (rng.random((n, m)) < chance).astype(float), chance


def unit_length(X):
    return float(((X.astype(float) - X.mean(axis=0, dtype=float)) ** 2).sum(axis=1).mean())


def test_ridge_is_scikit_learns():
    X, y, _ = problem()
    router = RidgeRouter(penalty=7.0).fit(X, 3.0 * y - 1.0)
    theirs = Ridge(alpha=7.0 * unit_length(X)).fit(X.astype(float), 3.0 * y - 1.0)
    np.testing.assert_allclose(router.coef_, theirs.coef_.T, rtol=1e-6)
    np.testing.assert_allclose(router.predict(X), theirs.predict(X.astype(float)), rtol=1e-6, atol=1e-9)


def test_ridge_leaves_missing_rows_of_a_column_out_exactly():
    X, y, _ = problem()
    y[:100, 0] = np.nan
    y[50:200, 2] = np.nan
    together = RidgeRouter(penalty=2.0).fit(X, y)
    for column, rows in enumerate((slice(100, None), slice(None), np.r_[0:50, 200:300])):
        alone = RidgeRouter(penalty=2.0).fit(X[rows], y[rows][:, [column]])
        np.testing.assert_allclose(together.coef_[:, column], alone.coef_[:, 0], rtol=1e-9)
        assert together.intercept_[column] == pytest.approx(alone.intercept_[0])


def test_ridge_standard_error_is_the_posteriors():
    X, y, _ = problem(d=4)
    router = RidgeRouter(penalty=5.0).fit(X, y)
    centred = X.astype(float) - X.mean(axis=0, dtype=float)
    alpha = 5.0 * unit_length(X)
    covariance = np.linalg.inv(centred.T @ centred + alpha * np.eye(4))
    hat = np.trace(covariance @ centred.T @ centred) + 1
    residual = ((y - (X.astype(float) @ router.coef_ + router.intercept_)) ** 2).sum(axis=0)
    noise = (residual + 0.1) / (len(X) - hat + 1)
    shape = np.einsum("nd,de,ne->n", centred, covariance, centred) + 1 / len(X)
    np.testing.assert_allclose(router.predict_std(X), np.sqrt(np.outer(shape, noise)), rtol=1e-6)


def test_ridge_chooses_the_penalty_of_least_generalised_cross_validation():
    X, y, _ = problem(n=120, d=6)
    group = _Group.fit(X, y, np.ones(len(X)))

    def score(penalty):
        design = np.column_stack([np.ones(len(X)), X.astype(float)])
        strength = np.diag([0.0] + 6 * [penalty * unit_length(X)])
        hat = design @ np.linalg.solve(design.T @ design + strength, design.T)
        residual = ((y - hat @ y) ** 2).sum(axis=0)
        return float(np.log(residual / (1 - np.trace(hat) / len(X)) ** 2).sum())

    chosen = _common_penalty([group])
    assert all(score(chosen) <= score(other) + 1e-9 for other in (chosen / 1.6, chosen * 1.6, 0.1, 100.0))


def test_ridge_keeps_amounts_at_or_above_the_least_seen():
    X, y, _ = problem()
    tokens = 20.0 + 400.0 * y
    predicted = RidgeRouter(penalty=1e-3).fit(X, tokens).predict(10.0 * X)
    assert predicted.min() == 20.0
    dollars = RidgeRouter(penalty=1e-3).fit(X, 1e-5 * tokens).predict(10.0 * X)
    np.testing.assert_allclose(dollars.min(), 2e-4)


def test_logistic_alone_is_scikit_learns_with_one_prior_prompt():
    X, y, _ = problem()
    router = LogisticRouter(penalty=2.0, sharing=0.0).fit(X, y)
    prior = y.mean()
    rows = np.vstack([X.astype(float), X.mean(axis=0, dtype=float), X.mean(axis=0, dtype=float)])
    weight = np.r_[np.ones(len(X)), prior, 1 - prior]
    for column in range(3):
        labels = np.r_[y[:, column], 1, 0].astype(int)
        # at the centre the slopes do not matter to the prior prompt: centre the rows, as the router does
        theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000)
        theirs.fit(rows - X.mean(axis=0, dtype=float), labels, sample_weight=weight)
        np.testing.assert_allclose(router.coef_[:, column], theirs.coef_[0], atol=2e-4)
        expected = theirs.predict_proba(X.astype(float) - X.mean(axis=0, dtype=float))[:, 1]
        np.testing.assert_allclose(router.predict(X)[:, column], expected, atol=1e-4)


def test_logistic_takes_a_soft_target_as_a_share_of_successes():
    X, y, _ = problem(n=60)
    soft = 0.25 + 0.5 * y
    twice = np.vstack([X, X])
    shares = np.r_[np.ones(60), np.ones(60)]
    # each soft target as a success of weight y and a failure of weight 1 - y, one column at a time
    for column in range(3):
        router = LogisticRouter(penalty=3.0).fit(X, soft[:, [column]])
        labels = np.r_[np.ones(60), np.zeros(60)][:, None]
        weight = shares * np.r_[soft[:, column], 1 - soft[:, column]]
        hard = LogisticRouter(penalty=3.0).fit(twice, labels, sample_weight=weight)
        np.testing.assert_allclose(router.predict(X), hard.predict(X), atol=1e-5)


def test_sharing_helps_where_each_prompt_saw_one_model():
    X, y, chance = problem(n=400, d=20, m=1)
    rng = np.random.default_rng(1)
    y = (rng.random((400, 6)) < chance).astype(float)  # six models that find the same prompts hard
    y[np.arange(6) != rng.integers(0, 6, size=(400, 1))] = np.nan
    shared, alone = (LogisticRouter(sharing=sharing).fit(X, y).predict(X) for sharing in (1.0, 0.0))
    assert ((shared - chance) ** 2).mean() < 0.8 * ((alone - chance) ** 2).mean()


def test_logistic_gradient_and_optimum():
    X, y, _ = problem(n=50)
    y[::3, 1] = np.nan
    made = LogisticProblem.make(X, y, np.ones(50), sharing=0.5)
    theta = np.random.default_rng(0).normal(size=(6, 3))
    value, gradient = made.log_loss(theta)
    for cell in ((0, 0), (2, 1), (5, 2)):
        moved = theta.copy()
        moved[cell] += 1e-6
        assert (made.log_loss(moved)[0] - value) / 1e-6 == pytest.approx(gradient[cell], rel=1e-4)

    def penalised(theta, penalty=2.0):
        # the least penalty of a split of the slopes into common and own, in closed form
        common = theta[:-1].sum(axis=1) / (3 + 1 / 0.5)
        own = theta[:-1] - common[:, None]
        return made.log_loss(theta)[0] + penalty / 2 * ((own**2).sum() + (common**2).sum() / 0.5)

    best = minimise(made, 2.0)
    rng = np.random.default_rng(2)
    assert all(penalised(best) <= penalised(best + 0.01 * rng.normal(size=best.shape)) for _ in range(20))


def test_logistic_criterion_follows_the_loss_on_new_prompts():
    X, y, chance = problem(n=2000, d=20, seed=3)
    made = LogisticProblem.make(X[:300], y[:300], np.ones(300))
    chosen, _ = choose_penalty(made, (0.03, 0.3, 1.0, 3.0, 10.0, 100.0))

    def fresh(penalty):
        p = np.clip(LogisticRouter(penalty, sharing=0.0).fit(X[:300], y[:300]).predict(X[300:]), 1e-9, 1 - 1e-9)
        return -(chance[300:] * np.log(p) + (1 - chance[300:]) * np.log(1 - p)).mean()

    assert fresh(chosen) < min(fresh(0.03), fresh(100.0))
    assert criterion(made, minimise(made, chosen), chosen) <= criterion(made, minimise(made, 0.03), 0.03)


def test_laplace_standard_error_against_the_explicit_hessian():
    X, y, _ = problem(d=3)
    router = LogisticRouter(penalty=4.0, sharing=0.0).fit(X, y)
    axes = PrincipalAxes.fit(X, np.ones(len(X)))
    Z = axes.coordinates(X)
    p = router.predict(X)
    for column in range(3):
        bend = p[:, column] * (1 - p[:, column])
        covariance = np.diag(np.diag(np.linalg.inv((Z * bend[:, None]).T @ Z + 4.0 * np.eye(3))))
        expected = bend * np.sqrt(np.einsum("nd,de,ne->n", Z, covariance, Z) + 1 / bend.sum())
        np.testing.assert_allclose(router.predict_std(X)[:, column], expected, rtol=1e-5)


def test_axes_beyond_the_most_share_their_mean_variance():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 70)) * np.linspace(2.0, 0.5, 70)
    axes = PrincipalAxes.fit(X, np.ones(500))
    found = LinearVariance.fit(axes, axes.coordinates(X), curvature=np.ones((500, 1)), penalty=np.array([3.0]))
    exact = (axes.coordinates(X) ** 2 / (axes.values + 3.0)).sum(axis=1) + 1 / 500
    np.testing.assert_allclose(found.at(X)[:, 0].mean(), exact.mean(), rtol=1e-9)
    np.testing.assert_allclose(found.at(X)[:, 0], exact, rtol=0.05)


def test_patterns_group_columns_by_their_rows():
    used = np.array([[1, 0, 1, 0], [1, 1, 1, 0]], dtype=bool)
    groups = {tuple(columns): rows.tolist() for rows, columns in patterns(used)}
    assert groups == {(0, 2): [True, True], (1,): [False, True]}


@pytest.mark.parametrize(
    ("values", "upper", "answer"),
    [([0, 1], 1.0, True), ([0, 0], 1.0, True), ([0.01, 0.02], 1.0, False), ([3], 9, False)],
)
def test_dollars_are_no_qualities(values, upper, answer):
    assert are_qualities(np.array(values, dtype=float)[:, None], upper) is answer


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([RidgeRouter, LogisticRouter]))
def test_rows_do_not_depend_on_their_batch(seed, kind):
    X, y, _ = problem(n=80, seed=seed)
    router = kind().fit(X, y)
    mean, std = router.estimate(X)
    order = np.random.default_rng(seed).permutation(len(X))
    for found, expected in zip(router.estimate(X[order]), (mean[order], std[order]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(router.predict(X[3:4]), mean[3:4], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "router",
    [RidgeRouter(0), RidgeRouter(-1.0), RidgeRouter("1"), LogisticRouter(np.inf), LogisticRouter(sharing=-1.0)],
)
def test_bad_parameters(router):
    X, y, _ = problem(n=30)
    with pytest.raises(ConfigError, match=r"penalty must|sharing must"):
        router.fit(X, y)
