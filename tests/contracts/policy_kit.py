"""What every registered policy must do. `check_policy` runs all of it on one registry name."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import NoEligibleModelError
from llmrouter.policy import Calibration, Policy, TrainingFacts, policy_from_config
from llmrouter.types import (
    Candidate,
    Estimates,
    ModelCard,
    Outcome,
    Preference,
    Price,
    RoutingRequest,
    Speed,
)

MODELS = ("small", "middle", "large", "other")
COSTS = np.array([1e-4, 4e-4, 2e-3, 1e-3])
DIMENSION = 6

REQUIRED = {"latency": {"limit_s": 3.0}, "quota": {"shares": {"large": 0.2, "middle": 0.5}}}
"""What a policy cannot be constructed without; a new policy whose parameters all have defaults needs no line here."""

FIXED_CHOICES = {"category_map"}
"""Policies that do not rank by the estimates of the moment: equal estimates are not ties to them."""


def cards():
    return tuple(
        ModelCard(
            name,
            Price(cost * 1000, cost * 2000, cached_input=cost * 100),
            speed=Speed(0.2 + 0.1 * j, 80.0 - 15 * j),
            energy_j_per_token=0.1 * (j + 1),
        )
        for j, (name, cost) in enumerate(zip(MODELS, COSTS))
    )


def facts(n=500, seed=0, *, tasks=True):
    """Training facts of four models over three kinds of prompts, with honest estimates of some noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(3, size=n)
    centres = np.eye(3, DIMENSION)
    truth = np.array([[0.8, 0.85, 0.9, 0.5], [0.3, 0.6, 0.9, 0.4], [0.4, 0.5, 0.7, 0.95]])[kinds]
    quality = (rng.random((n, 4)) < truth).astype(float)
    cost = COSTS * rng.uniform(0.5, 1.5, size=(n, 4))
    calibration = Calibration(
        models=MODELS,
        embeddings=centres[kinds] + 0.1 * rng.normal(size=(n, DIMENSION)),
        expected_quality=np.clip(truth + 0.03 * rng.normal(size=(n, 4)), 0, 1),
        expected_std=np.full((n, 4), 0.03),
        expected_cost_usd=np.tile(COSTS, (n, 1)),
        quality=quality,
        cost_usd=cost,
        tasks=tuple(f"task-{kind}" for kind in kinds) if tasks else (None,) * n,
    )
    means = quality.mean(axis=0)
    return TrainingFacts(
        models=MODELS,
        reference_cost_usd=float(COSTS.max()),
        best_single=MODELS[int(means.argmax())],
        mean_quality=dict(zip(MODELS, means.tolist())),
        mean_cost_usd=dict(zip(MODELS, cost.mean(axis=0).tolist())),
        calibration=calibration,
        cards=cards(),
        mean_output_tokens=dict.fromkeys(MODELS, 100.0),
    )


FACTS = facts()


def made(name):
    """A fresh policy, bound to the facts of the kit."""
    return policy_from_config({"kind": name, **REQUIRED.get(name, {})}).bind(FACTS)


def candidates_of(eligible=(True,) * 4):
    return tuple(Candidate(card, flag, "" if flag else "off") for card, flag in zip(cards(), eligible))


def estimates_of(quality, *, std=0.05, cost=COSTS, seed=0):
    embedding = np.random.default_rng(seed).normal(size=DIMENSION)
    return Estimates(
        MODELS,
        np.array(quality, dtype=float),
        np.broadcast_to(np.array(std, dtype=float), (4,)).copy(),
        np.array(cost, dtype=float),
        np.full(4, 100.0),
        embedding,
    )


