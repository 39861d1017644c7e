"""The shared data's reference figures, reproduced to 0.002 (they are printed with four decimals)."""

import numpy as np
import pytest

from llmrouter.evaluation import evaluate
from llmrouter.outcomes import load_table

TOLERANCE = 0.002
KNN = ("knn:k=5", "knn:k=10", "knn:k=40", "knn:k=100")

# name, cost axis, test prompts, best single (quality), Zero, kNN-5/10/40/100, oracle
FIGURES = [
    ("routerbench_subset", "usd", 673, 0.8782, 0.8249, (0.7345, 0.7877, 0.8421, 0.8504), 0.9751),
    ("llmrouter_nim9", "list_price", 357, 0.5558, 0.5253, (0.5034, 0.5216, 0.5618, 0.5592), 0.7302),
    ("routellm_pair", "calls", 3245, 0.8020, 0.7411, None, 0.8415),
    ("llmrouterbench_sample", "usd", 73, 0.8767, 0.8294, None, 0.9699),
]
INTERVALS = {"routerbench_subset": (0.0128, 0.0374), "llmrouter_nim9": (0.0144, 0.0613)}


def embeddings(folder):
    return np.load(folder / "embeddings_minilm.npy", allow_pickle=False)


@pytest.mark.parametrize(("name", "axis", "prompts", "best", "zero", "knn", "oracle"), FIGURES)
def test_reference_figures(shared_data, name, axis, prompts, best, zero, knn, oracle):
    folder = shared_data / name
    table = load_table(folder)
    X = embeddings(folder) if knn else None
    result = evaluate(table, X, routers=KNN if knn else (), cost=axis, resamples=1000 if knn else 0)
    assert result.data["test_prompts"] == prompts
    assert result.routers["best-single"].peak_quality == pytest.approx(best, abs=1e-4)
    assert result.routers["zero"].aiq == pytest.approx(zero, abs=1e-4)
    assert result.routers["oracle"].aiq == pytest.approx(oracle, abs=1e-4)
    if knn:
        for router, expected in zip(KNN, knn, strict=True):
            assert result.routers[router].aiq == pytest.approx(expected, abs=TOLERANCE), router
        gain = result.routers["knn:k=100"].intervals["aiq_minus_zero"]
        assert (gain.low, gain.high) == pytest.approx(INTERVALS[name], abs=0.004)


def test_quality_alone_without_costs(shared_data):
    """lookahead_open: five complete models, two incomplete test prompts dropped."""
    result = evaluate(load_table(shared_data / "lookahead_open"), None, cost="calls", resamples=0)
    assert result.data["test_prompts"] == 2594
    assert len(result.models) == 5
    assert result.routers["best-single"].peak_quality == pytest.approx(0.6019, abs=1e-4)
    assert result.routers["random"].peak_quality == pytest.approx(0.5416, abs=1e-4)
    assert result.routers["oracle"].peak_quality == pytest.approx(0.8340, abs=1e-4)


def test_tuned_knn_is_at_or_above_the_fixed_one(shared_data):
    folder = shared_data / "routerbench_subset"
    result = evaluate(load_table(folder), embeddings(folder), routers=["knn", "knn:k=100"], resamples=0)
    assert result.routers["knn"].aiq >= result.routers["knn:k=100"].aiq


def test_degenerate_set_says_why(shared_data):
    folder = shared_data / "routerarena_cached"
    result = evaluate(load_table(folder), embeddings(folder), routers=["knn:k=40"], resamples=10)
    assert np.isnan(result.routers["knn:k=40"].aiq)
    assert any("AIQ is undefined" in note for note in result.routers["knn:k=40"].notes)
    assert result.routers["knn:k=40"].cost_from == "output_tokens"
