"""What approximation costs: the ways of approximating do what they say, and the page compares them."""

import json

import numpy as np
import pytest

from benchmarks.index import quality
from benchmarks.index.approximations import Approximation, LossyIndex, approximations


def rows(n=400, d=8, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("recall", [1.0, 0.9, 0.5])
def test_a_lossy_index_misses_as_many_neighbours_as_it_says(recall):
    X = rows()
    index = LossyIndex(8, recall=recall, seed=0)
    index.add(np.arange(len(X)), X)
    found = index.search(X, 50)
    exact = LossyIndex(8, recall=1.0, seed=0)
    exact.add(np.arange(len(X)), X)
    truth = exact.search(X, 50)
    hit = np.mean([len(np.intersect1d(a, b)) / 50 for a, b in zip(found.ids, truth.ids, strict=True)])
    assert hit == pytest.approx(recall, abs=0.02)
    assert found.ids.shape == (400, 50)
    assert (np.diff(found.similarities, axis=1) <= 0).all()


def of(group, name):
    (found,) = [one for one in approximations() if (one.group, one.name) == (group, name)]
    return found


def test_quantisation_and_projection_lose_what_they_say():
    X, Q = rows(), rows(seed=1)
    for bits, most in ((16, 0.001), (8, 0.01), (4, 0.08), (1, 0.6)):
        stored, asked = of("bits a number", str(bits)).prepare(X, Q)
        assert np.abs(stored - X).max() < most
        np.testing.assert_array_equal(asked, Q)
    stored, asked = of("dimensions (PCA)", "4").prepare(X, Q)
    assert stored.shape == (400, 4)
    assert asked.shape == (400, 4)
    full = Approximation("dimensions (PCA)", "all").prepare(X, Q)
    np.testing.assert_array_equal(full[0], X)


def test_the_pocket_set_from_end_to_end(tmp_path, monkeypatch):
    chosen = [one for one in approximations() if one.name in ("exact, float32", "0.50", "10%", "minilm")]
    monkeypatch.setattr(quality, "approximations", lambda encoders: chosen)
    assert quality.main(["--sets", "pocket", "--prompts", "400", "--seeds", "0", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "approximation.json").read_text())
    (one,) = document["sets"]
    assert one["objective"] == "AIQ"
    assert [len(row["scores"]) for row in one["rows"]] == [5, 5, 0, 5, 5]
    page = (tmp_path / "approximation.md").read_text()
    assert "| recall | 0.50 |" in page
    assert "condensed | 10% |" in page
    assert "prompt" in page
