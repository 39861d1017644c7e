"""The command line, in process, on the shipped pocket outcomes and on small files."""

import json

import pytest

from llmrouter import artifact
from llmrouter.cli import main, split_specs

CONFIG = """
pool:
  - {name: pocket-numbers, backend: scripted, price: {input: 0.3, output: 1.2}, context_window: 2048}
  - {name: newcomer, backend: scripted, price: {input: 0.1, output: 0.4}, prior_quality: 0.4}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_help_and_version(capsys):
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as stop:
            main([option])
        assert stop.value.code == 0
    assert "llmrouter 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("knn", ["knn"]),
        ("knn,random", ["knn", "random"]),
        ("knn,knn:k=40,shrinkage=5,random", ["knn", "knn:k=40,shrinkage=5", "random"]),
        ("knn:k=40; knn:k=5,index=exact", ["knn:k=40", "knn:k=5,index=exact"]),
        (" , ", []),
    ],
)
def test_split_specs(text, specs):
    assert split_specs(text) == specs


def test_route_shows_estimates_neighbours_and_decision(capsys):
    assert main(["route", "What is 12 + 7?"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("model     pocket-numbers")
    assert printed.count("pocket-") >= 5
    assert "nearest training prompts" in printed


def test_route_as_json_agrees_with_cost_weight(capsys):
    assert main(["route", "What is 12 + 7?", "--json", "--cost-weight", "1000", "--neighbours", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "pocket-mini"
    assert document["policy"] == "utility(1000)"
    assert len(document["neighbours"]) == 2
    assert {entry["model"] for entry in document["ranking"]} == {
        "pocket-mini", "pocket-numbers", "pocket-words", "pocket-max",
    }  # fmt: skip


def test_two_kinds_of_prompts_go_to_two_models(capsys):
    chosen = []
    for prompt in ("What is 12 + 7?", "What is the capital of France?"):
        main(["route", prompt, "--json"])
        chosen.append(json.loads(capsys.readouterr().out)["model"])
    assert chosen[0] != chosen[1]


def test_an_unknown_pool_model_gets_a_prior_and_a_warning(config, capsys):
    assert main(["route", "What is 12 + 7?", "--config", str(config)]) == 0
    assert "does not know the pool model 'newcomer'" in capsys.readouterr().out
    assert main(["models", "list", "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert "no (prior)" in printed
    assert "pocket-max" not in printed


def test_config_errors_are_explained(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(CONFIG.replace("context_window", "contxt_window"))
    assert main(["route", "x", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert "pool[0].contxt_window" in error
    assert "context_window" in error.replace("contxt_window", "")


def test_eval_writes_the_report(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["eval", "--data", "pocket", "--routers", "knn:k=20", "--resamples", "50", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    names = {"knn:k=20", "best-single", "zero", "random", "oracle", "cheapest", "task-mean"}
    assert set(results["routers"]) == names
    assert all(name in printed for name in names)
    for key in ("aiq", "aiq_code", "qnc", "peak_quality", "intervals"):
        assert key in results["routers"]["knn:k=20"]
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (out / "report.html").read_text()


def test_import_train_route(tmp_path, capsys):
    rows = ["question,llm,score,usd"]
    for i in range(60):
        rows += [f"add {i} and {i},good,{1.0},0.002", f"add {i} and {i},bad,{i % 2},0.001"]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    columns = "prompt=question,model=llm,quality=score,cost_usd=usd"
    data, artifacts = tmp_path / "data", tmp_path / "artifacts"
    assert main(["import", str(tmp_path / "log.csv"), "--out", str(data), "--columns", columns]) == 0
    assert "60 prompts, 2 models" in capsys.readouterr().out
    assert main(["train", "--data", str(data), "--router", "knn:k=5", "--out", str(artifacts)]) == 0
    manifest = artifact.read_manifest(artifacts / "current")
    assert set(manifest["models"]) == {"good", "bad"}
    assert manifest["cost_unit"] == "usd"
    assert manifest["best_single"] == "good"
    pool = "\n".join(f"  - {{name: {m}, backend: scripted, price: {{input: 1, output: 1}}}}" for m in ("good", "bad"))
    config = tmp_path / "mine.yaml"
    config.write_text(f"pool:\n{pool}\nrouter: {{artifact: {artifacts / 'current'}}}\npolicy: {{cost_weight: 0}}\n")
    capsys.readouterr()
    assert main(["route", "add 7 and 7", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "good"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["eval", "--data", "/no/such/folder"], "/no/such/folder"),
        (["eval", "--data", "pocket", "--routers", "kn"], "unknown router 'kn'"),
        (["eval", "--data", "pocket", "--routers", "knn:k=0", "--resamples", "0"], "k must be"),
        (["train", "--data", "pocket", "--router", "knn:k=5", "--encoder", "/no/encoder"], "/no/encoder"),
        (["route", "x", "--config", "/no/config.yaml"], "/no/config.yaml"),
        (["route", "x", "--cost-weight", "-1"], "--cost-weight"),
        (["import", "/no/log.jsonl", "--out", "/tmp/never"], "/no/log.jsonl"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, match, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("llmrouter: error: ")
    assert match in error
    assert "Traceback" not in error
