"""kNN over prototypes: what it keeps, what it forgets, and how it learns on."""

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.routers import CondensedKNNRouter, KNNRouter
from llmrouter.routers._prototypes import distinct_count, nearest_prototype, prototypes


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def log(n=600, d=16, regions=12, seed=0):
    """Return prompts around a few centres, and outcomes of two models that each know half of the regions."""
    centres = unit(np.random.default_rng(99).normal(size=(regions, d)))
    random = np.random.default_rng(seed)
    region = random.integers(0, regions, n)
    X = unit(centres[region] + 0.1 * random.normal(size=(n, d)))
    chance = np.where(region % 2, 0.9, 0.2)
    y = (random.random((n, 2)) < np.c_[chance, 1.1 - chance]).astype(float)
    return X, y


def test_with_a_prototype_for_every_prompt_it_is_knn():
    X, y = log(n=90)
    y[::7, 1] = np.nan
    queries = log(n=40, seed=1)[0]
    exact = KNNRouter(k=90, shrinkage=5.0).fit(X, y)
    condensed = CondensedKNNRouter(k=90, share=1.0).fit(X, y)
    np.testing.assert_allclose(condensed.predict(queries), exact.predict(queries), atol=1e-12)
    np.testing.assert_allclose(condensed.predict_std(queries), exact.predict_std(queries), atol=1e-12)
    full = CondensedKNNRouter(k=7, share=1.0).fit(X, y[:, :1])
    np.testing.assert_allclose(
        full.predict(queries), KNNRouter(k=7, shrinkage=5.0).fit(X, y[:, :1]).predict(queries), atol=1e-12
    )


def test_it_keeps_a_tenth_of_the_rows_and_all_of_the_outcomes():
    X, y = log(n=3000)
    weight = np.random.default_rng(3).integers(1, 4, len(X)).astype(float)
    y[::5, 0] = np.nan
    router = CondensedKNNRouter().fit(X, y, weight)
    assert len(router.centroids_) == pytest.approx(300, rel=0.1)
    observed = np.isfinite(y) * weight[:, None]
    np.testing.assert_allclose(router.count_.sum(axis=0), observed.sum(axis=0))
    np.testing.assert_allclose(router.sum_.sum(axis=0), (observed * np.nan_to_num(y)).sum(axis=0))
    assert sum(array.nbytes for array in router.state()[0].values()) < 0.25 * X.nbytes + 24 * router.count_.size


def test_a_tenth_of_the_rows_knows_the_regions():
    X, y = log(n=4000)
    queries, truth = log(n=500, seed=5)
    condensed = CondensedKNNRouter(k=60).fit(X, y).predict(queries)
    exact = KNNRouter(k=60, shrinkage=5.0).fit(X, y).predict(queries)
    assert np.abs(condensed - exact).mean() < 0.05
    right = (condensed.argmax(axis=1) == exact.argmax(axis=1)).mean()
    assert right > 0.97
    assert ((condensed - truth) ** 2).mean() < 1.05 * ((exact - truth) ** 2).mean()


def test_each_model_gets_its_own_k_outcomes():
    X, y = log(n=2000)
    y[:, 1] = np.where(np.random.default_rng(1).random(len(X)) < 0.1, y[:, 1], np.nan)
    router = CondensedKNNRouter(k=20).fit(X, y)
    taken, _, _ = router._taken(router._index.search(X[:50], len(router.centroids_)))
    np.testing.assert_allclose(taken.sum(axis=1), 20.0)


def test_partial_fit_adds_to_prototypes_and_opens_new_ones_for_strangers():
    X, y = log(n=1000)
    router = CondensedKNNRouter(k=20).fit(X, y)
    known = len(router.centroids_)
    before = router.state()[0]["count"].copy()
    router.partial_fit(X[:50], y[:50])
    assert len(router.centroids_) <= known + 5
    assert router.count_.sum() == before.sum() + 100
    strange = unit(-X[:30] + 0.01)
    expected = router.predict(strange)
    router.partial_fit(strange, np.zeros((30, 2)))
    assert len(router.centroids_) > known + 20
    assert (router.predict(strange) < expected).all()
    again = CondensedKNNRouter.from_state(*router.state())
    np.testing.assert_array_equal(again.predict(X[:20]), router.predict(X[:20]))
    again.partial_fit(X[:5], y[:5])
    router.partial_fit(X[:5], y[:5])
    np.testing.assert_array_equal(again.predict(X[:20]), router.predict(X[:20]))


def test_prototypes_do_not_depend_on_the_order_and_are_as_dense_as_the_log():
    X, _ = log(n=4000, regions=30)
    weight = np.ones(len(X))
    found = prototypes(X, 500, weight=weight, seed=0)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_array_equal(prototypes(X[order], 500, weight=weight, seed=0), found)
    assert len(found) == pytest.approx(500, rel=0.05)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    _, cosine = nearest_prototype(X, found)
    assert cosine.mean() > 0.9
    assert distinct_count(np.concatenate([X, X])) == len(X)


def test_the_nearest_prototype_is_the_same_alone_and_in_company():
    X, _ = log(n=300)
    centroids = prototypes(X, 64, weight=np.ones(len(X)), seed=0)
    chosen, cosine = nearest_prototype(X, centroids)
    alone = [nearest_prototype(row[None], centroids) for row in X]
    np.testing.assert_array_equal(chosen, [pair[0][0] for pair in alone])
    np.testing.assert_array_equal(cosine, [pair[1][0] for pair in alone])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"k": 0}, "k must be a whole number >= 1; got 0"),
        ({"share": 0.0}, "share must be above 0 and at most 1; got 0.0"),
        ({"share": 1.5}, "share must be above 0 and at most 1; got 1.5"),
        ({"shrinkage": -1.0}, "shrinkage must be >= 0; got -1.0"),
    ],
)
def test_settings_out_of_range_are_named(settings, match):
    with pytest.raises(ConfigError, match=match):
        CondensedKNNRouter(**settings).fit(*log(n=20))
