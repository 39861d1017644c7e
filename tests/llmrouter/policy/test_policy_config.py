"""Policies from mappings, nested ones among them."""

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.policy import BudgetPolicy, LatencyPolicy, StickyPolicy, UtilityPolicy, policy_from_config
from llmrouter.types import RoutingRequest
from tests.contracts.policy_kit import FACTS, candidates_of, estimates_of


def test_the_default_is_utility():
    policy = policy_from_config({})
    assert isinstance(policy, UtilityPolicy)
    assert policy.cost_weight == 0.3
    assert policy_from_config({"cost_weight": 0.7}).cost_weight == 0.7


def test_bases_nest():
    policy = policy_from_config(
        {"kind": "latency", "limit_s": 2, "base": {"kind": "sticky", "base": {"kind": "budget", "usd_per_1k": 5}}}
    )
    assert isinstance(policy, LatencyPolicy)
    assert isinstance(policy.base, StickyPolicy)
    assert isinstance(policy.base.base, BudgetPolicy)
    assert policy.name == "latency(2s;sticky(budget(5/1k)))"
    bound = policy.bind(FACTS)
    assert bound.base.base.reference_cost_usd == FACTS.reference_cost_usd
    assert policy.base.base.reference_cost_usd == 1.0
    assert bound.base.base.pacer is policy.base.base.pacer  # what was spent stays spent over a reload
    bound.choose(RoutingRequest("x"), candidates_of(), estimates_of(np.full(4, 0.5)))
    assert policy.base.base.pacer.decisions == 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("utility", "a policy must be a mapping like"),
        ({"kind": "utilty"}, "unknown policy 'utilty'; one of budget, category_map"),
        ({"kind": "utility", "cost_wieght": 1}, "cost_wieght"),
        ({"kind": "latency"}, "limit_s"),
        ({"kind": "sticky", "base": {"kind": "nothing"}}, "base: unknown policy 'nothing'"),
        (
            {"kind": "sticky", "base": {"kind": "sticky", "base": {"cost_weight": -1}}},
            "base: base: cost_weight must be",
        ),
        ({"kind": "sticky", "base": "utility"}, "base must be a mapping"),
    ],
)
def test_what_is_wrong_is_named(section, message):
    with pytest.raises(ConfigError, match=message):
        policy_from_config(section)
