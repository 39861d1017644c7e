"""What cascade routing believes of every model before and after calls: an estimate and how far a call would move it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrouter.flows._answers import AnswerModel, logit, sigmoid
from llmrouter.types import FloatArray

# Log-odds of a verdict that is never wrong: large enough to decide, small enough to stay finite.
_CERTAIN = 12.0


def learned_beliefs(
    model: AnswerModel, expected_quality: FloatArray, *, revealed: FloatArray, called: npt.NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Return estimates and deviations, each (n, m), after the calls in `called` (m,).

    The deviation of a model not yet called is the standard deviation by which its own call would move its estimate:
    `AnswerModel.movement` on the log-odds, carried to the probability at p by the slope p (1 - p). That of a called
    model is zero: nothing more will be learned of it.
    """
    estimate = model.update(expected_quality, revealed=revealed, called=called)
    bounded = np.clip(estimate, 0.0, 1.0)
    return estimate, np.where(called, 0.0, bounded * (1 - bounded) * model.movement)


def judged_beliefs(
    error: float, expected_quality: FloatArray, *, verdict: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray]:
    """Return estimates and deviations, each (n, m), where a judge that errs with probability `error` rules on answers.

    Bayes' rule on the verdicts of called models; the deviation of the others is exact for the two possible verdicts.
    """
    strength = _CERTAIN if error == 0 else min(float(np.log((1 - error) / error)), _CERTAIN)
    prior = np.clip(expected_quality, 0.0, 1.0)
    if_good, if_bad = sigmoid(logit(prior) + strength), sigmoid(logit(prior) - strength)
    accepted = prior * (1 - error) + (1 - prior) * error
    deviation = (if_good - if_bad) * np.sqrt(accepted * (1 - accepted))
    estimate = np.where(called, np.where(verdict, if_good, if_bad), expected_quality)
    return estimate, np.where(called, 0.0, deviation)
