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
        (
            ["evil.pkl", "--format", "routerbench", "--columns", "prompt=x"],
            "--columns, --default-model, --quality-range: these are",
        ),
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


LINES = [{"prompt": f"question {i}", "model": "ab"[i % 2], "quality": 1 + i % 5, "cost_usd": 0.25} for i in range(20)]
CHAT = [
    {
        "quality": i % 2,
        "request": {"model": "a", "messages": [{"role": "user", "content": f"question {i}"}]},
        "response": {"model": "a", "choices": [{"message": {"role": "assistant", "content": "x"}}]},
    }
    for i in range(20)
]


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.ndjson"])
@pytest.mark.parametrize(("rows", "kind"), [(LINES, "jsonl"), (CHAT, "openai")], ids=["flat", "chat"])
def test_lines_of_json_are_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, rows: list, kind: str
) -> None:
    path = write_lines(tmp_path / name, rows)
    assert main(["import", str(path), "--out", str(tmp_path / "out"), "--format", "auto"]) == 0
    assert f"read 20 rows as {kind}" in capsys.readouterr().out


def test_tabs_are_a_log(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "log.tsv").write_text("prompt\tmodel\tscore\nx\tm\t1\n")
    assert main(["import", str(tmp_path / "log.tsv"), "--out", str(tmp_path / "out")]) == 0
    assert "as csv" in capsys.readouterr().out


def test_another_scale_of_quality(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_lines(tmp_path / "calls.jsonl", LINES)
    assert main(["import", str(path), "--out", str(tmp_path / "out"), "--strict"]) == 1
    assert "--quality-range 1,5" in capsys.readouterr().err
    assert main(["import", str(path), "--out", str(tmp_path / "out"), "--quality-range", "1,5", "--strict"]) == 0
    quality = load_table(tmp_path / "out").quality
    assert sorted(set(quality[quality == quality].tolist())) == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(SystemExit):
        main(["import", str(path), "--out", "out", "--quality-range", "5"])
    assert "write WORST,BEST as in 1,5, not '5'" in capsys.readouterr().err


def test_numbers_that_are_no_json_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"prompt": "x", "model": "a", "quality": 1, "cost_usd": NaN}\n{"prompt": "y", "mod')
    assert main(["import", str(path), "--format", "jsonl", "--out", str(tmp_path / "out"), "--strict"]) == 1
    error = capsys.readouterr().err
    assert "line 1: malformed JSON" in error
    assert "NaN and Infinity are no JSON: write null" in error
    assert "the line may be cut off" in error


def test_a_table_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_lines(tmp_path / "calls.jsonl", LINES)
    assert main(["import", str(path), "--out", str(tmp_path / "out"), "--quality-range", "1,5"]) == 0
    table = tmp_path / "out" / "outcomes.parquet"
    assert main(["import", str(table), "--out", str(tmp_path / "again")]) == 1
    assert "is no log that is read: a table of outcomes goes to --data as it is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ('{"a": {"input": NaN, "output": 1}}', "'input' of 'a' must be a number >= 0, not nan"),
        ('{"a": {"input": 1, "output": -1}}', "'output' of 'a' must be a number >= 0, not -1"),
        ('{"a": {"input": "x", "output": 2}}', "'input' of 'a' must be a number >= 0, not 'x'"),
        ('{"a": {"input": 1}}', "the price of 'a': "),
        ('{"a": 5}', "the price of 'a' is 5; expected"),
        ("[]", "holds list, no object; expected"),
        ("{", "cannot read"),
    ],
)
def test_prices_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture, prices: str, message: str) -> None:
    path = write_lines(tmp_path / "calls.jsonl", LINES)
    (tmp_path / "prices.json").write_text(prices)
    words = ["--prices", str(tmp_path / "prices.json"), "--quality-range", "1,5"]
    assert main(["import", str(path), "--out", str(tmp_path / "out"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("llmrouter: error: --prices: ")
    assert message in error
    assert not (tmp_path / "out").exists()
