"""The utility policy and eligibility."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, NoEligibleModelError, UnknownModelError
from llmrouter.policy import PoolCandidates, UtilityPolicy
from llmrouter.types import Candidate, Capability, Estimates, ModelCard, Preference, Price, RoutingRequest

CARDS = tuple(ModelCard(name, Price(1.0, 2.0), context_window=window) for name, window in zip("abc", (100, 1000, None)))


def estimates(quality, cost):
    m = len(quality)
    return Estimates(
        tuple("abcdefgh"[:m]), np.array(quality, float), np.full(m, 0.1), np.array(cost, float), np.ones(m)
    )


def choose(quality, cost, *, weight=0.3, reference=1.0, request=None, eligible=None):
    cards = [ModelCard(name, Price(1, 1)) for name in "abcdefgh"[: len(quality)]]
    flags = eligible or [True] * len(cards)
    candidates = [Candidate(card, flag, "" if flag else "off") for card, flag in zip(cards, flags)]
    policy = UtilityPolicy(weight, reference_cost_usd=reference)
    return policy.choose(request or RoutingRequest("x"), candidates, estimates(quality, cost))


def order(decision):
    return [entry.model for entry in decision.ranking]


def test_ranks_by_quality_minus_weighted_cost():
    # utilities: 0.9 - 0.3, 0.8 - 0.03, 0.5
    assert order(choose([0.9, 0.8, 0.5], [1.0, 0.1, 0.0])) == ["b", "a", "c"]
    assert order(choose([0.9, 0.8, 0.5], [1.0, 0.1, 0.0], weight=0)) == ["a", "b", "c"]


def test_reference_cost_sets_the_unit():
    assert choose([0.9, 0.5], [1e-3, 0.0], reference=1e-3).model == "a"
    assert choose([0.7, 0.5], [1e-3, 0.0], reference=1e-3).model == "b"


def test_ties_go_to_the_cheaper_then_to_the_first():
    assert order(choose([0.5, 0.5, 0.5], [0.2, 0.1, 0.1], weight=0)) == ["b", "c", "a"]


def test_the_request_has_the_last_word():
    request = RoutingRequest("x", preference=Preference(cost_weight=0.0))
    decision = choose([0.9, 0.8], [1.0, 0.1], weight=5, request=request)
    assert decision.model == "a"
    assert decision.policy == "utility(0)"


def test_quality_floor_takes_the_cheapest_above_it_and_keeps_fallbacks():
    request = RoutingRequest("x", preference=Preference(quality_floor=0.9))
    assert order(choose([0.9, 0.82, 0.5], [1.0, 0.1, 0.0], request=request)) == ["b", "a", "c"]


def test_max_cost_and_ineligible_go_last_with_their_reason():
    request = RoutingRequest("x", preference=Preference(max_cost_usd=0.5))
    decision = choose([0.9, 0.8, 0.7], [1.0, 0.1, 0.0], request=request, eligible=[True, True, False])
    assert [entry.model for entry in decision.eligible] == ["b"]
    assert "exceeds the limit" in decision.ranking[1].reason
    assert decision.ranking[2].reason == "off"


def test_nothing_eligible_names_every_reason():
    with pytest.raises(NoEligibleModelError, match="a: off; b: off"):
        choose([0.5, 0.5], [0, 0], eligible=[False, False])


@pytest.mark.parametrize("arguments", [{"cost_weight": -1}, {"cost_weight": float("nan")}, {"reference_cost_usd": 0.0}])
def test_bad_settings(arguments):
    with pytest.raises(ConfigError):
        UtilityPolicy(**arguments)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10), st.booleans()), min_size=1, max_size=8),
    st.floats(0, 10),
    st.floats(0, 10),
)
def test_never_leaves_the_eligible_set_and_never_gets_dearer_with_the_weight(models, low, more):
    quality, cost, eligible = zip(*models)
    if not any(eligible):
        return
    chosen = [choose(quality, cost, weight=w, eligible=list(eligible)) for w in (low, low + more)]
    for decision in chosen:
        assert eligible["abcdefgh".index(decision.model)]
        assert sorted(order(decision)) == sorted("abcdefgh"[: len(models)])
    assert chosen[1].ranking[0].expected_cost_usd <= chosen[0].ranking[0].expected_cost_usd + 1e-9 / max(more, 1e-3)


def reasons(request, **kwargs):
    return {c.name: c.reason for c in PoolCandidates(CARDS, **kwargs).of(request)}


def test_context_window_counts_prompt_and_completion():
    found = reasons(RoutingRequest("x", prompt_tokens=60, max_output_tokens=50))
    assert "110 tokens exceed its context window of 100" in found["a"]
    assert found["b"] == found["c"] == ""


def test_token_ratio_scales_the_estimate():
    assert reasons(RoutingRequest("x", prompt_tokens=60), token_ratio={"a": 2.0})["a"]
    assert not reasons(RoutingRequest("x", prompt_tokens=60))["a"]


def test_capabilities():
    found = reasons(RoutingRequest("x", needs=frozenset({Capability.TOOLS, Capability.VISION})))
    assert found["a"] == "lacks tools, vision"


def test_allowed_models():
    assert reasons(RoutingRequest("x", allowed_models=("b",))) == {
        "a": "not among the allowed models",
        "b": "",
        "c": "not among the allowed models",
    }
    with pytest.raises(UnknownModelError, match="'z' does not exist. Available: a, b, c"):
        PoolCandidates(CARDS).of(RoutingRequest("x", allowed_models=("z",)))


@given(
    windows=st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=1, max_size=4),
    ratio=st.floats(0.2, 3.0),
    prompt=st.integers(0, 40),
    completion=st.one_of(st.none(), st.integers(0, 40)),
)
def test_who_fits_does_not_depend_on_whether_all_do(windows, ratio, prompt, completion):
    cards = [ModelCard(name, Price(1, 1), context_window=window) for name, window in zip("abcd", windows)]
    request = RoutingRequest("x", prompt_tokens=prompt, max_output_tokens=completion)
    found = PoolCandidates(cards, token_ratio={"a": ratio}).of(request)
    for candidate in found:
        tokens = round(prompt * (ratio if candidate.name == "a" else 1.0)) + (completion or 0)
        window = candidate.card.context_window
        assert candidate.eligible == (window is None or tokens <= window)
    assert [candidate.name for candidate in found] == list("abcd"[: len(cards)])
