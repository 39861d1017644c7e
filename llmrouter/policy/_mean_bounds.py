"""Tests and bounds on the mean of bounded values: whether a mean is below zero, and with what confidence."""

from __future__ import annotations

import math

import numpy as np

from llmrouter.types import FloatArray

METHODS = ("betting", "normal")
_LARGEST_BET = 0.75
_BISECTIONS = 30


def p_value(values: FloatArray, *, most: float, level: float, method: str = "betting") -> float:
    """Return a p-value of "the mean is >= 0": small where the mean is surely negative.

    Parameters
    ----------
    values : array of shape (n,)
        Independent draws in [least, most]; in random order.
    most : float
        Upper end of their range, > 0.
    level : float
        The level that the test is tuned for; the p-value is valid at every level.
    method : {"betting", "normal"}
        "betting" is valid for every n and distribution: one over the largest wealth of a gambler who bets against the
        mean being >= 0, with bets that depend on the past only (Waudby-Smith and Ramdas, arXiv 2010.09686; Ville's
        inequality). "normal" is the one-sided z test: valid for large n only, tighter.
    """
    n = values.size
    if n == 0:
        return 1.0
    if method == "normal":
        deviation = float(values.std(ddof=1)) if n > 1 else 0.0
        if deviation == 0.0:
            return 1.0
        return 0.5 * math.erfc(-float(values.mean()) / deviation * math.sqrt(n / 2))
    return math.exp(-max(_log_wealth(values, most=most, level=level), 0.0))


def upper_bound(values: FloatArray, *, least: float, most: float, level: float, method: str = "betting") -> float:
    """Return an upper confidence bound on the mean, at confidence ``1 - level``; parameters as in `p_value`.

    It is the largest mean that the test does not reject.
    """
    if method == "normal":
        n = values.size
        if n < 2:
            return most
        # The quantile by bisection on erfc: the standard library has no inverse of it outside `statistics`.
        low, high = 0.0, 40.0
        for _ in range(2 * _BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if 0.5 * math.erfc(middle / math.sqrt(2)) > level else (low, middle)
        return float(values.mean() + high * values.std(ddof=1) / math.sqrt(n))
    low, high = max(least, float(values.mean())) if values.size else least, most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rejected = most > middle and p_value(values - middle, most=most - middle, level=level) <= level
        low, high = (low, middle) if rejected else (middle, high)
    return high


def enough(values: FloatArray, *, level: float) -> int | None:
    """Return about how many draws like these would show the mean to be negative; None where no number would."""
    mean = float(values.mean()) if values.size else 0.0
    if mean >= 0:
        return None
    # The wealth of the best fixed bet grows by about mean^2 / (2 E[x^2]) a draw in logarithm.
    return math.ceil(2 * float(np.square(values).mean()) * math.log(1 / level) / mean**2)


def _log_wealth(values: FloatArray, *, most: float, level: float) -> float:
    n = values.size
    count = np.arange(1, n + 1)
    prior = ((most + 1.0) / 2) ** 2  # the variance of the widest values in [-1, most], as one observation
    mean = np.cumsum(values) / (count + 1)
    variance = (prior + np.cumsum(np.square(values - mean))) / (count + 1)
    past = np.concatenate(([prior], variance[:-1]))
    bets = np.minimum(np.sqrt(2 * math.log(1 / level) / (n * past)), _LARGEST_BET / most)
    return float(np.cumsum(np.log1p(-bets * values)).max())
