"""Sticky conversations: what switching loses, in dollars, against what it gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from llmrouter.policy import BudgetPolicy, StickyPolicy
from llmrouter.policy._sticky import discount_usd
from llmrouter.types import Candidate, Estimates, ModelCard, Outcome, Price, RoutingRequest

# 1 USD less per million cached tokens on "a"; none on "b".
CARDS = (ModelCard("a", Price(2.0, 4.0, cached_input=1.0)), ModelCard("b", Price(2.0, 4.0)))


class Clock:
    """Time that stands still until it is moved."""

    now = 0.0

    def __call__(self):
        return self.now


def sticky(*, weight=1.0, reference=1.0, **settings):
    base = {"kind": "utility", "cost_weight": weight, "reference_cost_usd": reference}
    return StickyPolicy(base, clock=settings.pop("clock", Clock()), **settings)


def choose(policy, quality, *, conversation="c", tokens=1_000_000, eligible=(True, True), cost=(0.0, 0.0)):
    estimates = Estimates(("a", "b"), np.array(quality), np.full(2, 0.1), np.array(cost), np.full(2, 10.0))
    candidates = [Candidate(card, flag, "" if flag else "off") for card, flag in zip(CARDS, eligible)]
    request = RoutingRequest("x", prompt_tokens=tokens, conversation_id=conversation)
    return policy.choose(request, candidates, estimates)


def test_the_discount_in_dollars():
    assert discount_usd(Price(2.0, 4.0, cached_input=0.5), 200_000) == pytest.approx(0.3)
    assert discount_usd(Price(2.0, 4.0), 200_000) == 0.0
    assert discount_usd(Price(1.0, 4.0, cached_input=2.0), 200_000) == 0.0


@pytest.mark.parametrize(("gain", "model"), [(0.29, "a"), (0.31, "b")])
def test_stays_until_the_gain_exceeds_what_is_lost(gain, model):
    # 200,000 tokens save 0.2 USD; weight 1 at a reference of 1 USD; 0.1 more is forgone
    policy = sticky(max_gain=0.1)
    assert choose(policy, [0.5, 0.4], tokens=200_000).model == "a"
    assert choose(policy, [0.5, 0.5 + gain], tokens=300_000).model == model


def test_only_what_the_last_turn_sent_can_be_cached():
    policy = sticky(max_gain=0.0)
    choose(policy, [0.5, 0.4], tokens=100_000)
    assert choose(policy, [0.5, 0.65], tokens=900_000).model == "b"  # 0.1 USD lost, 0.15 gained


def test_dollars_count_by_the_weight_of_the_base():
    for weight, reference, model in [(1.0, 1.0, "a"), (1.0, 0.1, "a"), (0.1, 1.0, "b"), (0.0, 1.0, "b")]:
        policy = sticky(weight=weight, reference=reference, max_gain=0.0)
        choose(policy, [0.5, 0.4], tokens=200_000)
        assert choose(policy, [0.5, 0.65], tokens=200_000).model == model


def test_models_without_a_discount_are_left_freely():
    policy = sticky(max_gain=0.0)
    assert choose(policy, [0.4, 0.5]).model == "b"
    assert choose(policy, [0.51, 0.5]).model == "a"


def test_conversations_are_apart_and_requests_without_one_are_free():
    policy = sticky()
    choose(policy, [0.5, 0.4], conversation="one")
    assert choose(policy, [0.4, 0.5], conversation="two").model == "b"
    assert choose(policy, [0.4, 0.5], conversation=None).model == "b"
    assert choose(policy, [0.4, 0.5], conversation="one").model == "a"


def test_idle_conversations_are_decided_afresh():
    clock = Clock()
    policy = sticky(idle_s=60, clock=clock)
    choose(policy, [0.5, 0.4])
    clock.now = 60.0
    assert choose(policy, [0.4, 0.5]).model == "a"
    clock.now = 120.5
    assert choose(policy, [0.4, 0.5]).model == "b"


def test_an_ineligible_model_is_left_and_not_returned_to():
    policy = sticky()
    choose(policy, [0.5, 0.4])
    assert choose(policy, [0.5, 0.4], eligible=(False, True)).model == "b"
    assert choose(policy, [0.505, 0.5]).model == "b"  # max_gain of 0.01


def test_the_conversation_follows_the_model_that_answered():
    policy = sticky(max_gain=0.2)
    choose(policy, [0.5, 0.4])
    policy.observe(Outcome("r", 0.0, "a", served_by="b", conversation_id="c"))
    assert choose(policy, [0.5, 0.4]).model == "b"


def test_the_longest_idle_are_forgotten():
    policy = sticky(max_conversations=2)
    for conversation in ("one", "two", "one", "three"):
        choose(policy, [0.5, 0.4], conversation=conversation)
    assert choose(policy, [0.4, 0.5], conversation="one").model == "a"
    assert choose(policy, [0.4, 0.5], conversation="two").model == "b"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2_000_000)), min_size=2, max_size=8),
    st.floats(0, 2),
    st.floats(0, 0.2),
)
def test_never_switches_when_the_discount_lost_exceeds_the_gain(turns, weight, max_gain):
    policy = sticky(weight=weight, max_gain=max_gain)
    model, before = None, 0
    for a, b, tokens in turns:
        chosen = choose(policy, [a, b], tokens=tokens).model
        if model is not None and chosen != model:
            gain = (b - a) if model == "a" else (a - b)
            lost = weight * min(before, tokens) / 1e6 if model == "a" else 0.0
            assert gain >= lost + max_gain - 1e-9
        model, before = chosen, tokens


def test_under_sampling_the_bonus_is_in_the_propensity():
    policy = StickyPolicy({"kind": "thompson", "cost_weight": 1.0, "reference_cost_usd": 1.0}, max_gain=0.5)
    # An unsure pair: 0.1 of standard error each, so a bonus of 0.5 and more settles it.
    first = choose(policy, [0.5, 0.5])
    assert first.propensity < 0.6
    second = choose(policy, [0.5, 0.5])
    assert second.model == first.model
    assert second.propensity > 0.99


def test_a_budget_below_is_charged_for_the_model_that_is_kept():
    policy = StickyPolicy(BudgetPolicy(1000.0), max_gain=0.5)
    choose(policy, [0.9, 0.1], cost=(0.2, 0.1))
    choose(policy, [0.5, 0.9], cost=(0.2, 0.1))
    assert policy.base.pacer.charged_usd == pytest.approx(0.4)


@pytest.mark.parametrize("arguments", [{"idle_s": 0}, {"max_gain": -1}, {"max_conversations": 0}])
def test_bad_settings(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        StickyPolicy(**arguments)
