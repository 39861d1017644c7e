"""The gate: what passes, what does not, and what it says is missing."""

import dataclasses
import json

import numpy as np
import pytest
from logged_traffic import CARDS, MODELS, KindEncoder, engine, outcomes

from llmrouter.evaluation import LoggedDecisions
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import Gate, TrainingLog, decided_by
from llmrouter.types import ModelCard, Price


def log_of(**settings):
    return TrainingLog.of(outcomes(**settings), KindEncoder())


def test_a_better_router_is_promoted():
    verdict = Gate().judge(engine(), engine(single="sums"), log_of(n=800))
    assert verdict.promote
    # Half of the questions are words, where it gains 0.8 - 0.2; their cost is 0.05 of quality more.
    assert verdict.gain == pytest.approx(0.3 - 0.05 / 2, abs=0.1)
    assert 0 < verdict.low < verdict.gain < verdict.high
    assert verdict.disagreement == pytest.approx(0.5, abs=0.06)
    assert verdict.reasons == ()
    assert verdict.needed is None
    assert set(verdict.results) == {"utility", "quality", "cost_usd"}
    assert verdict.results["cost_usd"].difference["dr"].value == pytest.approx(0.0005, abs=0.0002)


def test_a_worse_router_is_not():
    verdict = Gate().judge(engine(swapped=True), engine(), log_of(n=800))
    assert not verdict.promote
    assert verdict.gain < -0.2
    assert "not shown to exceed 0" in verdict.reasons[-1]


def test_margin_and_confidence_make_it_harder():
    log, new, live = log_of(n=400), engine(), engine(single="sums")
    plain = Gate(least_rows=10).judge(new, live, log)
    assert plain.promote
    assert not Gate(least_rows=10, margin=plain.low + 0.01).judge(new, live, log).promote
    assert Gate(confidence=0.99).judge(new, live, log).low < plain.low


def test_equal_routers_have_nothing_to_gain():
    verdict = Gate().judge(engine(), engine(), log_of(n=100))
    assert not verdict.promote
    assert "decide alike" in verdict.reasons[0]
    assert verdict.needed.requests is None
    assert verdict.needed.by_share == {}


def test_without_exploration_the_missing_model_is_named():
    log = log_of(n=300, share=0.0)
    verdict = Gate().judge(engine(), engine(single="sums"), log)
    assert not verdict.promote
    assert list(verdict.needed.models) == ["words"]
    assert verdict.needed.models["words"] == pytest.approx(verdict.disagreement)
    assert set(verdict.needed.tasks) == {"word"}
    assert verdict.needed.requests is None, "no number of requests logged like that would do"
    assert any("could not have been asked" in reason for reason in verdict.reasons)
    assert verdict.low < -0.2, "the worst is taken for what nobody saw"
    shares = verdict.needed.by_share
    assert sorted(shares.values(), reverse=True) == [shares[share] for share in sorted(shares)]


def test_needed_requests_would_do():
    gate = Gate(gain=0.1, least_rows=10)
    new, live = engine(), engine(single="sums")
    few = gate.judge(new, live, log_of(n=60, share=0.05))
    assert not few.promote
    asked = few.needed.requests
    assert 60 < asked < 20_000
    passed = sum(
        gate.judge(new, live, log_of(n=min(asked, 1500), share=0.05, seed=seed)).promote for seed in range(1, 6)
    )
    assert passed >= 4


def test_false_promotions_and_power():
    """Two choices that differ by a known amount, many logs: a worse one passes seldom, a better one mostly."""
    random = np.random.default_rng(0)
    gate, trials, n, share = Gate(), 200, 1500, 0.3
    passed = {"worse": 0, "better": 0}
    live = np.eye(2)[np.zeros(n, dtype=int)]
    for _ in range(trials):
        kind = random.integers(0, 2, n)
        chance = np.full((n, 2), share / 2)
        chance[:, 0] += 1 - share
        chosen = (random.random(n) > chance[:, 0]).astype(int)
        for name, edge in (("worse", -0.01), ("better", 0.08)):
            skill = np.stack([np.full(n, 0.6), np.where(kind == 1, 0.6 + 2 * edge, 0.3)], axis=1)
            reward = (random.random(n) < skill[np.arange(n), chosen]).astype(float)
            log = LoggedDecisions(chosen, reward, chance[np.arange(n), chosen], chance)
            model = np.tile([0.6, 0.45], (n, 1))
            passed[name] += gate.compare(log, np.eye(2)[kind], live, model=model, methods=["dr"]).promote
    assert passed["worse"] <= 0.05 * trials
    assert passed["better"] >= 0.8 * trials


