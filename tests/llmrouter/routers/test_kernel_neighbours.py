"""Kernel-weighted neighbours, the selection form and R2-T2 against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import create_index
from llmrouter.routers import KernelKNNRouter, KNNRouter, KNNSelectRouter, R2T2Router
from llmrouter.routers._kernel_knn import kernel_weights
from llmrouter.routers._selection import _votes


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def at_cosines(*cosines):
    return np.array([[c, np.sqrt(1 - c * c)] for c in cosines], dtype=np.float32)


X = at_cosines(0.9, 0.8, 0.6, 0.0)
Y = np.array([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=float)
QUERY = np.array([[1.0, 0.0]], dtype=np.float32)


def random_task(n=400, m=3, seed=0):
    rng = np.random.default_rng(seed)
    x = unit(rng.normal(size=(n, 6)))
    chance = 1 / (1 + np.exp(-3 * x[:, :m]))
    return x, (rng.random((n, m)) < chance).astype(float)


def test_kernels_by_hand():
    similarities = np.array([[0.9, 0.8, 0.6]], dtype=np.float32)
    np.testing.assert_allclose(
        kernel_weights(similarities, bandwidth=0.5, kernel="gaussian"), [np.exp([-0.5, -1.0, -2.0])], rtol=1e-5
    )
    np.testing.assert_allclose(
        kernel_weights(similarities, bandwidth=1.0, kernel="exponential"),
        [np.exp(-np.sqrt([0.25, 0.5, 1.0]))],
        rtol=1e-5,
    )


def test_kernel_mean_by_hand():
    weight = np.exp([-0.25, -0.5, -1.0])
    router = KernelKNNRouter(k=3, shrinkage=0.0).fit(X, Y)
    np.testing.assert_allclose(router.predict(QUERY), [weight @ Y[:3] / weight.sum()], rtol=1e-5)
    effective = weight.sum() ** 2 / (weight**2).sum()
    shrunk = KernelKNNRouter(k=3, shrinkage=4.0).fit(X, Y).predict(QUERY)[0]
    local = weight @ Y[:3] / weight.sum()
    np.testing.assert_allclose(shrunk, (effective * local + 4 * 0.5) / (effective + 4), rtol=1e-5)


def test_kernel_standard_error_counts_effective_prompts():
    x, y = random_task(n=2000)
    router = KernelKNNRouter(k=200, bandwidth=1e6, shrinkage=0.0).fit(x, y)
    assert router.predict_std(x[:50]).mean() == pytest.approx(KNNRouter(k=200).fit(x, y).predict_std(x[:50]).mean())
    narrow = KernelKNNRouter(k=200, bandwidth=0.2, shrinkage=0.0).fit(x, y)
    assert narrow.predict_std(x[:50]).mean() > 1.3 * router.predict_std(x[:50]).mean()


def test_a_wide_kernel_is_plain_knn():
    x, y = random_task()
    y[::5, 0] = np.nan
    wide = KernelKNNRouter(k=30, bandwidth=1e9, shrinkage=2.0).fit(x, y)
    np.testing.assert_allclose(wide.predict(x[:9]), KNNRouter(k=30, shrinkage=2.0).fit(x, y).predict(x[:9]), rtol=1e-6)


def test_kernel_of_repeated_prompts():
    x, y = np.repeat(QUERY, 6, axis=0), np.array([[1.0], [0], [1], [0], [1], [0]])
    assert KernelKNNRouter(k=4, shrinkage=0.0).fit(x, y).predict(QUERY)[0, 0] == pytest.approx(0.5)


def test_votes_are_shared_by_the_best():
    utility = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.2, np.nan, 0.9], [np.nan] * 3])
    expected = [[0.5, 0.5, 0], [1 / 3] * 3, [0, np.nan, 1], [np.nan] * 3]
    np.testing.assert_allclose(_votes(utility), expected)


def test_selection_shares_by_hand():
    router = KNNSelectRouter(k=3, shrinkage=0.0).fit(X, Y)
    share, _ = router._shares(router.neighbours(QUERY))
    np.testing.assert_allclose(share, [[(1 + 0.5 + 0.5) / 3, (0 + 0.5 + 0.5) / 3]])
    # A penalty on the first model hands its ties over: prompts 1 and 2 go to the second.
    router = KNNSelectRouter(k=3, shrinkage=0.0, penalties=[0.1, 0.0]).fit(X, Y)
    np.testing.assert_allclose(router._shares(router.neighbours(QUERY))[0], [[1 / 3, 2 / 3]])


def test_selection_is_calibrated_and_monotone():
    x, y = random_task(n=1500)
    router = KNNSelectRouter(k=60).fit(x, y)
    predicted = router.predict(x)
    np.testing.assert_allclose(predicted.mean(axis=0), y.mean(axis=0), atol=0.04)
    share, _ = router._shares(router.neighbours(x))
    for model in range(3):
        order = np.argsort(share[:, model])
        assert (np.diff(predicted[order, model]) >= -1e-12).all()
    assert np.corrcoef(predicted[:, 0], x[:, 0])[0, 1] > 0.6


def test_selection_says_nothing_of_a_log_with_one_model_a_prompt():
    x, y = random_task(n=600)
    keep = np.random.default_rng(0).integers(0, 3, size=600)
    sparse = np.where(np.arange(3) == keep[:, None], y, np.nan)
    predicted = KNNSelectRouter(k=60).fit(x, sparse).predict(x)
    np.testing.assert_allclose(predicted, np.tile(np.nanmean(sparse, axis=0), (600, 1)), atol=1e-9)


def test_selection_refuses_a_bare_index_and_bad_penalties():
    index = create_index("exact", 2)
    index.add(np.arange(4), X)
    with pytest.raises(DataError, match="call fit"):
        KNNSelectRouter().fit_shared(index, Y)
    with pytest.raises(ConfigError, match="penalties must be 2 numbers"):
        KNNSelectRouter(penalties=[0.1]).fit(X, Y)


def test_r2t2_looks_at_solved_prompts_only():
    # The second prompt was answered by no model: the two nearest references are the first and the third.
    weight = np.exp([-0.25, -1.0])
    router = R2T2Router(k=2, shrinkage=0.0).fit(X, Y)
    local = weight @ Y[[0, 2]] / weight.sum()
    scale = np.array([0.5, 0.5]) / np.array([2 / 3, 2 / 3])  # three of four prompts are solvable
    np.testing.assert_allclose(router.predict(QUERY), [scale * local], rtol=1e-5)


def test_r2t2_shrinks_to_the_models_mean():
    predicted = R2T2Router(k=2, shrinkage=1e9).fit(X, Y).predict(QUERY)
    np.testing.assert_allclose(predicted, [[0.5, 0.5]], rtol=1e-6)


def test_r2t2_corrects_for_how_often_a_model_was_asked():
    rng = np.random.default_rng(0)
    x, chance = unit(rng.normal(size=(4000, 6))), np.array([0.9, 0.3])
    y = (rng.random((4000, 2)) < chance).astype(float)
    asked = rng.random(4000) < 0.8
    y = np.where(np.stack([asked, ~asked], axis=1), y, np.nan)
    predicted = R2T2Router(k=300).fit(x, y).predict(x[:200])
    np.testing.assert_allclose(predicted.mean(axis=0), chance, atol=0.04)


def test_r2t2_searches_until_it_has_k_references():
    x, y = random_task(n=500)
    y[:480] = 0.0  # solved prompts are rare
    y[480:, 0] = 1.0
    router = R2T2Router(k=12, shrinkage=0.0).fit(x, y)
    found = router._search(x[:5])
    assert (router.reference_[found.ids].sum(axis=1) >= 12).all()
    np.testing.assert_array_equal(router.predict(x[:5]), np.vstack([router.predict(row[None]) for row in x[:5]]))


def test_r2t2_mean_shift_moves_towards_a_mode():
    y = np.array([[1.0, 0.0]] * 7 + [[0.0, 1.0]] * 3)
    x = np.repeat(QUERY, 10, axis=0)
    plain, shifted = (R2T2Router(k=10, shrinkage=0.0, mean_shift=s).fit(x, y).predict(QUERY)[0] for s in (0, 5))
    np.testing.assert_allclose(plain, [0.7, 0.3])
    assert shifted[0] > 0.8
    assert shifted[1] < 0.2


def test_r2t2_where_nothing_was_ever_solved():
    predicted = R2T2Router(k=3).fit(X, np.zeros_like(Y)).predict(QUERY)
    np.testing.assert_array_equal(predicted, [[0.0, 0.0]])
    partly = R2T2Router(k=3, shrinkage=0.0).fit(X, 0.1 * Y).predict(QUERY)
    np.testing.assert_allclose(partly, KernelKNNRouter(k=3, shrinkage=0.0).fit(X, 0.1 * Y).predict(QUERY))


def test_partial_fit_appends_and_shared_indexes_stay_in_step():
    x, y = random_task(n=200)
    first, half = KNNRouter(k=20).fit(x, y), KNNRouter(k=20).fit(x[:100], y[:100])
    twin = KNNRouter(k=20).fit_shared(half.index_, 100.0 * y[:100])
    half.partial_fit(x[100:], y[100:])
    twin.partial_fit(x[100:], 100.0 * y[100:])
    np.testing.assert_array_equal(half.predict(x), first.predict(x))
    np.testing.assert_allclose(twin.predict(x), 100.0 * first.predict(x))
    half.partial_fit(x[:3], y[:3])
    with pytest.raises(DataError, match="same prompts in the same order"):
        twin.partial_fit(x[:5], y[:5])


def test_partial_fit_leaves_added_columns_alone():
    x, y = random_task(n=200)
    router = KNNRouter(k=20).fit(x, y).add_column(x[:50], y[:50, 0])
    more = np.column_stack([y[:10], np.full(10, np.nan)])
    router.partial_fit(x[:10], more)
    more[:, 3] = 1.0
    with pytest.raises(DataError, match="added after fit"):
        router.partial_fit(x[:10], more)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 4), st.integers(0, 2**31 - 1))
def test_r2t2_order_and_batch_do_not_matter(k, mean_shift, seed):
    x, y = random_task(n=60, seed=seed % 1000)
    queries = unit(np.random.default_rng(seed).normal(size=(7, 6)))
    router = R2T2Router(k=k, mean_shift=mean_shift).fit(x, y)
    together = router.predict(queries)
    np.testing.assert_allclose(together[::-1], router.predict(queries[::-1]), rtol=1e-12)
    np.testing.assert_allclose(together, np.vstack([router.predict(q[None]) for q in queries]), rtol=1e-12)


@pytest.mark.parametrize(
    ("router", "match"),
    [
        (KernelKNNRouter(k=0), "k must"),
        (KernelKNNRouter(bandwidth=0.0), "bandwidth must"),
        (KernelKNNRouter(kernel="box"), "kernel must be one of gaussian, exponential"),
        (KernelKNNRouter(shrinkage=-1.0), "shrinkage must"),
        (KNNSelectRouter(shrinkage=-1.0), "shrinkage must"),
        (R2T2Router(bandwidth=-1.0), "bandwidth must"),
        (R2T2Router(shrinkage=-1.0), "shrinkage must"),
        (R2T2Router(success=0.0), "success must"),
        (R2T2Router(mean_shift=-1), "mean_shift must"),
    ],
)
def test_bad_parameters(router, match):
    with pytest.raises(ConfigError, match=match):
        router.fit(X, Y)
