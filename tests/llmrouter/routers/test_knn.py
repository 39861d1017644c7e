"""KNNRouter against means computed by hand, and its behaviour on missing outcomes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError, NotFittedError
from llmrouter.routers import KNNRouter


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


X = unit([[1, 0], [1, 0.1], [1, 0.3], [0, 1], [0.1, 1]])
Y = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [np.nan, 1]], dtype=float)


def test_mean_of_the_nearest():
    router = KNNRouter(k=2).fit(X, Y)
    np.testing.assert_allclose(router.predict(unit([[1, 0.04]])), [[1.0, 0.0]])
    router.set_params(k=3)
    np.testing.assert_allclose(router.predict(unit([[1, 0.04]])), [[2 / 3, 1 / 3]])


def test_missing_neighbours_are_left_out_of_the_mean():
    router = KNNRouter(k=2).fit(X, Y)
    np.testing.assert_allclose(router.predict(unit([[0.05, 1]])), [[0.0, 1.0]])


def test_shrinkage_pulls_towards_the_models_mean():
    router = KNNRouter(k=2, shrinkage=2.0).fit(X, Y)
    expected = (2 * 1.0 + 2 * 0.5) / 4  # two neighbours at 1, the model's mean over its four observed prompts is 0.5
    np.testing.assert_allclose(router.predict(unit([[1, 0.04]]))[0, 0], expected)


def test_no_observed_neighbour_gives_the_models_mean_and_an_unseen_model_nan():
    y = np.array([[1.0, np.nan, np.nan]] * 4 + [[1.0, 0.25, np.nan]])
    router = KNNRouter(k=1).fit(X, y)
    predicted = router.predict(unit([[1, 0]]))
    np.testing.assert_allclose(predicted[0, :2], [1.0, 0.25])
    assert np.isnan(predicted[0, 2])
    assert np.isnan(router.predict_std(unit([[1, 0]]))[0, 2])


def test_equal_neighbours_do_not_make_certain():
    router = KNNRouter(k=2).fit(X, Y)
    assert (router.predict_std(unit([[1, 0]])) > 0.05).all()


def test_standard_error_falls_with_k():
    rng = np.random.default_rng(0)
    x, y = unit(rng.normal(size=(500, 8))), rng.integers(0, 2, size=(500, 3)).astype(float)
    small, large = (KNNRouter(k=k).fit(x, y).predict_std(x[:20]).mean() for k in (5, 200))
    assert large < small / 3
    assert large == pytest.approx(0.5 / np.sqrt(200), rel=0.1)


def test_sample_weight_zero_removes_a_prompt():
    weight = np.array([0.0, 1, 1, 1, 1])
    predicted = KNNRouter(k=2).fit(X, Y, sample_weight=weight).predict(unit([[1, 0]]))
    np.testing.assert_allclose(predicted, [[1.0, 0.0]])
    assert KNNRouter(k=5).fit(X, Y, sample_weight=weight).mean_[0] == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_order_and_batch_do_not_matter(k, seed):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.normal(size=(60, 5))), rng.random((60, 3))
    queries = unit(rng.normal(size=(7, 5)))
    router = KNNRouter(k=k, shrinkage=1.5).fit(x, y)
    together = router.predict(queries)
    np.testing.assert_array_equal(together[::-1], router.predict(queries[::-1]))
    np.testing.assert_allclose(together, np.vstack([router.predict(q[None]) for q in queries]), rtol=1e-12)


def test_state_round_trip_is_exact():
    router = KNNRouter(k=3, shrinkage=0.5).fit(X, Y)
    again = KNNRouter.from_state(*router.state(), index=router.index_)
    np.testing.assert_array_equal(router.predict(X), again.predict(X))
    np.testing.assert_array_equal(router.predict_std(X), again.predict_std(X))


@pytest.mark.parametrize("parameters", [{"k": 0}, {"k": 2.5}, {"k": 3, "shrinkage": -1.0}])
def test_bad_parameters(parameters):
    with pytest.raises(ConfigError, match=r"k must|shrinkage must"):
        KNNRouter(**parameters).fit(X, Y)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (X[:3], Y, "same n"),
        (X[:0], Y[:0], "0 prompts"),
        (np.where(X == 1, np.nan, X), Y, "NaN"),
        (X, np.where(Y == 1, np.inf, Y), "infinite"),
    ],
)
def test_bad_training_data(x, y, match):
    with pytest.raises(DataError, match=match):
        KNNRouter(k=1).fit(x, y)


def test_bad_queries():
    with pytest.raises(NotFittedError):
        KNNRouter().predict(X)
    router = KNNRouter(k=1).fit(X, Y)
    with pytest.raises(DataError, match=r"\(n, 2\)"):
        router.predict(np.ones((1, 3)))
    with pytest.raises(DataError, match="NaN"):
        router.predict(np.array([[np.nan, 1.0]]))


def test_parameters_follow_scikit_learn():
    router = KNNRouter(k=7)
    assert router.get_params() == {"k": 7, "shrinkage": 0.0, "trim": 0.0, "cutoff": -1.0, "index": "auto"}
    assert repr(router.set_params(k=8)) == "KNNRouter(cutoff=-1.0, index='auto', k=8, shrinkage=0.0, trim=0.0)"
    with pytest.raises(ValueError, match="Invalid parameter 'neighbours'"):
        router.set_params(neighbours=3)


def test_trimming_cuts_off_a_planted_outcome_and_leaves_amounts_alone() -> None:
    X = np.tile(np.float32([[1.0, 0.0]]), (10, 1))
    y = np.array([[0.5]] * 9 + [[1.0]])
    assert KNNRouter(k=10).fit(X, y).predict(X[:1])[0, 0] == pytest.approx(0.55)
    assert KNNRouter(k=10, trim=0.1).fit(X, y).predict(X[:1])[0, 0] == pytest.approx(0.5)
    amounts = y * 1000
    assert KNNRouter(k=10, trim=0.1).fit(X, amounts).predict(X[:1])[0, 0] == pytest.approx(550)


def test_trimming_counts_weight_not_rows() -> None:
    X = np.tile(np.float32([[1.0, 0.0]]), (3, 1))
    y, weight = np.array([[0.2], [0.4], [0.9]]), np.array([1.0, 1.0, 2.0])
    # of a weight of 4 a quarter at each end: the first goes, of the last half is left
    assert KNNRouter(k=3, trim=0.25).fit(X, y, weight).predict(X[:1])[0, 0] == pytest.approx((0.4 + 0.9) / 2)


def test_far_from_all_prompts_the_estimate_is_the_mean() -> None:
    X = np.float32([[1.0, 0.0]] * 4 + [[0.8, 0.6]])
    y = np.array([[1.0], [1.0], [1.0], [1.0], [0.0]])
    far = np.float32([[0.0, 1.0]])
    assert KNNRouter(k=1).fit(X, y).predict(far)[0, 0] == 0.0
    assert KNNRouter(k=1, cutoff=0.7).fit(X, y).predict(far)[0, 0] == pytest.approx(0.8)


@pytest.mark.parametrize("parameters", [{"trim": 0.5}, {"trim": -0.1}, {"cutoff": 1.5}])
def test_trim_and_cutoff_out_of_range_are_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        KNNRouter(**parameters).fit(np.eye(2, dtype=np.float32), np.ones((2, 1)))
