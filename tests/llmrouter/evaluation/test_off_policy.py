"""Off-policy estimates: known answers, what cancels, missing overlap, intervals that hold what they promise."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.evaluation import LoggedDecisions, off_policy_estimate
from llmrouter.evaluation._off_policy_intervals import student_quantile
from llmrouter.exceptions import ConfigError, DataError

ALL = ("ips", "snips", "dr", "sndr", "switch-dr")


def world(n, *, seed=0, share=0.3, m=3, full=True):
    """Return a log of n requests with two kinds of prompts, the new and the live choices, the model and the truth."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 2, n)
    skill = np.array([[0.9, 0.4, 0.6], [0.3, 0.8, 0.6]])[kind][:, :m]
    live = np.eye(m)[np.zeros(n, dtype=int)]
    chance = (1 - share) * live + share / m
    chosen = (random.random(n)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
    reward = (random.random(n) < skill[np.arange(n), chosen]).astype(float)
    log = LoggedDecisions(chosen, reward, chance[np.arange(n), chosen], chance if full else None)
    return log, np.eye(m)[kind], live, skill


def test_ips_by_hand():
    log = LoggedDecisions(np.array([0, 1, 0]), np.array([1.0, 0.5, 0.0]), np.array([0.5, 0.25, 0.8]))
    target = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = off_policy_estimate(log, target).target
    # weights 2, 2, 0
    assert found["ips"].value == pytest.approx((2 * 1.0 + 2 * 0.5) / 3)
    assert found["snips"].value == pytest.approx((2 * 1.0 + 2 * 0.5) / 4)
    assert set(found) == {"ips", "snips"}


def test_dr_by_hand():
    log = LoggedDecisions(np.array([0, 1]), np.array([1.0, 0.5]), np.array([0.5, 0.25]))
    target = np.array([[1.0, 0.0], [0.5, 0.5]])
    model = np.array([[0.6, 0.2], [0.4, 0.8]])
    found = off_policy_estimate(log, target, model=model, methods=["dr"]).target["dr"]
    assert found.value == pytest.approx(((0.6 + 2 * 0.4) + (0.6 + 2 * -0.3)) / 2)


def test_the_logging_policy_is_valued_at_its_mean_reward():
    log, _, _, model = world(400)
    found = off_policy_estimate(log, log.propensities, model=model).target
    assert found["ips"].value == pytest.approx(log.reward.mean())
    assert found["snips"].value == pytest.approx(log.reward.mean())


def test_equal_policies_differ_by_nothing():
    log, target, _, model = world(200)
    result = off_policy_estimate(log, target, baseline=target, model=model)
    assert result.overlap.disagreement == 0
    for found in result.difference.values():
        assert (found.value, found.low, found.high) == pytest.approx((0.0, 0.0, 0.0))


def test_the_difference_is_that_of_the_two():
    log, target, live, model = world(500)
    result = off_policy_estimate(log, target, baseline=live, model=model, methods=["ips", "snips", "dr", "sndr"])
    for method, found in result.difference.items():
        assert found.value == pytest.approx(result.target[method].value - result.baseline[method].value)


def test_a_perfect_model_needs_no_luck():
    log, target, live, skill = world(300)
    certain = LoggedDecisions(log.chosen, skill[np.arange(300), log.chosen], log.propensity, log.propensities)
    found = off_policy_estimate(certain, target, baseline=live, model=skill).difference["dr"]
    assert found.value == pytest.approx(((target - live) * skill).sum(axis=1).mean())


@pytest.mark.parametrize(
    ("interval", "full"),
    [("auto", True), ("auto", False), ("student", True), ("bootstrap", True), ("bernstein", True)],
)
def test_intervals_hold_the_truth(interval, full):
    trials, held = 80, dict.fromkeys(ALL, 0)
    for seed in range(trials):
        log, target, live, skill = world(400, seed=seed, full=full)
        model = 0.5 * skill + 0.2  # biased: it must be corrected
        # The truth of the population: half of the prompts are of the kind on which the new one gains 0.8 - 0.3.
        result = off_policy_estimate(log, target, baseline=live, model=model, interval=interval)
        for method, found in result.difference.items():
            held[method] += found.low <= 0.25 <= found.high
    for method, count in held.items():
        least = 0.88 * trials
        assert count >= least, (method, interval, count)
        if interval != "bernstein":
            assert count < trials or method in ("snips", "sndr", "switch-dr"), (
                method,
                "always: the interval is too wide",
            )


@pytest.mark.parametrize("interval", ["student", "bootstrap", "bernstein"])
def test_these_intervals_are_the_same_without_all_propensities(interval):
    found = []
    for full in (True, False):
        log, target, live, skill = world(400, full=full)
        result = off_policy_estimate(log, target, baseline=live, model=0.5 * skill + 0.2, interval=interval)
        found.append({method: (one.value, one.low, one.high) for method, one in result.difference.items()})
    assert set(found[0]) == set(ALL)
    assert found[0] == found[1]


def test_rare_choices_that_have_not_come_up_widen_the_interval():
    """With 300 requests and 0.5% of exploration the sample often holds no request that bears on the difference."""
    held = {"auto": 0, "student": 0}
    for seed in range(100):
        log, target, live, _ = world(300, seed=seed, share=0.015)
        for interval in held:
            found = off_policy_estimate(log, target, baseline=live, interval=interval).difference["ips"]
            held[interval] += found.low <= 0.25 <= found.high
    assert held["auto"] >= 88
    assert held["student"] < held["auto"]


def test_rows_that_cannot_be_used_are_left_out_and_counted():
    log, target, live, model = world(60)
    reward, propensity, weight = log.reward.copy(), log.propensity.copy(), np.ones(60)
    reward[:5], propensity[5:8], weight[8:10] = np.nan, np.nan, 0.0
    spoiled = LoggedDecisions(log.chosen, reward, propensity, log.propensities, weight)
    result = off_policy_estimate(spoiled, target, baseline=live, model=model)
    assert result.rows == 50
    assert result.left_out == {"reward unknown": 5, "propensity unknown": 3, "weight zero": 2}
    kept = off_policy_estimate(log.select(np.arange(10, 60)), target[10:], baseline=live[10:], model=model[10:])
    assert result.difference["dr"].value == pytest.approx(kept.difference["dr"].value)


def test_a_model_that_was_never_logged_is_no_overlap():
    log, _, live, model = world(300)
    chance = np.tile([0.7, 0.3, 0.0], (300, 1))
    chosen = np.minimum(log.chosen, 1)
    log = LoggedDecisions(chosen, log.reward, chance[np.arange(300), chosen], chance)
    wanted = np.eye(3)[np.full(300, 2)]
    result = off_policy_estimate(log, wanted, baseline=live, model=model)
    assert not result.supported
    assert result.overlap.unsupported == pytest.approx(1.0)
    assert result.overlap.unsupported_by_model == pytest.approx((0.0, 0.0, 1.0))
    assert any("no overlap" in warning for warning in result.warnings)
    assert math.isnan(result.target["snips"].value)
    assert off_policy_estimate(log, live, model=model).supported


def test_a_deterministic_log_without_all_propensities_shows_in_the_mean_weight():
    n = 200
    log = LoggedDecisions(np.zeros(n, dtype=int), np.ones(n), np.ones(n))
    half = np.tile([0.5, 0.5], (n, 1))
    result = off_policy_estimate(log, half)
    assert result.overlap.unsupported == pytest.approx(0.5)
    assert not result.supported


def test_switch_ignores_weights_that_cost_more_than_they_tell():
    random = np.random.default_rng(3)
    n = 2000
    chance = np.tile([0.99995, 0.00005], (n, 1))
    target = np.tile([0.98, 0.02], (n, 1))
    chosen = (random.random(n) > 0.99995).astype(int)
    reward = (random.random(n) < 0.5).astype(float)
    log = LoggedDecisions(chosen, reward, chance[np.arange(n), chosen], chance)
    result = off_policy_estimate(log, target, model=np.full((n, 2), 0.5))
    switched = result.target["switch-dr"]
    assert switched.threshold < 0.02 / 0.00005
    assert 0 < switched.bias_bound <= 0.02 + 1e-12
    assert switched.standard_error < result.target["dr"].standard_error


def test_clusters_widen_the_interval():
    log, target, live, model = world(200)
    twice = LoggedDecisions(
        *(np.concatenate([values, values]) for values in (log.chosen, log.reward, log.propensity, log.propensities)),
        cluster=np.concatenate([np.arange(200), np.arange(200)]),
    )
    target, live, model = (np.concatenate([values, values]) for values in (target, live, model))
    alone = LoggedDecisions(twice.chosen, twice.reward, twice.propensity, twice.propensities)
    for interval in ("auto", "student"):
        together, apart = (
            off_policy_estimate(log, target, baseline=live, model=model, interval=interval).difference["dr"]
            for log in (twice, alone)
        )
        assert together.value == pytest.approx(apart.value)
        assert together.standard_error == pytest.approx(math.sqrt(2) * apart.standard_error, rel=0.03)


def test_weights_count_rows():
    log, target, _, model = world(100)
    weight = np.where(np.arange(100) < 50, 2.0, 1.0)
    repeated = np.concatenate([np.arange(100), np.arange(50)])
    weighed = off_policy_estimate(
        LoggedDecisions(log.chosen, log.reward, log.propensity, log.propensities, weight), target, model=model
    ).target
    copied = off_policy_estimate(log.select(repeated), target[repeated], model=model[repeated]).target
    for method in ("ips", "snips", "dr", "sndr"):
        assert weighed[method].value == pytest.approx(copied[method].value)


def test_document_is_json_without_nan():
    log, target, _, model = world(30)
    text = json.dumps(off_policy_estimate(log, target, model=model).document(), allow_nan=False)
    assert json.loads(text)["supported"] is True


@given(st.integers(0, 10_000), st.sampled_from(["ips", "snips", "dr", "sndr"]))
@settings(max_examples=40, deadline=None)
def test_the_order_of_rows_does_not_matter(seed, method):
    log, target, live, model = world(50, seed=seed)
    order = np.random.default_rng(seed).permutation(50)
    first = off_policy_estimate(log, target, baseline=live, model=model, methods=[method]).difference[method]
    second = off_policy_estimate(
        log.select(order), target[order], baseline=live[order], model=model[order], methods=[method]
    ).difference[method]
    assert first.value == pytest.approx(second.value, abs=1e-12, nan_ok=True)
    assert first.low == pytest.approx(second.low, abs=1e-9, nan_ok=True)


@given(st.integers(0, 10_000), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_dr_follows_a_shift_of_all_rewards(seed, shift):
    log, target, _, model = world(60, seed=seed)
    moved = LoggedDecisions(log.chosen, log.reward + shift, log.propensity, log.propensities)
    before = off_policy_estimate(log, target, model=model, methods=["dr"]).target["dr"].value
    after = off_policy_estimate(moved, target, model=model + shift, methods=["dr"]).target["dr"].value
    assert after - before == pytest.approx(shift, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reward": np.ones(3)}, "reward must be"),
        ({"propensity": np.array([0.5, 0.0])}, "propensity must lie in"),
        ({"propensity": np.array([0.5, 1.5])}, "propensity must lie in"),
        ({"chosen": np.array([0, -1])}, "integers >= 0"),
        ({"chosen": np.array([0.0, 1.0])}, "integers >= 0"),
        ({"reward": np.array([np.inf, 0.0])}, "infinite"),
        ({"propensities": np.array([[0.5, 0.6], [0.5, 0.5]])}, "sum to 1"),
        ({"propensities": np.array([[0.9, 0.1], [0.9, 0.1]])}, "disagree"),
        ({"propensities": np.ones((2, 1)), "chosen": np.array([0, 1])}, "columns"),
        ({"weight": np.array([1.0, -1.0])}, "weight must be finite"),
    ],
)
def test_logs_that_cannot_be(changes, match):
    fields = {"chosen": np.array([0, 1]), "reward": np.zeros(2), "propensity": np.array([0.5, 0.5])}
    with pytest.raises(DataError, match=match):
        LoggedDecisions(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"target": np.ones((5, 3))}, DataError, "target must be"),
        ({"target": np.full((4, 3), 0.5)}, DataError, "sum to 1"),
        ({"target": np.array([[1.5, -0.5, 0.0]] * 4)}, DataError, "probabilities"),
        ({"model": np.ones((4, 2))}, DataError, "model must be"),
        ({"methods": ["dm"]}, ConfigError, "unknown method"),
        ({"methods": []}, ConfigError, "none given"),
        ({"methods": ["dr"]}, ConfigError, "expected rewards"),
        ({"confidence": 1.0}, ConfigError, "confidence"),
        ({"interval": "wald"}, ConfigError, "interval"),
    ],
)
def test_questions_that_cannot_be_answered(changes, error, match):
    log, target, _, _ = world(4)
    arguments = {"target": target, **changes}
    with pytest.raises(error, match=match):
        off_policy_estimate(log, **arguments)


def test_nothing_usable():
    log, target, _, _ = world(4)
    nothing = LoggedDecisions(log.chosen, np.full(4, np.nan), log.propensity)
    with pytest.raises(DataError, match="reward unknown: 4"):
        off_policy_estimate(nothing, target)


@pytest.mark.parametrize(("freedom", "exact"), [(4.0, 2.7764), (10.0, 2.2281), (30.0, 2.0423), (1000.0, 1.9623)])
def test_student_quantile(freedom, exact):
    assert student_quantile(0.975, freedom) == pytest.approx(exact, rel=5e-3)