def test_a_log_in_which_the_new_choice_hardly_came_up_settles_nothing():
    """Two lucky answers of the new choice, and many of the live one's, are not enough effective decisions."""
    n = 500
    chance = np.tile([0.996, 0.004], (n, 1))
    chosen = np.where(np.arange(n) < 2, 1, 0)
    log = LoggedDecisions(chosen, chosen.astype(float), chance[np.arange(n), chosen], chance)
    verdict = Gate().compare(log, np.eye(2)[np.ones(n, dtype=int)], np.eye(2)[np.zeros(n, dtype=int)])
    assert not verdict.promote
    assert verdict.effective_rows == pytest.approx(2.0)
    assert "2.0 effective decisions, 30 are needed" in verdict.reasons[0]


def drawn(n, *, seed, trial=0.0, share=0.2, m=5):
    """Return a log of two kinds of prompts, the new and the live choices and a model; the gain is 0.3 of a tenth."""
    random = np.random.default_rng(seed)
    kind = (random.random(n) < 0.1).astype(int)
    new, live = np.eye(m)[kind], np.eye(m)[np.zeros(n, dtype=int)]
    chance = (1 - trial) * ((1 - share) * live + share * (1 - live) / (m - 1)) + trial * new
    chosen = np.minimum((random.random(n)[:, None] > chance.cumsum(axis=1)).sum(axis=1), m - 1)
    skill = np.where((kind[:, None] == 1) & (np.arange(m) == 1), 0.8, 0.5)
    reward = (random.random(n) < skill[np.arange(n), chosen]).astype(float)
    return LoggedDecisions(chosen, reward, chance[np.arange(n), chosen], chance), new, live, np.full((n, m), 0.5)


@pytest.mark.parametrize("trial", [0.0, 0.2])
def test_what_the_gate_says_is_needed_has_the_power_it_says(trial):
    gate = Gate(gain=0.03)
    log, new, live, model = drawn(1000, seed=0)
    needed = gate.compare(log, new, live, model=model, methods=["dr"]).needed
    requests = needed.by_trial[trial] if trial else needed.requests
    passed = 0
    for seed in range(1, 61):
        log, new, live, model = drawn(requests, seed=seed, trial=trial)
        passed += gate.compare(log, new, live, model=model, methods=["dr"]).promote
    assert 38 <= passed <= 58
    assert needed.by_trial[0.2] < needed.requests / 2, "a trial tries only what is in question"


def test_the_method_that_decides_must_be_estimated():
    log, new, live, model = drawn(50, seed=0)
    with pytest.raises(ConfigError, match="must hold 'dr'"):
        Gate().compare(log, new, live, model=model, methods=["ips"])


def test_a_model_new_to_the_pool_is_without_support():
    cards = (*CARDS, ModelCard("newcomer", Price(0.0, 0.0), prior_quality=1.0))
    new = engine(cards=cards)
    log = log_of(n=200)
    verdict = Gate().judge(new, engine(single="sums"), log)
    assert not verdict.promote
    assert verdict.needed.models == {"newcomer": pytest.approx(1.0)}
    assert decided_by(new, log, (*MODELS, "newcomer"))[:, 2].sum() == len(log)


def test_against_the_policy_that_was_logged():
    verdict = Gate().judge_logged(engine(), log_of(n=800))
    assert verdict.promote
    assert verdict.results["quality"].baseline["ips"].value == pytest.approx(0.55, abs=0.06)


def test_trusted_weights_leave_rows_out():
    log = log_of(n=800)
    flipped = [
        dataclasses.replace(outcome, quality=1.0 - outcome.quality) if number % 2 else outcome
        for number, outcome in enumerate(log.outcomes)
    ]
    spoiled = TrainingLog.of(flipped, KindEncoder())
    new, live = engine(), engine(single="sums")
    assert not Gate().judge(new, live, spoiled).promote
    weight = (np.arange(800) % 2 == 0).astype(float)
    assert Gate(least_rows=10).judge(new, live, spoiled, weight=weight).promote


def test_the_verdict_is_json():
    document = Gate().judge(engine(), engine(single="sums"), log_of(n=100, share=0.0)).document()
    read = json.loads(json.dumps(document, allow_nan=False))
    assert read["promote"] is False
    assert set(read["needed"]) == {"gain", "requests", "by_share", "by_trial", "models", "tasks"}
    assert read["results"]["utility"]["supported"] is False


def test_a_log_that_says_nothing():
    nothing = TrainingLog.of(outcomes(30, judged=0.0), KindEncoder())
    with pytest.raises(DataError, match="reward unknown: 30"):
        Gate().judge(engine(), engine(single="sums"), nothing)


@pytest.mark.parametrize(
    "settings", [{"confidence": 1.0}, {"confidence": 0.4}, {"power": 0.0}, {"gain": 0.0}, {"margin": float("nan")}]
)
def test_gates_that_cannot_be(settings):
    with pytest.raises(ConfigError):
        Gate(**settings)
