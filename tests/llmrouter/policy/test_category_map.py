"""Composition of experts: categories, the map under a budget, and the exit for unsure prompts."""

from dataclasses import replace

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.policy import Calibration, CategoryMapPolicy, TrainingFacts
from llmrouter.policy._categories import cluster, find_categories, unit_rows
from llmrouter.types import Candidate, Estimates, ModelCard, Preference, Price, RoutingRequest
from tests.contracts.policy_kit import FACTS, MODELS, candidates_of, estimates_of, facts

NAMES = ("cheap", "coder", "strong")
COST = np.array([1.0, 2.0, 10.0])
CENTRES = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
# Rows: chat, code, law. The strong model is best everywhere but on code.
QUALITY = np.array([[0.8, 0.5, 0.9], [0.3, 0.9, 0.8], [0.2, 0.2, 0.7]])


def made(*, per_task=20, unsure=(), tasks=True):
    """Facts without noise; `unsure` adds prompts between the kinds, that only the strong model can do."""
    kinds = np.repeat(np.arange(3), per_task)
    X, quality = CENTRES[kinds], QUALITY[kinds]
    labels = [("chat", "code", "law")[kind] for kind in kinds]
    for kind in unsure:
        X = np.vstack((X, CENTRES[kind] + 0.9 * CENTRES[(kind + 1) % 3]))
        quality = np.vstack((quality, [0.0, 0.0, 1.0]))
        labels.append(("chat", "code", "law")[kind])
    n = len(X)
    cost = np.tile(COST, (n, 1)) / 1000
    calibration = Calibration(
        NAMES, X, quality, np.full((n, 3), 0.1), cost, quality, cost, tuple(labels) if tasks else (None,) * n
    )
    means = dict(zip(NAMES, quality.mean(axis=0)))
    return TrainingFacts(NAMES, 0.01, "strong", means, dict(zip(NAMES, COST / 1000)), calibration)


def policy_of(usd_per_1k=None, *, training=None, **arguments):
    arguments = {"shrinkage": 0.0, **arguments}
    return CategoryMapPolicy(usd_per_1k, **arguments).bind(training or made())


def choose(policy, embedding, *, preference=None, eligible=(True,) * 3):
    estimates = Estimates(
        NAMES, np.array([0.5, 0.6, 0.4]), np.full(3, 0.1), COST / 1000, np.ones(3), np.asarray(embedding, dtype=float)
    )
    candidates = [Candidate(ModelCard(name, Price(1, 1)), flag, "off") for name, flag in zip(NAMES, eligible)]
    return policy.choose(RoutingRequest("x", preference=preference or Preference()), candidates, estimates)


def test_without_a_budget_each_category_gets_its_best():
    policy = policy_of()
    assert dict(policy.map.experts) == {"chat": "strong", "code": "coder", "law": "strong"}
    assert policy.map.quality == pytest.approx((0.9 + 0.9 + 0.7) / 3)
    assert policy.map.cost_usd == pytest.approx((10 + 2 + 10) / 3 / 1000)
    assert policy.map.exact
    assert [choose(policy, centre).model for centre in CENTRES] == ["strong", "coder", "strong"]


@pytest.mark.parametrize(
    ("usd_per_1k", "experts"),
    [
        (1.0, ("cheap", "cheap", "cheap")),
        (4 / 3, ("cheap", "coder", "cheap")),  # 0.6 for one dollar more
        (13 / 3, ("cheap", "coder", "strong")),  # 0.5 for nine more, against 0.1 on chat
        (22 / 3, ("strong", "coder", "strong")),
    ],
)
def test_the_budget_goes_where_it_buys_most(usd_per_1k, experts):
    policy = policy_of(usd_per_1k, unsure_exit=False)
    assert tuple(model for _, model in policy.map.experts) == experts
    assert policy.map.cost_usd * 1000 <= usd_per_1k + 1e-9
    assert policy.map.unsure_share == 0.0


def test_a_budget_below_the_cheapest_is_refused():
    with pytest.raises(ConfigError, match=r"usd_per_1k=0.5 is less than .* \(1 USD per 1,000 requests\); raise it"):
        policy_of(0.5)


def test_unsure_prompts_go_to_the_strong_model():
    policy = policy_of(5.0, training=made(unsure=[0, 1] * 3))
    found = policy.map
    assert 0 < found.threshold <= 1
    assert found.unsure_share == pytest.approx(6 / 66, abs=0.02)
    assert choose(policy, CENTRES[1]).model == "coder"
    assert choose(policy, CENTRES[0] + 0.9 * CENTRES[1]).model == "strong"
    assert found.cost_usd * 1000 <= 5.0
    without = policy_of(5.0, training=made(unsure=[0, 1] * 3), unsure_exit=False)
    assert found.quality > without.map.quality
    assert choose(without, CENTRES[0] + 0.9 * CENTRES[1]).model != "strong"


@pytest.mark.parametrize("usd_per_1k", [1.2, 1.5, 2.0, 3.0, 4.0])
def test_map_and_exit_share_the_budget(usd_per_1k):
    found = policy_of(usd_per_1k, training=made(unsure=[0, 1, 2] * 8)).map
    assert found.cost_usd * 1000 <= usd_per_1k + 1e-9


