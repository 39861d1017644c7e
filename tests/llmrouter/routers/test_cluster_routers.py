"""UniRoute, LearnedMap, Avengers (Pro) and two-step against cases worked out by hand."""

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.routers import AvengersProRouter, AvengersRouter, LearnedMapRouter, TwoStepRouter, UniRouteRouter
from llmrouter.routers._avengers import minmax_score, rank_score

X = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
Y = np.array(
    [[1, 0], [1, 0], [1, 0], [0, 0], [0, 1], [0, 1], [1, 1], [0, 1], [1, 1], [1, 0], [0, 1], [0, np.nan]], dtype=float
)
MEANS = np.array([[0.75, 0.0], [0.25, 1.0], [0.5, 2 / 3]])


def test_plain_cluster_means():
    router = UniRouteRouter(clusters=3, shrinkage=0.0).fit(X, Y)
    np.testing.assert_allclose(router.predict(X[::4]), MEANS)
    # Scale does not matter, direction does.
    np.testing.assert_allclose(router.predict(7.0 * X[:1] + 0.2), MEANS[:1])


def test_cluster_means_are_shrunk_towards_the_models_mean():
    router = UniRouteRouter(clusters=3, shrinkage=2.0).fit(X, Y)
    overall = np.array([0.5, 6 / 11])
    count = np.array([[4, 4], [4, 4], [4, 3]])
    np.testing.assert_allclose(router.predict(X[::4]), (count * MEANS + 2 * overall) / (count + 2))
    # Within clusters: 9 + 1 prompts share 2.5 squares and one presumed prompt of the overall variance 1/4.
    squares = 0.75 + 0.75 + 1.0
    assert router.predict_std(X[:1])[0, 0] == pytest.approx(np.sqrt((squares + 0.25) / 10 / 6))


def test_one_cluster_is_the_models_mean():
    router = UniRouteRouter(clusters=1).fit(X, Y)
    np.testing.assert_allclose(router.predict(X[:2]), np.tile([0.5, 6 / 11], (2, 1)))


def test_estimated_shrinkage_pools_what_does_not_differ():
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.eye(8, dtype=np.float32), 25, axis=0)
    topic = np.repeat(np.arange(8), 25)
    y = np.stack([rng.random(200) < 0.5, rng.random(200) < np.where(topic % 2, 0.9, 0.1)], axis=1).astype(float)
    predicted = UniRouteRouter(clusters=8).fit(prompts, y).predict(prompts)
    plain = UniRouteRouter(clusters=8, shrinkage=0.0).fit(prompts, y).predict(prompts)
    assert predicted[:, 0].std() < 0.4 * plain[:, 0].std()
    assert predicted[:, 1].std() > 0.9 * plain[:, 1].std()


def test_an_empty_cell_takes_the_models_mean():
    y = np.where(np.arange(12)[:, None] < 4, np.nan, Y)
    y[0, 0] = 1.0
    predicted = UniRouteRouter(clusters=3, shrinkage=0.0).fit(X, y).predict(X[:1])
    np.testing.assert_allclose(predicted, [[1.0, 6 / 7]])


def test_partial_fit_counts_on():
    router = UniRouteRouter(clusters=3, shrinkage=0.0).fit(X, Y).partial_fit(X[:1], np.array([[0.0, np.nan]]))
    np.testing.assert_allclose(router.predict(X[:1]), [[3 / 5, 0.0]])
    weighted = UniRouteRouter(clusters=3, shrinkage=0.0).fit(X, Y).partial_fit(X[:1], [[0.0, np.nan]], [4.0])
    np.testing.assert_allclose(weighted.predict(X[:1]), [[3 / 8, 0.0]])


def test_weight_zero_is_removal():
    weight = np.where(np.arange(12) % 3 == 0, 0.0, 1.0)
    first = UniRouteRouter(clusters=3).fit(X, Y, sample_weight=weight).predict(X)
    np.testing.assert_allclose(first, UniRouteRouter(clusters=3).fit(X[weight > 0], Y[weight > 0]).predict(X))


