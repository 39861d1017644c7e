"""The losses in torch and in numpy are the same functions, gradients included."""

import numpy as np
import pytest

from llmrouter.routers import _contrastive_loss as by_hand

torch = pytest.importorskip("torch", reason="the extra [encoders] is not installed")
from training.contrastive import _losses as in_torch  # noqa: E402


def gradient(loss, values):
    tensor = torch.tensor(values, requires_grad=True)
    result = loss(tensor)
    result.backward()
    return float(result.detach()), tensor.grad.numpy()


def assert_same(first, second):
    assert first[0] == pytest.approx(second[0], abs=1e-9)
    np.testing.assert_allclose(first[1], second[1], atol=1e-9)


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.3])
def test_cost_spectrum(shift):
    rng = np.random.default_rng(0)
    s, right = rng.normal(size=(9, 5)), rng.random((9, 5)) * (rng.random((9, 5)) < 0.5)
    right[0] = 0.0
    right[1, 3] = np.nan
    spectrum = by_hand.CostSpectrum.make(rng.random(5), bands=3, alpha=0.25, tau_min=0.05, shift=shift)
    ours = gradient(lambda at: in_torch.cost_spectrum_loss(at, torch.tensor(right), spectrum), s)
    assert_same(ours, spectrum.loss(s, right, np.ones(9)))


def test_sample_llm():
    rng = np.random.default_rng(1)
    s, score, ties = rng.normal(size=(9, 6)), rng.random((9, 6)).round(1), rng.random((9, 6))
    score[0] = 1.0  # nothing to set the best against
    settings = {"best": 3, "worst": 3, "temperature": 0.5, "ties": ties}
    ours = gradient(lambda at: in_torch.sample_llm_loss(at, score, **settings), s)
    assert_same(ours, by_hand.sample_llm_loss(s, score, np.ones(9), **settings))


def test_sample_sample():
    rng = np.random.default_rng(2)
    queries, cluster = rng.normal(size=(8, 4)), np.array([0, 0, 1, 1, 1, 2, 2, 3])
    ours = gradient(
        lambda at: in_torch.sample_sample_loss(at, cluster, negatives=3, generator=np.random.default_rng(5)), queries
    )
    theirs = by_hand.sample_sample_loss(queries, cluster, negatives=3, generator=np.random.default_rng(5))
    assert_same(ours, theirs)
