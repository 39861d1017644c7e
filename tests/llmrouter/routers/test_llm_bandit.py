"""LLM Bandit: the policy in numpy, what it needs, prompts chosen by discrimination, models that join, refusals."""

import dataclasses

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.routers import LLMBanditRouter, MIRTRouter, PreferencePolicy
from llmrouter.routers._axes import sigmoid
from llmrouter.routers._llm_bandit_policy import HEADS, NUMBERS, PREFERENCE, numbers, preference_features, softmax
from llmrouter.routers._llm_bandit_prompts import greedy, stratified
from tests.contracts.router_kit import rmse, through_a_file, topics, unit

COSTS = np.array([0.02, 0.1, 0.4, 1.0])


def random_policy(*, dimension=6, length=4, seed=0):
    """A policy of random weights, the first four of the arrays small enough that nothing saturates."""
    width, prompt, told, hidden = 2 * HEADS, 5, 3, 7
    square, row = (width, width), (width,)
    shapes = {
        "token_identity": (length, width), "token_numbers": (NUMBERS, width), "token_shift": row,
        "query": square, "key": square, "value": square, "mix": square, "mix_shift": row, "seed": row,
        "pool_key": square, "pool_value": square, "pool_mix": square, "pool_mix_shift": row,
        "prompt": (dimension, prompt), "prompt_shift": (prompt,), "preference": (PREFERENCE, told),
        "first": (width + prompt + told, hidden), "first_shift": (hidden,),
        "second": (hidden, length), "second_shift": (length,), "sharpness": (1,),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    return PreferencePolicy(**{name: np.asarray(0.5 * rng.normal(size=shape)) for name, shape in shapes.items()})


def identity(router):
    return {name: getattr(router, f"{name}_") for name in ("projection", "shift", "prompt", "prompt_shift", "vectors")}


@pytest.fixture(scope="module")
def trained():
    """Embeddings, outcomes, a fitted router and one that adopted its identities with a policy."""
    X, y, _ = topics(400)
    fitted = LLMBanditRouter(rank=4).fit(X, y)
    adopted = LLMBanditRouter(rank=4).adopt(
        X, y, identity(fitted), held_out=np.arange(200), policy=random_policy(), costs=COSTS
    )
    return X, y, fitted, adopted


# The response model


def test_fit_alone_is_the_item_response_model_and_has_no_policy(trained):
    X, y, fitted, adopted = trained
    mirt = MIRTRouter(rank=4).fit(X, y)
    np.testing.assert_array_equal(fitted.predict(X), mirt.predict(X))
    np.testing.assert_allclose(adopted.predict(X), fitted.predict(X), atol=1e-12)
    with pytest.raises(ConfigError, match=r"has no policy.*training\.bandit"):
        fitted.preferences(X, 0.3)
    with pytest.raises(ConfigError, match="has no policy"):
        LLMBanditRouter(estimates="policy").fit(X, y)
    with pytest.raises(ConfigError, match="estimates must be one of response, policy; got 'both'"):
        LLMBanditRouter(estimates="both").fit(X, y)


# The policy


def test_preferences_are_probabilities_that_hang_on_the_weight(trained):
    X, _, _, adopted = trained
    few, much = adopted.preferences(X, 0.0), adopted.preferences(X, 30.0)
    for share in (few, much):
        assert (share >= 0).all()
        np.testing.assert_allclose(share.sum(axis=1), 1.0)
    assert np.abs(few - much).max() > 0.01
    alone = np.concatenate([adopted.preferences(row[None], 0.3) for row in X[:5]])
    np.testing.assert_allclose(alone, adopted.preferences(X[:5], 0.3), atol=1e-12)


def test_the_order_of_the_candidates_does_not_matter():
    rng = np.random.default_rng(1)
    X, expected = rng.normal(size=(3, 6)), rng.uniform(0.1, 0.9, size=(3, 4))
    identities, policy, order = rng.normal(size=(4, 4)), random_policy(), np.array([2, 0, 3, 1])
    first = policy.logits(X, identities, expected, COSTS, np.array([0.5, 2.0]))
    second = policy.logits(X, identities[order], expected[:, order], COSTS[order], np.array([0.5, 2.0]))
    np.testing.assert_allclose(second, first[:, :, order], atol=1e-12)


def test_only_available_models_get_a_share(trained):
    X, _, _, adopted = trained
    share = adopted.preferences(X, 0.3, available=[1, 3])
    assert (share[:, [0, 2]] == 0).all()
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    for wrong in ([], [4], [-1]):
        with pytest.raises(DataError, match="available"):
            adopted.preferences(X, 0.3, available=wrong)


def test_what_the_policy_is_told():
    told = preference_features(np.array([0.0, 1.0, 99.0]))
    np.testing.assert_allclose(told[:, 0], [0.0, 0.5, 0.99])
    assert (np.diff(told[:, 1]) > 0).all()
    seen = numbers(np.array([[0.0, 0.5, 1.0]]), np.array([0.0, 0.01, 1.0]))
    np.testing.assert_allclose(seen[0, :, 2], [-6.0, 0.0, 6.0])
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(softmax(np.array([[0.0, -np.inf, 0.0]])), [[0.5, 0.0, 0.5]])


def test_estimates_of_the_policy_are_calibrated_on_what_was_held_out(trained):
    X, y, fitted, _ = trained
    router = LLMBanditRouter(rank=4, estimates="policy")
    router.adopt(X, y, identity(fitted), held_out=np.arange(200), policy=random_policy(), costs=COSTS)
    mean, std = router.estimate(X)
    assert ((mean >= 0) & (mean <= 1)).all()
    assert (std > 0).all()
    np.testing.assert_allclose(mean[:200].mean(axis=0), y[:200].mean(axis=0), atol=0.03)
    again = through_a_file(router)
    np.testing.assert_array_equal(again.predict(X), mean)
    np.testing.assert_array_equal(again.preferences(X, 0.3), router.preferences(X, 0.3))
    np.testing.assert_array_equal(router.add_column(X[:30], y[:30, 0]).predict(X)[:, :4], mean)
    assert np.isfinite(router.predict(X)).all()


# Models that join


def test_a_model_that_joins_is_chosen_once_its_cost_is_told(trained):
    X, y, _, adopted = trained
    router = through_a_file(adopted).add_column(X[:40], y[:40, 0])
    with pytest.raises(DataError, match=r"joined has none yet: costs must be 5"):
        router.preferences(X, 0.3)
    share = router.preferences(X, 0.3, costs=np.append(COSTS, 0.02))
    assert (share[:, 4] > 0).all()
    np.testing.assert_allclose(
        router.preferences(X, 0.3, available=[0, 1, 2, 3], costs=np.append(COSTS, 0.02)),
        np.c_[adopted.preferences(X, 0.3), np.zeros(len(X))],
    )
    again = through_a_file(router.drop_column(0))
    assert again.preferences(X, 0.3, costs=np.append(COSTS[1:], 0.02)).shape == (len(X), 4)


def test_chosen_prompts_place_a_new_model():
    rng = np.random.default_rng(0)
    X = unit(rng.normal(size=(600, 6)))
    truth = sigmoid(4.0 * X[:, :2] @ rng.normal(size=(2, 9)))
    y = (rng.random(truth.shape) < truth).astype(float)
    router = LLMBanditRouter(rank=2, penalty=1.0).fit(X, y[:, :8])
    for rule in ("discrimination", "information"):
        rows = router.scoring_prompts(X, 50, rule=rule, seed=1)
        assert len(set(rows.tolist())) == 50
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(rows, router.scoring_prompts(X, 50, rule=rule, seed=1))
        joined = through_a_file(router).add_column(X[rows], y[rows, 8], known=y[rows, :8])
        assert rmse(joined.predict(X)[:, 8], truth[:, 8]) < 0.6 * rmse(y[:, 8].mean(), truth[:, 8])
    for n in (0, 601):
        with pytest.raises(ConfigError, match=rf"n must be .* \[1, 600\]; got {n}"):
            router.scoring_prompts(X, n)
    with pytest.raises(ConfigError, match="rule must be one of"):
        router.scoring_prompts(X, 5, rule="luck")


def test_greedy_takes_what_says_most_and_then_something_else():
    features = np.array([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0], [0.1, 0.1]])
    assert greedy(features, np.full(4, 0.25), np.eye(2), 1).tolist() == [0]
    # One outcome of the first leaves 1 / (1 + 9/4) of its direction: the second would add log 1.65, the third log 1.25.
    assert greedy(features, np.full(4, 0.25), np.eye(2), 2).tolist() == [0, 1]
    assert greedy(features, np.full(4, 0.25), np.diag([0.05, 1.0]), 2).tolist() == [0, 2]


