"""Exploration: exact propensities, a share that is kept, dollars that are kept, draws that belong to the request."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from llmrouter.policy import ExplorePolicy, UtilityPolicy, policy_from_config, uniform_of
from llmrouter.policy._explore_budget import DailyLedger, SharePacer
from llmrouter.types import Preference, RoutingRequest
from tests.contracts.policy_kit import COSTS, FACTS, MODELS, candidates_of, estimates_of, stream

METHODS = ("epsilon", "thompson", "uncertainty")
UTILITY = {"kind": "utility", "guard": None}


def explorer(base=None, **settings):
    return ExplorePolicy(base or UTILITY, **settings).bind(FACTS)


def ask(policy, n=1, *, quality=(0.5, 0.6, 0.9, 0.4), std=0.05, eligible=(True,) * 4, start=0, cost=COSTS, **fields):
    estimates = estimates_of(quality, std=std, cost=cost)
    candidates = candidates_of(eligible)
    requests = [RoutingRequest("x", request_id=f"r{start + i}", **fields) for i in range(n)]
    return [policy.choose(request, candidates, estimates) for request in requests]


def propensities(decision):
    return {entry.model: entry.propensity for entry in decision.ranking}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", [UTILITY, {"kind": "thompson"}])
def test_models_come_first_as_often_as_their_propensities_say(method, base):
    decisions = ask(explorer(base, method=method, share=0.2), 1500, std=0.15)
    seen = Counter(decision.model for decision in decisions)
    for model in MODELS:
        chances = np.array([propensities(decision)[model] for decision in decisions])
        spread = math.sqrt((chances * (1 - chances)).sum())
        assert abs(seen[model] - chances.sum()) < 4 * spread + 1, model
    assert any(decision.explored for decision in decisions)
    for decision in decisions[:50]:
        assert math.isclose(sum(propensities(decision).values()), 1.0, abs_tol=1e-9)
        assert decision.propensity == decision.ranking[0].propensity > 0


@pytest.mark.parametrize("method", METHODS)
def test_explored_is_what_the_base_would_not_have_put_first_and_that_comes_second(method):
    decisions = ask(explorer(method=method, share=0.3), 400, std=0.2)
    plain = UtilityPolicy(guard=None).bind(FACTS)
    (first,) = ask(plain)
    for decision in decisions:
        assert decision.explored == (decision.model != first.model)
        if decision.explored:
            assert decision.ranking[1].model == first.model
    assert any(decision.explored for decision in decisions)
    assert not all(decision.explored for decision in decisions)


def test_epsilon_is_spread_evenly_over_the_eligible_others():
    (decision,) = ask(explorer(share=0.3), eligible=(True, True, True, False), quality=(0.1, 0.1, 0.9, 0.9))
    chances = propensities(decision)
    assert chances == pytest.approx({"small": 0.15, "middle": 0.15, "large": 0.7, "other": 0.0})
    assert [entry.eligible for entry in decision.ranking] == [True, True, True, False]


def test_thompson_prefers_what_may_be_best_and_uncertainty_leaves_clear_cases_alone():
    close = {"quality": (0.1, 0.62, 0.9, 0.6), "std": (0.0, 0.0, 0.2, 0.2)}
    for method in ("thompson", "uncertainty"):
        chances = propensities(ask(explorer(method=method, share=0.2, min_propensity=0.0), **close)[0])
        assert chances["other"] > chances["small"]
    clear = ask(explorer(method="uncertainty", share=0.2, min_propensity=0.0), quality=(0.0, 0.0, 1.0, 0.0), std=0.01)
    assert clear[0].propensity > 1 - 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("std", [0.001, 0.05, 0.5])
def test_the_mean_probability_keeps_to_the_share(method, std):
    policy = explorer(method=method, share=0.05)
    rng = np.random.default_rng(1)
    explored, mass, count = 0.0, 0.0, 1200
    for i in range(count):
        (decision,) = ask(policy, start=i, quality=rng.random(4), std=std * rng.random())
        explored += decision.explored
        base = decision.ranking[1 if decision.explored else 0].propensity
        mass += 1 - base
        assert base >= 0.5
    assert mass <= 0.05 * (count + 100) + 1e-6
    assert explored <= 0.05 * (count + 100) + 4 * math.sqrt(0.05 * count)
    if method != "thompson" and std > 0.01:
        assert mass > 0.03 * count, "it is used, too"


@pytest.mark.parametrize("method", METHODS)
def test_the_share_is_kept_whatever_the_estimates_do(method):
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=60))
    def run(steps):
        policy = explorer(method=method, share=0.1)
        mass = 0.0
        for i, (quality, std) in enumerate(steps):
            (decision,) = ask(policy, start=i, quality=(quality, 0.5, 1 - quality, 0.5), std=std)
            chances = propensities(decision)
            assert math.isclose(sum(chances.values()), 1.0, abs_tol=1e-9)
            assert all(0 <= chance <= 1 for chance in chances.values())
            mass += 1 - decision.ranking[1 if decision.explored else 0].propensity
        assert mass <= 0.1 * (len(steps) + 100) + 1e-9

    run()


@pytest.mark.parametrize("method", ["thompson", "uncertainty"])
def test_every_model_that_may_be_tried_has_the_least_propensity(method):
    (decision,) = ask(explorer(method=method, share=0.1, min_propensity=0.01), std=0.0)
    assert sorted(propensities(decision).values())[:3] == pytest.approx([0.01] * 3)
    (decision,) = ask(explorer(method=method, share=0.02, min_propensity=0.1), std=0.0)
    assert min(propensities(decision).values()) == pytest.approx(0.01 / 3)


def test_dollars_of_a_day_are_never_exceeded_and_come_back_the_next():
    now = [86_400.0 * 10]
    policy = explorer(share=0.5, usd_per_day=0.005, clock=lambda: now[0])
    quality = (0.99, 0.0, 0.0, 0.0)  # the base takes the cheapest: whatever else is tried costs more

    def spent(decisions):
        return sum(d.ranking[0].expected_cost_usd - COSTS[0] for d in decisions if d.explored)

    first = spent(ask(policy, 500, quality=quality))
    assert 0.004 < first <= 0.005
    assert policy.state()["extra_usd"] == pytest.approx(first)
    assert policy.state()["left_usd"] == pytest.approx(0.005 - first)
    assert not any(d.model == "large" for d in ask(policy, 200, quality=quality, start=500)), "that no longer fits"
    now[0] += 86_400.0
    assert 0.004 < spent(ask(policy, 500, quality=quality, start=700)) <= 0.005


def test_no_dollars_no_exploration():
    decisions = ask(explorer(share=0.5, usd_per_day=0.0), 100)
    assert not any(decision.explored for decision in decisions)
    assert {decision.propensity for decision in decisions} == {1.0}


def test_dear_and_poor_models_are_not_tried_where_that_is_set():
    quality = (0.99, 0.9, 0.9, 0.1)
    (decision,) = ask(explorer(share=0.3, max_extra_usd=5e-4), quality=quality)
    assert propensities(decision) == pytest.approx({"small": 0.7, "middle": 0.3, "large": 0.0, "other": 0.0})
    (decision,) = ask(explorer(share=0.3, max_gap=0.2), quality=quality)
    assert propensities(decision)["other"] == 0.0
    assert propensities(decision)["middle"] > 0
    (decision,) = ask(explorer(share=0.3), quality=(0.9, math.nan, 0.5, 0.5))
    assert propensities(decision)["middle"] == 0.0, "what has no estimate is not tried"


@pytest.mark.parametrize("method", METHODS)
def test_who_wants_none_gets_the_base_and_nothing_is_counted(method):
    for fields in ({"explore": False}, {"preference": Preference(quality_floor=0.5)}):
        policy = explorer(method=method, share=0.5)
        decisions = ask(policy, 100, std=0.3, **fields)
        assert not any(decision.explored for decision in decisions)
        assert {decision.propensity for decision in decisions} == {1.0}
        assert policy.state()["seen"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_shows_the_probabilities_and_is_the_base(method):
    policy = explorer(method=method, share=0.3)
    dry = ask(policy, 200, std=0.2, dry_run=True)
    assert not any(decision.explored for decision in dry)
    assert {decision.model for decision in dry} == {"large"}
    assert all(decision.propensity < 1 for decision in dry)
    assert policy.state()["seen"] == 0
    fresh = explorer(method=method, share=0.3)
    assert ask(policy, 20, std=0.2) == ask(fresh, 20, std=0.2)


def test_a_request_is_decided_alike_in_any_order():
    steps = list(stream(200, seed=8))
    forward = {r.request_id: explorer(share=0.3).choose(r, c, e) for r, c, e in steps}
    policy = explorer(share=0.3)
    backward = {r.request_id: policy.choose(r, c, e) for r, c, e in reversed(steps)}
    assert backward == forward
    assert any(decision.explored for decision in forward.values())


def test_thompson_decides_a_request_alike_in_any_order():
    steps = list(stream(200, seed=8))
    first, second = (policy_from_config({"kind": "thompson"}).bind(FACTS) for _ in range(2))
    forward = {r.request_id: first.choose(r, c, e) for r, c, e in steps}
    assert {r.request_id: second.choose(r, c, e) for r, c, e in reversed(steps)} == forward
    assert len({decision.ranking[0].model for decision in forward.values()}) > 1


def test_without_ids_the_draws_differ_and_are_reproducible():
    def run():
        policy = explorer(share=0.5)
        candidates, estimates = candidates_of(), estimates_of((0.5, 0.6, 0.9, 0.4))
        return [policy.choose(RoutingRequest("x"), candidates, estimates).explored for _ in range(200)]

    assert 60 < sum(run()) < 140
    assert run() == run()


def test_another_seed_draws_otherwise():
    one = [d.explored for d in ask(explorer(share=0.5, seed=1), 100)]
    assert one != [d.explored for d in ask(explorer(share=0.5, seed=2), 100)]
    assert uniform_of("a", 0, "r") != uniform_of("b", 0, "r")
    drawn = np.array([uniform_of("a", 0, str(i)) for i in range(4000)])
    assert abs(drawn.mean() - 0.5) < 0.02
    assert drawn.min() >= 0
    assert drawn.max() < 1


def test_what_the_base_counts_goes_on():
    quota = explorer({"kind": "quota", "shares": {"large": 0.2}, "base": UTILITY}, share=0.3)
    decisions = ask(quota, 300)
    assert quota.base.biases["large"] < 0
    assert any(decision.explored for decision in decisions)
    budget = explorer({"kind": "budget", "usd_per_1k": 2.0}, share=0.3)
    decisions = ask(budget, 50)
    assert budget.base.pacer.charged_usd == pytest.approx(
        sum(decision.ranking[0].expected_cost_usd for decision in decisions)
    )


def test_wrapped_by_another_policy_it_has_the_last_word():
    sticky = policy_from_config({"kind": "sticky", "base": {"kind": "explore", "share": 0.5, "base": UTILITY}})
    policy = sticky.bind(FACTS)
    decisions = ask(policy, 200)
    assert 60 < sum(decision.explored for decision in decisions) < 140
    assert policy.name == "sticky(explore(epsilon=0.5;utility(0.3)))"
    assert policy.base.state()["seen"] == 200


def test_binding_keeps_what_was_counted():
    policy = explorer(share=0.5)
    ask(policy, 10)
    assert policy.bind(dataclasses.replace(FACTS, reference_cost_usd=1.0)).state()["seen"] == 10


def test_a_thompson_request_that_wants_no_exploration_is_the_best_by_utility():
    policy = policy_from_config({"kind": "thompson", "scale": 20.0}).bind(FACTS)
    decisions = ask(policy, 50, explore=False)
    assert {(decision.model, decision.propensity, decision.explored) for decision in decisions} == {
        ("large", 1.0, False)
    }
    assert any(decision.explored for decision in ask(policy, 50))


def test_one_eligible_model_is_certain():
    (decision,) = ask(explorer(share=0.5), eligible=(False, True, False, False))
    assert (decision.model, decision.propensity) == ("middle", 1.0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "greedy"}, "epsilon, thompson, uncertainty; got 'greedy'"),
        ({"share": 0.6}, "share must be a finite number >= 0 and <= 0.5; got 0.6"),
        ({"usd_per_day": -1}, "usd_per_day"),
        ({"max_extra_usd": math.nan}, "max_extra_usd"),
        ({"max_gap": -0.1}, "max_gap"),
        ({"min_propensity": 0.5}, "min_propensity"),
        ({"seed": 2**32}, "seed"),
        ({"base": {"kind": "nothing"}}, "base"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        ExplorePolicy(**parameters)


def test_ledger_and_pacer_alone():
    ledger = DailyLedger(None)
    ledger.charge(5.0)
    assert ledger.left_usd() == math.inf
    pacer = SharePacer(0.1, usual=1.0)
    assert pacer.factor == pytest.approx(0.1)
    for _ in range(5000):
        pacer.count(4.0, min(4.0 * pacer.factor, pacer.most))
    assert pacer.factor == pytest.approx(0.025, rel=0.02)
