"""Calibration of predicted quality: whether a model expected to be right in 70% of the cases is.

ECE as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599), with equal-width bins, and with
bins of equal mass, which do not leave a bin to a handful of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.types import FloatArray

Binning = Literal["mass", "width"]
BINS = 10


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: bins in ascending order of the prediction, the empty ones left out; b of them.

    Attributes
    ----------
    predicted, observed : array of shape (b,)
        Means of the predictions and of the outcomes in each bin.
    count : array of shape (b,), int64
        Predictions in each bin.
    standard_error : array of shape (b,)
        Of `observed`; predictions of one group (one prompt) count as dependent. NaN for a bin of one group.
    ece : float
        Expected calibration error over these bins: ``sum(count * |predicted - observed|) / sum(count)``.
    """

    predicted: FloatArray
    observed: FloatArray
    count: npt.NDArray[np.int64]
    standard_error: FloatArray
    ece: float


@dataclass(frozen=True)
class Calibration:
    """Calibration of a router's predicted quality.

    Attributes
    ----------
    pooled : Reliability
        Equal-mass bins over all prompts and models.
    ece, ece_equal_width : float
        Expected calibration error with bins of equal mass and of equal width.
    brier : float
        Mean squared error of the predictions; the Brier score where outcomes are 0 or 1.
    models : mapping of str to mapping
        For each model: ``ece``, ``ece_equal_width``, ``brier``, ``predicted`` and ``observed`` (means), ``count``.
    """

    pooled: Reliability
    ece: float
    ece_equal_width: float
    brier: float
    models: Mapping[str, Mapping[str, float]]


def _known(predicted: FloatArray, observed: FloatArray) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    predicted, observed = np.asarray(predicted, dtype=np.float64), np.asarray(observed, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != observed.shape:
        raise DataError(f"predicted and observed must be 1-d of one length; got {predicted.shape} and {observed.shape}")
    known = np.isfinite(predicted) & np.isfinite(observed)
    return predicted[known], observed[known], known


def _bin_of(predicted: FloatArray, bins: int, binning: Binning) -> npt.NDArray[np.int64]:
    """Return the bin of each prediction; equal predictions share one, so that their order cannot matter."""
    if binning == "width":
        return np.asarray(np.clip(np.floor(predicted * bins), 0, bins - 1), dtype=np.int64)
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    return np.asarray(np.searchsorted(edges[1:], predicted, side="left"), dtype=np.int64)


def reliability(
    predicted: FloatArray,
    observed: FloatArray,
    *,
    bins: int = BINS,
    binning: Binning = "mass",
    groups: npt.NDArray[np.int64] | None = None,
) -> Reliability:
    """Return the reliability curve of predictions.

    Parameters
    ----------
    predicted, observed : array of shape (n,)
        Predictions and outcomes; pairs with a NaN are left out.
    bins : int
        Number of bins, at most.
    binning : str
        ``mass``: bins of as equal counts as ties allow. ``width``: equal parts of [0, 1]; what lies outside goes to
        the first or last bin.
    groups : array of shape (n,), optional
        Predictions of equal number depend on each other (the models on one prompt); without it all are independent.

    Returns
    -------
    Reliability
        Without bins, and with a NaN error, if no pair is known. With finite bins the error of a perfectly calibrated
        predictor is above 0: compare it between routers on the same prompts.

    Raises
    ------
    DataError
        If the shapes differ.
    ConfigError
        If `bins` is below 1 or the binning unknown.
    """
    if bins < 1 or binning not in get_args(Binning):
        raise ConfigError(f"bins must be >= 1 and binning mass or width; got {bins} and {binning!r}")
    predicted, observed, known = _known(predicted, observed)
    if not predicted.size:
        empty = np.empty(0)
        return Reliability(empty, empty, np.empty(0, dtype=np.int64), empty, math.nan)
    found, place = np.unique(_bin_of(predicted, bins, binning), return_inverse=True)
    count = np.bincount(place)
    mean_predicted = np.bincount(place, weights=predicted) / count
    mean_observed = np.bincount(place, weights=observed) / count
    group = np.arange(len(predicted)) if groups is None else np.unique(groups[known], return_inverse=True)[1]
    return Reliability(
        predicted=mean_predicted,
        observed=mean_observed,
        count=count,
        standard_error=_standard_errors(observed - mean_observed[place], place, group, bins=len(found)),
        ece=float((count * np.abs(mean_predicted - mean_observed)).sum() / count.sum()),
    )


def _standard_errors(
    residual: FloatArray, place: npt.NDArray[np.int64], group: npt.NDArray[np.int64], *, bins: int
) -> FloatArray:
    """Return the cluster-robust standard error of each bin's mean, shape (bins,)."""
    errors = np.full(bins, np.nan)
    for index in range(bins):
        inside = place == index
        _, dense = np.unique(group[inside], return_inverse=True)
        sums = np.bincount(dense, weights=residual[inside])
        if len(sums) > 1:
            errors[index] = math.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / inside.sum()
    return errors


def expected_calibration_error(
    predicted: FloatArray, observed: FloatArray, *, bins: int = BINS, binning: Binning = "mass"
) -> float:
    """Return the mean over bins, weighted by count, of |mean prediction - mean outcome|; see `reliability`."""
    return reliability(predicted, observed, bins=bins, binning=binning).ece


def brier_score(predicted: FloatArray, observed: FloatArray) -> float:
    """Return the mean squared difference of predictions and outcomes, shapes (n,); NaN if no pair is known."""
    predicted, observed, _ = _known(predicted, observed)
    return float(((predicted - observed) ** 2).mean()) if predicted.size else math.nan


def calibration(predicted: FloatArray, observed: FloatArray, models: Sequence[str], *, bins: int = BINS) -> Calibration:
    """Return the calibration of predicted quality, pooled and of each model.

    Parameters
    ----------
    predicted, observed : array of shape (n, m)
        Expected and observed quality; cells with a NaN are left out.
    models : sequence of str, length m
        Names of the columns.
    bins : int
        Number of bins, at most.

    Raises
    ------
    DataError
        If the shapes do not fit.
    """
    if predicted.ndim != 2 or predicted.shape != observed.shape or predicted.shape[1] != len(models):
        raise DataError(
            f"predicted and observed must be (n, {len(models)}); got {predicted.shape} and {observed.shape}"
        )
    n, m = predicted.shape
    pooled = reliability(predicted.ravel(), observed.ravel(), bins=bins, groups=np.repeat(np.arange(n), m))
    return Calibration(
        pooled=pooled,
        ece=pooled.ece,
        ece_equal_width=expected_calibration_error(predicted.ravel(), observed.ravel(), bins=bins, binning="width"),
        brier=brier_score(predicted.ravel(), observed.ravel()),
        models={
            name: _model_figures(predicted[:, column], observed[:, column], bins) for column, name in enumerate(models)
        },
    )


def _model_figures(predicted: FloatArray, observed: FloatArray, bins: int) -> dict[str, float]:
    known = np.isfinite(predicted) & np.isfinite(observed)
    return {
        "ece": expected_calibration_error(predicted, observed, bins=bins),
        "ece_equal_width": expected_calibration_error(predicted, observed, bins=bins, binning="width"),
        "brier": brier_score(predicted, observed),
        "predicted": float(predicted[known].mean()) if known.any() else math.nan,
        "observed": float(observed[known].mean()) if known.any() else math.nan,
        "count": float(known.sum()),
    }