def test_clusters_stand_in_for_labels():
    policy = policy_of(training=made(tasks=False), clusters=3)
    assert sorted(model for _, model in policy.map.experts) == ["coder", "strong", "strong"]
    assert [choose(policy, centre).model for centre in CENTRES] == ["strong", "coder", "strong"]
    named = find_categories(made().calibration, "clusters", clusters=3, temperature=0.1, seed=0)
    assert named.names == ("cluster-0", "cluster-1", "cluster-2")


def test_k_means_finds_separate_groups_and_survives_few_rows():
    rng = np.random.default_rng(0)
    X = unit_rows(np.repeat(np.eye(5), 40, axis=0) + 0.05 * rng.normal(size=(200, 5)))
    centroids = cluster(X, 5, seed=1)
    np.testing.assert_allclose(np.sort(centroids.max(axis=1)), 1, atol=0.01)
    assert sorted(centroids.argmax(axis=1).tolist()) == [0, 1, 2, 3, 4]
    same = np.tile(np.eye(1, 5), (4, 1))
    assert cluster(same, 3, seed=0).shape == (3, 5)


def test_probabilities_are_a_softmax_of_cosines():
    categories = find_categories(made().calibration, "tasks", clusters=1, temperature=0.5, seed=0)
    assert categories.names == ("chat", "code", "law")
    expected = np.exp(np.array([1.0, 0.0, 0.0]) / 0.5)
    np.testing.assert_allclose(categories.probabilities(CENTRES[:1])[0], expected / expected.sum())


def test_small_categories_are_shrunk_towards_the_model():
    training = made()
    lucky = training.calibration.quality.copy()
    # One lone prompt of a fourth kind, on which the cheap model was lucky and the strong one was not.
    X = np.vstack((training.calibration.embeddings, [[-1.0, 0.0, 0.0]]))
    quality = np.vstack((lucky, [1.0, 0.0, 0.9]))
    n = len(X)
    cost = np.tile(COST, (n, 1)) / 1000
    calibration = Calibration(
        NAMES, X, quality, np.ones((n, 3)), cost, quality, cost, (*training.calibration.tasks, "rare")
    )
    rare = replace(training, calibration=calibration)
    assert dict(policy_of(training=rare, unsure_exit=False).map.experts)["rare"] == "cheap"
    assert dict(policy_of(training=rare, unsure_exit=False, shrinkage=5.0).map.experts)["rare"] == "strong"


def test_missing_outcomes_are_left_out_of_the_means():
    training = made()
    quality = training.calibration.quality.copy()
    quality[::2, 1] = np.nan
    policy = policy_of(training=replace(training, calibration=replace(training.calibration, quality=quality)))
    assert dict(policy.map.experts)["code"] == "coder"


def test_an_ineligible_expert_is_replaced_by_the_strong_then_by_expected_quality():
    policy = policy_of()
    assert choose(policy, CENTRES[1], eligible=(True, False, True)).model == "strong"
    assert choose(policy, CENTRES[0], eligible=(True, True, False)).model == "coder"
    assert [entry.model for entry in choose(policy, CENTRES[1]).ranking] == ["coder", "strong", "cheap"]


def test_a_request_may_ask_for_utility_instead():
    policy = policy_of()
    decision = choose(policy, CENTRES[0], preference=Preference(cost_weight=0.0))
    assert (decision.model, decision.policy) == ("coder", "utility(0)")
    floor = choose(policy, CENTRES[0], preference=Preference(quality_floor=0.8))
    assert (floor.model, floor.policy) == ("cheap", "category_map(floor=0.8)")


def test_needs_an_artifact_and_an_embedding():
    with pytest.raises(ConfigError, match="bound to none"):
        CategoryMapPolicy().choose(RoutingRequest("x"), candidates_of(), estimates_of([0.5] * 4))
    with pytest.raises(ConfigError, match="bound to none"):
        _ = CategoryMapPolicy().map
    with pytest.raises(ConfigError, match="category_map.* holds none"):
        CategoryMapPolicy().bind(replace(FACTS, calibration=None))
    bound = CategoryMapPolicy().bind(FACTS)
    with pytest.raises(ConfigError, match=r"embedding of shape \(6,\); the estimates hold None"):
        bound.choose(RoutingRequest("x"), candidates_of(), replace(estimates_of([0.5] * 4), embedding=None))
    with pytest.raises(ConfigError, match="task label on every"):
        CategoryMapPolicy(categories="tasks").bind(facts(50, tasks=False))


def test_on_noisy_outcomes_it_finds_the_experts():
    found = dict(CategoryMapPolicy(unsure_exit=False).bind(facts(3000)).map.experts)
    assert found["task-1"] == "large"
    assert found["task-2"] == "other"
    assert set(found.values()) <= set(MODELS)


@pytest.mark.parametrize(
    "arguments",
    [{"usd_per_1k": 0}, {"categories": "topics"}, {"clusters": 0}, {"shrinkage": -1}, {"temperature": 0}, {"seed": -1}],
)
def test_bad_settings(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        CategoryMapPolicy(**arguments)
