"""Calibration of predicted quality: hand-computed, against scikit-learn, degenerate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from llmrouter.evaluation import brier_score, calibration, expected_calibration_error, reliability
from llmrouter.exceptions import ConfigError, DataError

PREDICTED = np.array([0.1, 0.2, 0.6, 0.8])
OBSERVED = np.array([0.0, 1.0, 1.0, 1.0])


def test_equal_mass_hand_computed():
    curve = reliability(PREDICTED, OBSERVED, bins=2)
    assert curve.predicted == pytest.approx([0.15, 0.7])
    assert curve.observed == pytest.approx([0.5, 1.0])
    assert curve.count.tolist() == [2, 2]
    assert curve.ece == pytest.approx((0.35 + 0.3) / 2)
    assert curve.standard_error == pytest.approx([0.5, 0.0])  # sample deviation .7071 / sqrt(2)


def test_equal_width_hand_computed():
    curve = reliability(PREDICTED, OBSERVED, bins=4, binning="width")
    assert curve.predicted == pytest.approx([0.15, 0.6, 0.8])
    assert curve.count.tolist() == [2, 1, 1]
    assert curve.ece == pytest.approx((2 * 0.35 + 0.4 + 0.2) / 4)
    assert math.isnan(curve.standard_error[1])


def test_predictions_outside_the_unit_interval_go_to_the_end_bins():
    curve = reliability(np.array([-0.5, 1.5]), np.array([0.0, 1.0]), bins=10, binning="width")
    assert curve.predicted.tolist() == [-0.5, 1.5]
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0]), binning="width") == 0


def test_dependent_predictions_have_a_wider_error():
    predicted = np.full(8, 0.5)
    observed = np.array([1, 1, 0, 0, 1, 1, 0, 0.0])
    alone = reliability(predicted, observed).standard_error[0]
    paired = reliability(predicted, observed, groups=np.repeat(np.arange(4), 2)).standard_error[0]
    assert alone == pytest.approx(observed.std(ddof=1) / math.sqrt(8))
    # the four group means are 1, 0, 1, 0
    assert paired == pytest.approx(np.array([1, 0, 1, 0.0]).std(ddof=1) / 2)


def test_equal_predictions_share_a_bin():
    curve = reliability(np.full(100, 0.3), np.repeat([0.0, 1.0], 50))
    assert curve.count.tolist() == [100]
    assert curve.ece == pytest.approx(0.2)


def test_degenerate():
    nothing = reliability(np.array([np.nan]), np.array([1.0]))
    assert nothing.count.size == 0
    assert math.isnan(nothing.ece)
    assert math.isnan(brier_score(np.array([np.nan]), np.array([1.0])))
    with pytest.raises(DataError, match="one length"):
        reliability(np.zeros(2), np.zeros(3))
    with pytest.raises(ConfigError, match="bins"):
        reliability(PREDICTED, OBSERVED, bins=0)
    with pytest.raises(ConfigError, match="binning"):
        reliability(PREDICTED, OBSERVED, binning="equal")


def test_calibration_pools_and_splits_by_model():
    predicted = np.array([[0.2, 0.9, np.nan], [0.4, 0.7, np.nan]])
    observed = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    found = calibration(predicted, observed, ["a", "b", "c"], bins=1)
    assert found.brier == pytest.approx((0.04 + 0.36 + 0.01 + 0.09) / 4)
    assert found.ece == pytest.approx(abs(0.55 - 0.75))
    assert found.ece_equal_width == pytest.approx(abs(0.55 - 0.75))
    assert found.pooled.count.tolist() == [4]
    assert found.models["a"] == pytest.approx(
        {"ece": 0.2, "ece_equal_width": 0.2, "brier": 0.2, "predicted": 0.3, "observed": 0.5, "count": 2}
    )
    assert math.isnan(found.models["c"]["ece"])
    assert found.models["c"]["count"] == 0
    with pytest.raises(DataError, match=r"\(n, 2\)"):
        calibration(predicted, observed, ["a", "b"])


VALUES = st.lists(st.tuples(st.integers(0, 999), st.booleans()), min_size=1, max_size=60)


@given(VALUES)
def test_equal_width_agrees_with_scikit_learn(pairs):
    predicted, observed = np.array([p / 1000 + 0.0005 for p, _ in pairs]), np.array([float(o) for _, o in pairs])
    true, mean = calibration_curve(observed, predicted, n_bins=10, strategy="uniform")
    curve = reliability(predicted, observed, bins=10, binning="width")
    assert curve.predicted == pytest.approx(mean)
    assert curve.observed == pytest.approx(true)
    if 0 < observed.sum() < len(observed):
        assert brier_score(predicted, observed) == pytest.approx(brier_score_loss(observed, predicted))


@given(VALUES, st.integers(1, 12), st.sampled_from(["mass", "width"]))
def test_error_by_definition_in_any_order(pairs, bins, binning):
    predicted, observed = np.array([p / 1000 for p, _ in pairs]), np.array([float(o) for _, o in pairs])
    curve = reliability(predicted, observed, bins=bins, binning=binning)
    assert len(curve.count) <= bins
    assert curve.count.sum() == len(pairs)
    assert (np.diff(curve.predicted) > 0).all()
    gaps = [abs(p - o) * n for p, o, n in zip(curve.predicted, curve.observed, curve.count, strict=True)]
    assert curve.ece == pytest.approx(sum(gaps) / len(pairs))
    assert curve.observed @ curve.count == pytest.approx(observed.sum())
    order = np.random.default_rng(0).permutation(len(pairs))
    again = reliability(predicted[order], observed[order], bins=bins, binning=binning)
    assert again.ece == pytest.approx(curve.ece)
    assert again.count.tolist() == curve.count.tolist()


def test_equal_mass_bins_are_of_equal_mass():
    predicted = np.random.default_rng(0).random(1000)
    assert reliability(predicted, predicted, bins=8).count.tolist() == [125] * 8
