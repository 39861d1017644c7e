"""UCB and Thompson sampling: bonuses, the preference prior, exact propensities."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from llmrouter.exceptions import ConfigError
from llmrouter.policy import ThompsonPolicy, UCBPolicy
from llmrouter.policy._ranking import choice_probabilities
from llmrouter.types import Preference, RoutingRequest
from tests.contracts.policy_kit import MODELS, candidates_of, estimates_of

FREE = np.zeros(4)


def choose(policy, quality, *, std=0.1, cost=FREE, eligible=(True,) * 4, request=None):
    return policy.choose(
        request or RoutingRequest("x"), candidates_of(eligible), estimates_of(quality, std=std, cost=cost)
    )


def test_ucb_tries_what_is_little_known():
    quality, std = [0.8, 0.7, 0.6, 0.1], [0.01, 0.05, 0.3, 0.1]
    assert choose(UCBPolicy(0.0), quality, std=std).model == "small"
    decision = choose(UCBPolicy(1.0), quality, std=std)  # 0.81, 0.75, 0.9, 0.2
    assert [entry.model for entry in decision.ranking] == ["large", "small", "middle", "other"]
    assert decision.propensity == 1.0
    assert decision.policy == "ucb(0.3)"


def test_cost_counts_by_the_weight_and_the_request_may_set_it():
    policy = UCBPolicy(0.0, cost_weight=1.0, reference_cost_usd=1.0)
    cost = [0.3, 0.0, 0.0, 0.0]
    assert choose(policy, [0.9, 0.7, 0.1, 0.1], cost=cost).model == "middle"
    free = RoutingRequest("x", preference=Preference(cost_weight=0.0))
    assert choose(policy, [0.9, 0.7, 0.1, 0.1], cost=cost, request=free).model == "small"


def test_the_preference_counts_as_much_as_an_estimate_of_its_standard_error():
    policy = UCBPolicy(0.0, preference={"other": 0.9}, preference_std=0.1)
    # equal standard errors: the mean of 0.3 and 0.9; then 0.3 + 0.8 * 0.6, then 0.3 + 0.2 * 0.6
    for std, limit in [(0.1, 0.6), (0.2, 0.78), (0.05, 0.42)]:
        assert choose(policy, [limit - 0.01, 0, 0, 0.3], std=[0.1, 0.1, 0.1, std]).model == "other"
        assert choose(policy, [limit + 0.01, 0, 0, 0.3], std=[0.1, 0.1, 0.1, std]).model == "small"
    decision = choose(policy, [0, 0, 0, 0.3], std=0.2)
    assert (decision.ranking[0].expected_quality, decision.ranking[0].standard_error) == (0.3, 0.2)


def test_the_preference_narrows_the_belief():
    policy = UCBPolicy(1.0, preference={"other": 0.5}, preference_std=0.3)
    # 0.4 and 0.3 make 0.24: other 0.5 + 0.24
    assert choose(policy, [0.73, 0, 0, 0.5], std=[0.0, 0, 0, 0.4]).model == "other"
    assert choose(policy, [0.75, 0, 0, 0.5], std=[0.0, 0, 0, 0.4]).model == "small"


def test_unknown_standard_errors_are_taken_as_none():
    assert choose(UCBPolicy(5.0), [0.5, 0.9, 0.1, 0.1], std=[np.nan] * 4).model == "middle"


def test_choice_probabilities_by_hand():
    samples = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.2, 0.2, 0.1], [0.0, 0.9, 1.0]])
    np.testing.assert_allclose(choice_probabilities(samples, [0, 1], smoothing=0.0), [0.5, 0.5])  # a tie to the first
    np.testing.assert_allclose(choice_probabilities(samples, [1, 0], smoothing=0.0), [0.75, 0.25])
    np.testing.assert_allclose(
        choice_probabilities(samples, [0, 1, 2], smoothing=0.5), [2.5 / 5.5, 1.5 / 5.5, 1.5 / 5.5]
    )


def test_propensities_are_how_models_are_drawn():
    """Over many decisions on the same estimates, frequencies agree with the one reported propensity of each model."""
    policy = ThompsonPolicy(3, cost_weight=0.0)
    count = 4000
    seen, reported = Counter(), {}
    for _ in range(count):
        decision = choose(policy, [0.8, 0.75, 0.7, 0.3])
        seen[decision.model] += 1
        reported.setdefault(decision.model, set()).add(decision.propensity)
    assert all(len(found) == 1 for found in reported.values())
    expected = {model: found.pop() for model, found in reported.items()}
    assert sum(expected.values()) == pytest.approx(1.0, abs=2e-3)
    for model, propensity in expected.items():
        low, high = stats.binom.ppf([0.0005, 0.9995], count, propensity)
        assert low <= seen[model] <= high


def test_propensities_are_near_the_true_probabilities():
    # Two models: the probability that one normal exceeds another.
    policy = ThompsonPolicy(cost_weight=0.0, draws=20_000)
    decision = choose(policy, [0.6, 0.5, 0, 0], std=0.1, eligible=(True, True, False, False))
    first = stats.norm.cdf(0.1 / np.hypot(0.1, 0.1))
    assert decision.propensity == pytest.approx(first if decision.model == "small" else 1 - first, abs=0.01)


def test_every_eligible_model_has_a_chance_and_no_other():
    policy = ThompsonPolicy(cost_weight=0.0, draws=2)
    seen = Counter(
        choose(policy, [1.0, 0.0, 0.0, 0.9], std=0.0, eligible=(True, True, True, False)).model for _ in range(400)
    )
    assert set(seen) == {"small", "middle", "large"}  # (2 + .5) / 3.5 and twice .5 / 3.5
    assert seen["small"] / 400 == pytest.approx(2.5 / 3.5, abs=0.08)


def test_the_seed_decides():
    def run(seed):
        policy = ThompsonPolicy(seed, cost_weight=0.0)
        return [choose(policy, [0.5] * 4).model for _ in range(30)]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_scale_zero_is_greedy_but_for_the_smoothing():
    decision = choose(ThompsonPolicy(scale=0.0, cost_weight=0.0), [0.2, 0.9, 0.3, 0.1])
    assert decision.model == "middle"
    assert decision.propensity == pytest.approx(512.5 / 514)


def test_the_rest_of_the_ranking_is_by_mean():
    decision = choose(ThompsonPolicy(cost_weight=0.0), [0.2, 0.9, 0.3, 0.1], std=0.01)
    assert [entry.model for entry in decision.ranking] == ["middle", "large", "small", "other"]


def test_a_requested_floor_is_served_without_exploring():
    request = RoutingRequest("x", preference=Preference(quality_floor=0.9))
    for policy in (UCBPolicy(), ThompsonPolicy()):
        decision = choose(policy, [0.5, 0.85, 0.9, 0.1], cost=[0, 1, 2, 0], request=request)
        assert decision.model == "middle"
        assert decision.propensity == 1.0
        assert decision.policy == f"{policy.kind}(floor=0.9)"


def test_thompson_finds_the_best_arm():
    """A learner that updates its estimates from what Thompson chose ends on the best model."""
    rng = np.random.default_rng(0)
    truth = np.array([0.4, 0.5, 0.7, 0.45])
    wins, tries = np.ones(4), np.full(4, 2.0)
    policy = ThompsonPolicy(cost_weight=0.0)
    late = Counter()
    for i in range(1500):
        mean = wins / tries
        decision = choose(policy, mean, std=np.sqrt(mean * (1 - mean) / tries))
        j = MODELS.index(decision.model)
        wins[j] += rng.random() < truth[j]
        tries[j] += 1
        late[decision.model] += i >= 1000
    assert late["large"] > 400


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (UCBPolicy, {"exploration": -1}, "exploration must be"),
        (UCBPolicy, {"cost_weight": -1}, "cost_weight must be"),
        (UCBPolicy, {"preference": {"a": 2}}, "preference.a must be a finite number >= 0 and <= 1; got 2"),
        (UCBPolicy, {"preference_std": 0}, "preference_std must be"),
        (UCBPolicy, {"usd_per_1k": 0}, "usd_per_1k must be"),
        (ThompsonPolicy, {"seed": -1}, "seed must be"),
        (ThompsonPolicy, {"seed": 2**32}, "seed must be < 2\\^32"),
        (ThompsonPolicy, {"draws": 3}, "draws even"),
        (ThompsonPolicy, {"scale": -1}, "scale must be"),
    ],
)
def test_bad_settings(make, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(**arguments)