def test_a_new_model_follows_the_population_then_its_own_outcomes():
    rng = np.random.default_rng(1)
    topic = rng.integers(0, 6, size=1200)
    prompts = np.eye(6, dtype=np.float32)[topic]
    shape = np.array([0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    y = (rng.random((1200, 4)) < shape[topic][:, None]).astype(float)
    router = UniRouteRouter(clusters=6).fit(prompts, y)
    few = np.flatnonzero(topic < 2)[:12]  # scored on two topics only
    placed = router.add_column(prompts[few], y[few, 0]).predict(np.eye(6))[:, 4]
    assert np.corrcoef(placed, shape)[0, 1] > 0.9, "the others' profile speaks where nothing was scored"
    odd = (rng.random(1200) < 1.0 - shape[topic]).astype(float)
    own = UniRouteRouter(clusters=6).fit(prompts, y).add_column(prompts, odd)
    np.testing.assert_allclose(own.predict(np.eye(6))[:, 4], 1.0 - shape, atol=0.1)


def test_avengers_weighs_the_nearest_by_distance():
    router = AvengersRouter(clusters=3, top_clusters=2, beta=6.0, shrinkage=0.0).fit(X, Y)
    query = np.array([[2.0, 1.0, 0.0]])
    cosine = np.array([2.0, 1.0]) / np.sqrt(5.0)
    share = np.exp(6.0 * cosine) / np.exp(6.0 * cosine).sum()
    np.testing.assert_allclose(router.predict(query), [share @ MEANS[:2]], rtol=1e-6)


def test_avengers_pro_lets_the_nearest_speak_alike():
    router = AvengersProRouter(clusters=3, top_clusters=2, shrinkage=0.0).fit(X, Y)
    np.testing.assert_allclose(router.predict([[2.0, 1.0, 0.0]]), [MEANS[:2].mean(axis=0)])


def test_scores_of_the_papers():
    table = np.array([[0.9, 0.5, 0.7], [0.2, 0.2, 0.1], [0.3, -np.inf, 0.3]])
    best, second, third = 1 / 0.1, 1 / 1.1, 1 / 2.1
    tied = 1 / 0.6
    np.testing.assert_allclose(rank_score(table), [[best, third, second], [tied, tied, third], [tied, third, tied]])
    np.testing.assert_allclose(minmax_score(table), [[1, 0, 0.5], [1, 1, 0], [0.5, 0, 0.5]])


@pytest.mark.parametrize("scoring", ["rank", "minmax"])
@pytest.mark.parametrize("router_class", [AvengersRouter, AvengersProRouter])
def test_paper_scores_are_calibrated_back_to_quality(router_class, scoring):
    rng = np.random.default_rng(2)
    topic = rng.integers(0, 4, size=900)
    prompts = np.eye(4, dtype=np.float32)[topic]
    expected = np.array([[0.9, 0.2, 0.5], [0.3, 0.8, 0.5], [0.9, 0.4, 0.5], [0.2, 0.7, 0.5]])
    y = (rng.random((900, 3)) < expected[topic]).astype(float)
    router = router_class(clusters=4, top_clusters=1, scoring=scoring).fit(prompts, y)
    predicted = router.predict(np.eye(4))
    # The map knows the order within a cluster, not the level: close for the two that differ, flat for the third.
    assert (predicted[:, :2].argmax(axis=1) == expected[:, :2].argmax(axis=1)).all()
    np.testing.assert_allclose(router.predict(prompts).mean(axis=0), y.mean(axis=0), atol=0.05)
    assert router.predict_std(np.eye(4)).min() > 0
    before = router.predict(prompts)
    router.add_column(prompts[:100], y[:100, 0])
    np.testing.assert_array_equal(router.predict(prompts)[:, :3], before)


def test_two_step_by_hand():
    router = TwoStepRouter(clusters=3, sharpness=2.0, unsure=0.0, shrinkage=0.0).fit(X, Y)
    likely = np.exp(2.0 * np.array([0.8, 0.6, 0.0]))
    likely /= likely.sum()
    np.testing.assert_allclose(router.predict([[4.0, 3.0, 0.0]]), [likely @ MEANS], rtol=1e-6)
    sure = likely.max() / 0.9
    unsure = router.set_params(unsure=0.9).predict([[4.0, 3.0, 0.0]])
    np.testing.assert_allclose(unsure, [sure * likely @ MEANS + (1 - sure) * np.array([0.5, 6 / 11])], rtol=1e-6)


def test_two_step_with_given_labels():
    labels = np.array(["code", "code", "chat"] * 4)
    router = TwoStepRouter(sharpness=200.0, unsure=0.0, shrinkage=0.0)
    prompts = np.where((labels == "code")[:, None], [[1.0, 0.0]], [[0.0, 1.0]])
    router.fit_labelled(prompts, Y, labels)
    predicted = router.predict([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(predicted[0], np.nanmean(Y[labels == "code"], axis=0))
    np.testing.assert_allclose(predicted[1], np.nanmean(Y[labels == "chat"], axis=0))
    with pytest.raises(DataError, match="one category a prompt"):
        router.fit_labelled(prompts, Y, labels[:3])
    with pytest.raises(DataError, match="sample_weight is zero for every prompt"):
        router.fit_labelled(prompts, Y, labels, np.zeros(12))


def test_learned_map_finds_what_clusters_do_not_show():
    """Outcomes depend on a direction that k-means, led by a louder one, does not split."""
    rng = np.random.default_rng(3)
    loud, quiet = rng.choice([-1.0, 1.0], size=(2, 1500))
    prompts = np.stack([3.0 * loud, quiet, 0.3 * rng.normal(size=1500)], axis=1).astype(np.float32)
    y = np.stack([quiet > 0, quiet < 0], axis=1).astype(float)
    y[rng.random(1500) < 0.1] = 0.0
    errors = [
        ((router.fit(prompts, y).predict(prompts) - y) ** 2).mean()
        for router in (LearnedMapRouter(clusters=4, penalty=0.1), LearnedMapRouter(clusters=4, penalty=1e6))
    ]
    assert errors[0] < 0.9 * errors[1]


def test_learned_map_starts_as_a_soft_cluster_map():
    router = LearnedMapRouter(clusters=3, sharpness=5.0, penalty=1e9, shrinkage=0.0).fit(X, Y)
    likely = np.exp(5.0 * np.array([0.8, 0.6, 0.0]))
    likely /= likely.sum()
    np.testing.assert_allclose(router.predict([[4.0, 3.0, 0.0]]), [likely @ MEANS], rtol=1e-4)


@pytest.mark.parametrize("bounded", [True, False])
def test_learned_map_gradient(bounded):
    from scipy.optimize import check_grad

    from llmrouter.routers._learned_map import _MapLoss

    rng = np.random.default_rng(4)
    router = LearnedMapRouter(clusters=3, penalty=0.7)
    router.upper_ = 1.0 if bounded else np.inf
    y = rng.random((20, 2)) * (1.0 if bounded else 50.0)
    y[3, 1] = np.nan
    table = rng.random((3, 2)) * (1.0 if bounded else 50.0)
    start = rng.normal(size=(3, 5)).astype(np.float32)
    loss = _MapLoss(rng.normal(size=(20, 5)), y, rng.random(20), table, start, router)
    theta = (start + 0.3 * rng.normal(size=(3, 5))).ravel()
    error = check_grad(lambda t: loss.loss(t)[0], lambda t: loss.loss(t)[1], theta, epsilon=1e-3)
    assert error < 0.02 * np.linalg.norm(loss.loss(theta)[1]) + 1e-2


@pytest.mark.parametrize(
    ("router", "match"),
    [
        (UniRouteRouter(clusters=0), "clusters must"),
        (UniRouteRouter(clusters=2.5), "clusters must"),
        (UniRouteRouter(shrinkage=-1.0), "shrinkage must"),
        (AvengersRouter(top_clusters=0), "top_clusters must"),
        (AvengersRouter(beta=-1.0), "beta must"),
        (AvengersRouter(scoring="votes"), "scoring must be one of mean, rank, minmax; got 'votes'"),
        (AvengersProRouter(top_clusters=1.5), "top_clusters must"),
        (TwoStepRouter(sharpness=0.0), "sharpness must"),
        (TwoStepRouter(unsure=1.0), "unsure must"),
        (LearnedMapRouter(penalty=0.0), "penalty must"),
        (LearnedMapRouter(sharpness=-1.0), "sharpness must"),
    ],
)
def test_bad_parameters(router, match):
    with pytest.raises(ConfigError, match=match):
        router.fit(X, Y)


def test_all_weights_zero_are_refused():
    with pytest.raises(DataError, match="zero for every prompt"):
        UniRouteRouter(clusters=3).fit(X, Y, sample_weight=np.zeros(12))
