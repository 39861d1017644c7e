"""The leaderboard: results from a run, pages from results, and nothing written by hand."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.quality import render as rendering
from benchmarks.quality import run as running
from benchmarks.quality.protocols import PROTOCOLS
from benchmarks.quality.sets import FLOWS, LEARNED, POLICIES, SETS, DataSet
from llmrouter.outcomes import load_table, save_table
from llmrouter.registry import available, parse_spec, resolve
from llmrouter.routers import BaselineRouter

ROOT = Path(__file__).parents[2]


def test_every_learned_router_policy_and_flow_is_compared():
    learned = {name for name in available("router") if not issubclass(resolve("router", name), BaselineRouter)}
    assert {parse_spec(spec)[0] for spec in LEARNED} == learned
    # what needs latencies, shares or conversations cannot be replayed on outcomes alone
    elsewhere = {"utility", "latency", "quota", "sticky", "explore"}  # the last in benchmarks.learning
    assert {parse_spec(spec)[0] for spec in POLICIES} == set(available("policy")) - elsewhere
    assert {parse_spec(spec)[0] for spec in FLOWS} == set(available("flow"))
    assert {name for name, _ in PROTOCOLS} <= {data.name for data in SETS}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A few hundred pocket prompts as a data set of its own, and results in a folder of their own."""
    table = load_table(ROOT / "llmrouter" / "assets" / "pocket" / "outcomes")
    rows = [row for split in ("train", "test") for row in range(len(table)) if table.splits[row] == split][::12]
    save_table(table.select(rows), tmp_path / "data" / "small")
    monkeypatch.setenv("LLMROUTER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(running, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(running, "LOOKS", tmp_path / "results" / "looks.jsonl")
    monkeypatch.setattr(running, "LEARNED", ("ridge", "knn:k=20"))
    monkeypatch.setattr(running, "PLAIN", ())
    monkeypatch.setattr(running, "POLICIES", ("budget",))
    monkeypatch.setattr(running, "FLOWS", ("cascade-routing",))
    return DataSet("small", "usd", policies=True)


def test_a_run_writes_results_and_logs_the_look(small, tmp_path):
    text = running.run_set(small, "form", seed=0, resamples=20, report=tmp_path / "report")
    assert "cascade-routing" in text
    written = (tmp_path / "results" / "quality" / "small-form.json").read_text()
    document = json.loads(written)
    kinds = {name: router["kind"] for name, router in document["routers"].items()}
    assert {
        "ridge": "router",
        "budget": "policy",
        "cascade-routing": "flow",
        "task-mean": "bound",
    }.items() <= kinds.items()
    table = load_table(small.folder)
    assert not any(text and len(text) > 20 and text in written for text in table.texts)
    look = json.loads((tmp_path / "results" / "looks.jsonl").read_text())
    assert (look["data"], look["routers"]) == (table.name, ["ridge", "knn:k=20"])
    assert (tmp_path / "report" / "small-form" / "report.html").is_file()


def test_a_protocol_writes_its_own_file(small, tmp_path):
    protocol = {"protocol": "learning-curve", "routers": ("ridge",), "draws": 1}
    assert "learning-curve" in running.run_one_protocol(small, protocol, label="curve")
    document = json.loads((tmp_path / "results" / "quality" / "protocols" / "small-curve.json").read_text())
    assert document["protocol"] == "learning-curve"
    page = rendering.leaderboard({}, {"small-curve": document})
    assert "## Protocol: small-curve (aiq" in page
    assert "| `ridge` | 0." in page


def test_figures_are_copied_from_the_results(small, tmp_path):
    running.run_set(small, "form", seed=0, resamples=20)
    document = json.loads((tmp_path / "results" / "quality" / "small-form.json").read_text())
    row = "| ".join(rendering._cells("ridge", document["routers"]["ridge"]))
    aiq = document["routers"]["ridge"]["aiq"]
    assert f"`ridge`| {aiq:.4f}" in row
    interval = document["routers"]["ridge"]["intervals"]["aiq_minus_zero"]
    assert f"{interval['estimate']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]" in row


def test_the_pages_are_what_the_results_say(tmp_path):
    """README's table and docs/leaderboard.md are rendered from the committed files, and not touched afterwards."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    rendering.render(root=tmp_path)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    assert (tmp_path / "docs" / "leaderboard.md").read_text() == (ROOT / "docs" / "leaderboard.md").read_text()


def test_rendering_keeps_the_rest_of_the_readme(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"before\n{rendering.BEGIN}\nold\n{rendering.END}\nafter\n")
    rendering.render(folder=tmp_path / "none", root=tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
