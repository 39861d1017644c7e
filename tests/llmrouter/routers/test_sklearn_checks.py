"""scikit-learn's estimator checks over the whole registry; every exception is listed here with its reason."""

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmrouter.exceptions import NotFittedError
from llmrouter.registry import available, resolve
from llmrouter.routers import MeanRouter

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from router_kit import make

EVERY_ROUTER = {
    "check_supervised_y_no_nan": "NaN in y is data: the model was not observed on that prompt",
    "check_dtype_object": "wrong types raise DataError, a ValueError of the project's own; the check wants TypeError",
}
_WEIGHTS = "check_sample_weight_equivalence_on_dense_data"
_BOOTSTRAP = "a bootstrap and a held-out part are drawn by row, so that a row of weight 2 is not two rows"
_FOLDS = "folds are dealt by row, so that a row of weight 2 is not two rows, which may fall into different folds"
_BY_ROUTER = {
    "boosting": {_WEIGHTS: _BOOTSTRAP},
    "mlp": {_WEIGHTS: _BOOTSTRAP},
    "forest": {_WEIGHTS: _BOOTSTRAP},
    "carrot": {_WEIGHTS: _FOLDS},
    "cscr": {_WEIGHTS: _FOLDS},
    "routerdc": {_WEIGHTS: _FOLDS},
    "svm": {_WEIGHTS: _FOLDS},
    "stack": {_WEIGHTS: _FOLDS},
    "stack-full": {_WEIGHTS: _FOLDS},
    "learned-map": {
        _WEIGHTS: "k-means starts from rows drawn at random: a row of weight 2 is drawn once, two are twice"
    },
}

NAMES = {resolve("router", name): name for name in available("router")}


def expected_failures(estimator):
    return EVERY_ROUTER | _BY_ROUTER.get(NAMES[type(estimator)], {})


@parametrize_with_checks([make(name) for name in NAMES.values()], expected_failed_checks=expected_failures)
def test_estimator_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", sorted(_BY_ROUTER))
def test_exceptions_are_of_registered_routers(name):
    assert name in available("router")


def test_not_fitted_is_scikit_learns_error_too_where_it_is_loaded(monkeypatch):
    from sklearn.exceptions import NotFittedError as Theirs

    with pytest.raises(NotFittedError, match="call fit first") as caught:
        MeanRouter().predict(np.ones((1, 2)))
    assert isinstance(caught.value, Theirs)
    monkeypatch.delitem(sys.modules, "sklearn.exceptions")
    with pytest.raises(NotFittedError) as caught:
        MeanRouter().predict(np.ones((1, 2)))
    assert type(caught.value) is NotFittedError


def test_score_is_the_mean_r2_over_observed_models():
    X = np.ones((4, 2), dtype=np.float32)
    router = MeanRouter().fit(X, np.array([[0.0, 1.0, 0.5]] * 2 + [[1.0, 1.0, 0.5]] * 2))
    # model 0: mean 0.5 predicted, 0 explained; model 1: all alike and met; model 2: all alike and missed
    y = np.array([[0.0, 1.0, 0.9]] * 2 + [[1.0, 1.0, 0.9]] * 2)
    assert router.score(X, y) == pytest.approx((0.0 + 1.0 + 0.0) / 3)
    y[:, 2] = np.nan
    assert router.score(X, y) == pytest.approx((0.0 + 1.0) / 2)
