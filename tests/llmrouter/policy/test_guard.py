"""The guard of the utility policy, and calibrated floors of single requests."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from llmrouter.policy import TrainingFacts, UtilityPolicy
from llmrouter.types import Preference, RoutingRequest
from tests.contracts.policy_kit import COSTS, FACTS, MODELS, candidates_of, estimates_of

REFERENCE = FACTS.reference_cost_usd
# Best single: "large" at weight 0, "middle" at weight 1.
GUARDED = TrainingFacts(
    MODELS,
    REFERENCE,
    "large",
    dict(zip(MODELS, (0.5, 0.7, 0.8, 0.6))),
    dict(zip(MODELS, COSTS.tolist())),
)


def choose(guard, quality, *, std=0.1, weight=0.0, eligible=(True,) * 4):
    policy = UtilityPolicy(weight, guard=guard).bind(GUARDED)
    return policy.choose(RoutingRequest("x"), candidates_of(eligible), estimates_of(quality, std=std))


def test_leaves_the_best_single_only_for_a_sure_gain():
    # margin of two standard errors of 0.1: sqrt(2) * 0.1 * z
    quality = [0.5, 0.95, 0.8, 0.5]
    assert choose(None, quality).model == "middle"
    assert choose(1.0, quality).model == "middle"  # 0.15 > 0.1414
    assert choose(1.1, quality).model == "large"  # 0.15 < 0.1556
    assert choose(1.1, quality, std=[0.1, 0.05, 0.05, 0.1]).model == "middle"


def test_the_most_useful_of_the_sure_ones_goes_first():
    decision = choose(1.0, [0.9, 0.99, 0.6, 0.95], std=[0.01, 0.5, 0.01, 0.02])
    assert [entry.model for entry in decision.ranking] == ["other", "small", "large", "middle"]
    assert decision.policy == "utility(0,guard=1)"


def test_the_single_model_is_that_of_the_cost_weight():
    # utilities at 1: small .5 - .05, middle .6 - .2, large .99 - 1
    decision = choose(2.0, [0.5, 0.6, 0.99, 0.0], weight=1.0)
    assert GUARDED.best_at(1.0) == "middle"
    assert decision.model == "middle"
    request = RoutingRequest("x", preference=Preference(cost_weight=0.0))
    policy = UtilityPolicy(1.0, guard=2.0).bind(GUARDED)
    assert policy.choose(request, candidates_of(), estimates_of([0.9, 0.6, 0.8, 0.0], std=0.1)).model == "large"


def test_without_the_single_model_utility_decides():
    assert choose(5.0, [0.5, 0.95, 0.8, 0.5], eligible=(True, True, False, True)).model == "middle"


def test_an_unknown_standard_error_is_no_evidence():
    assert choose(1.0, [0.5, 1.0, 0.8, 0.5], std=[0.1, math.nan, 0.1, 0.1]).model == "large"


def test_needs_the_facts():
    with pytest.raises(ConfigError, match=r"guard=1 compares .* call bind\(facts\)"):
        UtilityPolicy(guard=1.0).choose(RoutingRequest("x"), candidates_of(), estimates_of([0.5] * 4))
    with pytest.raises(ConfigError, match="guard must be a finite number >= 0; got -1"):
        UtilityPolicy(guard=-1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.floats(0, 0.3), min_size=4, max_size=4),
    st.floats(0, 3),
    st.floats(0, 2),
)
def test_the_definition(quality, std, guard, weight):
    decision = choose(guard, quality, std=std, weight=weight)
    utility = np.array(quality) - weight * COSTS / REFERENCE
    b, chosen = MODELS.index(GUARDED.best_at(weight)), MODELS.index(decision.model)
    margins = [utility[i] - utility[b] - guard * math.hypot(std[i], std[b]) for i in range(4)]
    sure = [i for i in range(4) if i != b and margins[i] > 1e-9]
    if sure:
        assert utility[chosen] >= max(utility[i] for i in sure) - 1e-9
    else:
        assert chosen == b or margins[chosen] > -1e-9


def test_a_requested_floor_is_calibrated_where_the_policy_is_bound():
    request = RoutingRequest("x", preference=Preference(quality_floor=0.9))
    arguments = (request, candidates_of(), estimates_of([0.5, 0.6, 0.9, 0.89]))
    bound = UtilityPolicy().bind(FACTS)
    decision = bound.choose(*arguments)
    assert decision.policy == "utility(floor=0.9,calibrated)"
    assert not decision.warnings
    assert UtilityPolicy().choose(*arguments).policy == "utility(floor=0.9)"
    assert UtilityPolicy().choose(*arguments).model == "other"


def test_a_floor_that_the_data_cannot_support_says_so_and_applies_to_expectations():
    request = RoutingRequest("x", preference=Preference(quality_floor=1.0))
    short = FACTS.calibration
    poor = UtilityPolicy().bind(
        TrainingFacts(
            MODELS,
            REFERENCE,
            "large",
            FACTS.mean_quality,
            FACTS.mean_cost_usd,
            type(short)(
                MODELS,
                short.embeddings[:5],
                1 - short.expected_quality[:5],
                short.expected_std[:5],
                short.expected_cost_usd[:5],
                short.quality[:5],
                short.cost_usd[:5],
                short.tasks[:5],
            ),
        )
    )
    decision = poor.choose(request, candidates_of(), estimates_of([0.5, 0.6, 0.9, 0.89]))
    assert decision.model == "large"
    assert "cannot guarantee" in decision.ranking[0].reason
    assert decision.warnings
