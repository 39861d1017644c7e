"""RouterBench's simulated judge: it knows the truth and errs with a set probability (arXiv 2403.12031, section 5).

A judge that sees outcomes cannot be deployed; what it gives is the bound of what a cascade could do with one as good.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError
from llmrouter.types import FloatArray

# As in RouterBench's code: an answer is good if it is among the best twentieth. On 0/1 scores that is score 1.
_GOOD_QUANTILE = 0.95


def check_judge_error(error: float | None) -> float | None:
    """Return the probability of a wrong verdict; None is no judge.

    Raises
    ------
    ConfigError
        If it does not lie in [0, 0.5].
    """
    if error is not None and not 0 <= error <= 0.5:
        raise ConfigError(f"judge_error must lie in [0, 0.5] (0.5 is a coin), or be None; got {error!r}")
    return error


def good_quality(quality: FloatArray) -> float:
    """Return the quality from which on an answer is good: the 95% quantile of what was observed."""
    return float(np.nanquantile(quality, _GOOD_QUANTILE))


def judge_verdicts(quality: FloatArray, *, error: float, good: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return whether the judge accepts each answer: the truth, flipped with probability `error`.

    Parameters
    ----------
    quality : array of shape (n, m)
        True qualities.
    error : float
        Probability of a wrong verdict, in [0, 0.5].
    good : float
        Quality from which on an answer is good, see `good_quality`.
    seed : int
        Of the flips.

    Returns
    -------
    array of shape (n, m), bool
    """
    check_judge_error(error)
    flipped = np.random.default_rng(seed).random(quality.shape) < error
    return np.asarray((quality >= good) != flipped)