def stream(count, seed=0):
    """Requests and estimates as they may come in."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        request = RoutingRequest(
            "x", prompt_tokens=int(rng.integers(1, 2000)), request_id=f"r{i}", conversation_id=f"c{rng.integers(5)}"
        )
        eligible = rng.random(4) < 0.8
        eligible[rng.integers(4)] = True
        yield request, candidates_of(eligible.tolist()), estimates_of(rng.random(4), seed=i)


def outcome_of(request, decision, **fields):
    values = {"cost_usd": decision.ranking[0].expected_cost_usd, "latency_s": 1.0, "output_tokens": 50, **fields}
    return Outcome(
        request.request_id,
        0.0,
        decision.model,
        conversation_id=request.conversation_id,
        served_by=decision.model,
        **values,
    )


def check_policy(name):
    check_protocol(name)
    check_decisions(name)
    check_nothing_eligible(name)
    check_determinism(name)
    check_dry_runs_count_nothing(name)
    check_outcomes_are_taken(name)
    check_threads(name)
    if name not in FIXED_CHOICES:
        check_ties(name)


def check_protocol(name):
    unbound = policy_from_config({"kind": name, **REQUIRED.get(name, {})})
    assert isinstance(unbound, Policy)
    before = unbound.name
    bound = unbound.bind(FACTS)
    assert isinstance(bound, Policy)
    assert unbound.name == before
    assert bound.bind(FACTS).name == bound.name
    assert bound.name.startswith(name)
    assert bound.name.isascii()  # it goes into a header
    assert bound.name.isprintable()


def check_decisions(name):
    policy = made(name)

    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.floats(0, 1), min_size=4, max_size=4),
        st.lists(st.floats(0, 0.5), min_size=4, max_size=4),
        st.lists(st.floats(0, 0.01), min_size=4, max_size=4),
        st.lists(st.booleans(), min_size=4, max_size=4),
        st.one_of(st.none(), st.floats(0, 0.01)),
        st.one_of(st.none(), st.floats(0, 2)),
        st.one_of(st.none(), st.floats(0.01, 1)),
        st.one_of(st.none(), st.sampled_from(["c1", "c2"])),
    )
    def run(quality, std, cost, eligible, limit, weight, floor, conversation):
        request = RoutingRequest(
            "x",
            prompt_tokens=100,
            preference=Preference(weight, floor, limit),
            conversation_id=conversation,
        )
        estimates = estimates_of(quality, std=std, cost=cost)
        allowed = {m for m, ok, c in zip(MODELS, eligible, cost) if ok and (limit is None or c <= limit)}
        if not allowed:
            with pytest.raises(NoEligibleModelError):
                policy.choose(request, candidates_of(eligible), estimates)
            return
        decision = policy.choose(request, candidates_of(eligible), estimates)
        assert decision.model in allowed
        assert 0 < decision.propensity <= 1
        assert decision.policy.isascii()
        assert sorted(entry.model for entry in decision.ranking) == sorted(MODELS)
        flags = [entry.eligible for entry in decision.ranking]
        assert flags == sorted(flags, reverse=True)
        assert {entry.model for entry in decision.eligible} <= allowed
        for entry in decision.ranking:
            j = MODELS.index(entry.model)
            reported = (entry.expected_quality, entry.standard_error, entry.expected_cost_usd)
            assert reported == (quality[j], std[j], cost[j])
            assert entry.eligible or entry.reason
        for entry in decision.ranking[1:]:
            assert not (entry.eligible and entry.reason)
        assert decision.ranking[0].reason == "; ".join(decision.warnings)

    run()


def check_nothing_eligible(name):
    with pytest.raises(NoEligibleModelError, match="small: off"):
        made(name).choose(RoutingRequest("x"), candidates_of((False,) * 4), estimates_of([0.5] * 4))


def check_determinism(name):
    first, second = made(name), made(name)
    for step in stream(60):
        assert first.choose(*step) == second.choose(*step)


def check_dry_runs_count_nothing(name):
    first, second = made(name), made(name)
    for step, (request, candidates, estimates) in zip(stream(40, seed=3), stream(40, seed=4)):
        for _ in range(3):
            dry = RoutingRequest("x", prompt_tokens=10, conversation_id=request.conversation_id, dry_run=True)
            first.choose(dry, candidates, estimates)
        assert first.choose(*step) == second.choose(*step)


def check_outcomes_are_taken(name):
    policy = made(name)
    for i, (request, candidates, estimates) in enumerate(stream(30, seed=5)):
        decision = policy.choose(request, candidates, estimates)
        policy.observe(outcome_of(request, decision, status=("ok", "error", "partial", "cancelled")[i % 4]))
        policy.observe(Outcome(f"unknown-{i}", 0.0, "nobody"))
        policy.observe(outcome_of(request, decision, cost_usd=None, latency_s=None, output_tokens=None))
    assert policy.choose(RoutingRequest("x"), candidates_of(), estimates_of([0.5] * 4)).model in MODELS


def check_threads(name):
    policy = made(name)
    found, errors = [], []

    def work(seed):
        try:
            for request, candidates, estimates in stream(25, seed=seed):
                decision = policy.choose(request, candidates, estimates)
                policy.observe(outcome_of(request, decision))
                found.append(decision.ranking[0].eligible)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 100
    assert all(found)


def check_ties(name):
    decision = made(name).choose(RoutingRequest("x"), candidates_of(), estimates_of([0.7] * 4, std=0.0))
    assert decision.model == "small"
    costs = [entry.expected_cost_usd for entry in decision.eligible]
    assert costs == sorted(costs)
