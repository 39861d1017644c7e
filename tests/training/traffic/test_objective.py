"""What draws prompts together: agreement of outcomes, with gaps left out."""

import numpy as np
import pytest

from llmrouter.exceptions import ConfigError

torch = pytest.importorskip("torch", reason="the extra [encoders] is not installed")
from training.traffic._fit import Objective, logits_of_means  # noqa: E402
from training.traffic._objective import agreement, outcome_loss, profile_loss, residuals  # noqa: E402


def profiles(n=12, m=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, m))


def test_residuals_are_centred_by_model_over_the_prompts_learned_from():
    y = np.array([[1.0, np.nan], [0.0, np.nan], [1.0, 0.5]])
    np.testing.assert_allclose(residuals(y, np.array([0, 1])), [[0.5, np.nan], [-0.5, np.nan], [0.5, 0.5]])


def test_agreement_is_the_cosine_over_what_both_have():
    rows = torch.tensor([[3.0, 4.0, np.nan], [4.0, 3.0, 9.0], [np.nan, np.nan, 1.0], [np.nan, np.nan, np.nan]])
    found = agreement(rows)
    assert found[0, 1] == pytest.approx(24 / 25)
    assert found[1, 2] == pytest.approx(1.0)
    assert torch.isnan(found[0, 2]), "they share no model"
    assert torch.isnan(found[3]).all()


def test_vectors_that_mirror_the_profiles_are_perfect():
    rows = profiles()
    vectors = torch.tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    settings = {"temperature": 0.25, "sharpness": 4.0}
    assert float(profile_loss(vectors, torch.tensor(rows), **settings)) == pytest.approx(0.0, abs=1e-9)
    assert float(profile_loss(vectors[torch.randperm(12)], torch.tensor(rows), **settings)) > 0.1


def test_a_step_down_the_gradient_lowers_it_though_outcomes_are_missing():
    rows = profiles(seed=1)
    rows[np.random.default_rng(2).random(rows.shape) < 0.5] = np.nan
    rows[0] = np.nan
    vectors = torch.tensor(profiles(m=4, seed=3), requires_grad=True)

    def loss(of):
        unit = torch.nn.functional.normalize(of, dim=1)
        return profile_loss(unit, torch.tensor(rows), temperature=0.5, sharpness=3.0)

    before = loss(vectors)
    before.backward()
    assert torch.isfinite(vectors.grad).all()
    assert vectors.grad[0].abs().sum() == 0, "who was never observed is nobody's neighbour"
    assert float(loss(vectors.detach() - 0.1 * vectors.grad)) < float(before.detach())


def test_nothing_observed_in_common_is_no_loss():
    rows = torch.full((3, 3), torch.nan)
    rows.fill_diagonal_(1.0)
    vectors = torch.eye(3, requires_grad=True)
    loss = profile_loss(vectors, rows, temperature=1.0, sharpness=1.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert vectors.grad.abs().sum() == 0


def test_the_read_out_is_judged_by_what_was_observed():
    y = np.array([[1.0, np.nan], [0.0, 1.0]])
    bias = torch.tensor([0.3, -2.0])
    found = float(outcome_loss(torch.zeros(2, 3), torch.zeros(2, 3), bias, torch.tensor(y)))
    shares = 1 / (1 + np.exp(-np.array([0.3, -2.0])))
    assert found == pytest.approx(-(np.log(shares[0]) + np.log(1 - shares[0]) + np.log(shares[1])) / 3, abs=1e-6)
    assert float(outcome_loss(torch.zeros(2, 3), torch.zeros(2, 3), bias, torch.full((2, 2), torch.nan))) == 0.0


def test_the_read_out_begins_at_each_models_mean():
    y = np.array([[1.0, 1.0], [1.0, np.nan], [0.0, np.nan]])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits_of_means(y))), [2.5 / 4, 1.5 / 2])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"profiles": -1.0}, "profiles"),
        ({"outcomes": float("nan")}, "outcomes"),
        ({"temperature": 0.0}, "temperature"),
        ({"sharpness": -0.1}, "sharpness"),
        ({"profiles": 0.0, "outcomes": 0.0}, "both 0"),
    ],
)
def test_bad_objectives_are_named(wrong, named):
    with pytest.raises(ConfigError, match=named):
        Objective(**wrong)
