"""Moments of off-policy estimates: skewness is allowed for, and the variance is that of the policy in question."""

import dataclasses

import numpy as np
import pytest

from llmrouter.evaluation import LoggedDecisions, off_policy_estimate
from llmrouter.evaluation._off_policy_intervals import interval_of
from llmrouter.evaluation._off_policy_moments import assisted
from llmrouter.evaluation._off_policy_scores import Contrast, doubly_robust


def rare(n, *, seed, chance=0.02, skill=(0.9, 0.9)):
    """Return a log in which the new choice is asked seldom and right mostly, both policies, and a model at the mean."""
    random = np.random.default_rng(seed)
    propensities = np.tile([1 - chance, chance], (n, 1))
    chosen = (random.random(n) < chance).astype(int)
    reward = (random.random(n) < np.array(skill)[chosen]).astype(float)
    log = LoggedDecisions(chosen, reward, propensities[np.arange(n), chosen], propensities)
    one = np.eye(2)
    return log, one[np.ones(n, dtype=int)], one[np.zeros(n, dtype=int)], np.tile(skill, (n, 1))


def test_skewness_and_coupling_are_those_of_the_estimate():
    """Residuals are 0.1 or, seldom, -0.9: a normal lower bound lies above the truth, which is 0, far too often."""
    estimates = []
    for seed in range(500):
        log, new, live, model = rare(1500, seed=seed)
        sides = (Contrast(log, new, model), Contrast(log, live, model))
        estimates.append(doubly_robust(Contrast(log, new - live, model, sides)))
    values = np.array([scores.value for scores in estimates])
    variances = np.array([scores.moments.variance for scores in estimates])
    deviation = values - values.mean()
    assert np.sqrt(variances.mean()) == pytest.approx(deviation.std(), rel=0.1)
    seen = (deviation**3).mean() / deviation.std() ** 3
    assert seen < -0.2
    estimated = np.mean([scores.moments.skewness for scores in estimates])
    assert 1.2 * seen < estimated < 0.4 * seen, "with few rows it is shrunk towards that of the prior rows"
    assert np.corrcoef(values, variances)[0, 1] < -0.2, "too high a mean comes with too low a variance"
    settings = {"cluster": None, "kind": "auto", "confidence": 0.9, "spread": 1.0, "largest": 50.0, "seed": 0}
    corrected = sum(interval_of(scores, **settings)[1] > 0 for scores in estimates)
    normal = int((values > 1.6449 * np.sqrt(variances)).sum())
    assert corrected <= 0.08 * 500
    assert normal >= corrected + 10


@pytest.mark.parametrize("of", ["target", "difference"])
def test_what_neither_policy_does_is_not_their_variance(of):
    random = np.random.default_rng(5)
    n, m = 1600, 5
    live, new = np.eye(m)[np.zeros(n, dtype=int)], np.eye(m)[np.arange(n) % 2]
    chance = 0.8 * live + 0.2 / m
    chosen = (random.random(n)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    reward = (random.random(n) < 0.8).astype(float)
    errors = []
    for others in (0.8, 0.0):
        seen = np.where(chosen < 2, reward, others)
        log = LoggedDecisions(chosen, seen, chance[np.arange(n), chosen], chance)
        found = getattr(off_policy_estimate(log, new, baseline=live, methods=["snips"]), of)["snips"]
        errors.append(found.standard_error)
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_what_never_came_up_leaves_nothing_to_rest_on():
    log, new, live, _ = rare(300, seed=0, chance=0.02)
    chosen = np.zeros(300, dtype=int)
    log = dataclasses.replace(log, chosen=chosen, propensity=log.propensities[:, 0].copy())
    overlap = off_policy_estimate(log, new, baseline=live).overlap
    assert overlap.effective_difference == 0, "many rows of the live choice say nothing about the other"


def test_larger_weights_than_the_threshold_count_for_nothing():
    log, new, live, model = rare(200, seed=1)
    contrast = Contrast(log, new - live, model)
    nothing = np.zeros(200)
    ones = np.ones(200)
    everything = assisted(contrast, ones, nothing).variance
    # Of the weights 1 / 0.02 and 1 / 0.98 the first alone is above the threshold.
    assert everything == pytest.approx((1 / 0.02 + 1 / 0.98) / 200)
    assert assisted(contrast, ones, nothing, threshold=2.0).variance == pytest.approx(1 / 0.98 / 200)
    assert assisted(contrast, ones, nothing, threshold=0.5).variance == 0
