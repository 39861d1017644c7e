"""The budget: a hard allowance, a price that follows the spending, and actual costs."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from llmrouter.policy import BudgetPolicy, ThompsonPolicy, UCBPolicy
from llmrouter.types import Outcome, Preference, RoutingRequest
from tests.contracts.policy_kit import COSTS, FACTS, MODELS, candidates_of, estimates_of

REQUEST = RoutingRequest("x", request_id="r")


def choose(policy, quality, *, cost=COSTS, request=REQUEST, eligible=(True,) * 4):
    return policy.choose(request, candidates_of(eligible), estimates_of(quality, cost=cost))


@pytest.mark.parametrize(
    "make",
    [BudgetPolicy, lambda u, **k: UCBPolicy(usd_per_1k=u, **k), lambda u, **k: ThompsonPolicy(usd_per_1k=u, **k)],
)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_charged_costs_never_exceed_the_allowance_while_the_cheapest_fits(make, data):
    per_1k, burst = data.draw(st.floats(0.2, 5)), data.draw(st.integers(1, 20))
    policy = make(per_1k, burst_requests=burst, reference_cost_usd=1e-3)
    charged = 0.0
    for n in range(1, 40):
        cost = np.array(data.draw(st.lists(st.floats(0, 0.02), min_size=4, max_size=4)))
        cost[data.draw(st.integers(0, 3))] = data.draw(st.floats(0, per_1k / 1000))
        decision = choose(policy, data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4)), cost=cost)
        charged += decision.ranking[0].expected_cost_usd
        assert charged <= (n + burst) * per_1k / 1000 * (1 + 1e-9)
        assert not decision.warnings


def test_where_nothing_fits_the_cheapest_answers_with_a_warning():
    policy = BudgetPolicy(0.01, burst_requests=1)
    decision = choose(policy, [0.1, 0.2, 0.9, 0.9])
    assert decision.model == "small"
    assert "budget of 0.01 USD per 1,000 requests is spent" in decision.ranking[0].reason
    assert "exceeds what is left of the budget" in decision.ranking[1].reason
    assert [entry.eligible for entry in decision.ranking] == [True, False, False, False]
    assert choose(policy, [0.9] * 4, eligible=(False, True, True, False)).model == "middle"


def test_the_balance_by_hand():
    # 1 USD per 1,000: 0.001 a request, ten ahead.
    policy = BudgetPolicy(1.0, burst_requests=10, reference_cost_usd=1e9)
    choose(policy, [0, 0, 1, 0])  # 0.002
    assert policy.pacer.balance_usd == pytest.approx(0.010 + 0.001 - 0.002)
    policy.observe(Outcome("r", 0.0, "large", cost_usd=0.005))
    assert policy.pacer.balance_usd == pytest.approx(0.009 - 0.003)
    policy.observe(Outcome("r", 0.0, "large", cost_usd=0.005))  # settled already
    policy.observe(Outcome("other", 0.0, "large", cost_usd=1.0))  # decided elsewhere
    assert policy.pacer.balance_usd == pytest.approx(0.006)
    choose(policy, [1, 0, 0, 0])
    policy.observe(Outcome("r", 0.0, "small", cost_usd=None))  # not known: stays as expected
    assert policy.pacer.balance_usd == pytest.approx(0.006 + 0.001 - 0.0001)
    for _ in range(20):
        choose(policy, [1, 0, 0, 0])
    assert policy.pacer.balance_usd == pytest.approx(0.010)  # never more than the burst


def test_the_price_rises_with_spending_and_falls_without():
    policy = BudgetPolicy(1.0, burst_requests=50)
    start = policy.pacer.cost_weight
    for _ in range(60):
        choose(policy, [0, 0, 1, 0], cost=COSTS)
    dearer = policy.pacer.cost_weight
    assert dearer > start
    for _ in range(60):
        choose(policy, [1, 0, 0, 0], cost=COSTS)
    assert policy.pacer.cost_weight < dearer
    assert policy.current_cost_weight() == policy.pacer.cost_weight


@pytest.mark.parametrize("per_1k", [0.3, 0.8, 1.5])
def test_spends_the_budget_where_it_buys_most(per_1k):
    """Against the best fixed cost weight in hindsight, on a stream where actual costs are twice the expected."""
    rng = np.random.default_rng(0)
    n = 3000
    ease = rng.random(n)[:, None]
    quality = np.clip(np.array([0.3, 0.5, 0.95, 0.4]) * (1 - ease) + 0.9 * ease, 0, 1)
    policy = BudgetPolicy(per_1k).bind(FACTS)
    got, paid = [], []
    for i in range(n):
        decision = choose(policy, quality[i], request=RoutingRequest("x", request_id=str(i)))
        got.append(quality[i, MODELS.index(decision.model)])
        paid.append(2 * decision.ranking[0].expected_cost_usd)
        policy.observe(Outcome(str(i), 0.0, decision.model, cost_usd=paid[-1]))
    assert sum(paid) <= (n + 120) * per_1k / 1000
    assert sum(paid) >= 0.9 * n * per_1k / 1000
    hindsight = 0.0
    for weight in np.geomspace(1e-3, 1e3, 400):
        chosen = (quality - weight * COSTS / FACTS.reference_cost_usd).argmax(axis=1)
        if 2 * COSTS[chosen].sum() <= n * per_1k / 1000:
            hindsight = max(hindsight, quality[np.arange(n), chosen].mean())
    assert np.mean(got) > hindsight - 0.01


def test_the_allowance_settles_at_a_half_without_swinging():
    """From a price that is far too low; an integral part alone would swing between empty and full for good."""
    rng = np.random.default_rng(1)
    policy = BudgetPolicy(0.6, reference_cost_usd=0.1)
    fill = []
    for _ in range(4000):
        choose(policy, np.array([0.3, 0.5, 0.9, 0.4]) * rng.uniform(0.5, 1, size=4))
        fill.append(policy.pacer.balance_usd / (100 * policy.pacer.per_request_usd))
    assert np.mean(fill[2000:]) == pytest.approx(0.5, abs=0.1)
    assert 0.1 < min(fill[2000:]) < max(fill[2000:]) < 0.9


def test_dry_runs_are_not_charged():
    policy = BudgetPolicy(1.0)
    choose(policy, [0.1, 0.2, 0.9, 0.9], request=RoutingRequest("x", dry_run=True))
    assert policy.pacer.decisions == 0
    assert policy.pacer.charged_usd == 0.0


def test_binding_starts_the_price_at_the_calibrations():
    rich, poor = BudgetPolicy(10.0).bind(FACTS), BudgetPolicy(0.2).bind(FACTS)
    assert rich.pacer.cost_weight < 0.01
    assert poor.pacer.cost_weight > 0.3
    calibration = FACTS.calibration
    weight = poor.pacer.cost_weight * np.e  # a full allowance lowers the price by that factor
    chosen = (calibration.expected_quality - weight * calibration.expected_cost_usd / FACTS.reference_cost_usd).argmax(
        axis=1
    )
    assert COSTS[chosen].mean() <= 0.2e-3
    choose(poor, [1, 0, 0, 0])
    moved = poor.pacer.cost_weight
    assert poor.bind(FACTS).pacer.cost_weight == moved  # a reload keeps what was learned
    assert poor.bind(FACTS).pacer.balance_usd == poor.pacer.balance_usd


def test_requests_keep_their_own_weight_and_floor_within_the_allowance():
    policy = BudgetPolicy(1.0, burst_requests=1, reference_cost_usd=1e-3)
    # affordable: 0.002
    own = RoutingRequest("x", preference=Preference(cost_weight=0.0))
    assert choose(policy, [0.1, 0.2, 0.9, 0.95], request=own, cost=[1e-4, 4e-4, 5e-3, 1e-3]).model == "other"
    floor = RoutingRequest("x", preference=Preference(quality_floor=0.5))
    decision = choose(policy, [0.1, 0.6, 1.0, 0.95], request=floor, cost=[1e-4, 4e-4, 5e-3, 1e-3])
    assert decision.model == "middle"
    assert not decision.ranking[-1].eligible


def test_threads_cannot_spend_the_same_allowance_twice():
    policy = BudgetPolicy(1.0, burst_requests=20, reference_cost_usd=1e9)
    spent = []

    def work():
        spent.extend(choose(policy, [0.1, 0, 1, 0]).ranking[0].expected_cost_usd for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spent) == policy.pacer.decisions == 400
    assert sum(spent) == pytest.approx(policy.pacer.charged_usd)
    assert sum(spent) <= 420 * 1e-3 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"usd_per_1k": 0}, "usd_per_1k must be a finite number > 0; got 0"),
        ({"usd_per_1k": "2"}, "usd_per_1k"),
        ({"burst_requests": 0}, "burst_requests must be a whole number >= 1; got 0"),
        ({"burst_requests": True}, "burst_requests"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ConfigError, match=message):
        BudgetPolicy(**arguments)
