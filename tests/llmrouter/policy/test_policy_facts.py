"""Training facts and calibrations check themselves."""

from dataclasses import replace

import numpy as np
import pytest

from llmrouter.exceptions import DataError
from llmrouter.policy import TrainingFacts
from tests.contracts.policy_kit import facts

CALIBRATION = facts(20).calibration


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quality", np.zeros((20, 3)), r"quality has the shape \(20, 3\); prompts x models is \(20, 4\)"),
        ("expected_std", np.zeros((4, 20)), "expected_std has the shape"),
        ("embeddings", np.zeros((19, 6)), "embeddings have the shape"),
        ("embeddings", np.zeros(20), "embeddings have the shape"),
        ("tasks", (None,) * 21, "shape"),
        ("expected_quality", np.full((20, 4), np.nan), "expected_quality holds NaN"),
        ("expected_cost_usd", np.full((20, 4), np.inf), "expected_cost_usd holds NaN or infinite"),
        ("quality", np.full((20, 4), 1.7), r"quality runs from 1.7 to 1.7; scale it to \[0, 1\]"),
    ],
)
def test_a_wrong_calibration_names_the_field(field, value, message):
    with pytest.raises(DataError, match=message):
        replace(CALIBRATION, **{field: value})


def test_unobserved_costs_are_filled_with_the_expected_ones():
    cost = CALIBRATION.cost_usd.copy()
    cost[0, 1] = np.nan
    paid = replace(CALIBRATION, cost_usd=cost).paid_usd()
    assert paid[0, 1] == CALIBRATION.expected_cost_usd[0, 1]
    assert paid[0, 0] == cost[0, 0]


def means(quality, cost):
    names = tuple("abc"[: len(quality)])
    return TrainingFacts(names, 1.0, "a", dict(zip(names, quality)), dict(zip(names, cost)))


def test_the_best_single_model_depends_on_the_weight_of_cost():
    found = means([0.9, 0.8, 0.5], [1.0, 0.1, 0.0])
    # at 0.3: 0.6, 0.77, 0.5; at 10: -9.1, -0.2, 0.5
    assert [found.best_at(weight) for weight in (0.0, 0.3, 10.0)] == ["a", "b", "c"]
    assert means([0.5, 0.5], [0.2, 0.1]).best_at(0.0) == "b"


def test_models_without_means_cannot_be_the_best():
    assert means([np.nan, 0.1], [1.0, 0.1]).best_at(0.0) == "b"
    with pytest.raises(DataError, match="train again"):
        means([np.nan], [1.0]).best_at(0.0)
