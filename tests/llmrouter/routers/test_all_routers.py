"""The contract kit over the whole registry, and what the baselines promise."""

import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter.exceptions import DataError
from llmrouter.registry import available
from llmrouter.routers import BestSingleRouter, CheapestRouter, RandomRouter

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from router_kit import check_router, data


@pytest.mark.parametrize("name", available("router"))
def test_contract(name):
    check_router(name)


def test_best_single_is_chosen_on_train():
    X, _ = data()
    y = np.tile([0.2, 0.9, 0.5], (len(X), 1))
    predicted = BestSingleRouter().fit(X, y).predict(X[:2])
    assert (predicted.argmax(axis=1) == 1).all()
    assert predicted[0, 1] == pytest.approx(0.9)


def test_best_single_needs_an_outcome():
    X, y = data()
    with pytest.raises(DataError, match="no best single"):
        BestSingleRouter().fit(X, np.full_like(y, np.nan)).predict(X)


def test_cheapest_expects_the_same_of_all():
    X, y = data()
    row = CheapestRouter().fit(X, y).predict(X[:1])[0]
    assert (row == row[0]).all()


def test_random_covers_all_models_evenly_and_depends_on_the_seed():
    X, y = data(n=3000)
    chosen = RandomRouter(seed=1).fit(X, y).predict(X).argmax(axis=1)
    assert np.bincount(chosen, minlength=3).min() > 900
    other = RandomRouter(seed=2).fit(X, y).predict(X).argmax(axis=1)
    assert (chosen != other).mean() > 0.5
