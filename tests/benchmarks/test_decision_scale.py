"""The benchmark of a decision beside a large index runs, small, and writes what it says."""

import json

import numpy as np

from benchmarks import decision_scale
from benchmarks.quality.sets import POCKET
from llmrouter.outcomes import load_table


def test_it_runs_and_writes_a_page(tmp_path, monkeypatch):
    train = load_table(POCKET).split("train")
    small = train.select(np.arange(0, len(train.prompt_ids), len(train.prompt_ids) // 150))
    monkeypatch.setattr(decision_scale, "outcomes", lambda: small)
    monkeypatch.setattr(decision_scale, "_QUERIES", 20)
    monkeypatch.setattr(decision_scale, "_bandwidth", lambda: 10.0)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    arguments = [
        "--rows",
        "5000",
        "--rounds",
        "1",
        "--out",
        str(tmp_path),
        "--index",
        "ivf-flat:recall=0.9",
        "--k",
        "10",
    ]
    assert decision_scale.main(arguments) == 0
    document = json.loads((tmp_path / "decision_scale.json").read_text())
    assert set(document["parts"]) == {"encoding", "search", "stack, policy", "decision"}
    assert all(0 < part["p50_ms"] <= part["p99_ms"] for part in document["parts"].values())
    assert 0.5 < document["recall"] <= 1.0
    assert 0 < document["tokens"] <= 40
    assert (document["models"], document["trained_on"]) == (len(small.models), len(small.prompt_ids))
    assert 0.5 < sum(document["members"].values()) < 2.0
    page = (tmp_path / "decision_scale.md").read_text()
    assert "5,000 outcomes" in page
    assert page.count("**met**") + page.count("**missed**") == 3
