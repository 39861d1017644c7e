"""The index benchmark at a size a test can afford."""

import json

import numpy as np
import pytest

from benchmarks.index import __main__, contenders, data, measure, report


@pytest.fixture
def made_up(monkeypatch):
    """Rows without an encoder: 40 base rows, 20 queries."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    monkeypatch.setattr(measure, "embeddings", lambda dimension: ("made up", rows[:40], rows[40:]))
    monkeypatch.setattr(measure, "throughput", lambda *_, threads: 100.0 * threads)
    monkeypatch.setattr(measure, "_MOST_SEARCHES", 20)
    monkeypatch.setattr(measure.os, "sched_setaffinity", lambda *_: None)
    return rows


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("exact", 10_000), ("exact", 170), ("flat", 170), ("stored flat", 10_000), ("sklearn brute", 10_000)],
)
def test_exact_search_has_recall_one(made_up, monkeypatch, name, chunk):
    for module in (data, measure):
        monkeypatch.setattr(module, "CHUNK", chunk)
    result = measure.measure(name, 16, 500, seed=0)
    assert (result["recall_10"], result["recall_100"]) == (1.0, 1.0)
    assert result["p99_ms"] >= result["p50_ms"] > 0.0
    assert ("open_s" in result) == name.startswith("stored")


def test_recall_falls_where_rows_are_missed(made_up, monkeypatch):
    class Forgetful(contenders.Ours):
        def search(self, query, k, /):
            return np.concatenate([super().search(query, k)[: k // 2], np.arange(k - k // 2)])

    monkeypatch.setattr(measure, "make", lambda name, dimension, rows: Forgetful("exact", dimension, rows))
    result = measure.measure("forgetful", 16, 5000, seed=0)
    assert 0.5 <= result["recall_100"] < 0.75


def test_rows_are_the_same_again_and_unit(made_up):
    first, second = (np.concatenate(list(data.chunks(made_up, 300, seed=1))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, rtol=1e-5)
    assert (np.abs(first[:, None] - made_up[None]).sum(axis=2) > 1e-3).all()


def measured(index, rows, p50, **more):
    return {
        "index": index, "dimension": 256, "rows": rows, "source": "x", "build_s": rows / 1e4, "bytes_per_row": 1024.0,
        "recall_10": 1.0, "recall_100": 0.97, "p50_ms": p50, "p99_ms": 2 * p50, "qps_1": 100.0, "qps_2": 180.0, **more,
    }  # fmt: skip


def test_growth_is_the_slope_and_the_projection_follows_it():
    rows = [measured("scan", size, size / 1e4) for size in (10_000, 100_000, 1_000_000)]
    rows += [measured("once", 10_000, 1.0)]
    (found,) = report.growth(rows)
    assert found["exponents"]["p50_ms"] == pytest.approx(1.0)
    assert found["projected"]["p50_ms"] == pytest.approx(1e4)
    assert found["projected"]["memory_gib"] == pytest.approx(1e8 * 1024 / 2**30)


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path, monkeypatch):
    def run(job, timeout_s):
        if job["name"] == "hnsw":
            return "exit status 1: out of memory"
        return measured(job["name"], job["rows"], 1.0, disk_bytes=1000, open_s=0.01)

    monkeypatch.setattr(__main__, "_run", run)
    monkeypatch.setattr(__main__, "embeddings", lambda dimension: None)
    monkeypatch.setattr(__main__, "available", lambda name: name != "hnswlib")
    words = ["--sizes", "100", "1000", "--dimensions", "256", "--indexes", "flat", "hnsw", "hnswlib"]
    assert __main__.main([*words, "--large", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "index.md").read_text()
    assert "| 1,000 | `flat` | 1.000 | 0.970 | 1.00 |" in text
    assert "| 10,000,000 | `stored int8:keep=False` |" in text
    assert "Not installed, not measured: hnswlib." in text
    assert "hnsw, 100 x 256: exit status 1: out of memory" in text
    assert "projected, not measured" in text
    document = json.loads((tmp_path / "index.json").read_text())
    assert {row["index"] for row in document["rows"]} == {"flat", *contenders.LARGE}


def test_a_run_that_was_broken_off_is_resumed_and_another_is_refused(tmp_path, monkeypatch):
    asked = []

    def run(job, timeout_s):
        asked.append((job["name"], job["rows"]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measured(job["name"], job["rows"], 1.0, other_cores=0.5)

    monkeypatch.setattr(__main__, "_run", run)
    monkeypatch.setattr(__main__, "embeddings", lambda dimension: None)
    words = ["--sizes", "100", "1000", "--dimensions", "256", "--indexes", "flat", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        __main__.main(words)
    assert "Broken off: 1 more lines" in (tmp_path / "index.md").read_text()
    assert __main__.main([*words, "--resume"]) == 0
    assert asked == [("flat", 100), ("flat", 1000), ("flat", 1000)]
    text = (tmp_path / "index.md").read_text()
    assert "| 100 | `flat`" in text
    assert "| 1,000 | `flat`" in text
    assert "Broken off" not in text
    assert "used 0.50 cores" in text
    with pytest.raises(SystemExit, match="has command"):
        __main__.main([*words, "--seed", "1", "--resume"])