def test_strata_take_the_sharper_half_of_each():
    features = np.arange(40.0)[:, None]
    rows = stratified(features, np.full(40, 0.25), 10, seed=0)
    assert (rows // 4).tolist() == list(range(10))
    assert (rows % 4 >= 2).all()


# Refusals


def test_identities_of_another_encoder_or_pool_are_refused(trained):
    X, y, fitted, _ = trained
    good = identity(fitted)
    adopt = LLMBanditRouter(rank=4).adopt
    with pytest.raises(DataError, match=r"projection has the shape \(6, 4\), expected \(5, 4\).*encoder"):
        adopt(X[:, :5], y, good, held_out=np.arange(9))
    with pytest.raises(DataError, match=r"vectors has the shape \(4, 4\), expected \(3, 4\).*3 models"):
        adopt(X, y[:, :3], good, held_out=np.arange(9))
    with pytest.raises(DataError, match="identity lacks shift"):
        adopt(X, y, {name: array for name, array in good.items() if name != "shift"}, held_out=np.arange(9))
    with pytest.raises(DataError, match="prompt has NaN"):
        adopt(X, y, good | {"prompt": np.full(6, np.nan)}, held_out=np.arange(9))
    with pytest.raises(DataError, match=r"y must lie in \[0, 1\]"):
        adopt(X, 900.0 * y, good, held_out=np.arange(9))


def test_a_model_without_identity_is_refused_where_it_counts(trained):
    X, y, fitted, _ = trained
    vectors = fitted.vectors_.copy()
    vectors[2] = np.nan
    without = identity(fitted) | {"vectors": vectors}
    with pytest.raises(DataError, match=r"model\(s\) \[2\] have outcomes and no identity"):
        LLMBanditRouter(rank=4).adopt(X, y, without, held_out=np.arange(9))
    unseen = np.where(np.arange(4) == 2, np.nan, y)
    router = LLMBanditRouter(rank=4).adopt(
        X, unseen, without, held_out=np.arange(200), policy=random_policy(), costs=COSTS
    )
    assert np.isnan(router.predict(X)[:, 2]).all()
    with pytest.raises(DataError, match=r"column\(s\) \[2\] have no identity"):
        router.preferences(X, 0.3)
    assert (router.preferences(X, 0.3, available=[0, 1, 3])[:, 2] == 0).all()


def test_a_policy_that_does_not_fit_is_refused(trained):
    X, y, fitted, adopted = trained

    def adopt(policy, **changes):
        given = {"held_out": np.arange(200), "costs": COSTS} | changes
        return LLMBanditRouter(rank=4).adopt(X, y, identity(fitted), policy=policy, **given)

    with pytest.raises(DataError, match=r"policy\.prompt has the shape \(7, 5\), expected \(6, 5\).*encoder"):
        adopt(random_policy(dimension=7))
    with pytest.raises(DataError, match=r"policy\.token_identity has the shape \(3, 8\), expected \(4, 8\)"):
        adopt(random_policy(length=3))
    broken = dataclasses.replace(random_policy(), second_shift=np.full(4, np.inf))
    with pytest.raises(DataError, match=r"policy\.second_shift has NaN or infinite"):
        adopt(broken)
    with pytest.raises(DataError, match="the policy lacks seed, prompt"):
        PreferencePolicy.from_arrays(
            {
                name: array
                for name, array in random_policy().arrays().items()
                if name not in ("policy.seed", "policy.prompt")
            }
        )
    for costs in (None, COSTS[:3], -COSTS, np.full(4, np.inf)):
        with pytest.raises(DataError, match="costs must be 4 finite numbers"):
            adopt(random_policy(), costs=costs)
    with pytest.raises(DataError, match="held_out is empty"):
        adopt(random_policy(), held_out=np.arange(0))
    for weight in (-1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match="cost_weight must be a finite number >= 0"):
            adopted.preferences(X, weight)
