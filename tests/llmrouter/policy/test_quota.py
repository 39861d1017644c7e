"""Quotas: shares on long streams, hard caps, undistorted estimates."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from llmrouter.policy import QuotaPolicy, ThompsonPolicy
from llmrouter.types import Outcome, Preference, RoutingRequest
from tests.contracts.policy_kit import COSTS, FACTS, candidates_of, estimates_of

QUALITY_ALONE = {"kind": "utility", "cost_weight": 0}


def run(policy, count, *, seed=0, best=(0.5, 0.6, 0.9, 0.4), spread=0.1, request=None):
    rng = np.random.default_rng(seed)
    chosen = []
    for _ in range(count):
        quality = np.clip(np.array(best) + spread * rng.normal(size=4), 0, 1)
        estimates = estimates_of(quality)
        decision = policy.choose(request or RoutingRequest("x"), candidates_of(), estimates)
        entry = decision.ranking[0]
        j = estimates.models.index(entry.model)
        assert (entry.expected_quality, entry.expected_cost_usd) == (quality[j], COSTS[j])
        chosen.append(decision.model)
    return chosen


@settings(max_examples=5, deadline=None)
@given(st.floats(0.05, 0.6), st.sampled_from([0.001, 0.005, 0.02]), st.integers(0, 5))
def test_shares_hold_within_the_stated_tolerance(share, rate, seed):
    count = 2000
    policy = QuotaPolicy({"large": share}, rate=rate, base=QUALITY_ALONE)
    used = Counter(run(policy, count, seed=seed))["large"]
    assert used <= share * count + (1.0 + rate) / rate  # scores are in [0, 1]: no lead is above 1
    tight = QuotaPolicy({"large": share}, rate=0.02, base=QUALITY_ALONE)
    used = Counter(run(tight, count, seed=seed))["large"]
    assert used / count == pytest.approx(share, abs=0.04)  # the bias takes no more than it has to


def test_several_quotas_hold_together():
    policy = QuotaPolicy({"large": 0.3, "middle": 0.2}, rate=0.01, base=QUALITY_ALONE)
    used = Counter(run(policy, 5000))
    assert used["large"] / 5000 == pytest.approx(0.3, abs=0.02)
    assert used["middle"] / 5000 == pytest.approx(0.2, abs=0.02)
    assert used["small"] > used["other"]


def test_the_best_requests_keep_the_scarce_model():
    """A bias gives the model to those who gain most, which a share drawn by lot does not."""
    policy = QuotaPolicy({"large": 0.3}, rate=0.005, base=QUALITY_ALONE)
    rng = np.random.default_rng(1)
    gains = {True: [], False: []}
    for i in range(4000):
        gain = rng.random()
        decision = policy.choose(RoutingRequest("x"), candidates_of(), estimates_of([0.0, 0.0, gain, 0.0]))
        if i > 1000:
            gains[decision.model == "large"].append(gain)
    assert np.mean(gains[True]) > 0.8
    assert np.mean(gains[False]) < 0.4


def test_bias_by_hand():
    policy = QuotaPolicy({"large": 0.25}, rate=0.1, base=QUALITY_ALONE)
    steps = []
    for _ in range(4):
        chosen = policy.choose(RoutingRequest("x"), candidates_of(), estimates_of([0.1, 0.8, 0.9, 0.1])).model
        steps.append((chosen, round(policy.biases["large"], 6)))
    # 0.9 - 0.075 > 0.8; 0.9 - 0.15 < 0.8; 0.9 - 0.125 < 0.8; 0.9 - 0.1 = 0.8 is a tie, and the cheaper goes first
    assert steps == [("large", -0.075), ("large", -0.15), ("middle", -0.125), ("middle", -0.1)]


def test_a_bias_never_becomes_a_bonus():
    policy = QuotaPolicy({"other": 0.5}, base=QUALITY_ALONE)
    run(policy, 200)
    assert policy.biases == {"other": 0.0}


def test_dry_runs_are_not_counted():
    policy = QuotaPolicy({"large": 0.1}, base=QUALITY_ALONE, window=10)
    run(policy, 20, request=RoutingRequest("x", dry_run=True))
    assert policy.biases == {"large": 0.0}


def test_a_choice_of_one_counts_nothing():
    policy = QuotaPolicy({"large": 0.1}, base=QUALITY_ALONE)
    only = candidates_of((False, False, True, False))
    for _ in range(50):
        assert policy.choose(RoutingRequest("x"), only, estimates_of([0.5] * 4)).model == "large"
    assert policy.biases == {"large": 0.0}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 3))
def test_the_hard_cap_holds_in_every_window(window, share, seed):
    chosen = run(QuotaPolicy({"large": share}, rate=1e-6, base=QUALITY_ALONE, window=window), 150, seed=seed)
    most = max(int(share * window + 1e-9), 1 if share > 0 else 0)
    for start in range(len(chosen) - window + 1):
        assert chosen[start : start + window].count("large") <= most


def test_where_every_share_is_used_up_the_least_used_answers_with_a_warning():
    policy = QuotaPolicy(dict.fromkeys(("small", "middle", "large", "other"), 0.25), base=QUALITY_ALONE, window=4)
    two = candidates_of((False, True, True, False))
    decisions = [policy.choose(RoutingRequest("x"), two, estimates_of([0, 0.5, 0.9, 0])) for _ in range(3)]
    assert [decision.model for decision in decisions] == ["large", "middle", "middle"]
    assert "every eligible model has used its share" in decisions[2].ranking[0].reason


def test_floors_and_sampling_below_are_held_to_the_quota_too():
    floor = RoutingRequest("x", preference=Preference(quality_floor=0.95))
    policy = QuotaPolicy({"large": 0.3}, rate=0.02, base=QUALITY_ALONE)
    used = Counter(run(policy, 3000, spread=0.0, request=floor))
    assert used["large"] / 3000 == pytest.approx(0.3, abs=0.05)
    sampled = QuotaPolicy({"large": 0.3}, rate=0.01, base={"kind": "thompson", "cost_weight": 0})
    assert isinstance(sampled.base, ThompsonPolicy)
    used = Counter(run(sampled, 3000))
    assert used["large"] / 3000 == pytest.approx(0.3, abs=0.03)


def test_outcomes_reach_the_base():
    policy = QuotaPolicy({"large": 0.3}, base={"kind": "budget", "usd_per_1k": 10})
    decision = policy.choose(RoutingRequest("x", request_id="r"), candidates_of(), estimates_of([0.5] * 4))
    before = policy.base.pacer.balance_usd
    policy.observe(Outcome("r", 0.0, decision.model, cost_usd=decision.ranking[0].expected_cost_usd + 0.01))
    assert policy.base.pacer.balance_usd == pytest.approx(before - 0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shares": {}}, "shares must map at least one model"),
        ({"shares": {"a": 1.5}}, "shares.a must be a finite number >= 0 and <= 1; got 1.5"),
        ({"shares": {"a": 0.5}, "rate": 0}, "rate must be"),
        ({"shares": {"a": 0.5}, "window": 0}, "window must be a whole number >= 1; got 0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        QuotaPolicy(**arguments)


def test_shares_that_leave_requests_without_a_model_are_refused():
    with pytest.raises(ConfigError, match=r"shares add up to 0.8 over all models .* raise them"):
        QuotaPolicy(dict.fromkeys(("small", "middle", "large", "other"), 0.2)).bind(FACTS)
