"""Training on one-sided logs: what each method makes of unseen answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import MISSING, complete_arms, cross_fitted, fit_completed
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create


def one_armed(n=600, *, share=0.3, seed=0, propensities=True):
    """Return (table, X, skill): model 0 knows topic 0, model 1 topic 1; the log gives each its own topic mostly."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, 2, n)
    skill = np.array([[0.9, 0.2], [0.1, 0.8]])[topic]
    chance = np.full((n, 2), share / 2)
    chance[np.arange(n), topic] += 1 - share
    chosen = (random.random(n) > chance[:, 0]).astype(int)
    quality = np.full((n, 2), np.nan)
    quality[np.arange(n), chosen] = random.random(n) < skill[np.arange(n), chosen]
    seen = np.isfinite(quality)
    X = np.eye(4)[topic] + 0.05 * random.standard_normal((n, 4))
    return (
        OutcomeTable(
            prompt_ids=tuple(f"r{i}" for i in range(n)),
            models=("a", "b"),
            texts=tuple(f"text {i}" for i in range(n)),
            tasks=(None,) * n,
            splits=("train",) * n,
            quality=quality,
            cost_usd=np.where(seen, 0.01, np.nan),
            input_tokens=np.full((n, 2), np.nan),
            output_tokens=np.full((n, 2), np.nan),
            propensity=np.where(seen & propensities, chance, np.nan),
            prices=(None, None),
        ),
        X.astype(np.float32),
        skill,
    )


def test_none_changes_nothing():
    table, X, _ = one_armed()
    weight = np.linspace(0.5, 1.5, len(table))
    completed = complete_arms(table, X, method="none", weight=weight)
    assert completed.quality is table.quality
    np.testing.assert_array_equal(completed.weight, weight)


def test_direct_keeps_what_was_seen_and_fills_the_rest():
    table, X, skill = one_armed(2000)
    completed = complete_arms(table, X, method="direct", router="ridge")
    seen = table.observed
    np.testing.assert_array_equal(completed.quality[seen], table.quality[seen])
    assert np.isfinite(completed.quality).all()
    assert np.abs(completed.quality - skill)[~seen].mean() < 0.1


def test_ipw_weighs_rare_choices_more_and_adds_no_evidence():
    table, X, _ = one_armed(4000)
    completed = complete_arms(table, X, method="ipw", most_weight=100)
    for column in range(2):
        rows = table.observed[:, column]
        chance, weight = table.propensity[rows, column], completed.weight[rows]
        assert weight.sum() == pytest.approx(rows.sum())
        assert weight[chance < 0.2].min() > weight[chance > 0.8].max()
        # Weighed, a model's prompts are half of each topic, as all prompts are.
        assert np.average(X[rows, 0], weights=weight) == pytest.approx(0.5, abs=0.1)
        assert abs(X[rows, 0].mean() - 0.5) > 0.2


def test_dr_is_right_on_average_where_the_filling_model_is_wrong():
    table, X, skill = one_armed(4000)
    completed = complete_arms(table, np.zeros_like(X), method="dr", router="mean", most_weight=1000)
    direct = complete_arms(table, np.zeros_like(X), method="direct", router="mean")
    first = X[:, 0] > 0.5  # the filling model saw no topic
    for rows in (first, ~first):
        truth = skill[rows].mean(axis=0)
        assert completed.quality[rows].mean(axis=0) == pytest.approx(truth, abs=0.08)
    assert np.abs(direct.quality[first].mean(axis=0) - skill[first].mean(axis=0)).max() > 0.3


def test_large_weights_are_cut_and_counted():
    table, X, _ = one_armed(share=0.02)
    assert complete_arms(table, X, method="ipw", most_weight=5).clipped > 0
    assert complete_arms(table, X, method="ipw", most_weight=1000).clipped == 0
    dr = complete_arms(table, X, method="dr", most_weight=5)
    assert np.abs(dr.quality).max() <= 1 + 5


@pytest.mark.parametrize("method", MISSING)
def test_a_router_fitted_on_it_tells_the_topics_apart(method):
    table, X, skill = one_armed(1500)
    router = fit_completed(create("router", "ridge"), X, complete_arms(table, X, method=method))
    expected = router.predict(X)
    assert (expected.argmax(axis=1) == skill.argmax(axis=1)).mean() > 0.95
    assert expected.min() >= 0
    assert expected.max() <= 1


def test_rows_without_weight_are_left_out():
    table, X, _ = one_armed()
    weight = np.ones(len(table))
    weight[:300] = 0.0
    half = fit_completed(create("router", "ridge"), X, complete_arms(table, X, method="none", weight=weight))
    alone = fit_completed(
        create("router", "ridge"), X[300:], complete_arms(table.select(np.arange(300, 600)), X[300:], method="none")
    )
    np.testing.assert_allclose(half.predict(X), alone.predict(X))


def test_a_model_never_seen_is_expected_as_the_others_are():
    table, X, _ = one_armed()
    y = np.concatenate([table.quality, np.full((len(table), 1), np.nan)], axis=1)
    expected = cross_fitted(X, y, router="ridge")
    assert np.isfinite(expected).all()


def test_nothing_is_expected_from_its_own_answer():
    """With the same text in one fold, a router that remembers cannot repeat what it saw."""
    random = np.random.default_rng(0)
    X = np.repeat(random.standard_normal((40, 6)), 5, axis=0).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = np.repeat(random.integers(0, 2, (40, 1)).astype(float), 5, axis=0)
    groups = [f"text {i // 5}" for i in range(200)]
    remembered = cross_fitted(X, y, router="knn:k=1,shrinkage=0.0")
    held_out = cross_fitted(X, y, router="knn:k=1,shrinkage=0.0", groups=groups)
    assert np.abs(remembered - y).mean() < 0.05
    assert np.abs(held_out - y).mean() > 0.3


def test_history_is_learned_from():
    table, X, skill = one_armed(400)
    few = np.arange(12)
    alone = cross_fitted(X[few], table.quality[few], router="ridge")
    helped = cross_fitted(X[few], table.quality[few], router="ridge", history=(X[12:], table.quality[12:]))
    assert np.abs(helped - skill[few]).mean() < np.abs(alone - skill[few]).mean()


@given(st.integers(0, 1000), st.sampled_from(MISSING))
@settings(max_examples=20, deadline=None)
def test_the_same_log_gives_the_same_training_data(seed, method):
    table, X, _ = one_armed(80, seed=seed)
    first, second = (complete_arms(table, X, method=method, router="mean", seed=seed) for _ in range(2))
    np.testing.assert_array_equal(first.quality, second.quality)
    assert (first.weight >= 0).all()
    assert np.isfinite(first.weight).all()


def test_what_cannot_be_done():
    table, X, _ = one_armed(60, propensities=False)
    with pytest.raises(ConfigError, match="none, direct, ipw, dr"):
        complete_arms(table, X, method="guess")
    with pytest.raises(ConfigError, match="at least 1"):
        complete_arms(table, X, method="ipw", most_weight=0.5)
    for method in ("ipw", "dr"):
        with pytest.raises(DataError, match="no propensities"):
            complete_arms(table, X, method=method)
    assert np.isfinite(complete_arms(table, X, method="direct").quality).all()
    with pytest.raises(DataError, match="no reward"):
        cross_fitted(X, np.full((60, 2), np.nan))
    with pytest.raises(DataError, match="folds"):
        cross_fitted(X[:3], table.quality[:3])
    with pytest.raises(DataError, match="groups"):
        cross_fitted(X, table.quality, groups=["a"])
