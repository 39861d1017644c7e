"""The latency limit: cards' speeds, observed speeds, and what happens when all are slow."""

import math

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.policy import BudgetPolicy, LatencyPolicy
from llmrouter.policy._speeds import SpeedTracker
from llmrouter.types import Candidate, Estimates, ModelCard, Outcome, Price, RoutingRequest, Speed

FAST, SLOW, UNKNOWN = (
    ModelCard("fast", Price(1, 1), speed=Speed(0.1, 100.0)),
    ModelCard("slow", Price(1, 1), speed=Speed(0.5, 20.0)),
    ModelCard("unknown", Price(1, 1)),
)


def choose(policy, *, cards=(FAST, SLOW), tokens=100.0, request=None, quality=(0.5, 0.9, 0.4)):
    m = len(cards)
    estimates = Estimates(
        tuple(card.name for card in cards), np.array(quality[:m]), np.full(m, 0.1), np.full(m, 1e-3), np.full(m, tokens)
    )
    return policy.choose(request or RoutingRequest("x"), [Candidate(card) for card in cards], estimates)


def outcome(model, **fields):
    return Outcome("r", 0.0, model, served_by=model, **fields)


def test_rules_out_what_is_expected_to_take_too_long():
    # 100 tokens: fast 0.1 + 1.0 s, slow 0.5 + 5.0 s
    assert choose(LatencyPolicy(6.0)).model == "slow"
    decision = choose(LatencyPolicy(5.0))
    assert decision.model == "fast"
    assert decision.ranking[1].reason == "expected latency 5.50 s exceeds the limit of 5 s"
    assert not decision.ranking[1].eligible
    assert decision.policy == "latency(5s;utility(0.3))"


def test_the_limit_on_the_completion_and_the_first_token_count():
    assert choose(LatencyPolicy(5.0), request=RoutingRequest("x", max_output_tokens=50)).model == "slow"
    assert choose(LatencyPolicy(0.5, measure="first_token")).model == "slow"
    assert choose(LatencyPolicy(0.4, measure="first_token")).model == "fast"
    # Unknown completion lengths count as 256 tokens: 2.66 s and 13.3 s.
    assert choose(LatencyPolicy(13.0), tokens=math.nan).model == "fast"
    assert choose(LatencyPolicy(14.0), tokens=math.nan).model == "slow"


def test_unknown_speeds_are_no_reason():
    assert choose(LatencyPolicy(0.01), cards=(FAST, SLOW, UNKNOWN)).model == "unknown"


def test_where_all_are_slow_the_fastest_goes_first_with_a_warning():
    decision = choose(LatencyPolicy(0.5))
    assert [entry.model for entry in decision.ranking] == ["fast", "slow"]
    assert all(entry.eligible for entry in decision.ranking)
    assert "every model is expected to exceed the limit of 0.5 s" in decision.ranking[0].reason
    assert decision.warnings


def test_a_budget_below_holds_even_then():
    policy = LatencyPolicy(0.5, base=BudgetPolicy(0.4, burst_requests=1))
    decision = choose(policy)
    assert decision.model == "fast"
    assert policy.base.pacer.charged_usd == pytest.approx(1e-3)
    assert any("budget" in warning for warning in decision.warnings)


def test_observed_times_move_the_card():
    policy = LatencyPolicy(5.0, smoothing=0.5)
    choose(policy)  # the cards are known from here
    # streamed: 0.02 s to the first token, then 100 tokens in 1.25 s: 80 a second
    policy.observe(outcome("slow", latency_s=1.27, time_to_first_token_s=0.02, output_tokens=100))
    moved = policy.speeds.speed(SLOW)
    assert moved.time_to_first_token_s == pytest.approx(math.sqrt(0.5 * 0.02))
    assert moved.tokens_per_s == pytest.approx(math.sqrt(20 * 80))
    assert choose(policy).model == "slow"  # 0.1 + 100 / 40 s


def test_total_times_alone_scale_both_figures():
    tracker = SpeedTracker(1.0)
    tracker.speed(SLOW)
    tracker.observe(outcome("slow", latency_s=11.0, output_tokens=100))  # expected 5.5
    assert tracker.speed(SLOW).time_to_first_token_s == pytest.approx(1.0)
    assert tracker.speed(SLOW).tokens_per_s == pytest.approx(10.0)


def test_models_without_a_card_speed_start_at_their_first_observation():
    tracker = SpeedTracker(0.5)
    tracker.observe(outcome("unknown", latency_s=2.0, output_tokens=100))
    assert tracker.speed(UNKNOWN).total_s(100) == pytest.approx(2.0)
    tracker.observe(outcome("one token", latency_s=2.0, time_to_first_token_s=2.0, output_tokens=1))
    other = ModelCard("one token", Price(1, 1))
    assert tracker.speed(other).total_s(1000) == pytest.approx(2.0)  # no rate was seen
    tracker.observe(outcome("one token", latency_s=3.0, time_to_first_token_s=2.0, output_tokens=100))
    assert tracker.speed(other).tokens_per_s == pytest.approx(100.0)


@pytest.mark.parametrize(
    "fields",
    [{"status": "error", "latency_s": 9.0}, {"latency_s": None}, {"latency_s": math.nan}, {"latency_s": 0.0}],
)
def test_failures_and_unknown_times_teach_nothing(fields):
    tracker = SpeedTracker()
    tracker.observe(outcome("fast", **fields))
    assert tracker.speed(FAST) is FAST.speed
    assert tracker.speed(UNKNOWN) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit_s": 0}, "limit_s must be a finite number > 0; got 0"),
        ({"limit_s": 1, "measure": "median"}, "measure must be one of total, first_token; got 'median'"),
        ({"limit_s": 1, "smoothing": 2}, "smoothing must be"),
        ({"limit_s": 1, "base": {"kind": "utility", "cost_weight": -1}}, "base: cost_weight must be"),
        ({"limit_s": 1, "base": object()}, "base must be a mapping"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LatencyPolicy(**arguments)
