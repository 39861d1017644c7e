"""The best subset: exact search against all subsets, budgets, greedy search, and serving it."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmrouter.exceptions import ConfigError
from llmrouter.policy import SubsetPolicy
from llmrouter.policy._subset_search import Limits, search
from llmrouter.types import ModelCard, Price, RoutingRequest
from tests.contracts.policy_kit import COSTS, FACTS, MODELS, candidates_of, estimates_of


def brute_force(utility, cost, latency, limits):
    """The best mean utility over all subsets within the limits."""
    n, m = utility.shape
    best = -np.inf
    for size in range(1, (limits.models or m) + 1):
        for members in itertools.combinations(range(m), size):
            chosen = np.array(members)[utility[:, members].argmax(axis=1)]
            within = (limits.cost_usd is None or cost[np.arange(n), chosen].mean() <= limits.cost_usd) and (
                limits.latency_s is None or latency[chosen].mean() <= limits.latency_s
            )
            if within:
                best = max(best, utility[:, members].max(axis=1).mean())
    return best


def searched(utility, cost, latency, limits, *, exact=True):
    m = utility.shape[1]
    return search(
        tuple("abcdefghijklmnopqrst"[:m]),
        utility,
        quality=utility,
        cost_usd=cost,
        latency_s=latency,
        energy_j=np.full(m, np.nan),
        limits=limits,
        exact=exact,
    )


values = st.integers(0, 20).map(lambda k: k / 20)


@settings(max_examples=120, deadline=None)
@given(
    arrays(float, (6, 5), elements=values),
    arrays(float, (6, 5), elements=values),
    arrays(float, 5, elements=values),
    st.one_of(st.none(), st.integers(1, 5)),
    st.one_of(st.none(), values),
    st.one_of(st.none(), values),
)
def test_exact_search_is_as_good_as_all_subsets(utility, cost, latency, models, cost_limit, latency_limit):
    limits = Limits(models=models, cost_usd=cost_limit, latency_s=latency_limit)
    best = brute_force(utility, cost, latency, limits)
    if best == -np.inf:
        with pytest.raises(ConfigError, match="no subset of the models keeps to the budgets"):
            searched(utility, cost, latency, limits)
        return
    found = searched(utility, cost, latency, limits)
    assert found.exact
    assert found.utility == pytest.approx(best)
    assert len(found.models) <= (models or 5)
    assert cost_limit is None or found.cost_usd <= cost_limit
    assert latency_limit is None or found.latency_s <= latency_limit


def test_sixteen_models_are_searched_exactly_and_most_subsets_are_never_looked_at():
    rng = np.random.default_rng(0)
    utility = rng.random((300, 16)) * rng.uniform(0.5, 1, size=16)
    cost, latency = rng.random((300, 16)), rng.random(16)
    limits = Limits(models=4, cost_usd=0.49)
    found = searched(utility, cost, latency, limits)
    assert found.utility == pytest.approx(brute_force(utility, cost, latency, limits))
    assert found.evaluated < 2516  # all subsets of at most four


def test_greedy_is_said_to_be_greedy_and_keeps_to_the_limits():
    rng = np.random.default_rng(1)
    utility, cost, latency = rng.random((200, 20)), rng.random((200, 20)), rng.random(20)
    limits = Limits(models=5, cost_usd=0.5)
    found = searched(utility, cost, latency, limits, exact=False)
    assert not found.exact
    assert len(found.models) <= 5
    assert found.cost_usd <= 0.5
    # Greedy addition reaches at least 1 - 1/e of the best of a monotone submodular function.
    assert found.utility >= (1 - 1 / np.e) * searched(utility, cost, latency, Limits(models=5)).utility


def test_of_equal_subsets_the_smaller_is_taken():
    utility = np.array([[0.9, 0.9, 0.1], [0.8, 0.8, 0.1]])
    found = searched(utility, np.ones((2, 3)), np.ones(3), Limits())
    assert len(found.models) == 1


def choose(policy, quality, *, eligible=(True,) * 4):
    return policy.choose(RoutingRequest("x"), candidates_of(eligible), estimates_of(quality))


def test_only_the_subset_is_served_and_estimates_are_used_as_they_are():
    policy = SubsetPolicy(2, base={"kind": "utility", "cost_weight": 0}).bind(FACTS)
    assert set(policy.subset.models) == {"large", "other"}
    assert policy.subset.quality == pytest.approx((0.9 + 0.9 + 0.95) / 3, abs=0.03)
    decision = choose(policy, [1.0, 1.0, 0.5, 0.4])
    assert decision.model == "large"
    assert [entry.eligible for entry in decision.ranking] == [True, True, False, False]
    assert decision.ranking[2].reason == "not in the chosen subset of the pool"
    assert decision.policy == "subset(2;utility(0))"


def test_budgets_change_the_subset():
    cheap = SubsetPolicy(usd_per_1k=0.3, base={"kind": "utility", "cost_weight": 0}).bind(FACTS).subset
    assert cheap.cost_usd <= 0.3e-3
    # 100 tokens take 1.45 s on small, 1.84 on middle, 2.4 on large, 3.36 on other
    quick = SubsetPolicy(latency_s=1.9, base={"kind": "utility", "cost_weight": 0}).bind(FACTS).subset
    assert set(quick.models) <= {"small", "middle", "large"}
    assert quick.latency_s <= 1.9
    frugal = SubsetPolicy(energy_j=15.0, base={"kind": "utility", "cost_weight": 0}).bind(FACTS).subset
    assert frugal.energy_j <= 15.0
    assert SubsetPolicy(exact_limit=2).bind(FACTS).subset.exact is False


def test_a_request_that_the_subset_cannot_take_goes_elsewhere_with_a_warning():
    policy = SubsetPolicy(1, base={"kind": "utility", "cost_weight": 0}).bind(FACTS)
    only = policy.subset.models[0]
    eligible = [model != only for model in MODELS]
    decision = choose(policy, [0.5] * 4, eligible=eligible)
    assert decision.model != only
    assert "no model of the chosen subset" in decision.ranking[0].reason


def test_only_models_of_the_pool_are_considered():
    policy = SubsetPolicy(1, base={"kind": "utility", "cost_weight": 0})
    pool = replace(FACTS, cards=tuple(card for card in FACTS.cards if card.name != "large"))
    assert "large" not in policy.bind(pool).subset.models
    with pytest.raises(ConfigError, match="knows none of the pool's models"):
        policy.bind(replace(FACTS, cards=(ModelCard("else", Price(1, 1)),)))


def test_what_is_lacking_is_named():
    slow = tuple(ModelCard(name, Price(1, 1)) for name in MODELS)
    for arguments, facts, message in [
        ({"latency_s": 1.0}, replace(FACTS, cards=slow), "latency_s needs the speed of 'small'; write speed:"),
        ({"energy_j": 1.0}, replace(FACTS, cards=slow), "energy_j needs energy_j_per_token of 'small'"),
        ({"latency_s": 1.0}, replace(FACTS, cards=()), "needs the cards of the pool"),
        ({}, replace(FACTS, calibration=None), "subset.* holds none"),
        ({"usd_per_1k": 1e-6}, FACTS, r"mean cost \(USD\) is limited to 1e-09 and the least of a single model is"),
    ]:
        with pytest.raises(ConfigError, match=message):
            SubsetPolicy(**arguments).bind(facts)
    with pytest.raises(ConfigError, match="bound to none"):
        choose(SubsetPolicy(), [0.5] * 4)
    with pytest.raises(ConfigError, match="bound to none"):
        _ = SubsetPolicy().subset
    assert COSTS.min() > 0


@pytest.mark.parametrize(
    "arguments", [{"max_models": 0}, {"usd_per_1k": 0}, {"latency_s": -1}, {"energy_j": 0}, {"exact_limit": -1}]
)
def test_bad_settings(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        SubsetPolicy(**arguments)
