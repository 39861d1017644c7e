"""``llmrouter import``: benchmarks and logs through one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pickle_samples import Call, Name, dumps, frame

from llmrouter import cli
from llmrouter.cli import main
from llmrouter.outcomes import BENCHMARK_FORMATS, load_table

ROWS = 30
COLUMNS = {
    "sample_id": [str(i) for i in range(ROWS)],
    "prompt": [f"['question {i}']" for i in range(ROWS)],
    "eval_name": ["t"] * ROWS,
    "m": [float(i % 2) for i in range(ROWS)],
    "n": [0.5] * ROWS,
    "m|total_cost": [0.25] * ROWS,
    "n|total_cost": [0.125] * ROWS,
}


def test_the_command_knows_every_format() -> None:
    assert cli._BENCHMARK_FORMATS == BENCHMARK_FORMATS


def test_a_pickle_is_recognised_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "routerbench_0shot.pkl").write_bytes(dumps(frame(COLUMNS)))
    out = tmp_path / "out"
    assert main(["import", str(tmp_path / "routerbench_0shot.pkl"), "--out", str(out), "--test-share", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "read 60 rows as routerbench, kept 60" in printed
    assert f"wrote {out}: 30 prompts, 2 models" in printed
    assert set(load_table(out).splits) == {"train", "test"}
    assert json.loads((out / "models.json").read_text())["imported_as"] == "routerbench"


def test_options_of_the_formats(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mmlu_test.json"
    path.write_text(json.dumps([{"question": "q", "scores": {"m": 0.25, "n": 7}}]))
    out = tmp_path / "out"
    assert main(["import", str(path), "--out", str(out)]) == 1
    assert "scores['n'] 7 is above 1" in capsys.readouterr().err
    assert not out.exists()
    assert main(["import", str(path), "--out", str(out), "--skip-bad", "--likelihoods", "source"]) == 0
    assert load_table(out).quality.tolist() == [[0.25]]


def test_a_log_is_still_a_log(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "log.csv").write_text("prompt,model,score\nx,m,1\n")
    assert main(["import", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]) == 0
    assert "as csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evil.pkl"], "evil.pkl is refused: it asks for os.system"),
        (["evil.pkl", "--format", "routerbench", "--columns", "prompt=x"], "--columns, --default-model: these are"),
        (["hub:a/b"], "--format: hub:a/b is not known; give one of routerbench"),
        (["hub:a/b", "--format", "csv"], "--format: csv is a format of logs"),
        (["hub:nonsense", "--format", "sprout"], "names no data set; write hub:ORG/NAME"),
        (["log.csv", "--format", "embedllm"], "lacks prompt_id, model_name, label"),
    ],
)
def test_errors_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, arguments: list, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.pkl").write_bytes(dumps(Call(Name("os", "system"), ("touch canary",))))
    Path("log.csv").write_text("prompt,model,score\nx,m,1\n")
    assert main(["import", *arguments, "--out", "out"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("llmrouter: error: ")
    assert message in error
    assert "Traceback" not in error
    assert not Path("canary").exists()
    assert not Path("out").exists()
