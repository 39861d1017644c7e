"""The acceptance score: what calls reveal, what it is worth, and that nothing is made of noise."""

import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.flows import Answer, AnswerModel, FlowTable, fit_answer_model, judge_verdicts, revealed_features
from llmrouter.flows._answers import revealed_by
from llmrouter.flows._beliefs import judged_beliefs, learned_beliefs
from llmrouter.flows._crossfit import cross_fit
from llmrouter.flows._useful import useful_models

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
from flow_kit import MODELS, flow_table


def test_revealed_features_are_log_ratios():
    cost = np.array([[2.0, 0.0, np.nan, 1e9]])
    found = revealed_features(cost, np.array([[1.0, 0.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found[0, :, 0], [np.log(2), 0.0, np.nan, 3.0])
    extra = np.arange(4.0).reshape(1, 4, 1)
    found = revealed_features(cost, cost, tokens=cost, expected_tokens=2 * cost, extra=extra)
    assert found.shape == (1, 4, 3)
    np.testing.assert_allclose(found[0, [0, 3], 1], -np.log(2))
    np.testing.assert_array_equal(found[0, :, 2], [0, 1, 2, 3])


def test_informative_calls_move_the_score_of_their_own_model():
    table = flow_table(600)
    model = cross_fit(table).model
    assert (model.movement > 0.3).all()
    called = np.array([True, False, False, False])
    estimate, deviation = learned_beliefs(model, table.expected_quality, revealed=revealed_by(table), called=called)
    before, after = table.expected_quality[:, 0], estimate[:, 0]
    assert np.mean((after - table.quality[:, 0]) ** 2) < np.mean((before - table.quality[:, 0]) ** 2) - 0.02
    assert (deviation[:, 0] == 0).all()
    assert (deviation[:, 1:] > 0).all()


def test_calls_that_reveal_noise_move_nothing_and_constant_costs_reveal_nothing():
    noise = cross_fit(flow_table(600, informative=False)).model
    assert (noise.movement == 0).all()
    table = flow_table(200)
    constant = FlowTable(**{**vars(table), "cost": table.expected_cost})
    model = cross_fit(constant).model
    everything = np.ones(4, dtype=bool)
    updated = model.update(constant.expected_quality, revealed=revealed_by(constant), called=everything)
    np.testing.assert_array_equal(updated, constant.expected_quality)
    assert (model.movement == 0).all()


def test_the_held_out_score_is_calibrated():
    table = flow_table(1500, seed=3)
    fit = cross_fit(table)
    score = np.stack([fit.score(table, called=np.arange(4) == j)[:, j] for j in range(4)], axis=1)
    assert ((score >= 0) & (score <= 1)).all()
    assert score.mean(axis=0) == pytest.approx(table.quality.mean(axis=0), abs=0.02)
    high = score > np.median(score)
    assert table.quality[high].mean() == pytest.approx(score[high].mean(), abs=0.03)


def test_graded_qualities_one_class_and_missing_outcomes():
    table = flow_table(120)
    quality = table.quality.copy()
    quality[:, 0] = 0.5
    quality[:, 1] = 1.0
    quality[::2, 2] = np.nan
    quality[:, 3] = np.nan
    model = fit_answer_model(FlowTable(**{**vars(table), "quality": quality}))
    score = model.score(
        table.expected_quality, table.expected_std, revealed=revealed_by(table), called=np.zeros(4, dtype=bool)
    )
    assert score[:, 0] == pytest.approx(0.5, abs=0.05)
    assert (score[:, 1] > 0.99).all()
    assert np.isfinite(score).all()
    with pytest.raises(DataError, match="no quality was observed"):
        fit_answer_model(FlowTable(**{**vars(table), "quality": np.full_like(quality, np.nan)}))


def test_aligned_reorders_and_leaves_unknown_models_to_their_own_estimate():
    table = flow_table(200)
    model = fit_answer_model(table)
    names = ("large", "new", "small")
    columns = [2, 0]
    sub = model.aligned(names)
    quality = np.full((5, 3), 0.7)
    revealed = np.full((5, 3, 1), np.nan)
    score = sub.score(quality, np.full((5, 3), 0.1), revealed=revealed, called=np.zeros(3, dtype=bool))
    assert score[:, 1] == pytest.approx(0.7)
    known = np.ix_([0, 1], [0, 2], [0, 2])
    np.testing.assert_array_equal(sub.evidence_weights[known], model.evidence_weights[np.ix_([0, 1], columns, columns)])
    assert not sub.evidence_weights[:, 1].any()
    assert model.aligned(MODELS) is model
    again = AnswerModel.from_arrays(MODELS, model.features, model.arrays())
    np.testing.assert_array_equal(again.evidence_weights, model.evidence_weights)
    with pytest.raises(DataError, match="lack movement"):
        AnswerModel.from_arrays(MODELS, ["cost"], {k: v for k, v in model.arrays().items() if k != "movement"})


def test_verdicts_flip_the_truth():
    quality = np.array([[1.0, 0.0, 0.5]] * 4000)
    np.testing.assert_array_equal(judge_verdicts(quality, error=0.0, good=1.0, seed=0), quality >= 1)
    wrong = judge_verdicts(quality, error=0.2, good=1.0, seed=0) != (quality >= 1)
    assert wrong.mean() == pytest.approx(0.2, abs=0.02)
    with pytest.raises(ConfigError, match="judge_error must lie in"):
        judge_verdicts(quality, error=0.7, good=1.0, seed=0)


def test_beliefs_after_a_verdict_follow_bayes():
    prior = np.array([[0.6, 0.6, 0.6]])
    called = np.array([True, True, False])
    verdict = np.array([[True, False, True]])
    estimate, deviation = judged_beliefs(0.1, prior, verdict=verdict, called=called)
    good, bad = 0.6 * 0.9 / (0.6 * 0.9 + 0.4 * 0.1), 0.6 * 0.1 / (0.6 * 0.1 + 0.4 * 0.9)
    assert estimate[0] == pytest.approx([good, bad, 0.6])
    accepted = 0.6 * 0.9 + 0.4 * 0.1
    assert deviation[0] == pytest.approx([0, 0, (good - bad) * np.sqrt(accepted * (1 - accepted))])
    certain, _ = judged_beliefs(0.0, prior, verdict=verdict, called=called)
    assert certain[0] == pytest.approx([1, 0, 0.6], abs=1e-4)
    coin, nothing = judged_beliefs(0.5, prior, verdict=verdict, called=called)
    assert coin[0] == pytest.approx([0.6] * 3)
    assert nothing[0] == pytest.approx([0] * 3)


def test_useful_models_are_those_that_routing_chooses():
    expected = np.tile([0.9, 0.2, 0.5, 0.1], (30, 1))
    cost = np.tile([1.0, 1.0, 0.1, 1.0], (30, 1))
    quality = np.ones((30, 4))
    table = FlowTable(MODELS, quality, cost, expected, np.zeros((30, 4)), cost)
    assert useful_models(table, np.array([0.0, 1.0]), limit=2) == [0, 2]
    unseen = np.where(np.arange(4) == 0, np.nan, quality)
    table = FlowTable(MODELS, unseen, cost, expected, np.zeros((30, 4)), cost)
    assert useful_models(table, np.array([0.0, 1.0]), limit=12) == [1, 2, 3]
    assert 0 not in useful_models(table, np.array([0.0, 1.0]), limit=2)


def test_tables_check_their_shapes():
    table = flow_table(10)
    with pytest.raises(DataError, match=r"cost has shape \(10, 3\); it must be \(10, 4\)"):
        FlowTable(**{**vars(table), "cost": table.cost[:, :3]})
    with pytest.raises(DataError, match="give both or neither"):
        FlowTable(**{**vars(table), "output_tokens": table.cost})
    assert len(table.select(np.array([1, 3]))) == 2


def test_an_answer_is_a_value():
    answer = Answer("small", cost_usd=0.1)
    assert answer.score is None
    assert np.isnan(answer.output_tokens)
    with pytest.raises(AttributeError):
        answer.model = "large"
