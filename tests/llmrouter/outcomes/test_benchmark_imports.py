"""Published benchmarks become a table: every layout, what is left out and why, and every flaw with its own error."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pickle_samples import dumps, frame

from llmrouter.exceptions import DataError, MissingExtraError, RowError
from llmrouter.outcomes import assign_split, detect_benchmark, import_benchmark, load_table, save_table
from llmrouter.types import Price

NAN = np.nan


def write_csv(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


# RouterBench


def bench_row(
    identity: str, prompt: str, task: str = "t", scores: tuple = (1, 0.5), costs: tuple = (0.5, 0.25)
) -> dict:
    return {
        "": 7,
        "sample_id": identity,
        "prompt": prompt,
        "eval_name": task,
        "gpt-4-1106-preview": scores[0],
        "new/model": scores[1],
        "gpt-4-1106-preview|model_response": "a, long\nanswer",
        "gpt-4-1106-preview|total_cost": costs[0],
        "new/model|total_cost": costs[1],
        "oracle_model_to_route_to": "new/model",
    }


def test_routerbench_csv(tmp_path: Path) -> None:
    rows = [
        bench_row("a.1", "['one, \\'quoted\\'']"),
        bench_row("a.2", '["first turn", "second"]', scores=(0, "")),
        bench_row("a.3", "plain [text]", scores=("nan", "")),
    ]
    write_csv(tmp_path / "arc_challenge_train.csv", rows)
    write_csv(tmp_path / "arc_challenge_test.csv", [bench_row("a.4", "['[1, 2'", costs=("", 0))])
    table, report = import_benchmark(tmp_path)
    assert report.format == "routerbench"
    assert table.prompt_ids == ("a.4", "a.1", "a.2")
    assert table.texts == ("['[1, 2'", "one, 'quoted'", "first turn")
    assert table.splits == ("test", "train", "train")
    assert table.tasks == ("t", "t", "t")
    assert table.models == ("gpt-4-1106-preview", "new/model")
    np.testing.assert_array_equal(table.quality, [[1.0, 0.5], [1.0, 0.5], [0.0, NAN]])
    np.testing.assert_array_equal(table.cost_usd, [[NAN, 0.0], [0.5, 0.25], [0.5, 0.25]])
    np.testing.assert_array_equal(table.propensity, [[1.0, 1.0], [1.0, 1.0], [1.0, NAN]])
    assert table.prices == (Price(10.0, 30.0), None)
    assert (report.rows_read, report.rows_kept) == (8, 5)
    assert dict(report.skipped) == {"prompt without any score": 1}
    assert "1 prompts have several turns: the router reads the first" in report.notes
    assert "split: 2 train, 1 test, the source's own" in report.notes
    assert any(note.startswith("1 scored cells have no cost") for note in report.notes)
    save_table(table, tmp_path / "out")
    assert load_table(tmp_path / "out").prompt_ids == table.prompt_ids


def test_routerbench_pickle_with_lists_as_prompts(tmp_path: Path) -> None:
    columns = {
        "sample_id": ["a", "b", "c"],
        "prompt": [["x"], "['y']", "z"],
        "eval_name": ["t", "t", "u"],
        "m": [1.0, 0.0, NAN],
        "m|total_cost": [0.5, 0.25, NAN],
    }
    (tmp_path / "routerbench_0shot.pkl").write_bytes(dumps(frame(columns)))
    table, report = import_benchmark(tmp_path / "routerbench_0shot.pkl", test_share=1.0, name="rb")
    assert (table.name, table.texts, table.splits) == ("rb", ("x", "y"), ("test", "test"))
    assert "split: 0 train, 2 test, assigned by a hash of the text" in report.notes
    assert any("no prompt is in the train split" in note for note in report.notes)
    split = import_benchmark(tmp_path / "routerbench_0shot.pkl").table.splits
    assert split == (assign_split("x"), assign_split("y"))


def test_worked_examples_before_every_prompt_are_left_out(tmp_path: Path) -> None:
    examples = "Question: worked\nAnswer: B\n\n" * 10
    rows = [bench_row(f"arc.{i}", repr([f"{examples}Question: {i}"]), "arc") for i in range(25)]
    rows += [bench_row(f"few.{i}", f"{examples}{i}", "few") for i in range(5)]
    rows += [bench_row(f"own.{i}", f"{i} {examples}", "own") for i in range(25)]
    path = write_csv(tmp_path / "bench.csv", rows)
    table, report = import_benchmark(path)
    by_task = dict(zip(table.tasks, table.texts))
    assert by_task == {"arc": "Question: 24", "few": f"{examples}4", "own": f"24 {examples}"}
    assert any("worked examples that all prompts of arc begin with" in note for note in report.notes)
    kept = import_benchmark(path, strip_shared_prefix=False).table
    assert kept.texts[0] == f"{examples}Question: 0"


def test_repeated_texts_are_kept_once_and_a_test_copy_wins(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "b_train.csv",
        [
            bench_row("1", "same", scores=(0, 0)),
            bench_row("2", "own"),
            bench_row("3", "own", "other task"),
            bench_row("4", "own"),
        ],
    )
    write_csv(tmp_path / "c_test.csv", [bench_row("5", "same", scores=(1, 1))])
    table, report = import_benchmark(tmp_path)
    assert table.prompt_ids == ("2", "3", "5")
    assert report.skipped["prompt that repeats another's text in its task"] == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (bench_row("b", "x", scores=(1.7, 0)), "line 4: gpt-4-1106-preview 1.7 is above 1; quality lies in [0, 1]"),
        (bench_row("b", "x", scores=(0, -0.5)), "line 4: new/model -0.5 is below 0"),
        (bench_row("b", "x", scores=("high", 0)), "line 4: gpt-4-1106-preview 'high' is not a number"),
        (
            bench_row("b", "x", costs=(-1, 0)),
            "line 4: cost_usd of gpt-4-1106-preview -1 is below 0; costs are US dollars",
        ),
        (bench_row("b", "x", costs=("inf", 0)), "line 4: cost_usd of gpt-4-1106-preview inf is infinite"),
        (bench_row("a", "x"), "line 4: the prompt id 'a' repeats an earlier row's; ids are unique: keep one"),
        (bench_row("", "x"), "line 4: the prompt's id is empty; give it a value"),
        (bench_row("b", " "), "line 4: the prompt 'b' is empty; a row needs the text that was sent"),
    ],
)
def test_wrong_values_are_refused_or_left_out(tmp_path: Path, row: dict, message: str) -> None:
    path = write_csv(tmp_path / "bench.csv", [bench_row("a", "good"), row])
    with pytest.raises(RowError) as caught:
        import_benchmark(path)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"bench.csv {message}")
    table, report = import_benchmark(path, strict=False)
    assert table.prompt_ids[0] == "a"
    assert report.skipped["bad row or cell"] == 1
    assert report.problems == caught.value.problems
    assert np.nansum(table.cost_usd) >= 0


# RouterDC


def test_routerdc(tmp_path: Path) -> None:
    folder = tmp_path / "split2_model7"
    items = [{"question": "q1", "scores": {"a/m": 0.0, "b/m": 0.83}}, {"question": "q2", "scores": {"b/m": 0.2}}]
    write_json(folder / "mmlu_test.json", items)
    write_json(folder / "gsm8k-train.json", [{"question": "g", "scores": {"a/m": 0.3, "b/m": 1}, "cluster_id": 4}])
    write_json(folder / "MATH_prealgebra.json", [{"question": "p", "scores": {"a/m": 0.01, "b/m": 0}}])
    write_json(folder / "novel_train.json", [{"question": "n", "scores": {"a/m": 0.123, "b/m": 0.9}}])
    table, report = import_benchmark(folder)
    assert (report.format, table.name, table.models) == ("routerdc", "split2_model7", ("a/m", "b/m"))
    found = {task: (split, row.tolist()) for task, split, row in zip(table.tasks, table.splits, table.quality)}
    assert found["gsm8k"] == ("train", [0.3, 1.0])
    assert found["math_prealgebra"] == ("test", [1.0, 0.0])
    assert found["novel"] == ("train", [1.0, 1.0])
    np.testing.assert_array_equal(
        table.quality[[i for i, t in enumerate(table.tasks) if t == "mmlu"]], [[0, 1], [NAN, 1]]
    )
    assert "mmlu_test:1" in table.prompt_ids
    assert any(
        note == "math_prealgebra, mmlu, novel: scores are probabilities of the right option, 1 where above 0, "
        "as the authors evaluate" for note in report.notes
    )  # fmt: skip
    assert any("scored cells have no cost" in note for note in report.notes)
    as_is = import_benchmark(folder, likelihood_scores="source").table
    assert as_is.quality[as_is.tasks.index("novel"), 0] == 0.123


def test_routerdc_flaws(tmp_path: Path) -> None:
    good = {"question": "q", "scores": {"m": 0.5}}
    with pytest.raises(RowError, match=r"mmlu_test.json item 2: scores\['m'\] 1.7 is above 1"):
        import_benchmark(write_json(tmp_path / "mmlu_test.json", [good, {"question": "r", "scores": {"m": 1.7}}]))
    with pytest.raises(RowError, match=r"item 2: no object with a text 'question'"):
        import_benchmark(write_json(tmp_path / "mmlu_test.json", [good, {"question": 3}]))
    path = write_json(tmp_path / "mmlu_test.json", [{"query": "q", "scores": {}}])
    with pytest.raises(DataError, match="lacks question. Expected columns: question, scores; found: query, scores"):
        import_benchmark(path, format="routerdc")
    with pytest.raises(DataError, match="expected a JSON list of objects"):
        import_benchmark(write_json(tmp_path / "mmlu_test.json", {}), format="routerdc")
    with pytest.raises(DataError, match="likelihood_scores 'odds' is unknown; one of binary, source"):
        import_benchmark(path, format="routerdc", likelihood_scores="odds")
    path.write_text("[{")
    with pytest.raises(DataError, match="is not JSON"):
        import_benchmark(path, format="routerdc")


# EmbedLLM


def label(prompt: int, model: str, right: object, *, text: str = "", task: str = "mmlu") -> dict:
    return {
        "prompt_id": prompt,
        "prompt": text or f"question {prompt}",
        "model_id": 0,
        "model_name": model,
        "category_id": 1,
        "category": task,
        "label": right,
    }


def test_embedllm(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [label(1, "a", 1), label(2, "a", 0), label(1, "b", 0), label(1, "a", 1)])
    write_csv(tmp_path / "val.csv", [label(3, "b", "1.0")])
    write_csv(tmp_path / "test.csv", [label(4, "b", 1, task="gpqa")])
    write_csv(tmp_path / "question_order.csv", [{"prompt_id": 1, "prompt": "question 1"}])
    write_csv(tmp_path / "model_order.csv", [{"model_id": 0, "model_name": "a"}])
    table, report = import_benchmark(tmp_path)
    assert report.format == "embedllm"
    assert table.prompt_ids == ("4", "1", "2", "3")
    assert table.splits == ("test", "train", "train", "train")
    assert table.tasks == ("gpqa", "mmlu", "mmlu", "mmlu")
    assert table.models == ("b", "a")
    np.testing.assert_array_equal(table.quality, [[1, NAN], [0, 1], [NAN, 0], [1, NAN]])
    assert np.isnan(table.cost_usd).all()
    assert report.skipped["repeats the prompt and model of an earlier outcome"] == 1
    assert "validation data count as train" in report.notes


def test_embedllm_flaws(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", [label(1, "a", 1), label(1, "b", 1, text="another")])
    with pytest.raises(RowError, match="line 3: the text of prompt '1' differs from that in an earlier row"):
        import_benchmark(path)
    with pytest.raises(RowError, match="line 3: model_name is empty"):
        import_benchmark(write_csv(path, [label(1, "a", 1), label(2, "", 1)]))
    with pytest.raises(RowError, match="line 2: label 2 is above 1"):
        import_benchmark(write_csv(path, [label(1, "a", 2)]))
    with pytest.raises(DataError, match="train: no prompt has a score"):
        import_benchmark(write_csv(path, [label(1, "a", "")]))
    with pytest.raises(DataError, match="lacks model_name, label. Expected columns: .*; found: prompt_id, prompt"):
        import_benchmark(write_csv(path, [{"prompt_id": 1, "prompt": "x"}]), format="embedllm")
    orders = write_csv(tmp_path / "orders" / "question_order.csv", [{"prompt_id": 1, "prompt": "x"}])
    with pytest.raises(DataError, match="holds only the order files"):
        import_benchmark(orders.parent, format="embedllm")
    path.write_text("prompt_id,prompt,model_name,label,category\n1,x,m\n1,x,m,1,t\n")
    with pytest.raises(RowError, match="line 2: 3 fields under a header of 5"):
        import_benchmark(path)
    path.write_text("prompt_id,prompt,prompt\n")
    with pytest.raises(DataError, match="has the column 'prompt' twice"):
        import_benchmark(path, format="embedllm")


# SPROUT


def write_sprout(path: Path, rows: list[dict]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def judged(key: str, prompt: str | None, mini: float | None, other: tuple | None = (0.25, 100, 50)) -> dict:
    def cell(score: float | None, tokens: tuple[int, int]) -> dict:
        inside = {"num_input_tokens": tokens[0], "num_output_tokens": tokens[1]}
        return {"score": score, **inside, "response": "long", "judge_response": "longer"}

    return {
        "key": key,
        "dataset": "gpqa",
        "dataset_level": "hard",
        "dataset_idx": 3,
        "prompt": prompt,
        "golden_answer": "B",
        "openai-gpt-4o-mini": cell(mini, (1000, 200)),
        "my/model.v1": None if other is None else cell(other[0], other[1:]),
    }


def test_sprout(tmp_path: Path) -> None:
    data = tmp_path / "SPROUT" / "data"
    write_sprout(data / "train-00000-of-00002.parquet", [judged("k1", "one", 1.0)])
    write_sprout(data / "train-00001-of-00002.parquet", [judged("k2", "two", None), judged("k3", "three", 0.5, None)])
    write_sprout(data / "validation-00000-of-00001.parquet", [judged("k4", "four", 0.0)])
    write_sprout(data / "test-00000-of-00001.parquet", [judged("k5", "five", 0.75)])
    table, report = import_benchmark(tmp_path / "SPROUT", prices={"my/model.v1": Price(1.0, 2.0)})
    assert (report.format, table.name) == ("sprout", "SPROUT")
    assert table.prompt_ids == ("k5", "k1", "k2", "k3", "k4")
    assert table.splits == ("test", "train", "train", "train", "train")
    assert set(table.tasks) == {"gpqa"}
    assert table.models == ("openai-gpt-4o-mini", "my/model.v1")
    np.testing.assert_array_equal(table.quality[:, 0], [0.75, 1.0, NAN, 0.5, 0.0])
    np.testing.assert_array_equal(table.quality[:, 1], [0.25, 0.25, 0.25, NAN, 0.25])
    np.testing.assert_array_equal(table.output_tokens[1], [200.0, 50.0])
    np.testing.assert_allclose(table.cost_usd[1], [(1000 * 0.15 + 200 * 0.6) / 1e6, (100 + 2 * 50) / 1e6])
    unpriced = import_benchmark(tmp_path / "SPROUT").report
    assert any(note.startswith("4 scored cells have no cost") for note in unpriced.notes)


def test_sprout_flaws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sprout(tmp_path / "train-0.parquet", [judged("k", "x", 1.7)])
    with pytest.raises(RowError, match="train-0.parquet row 1: openai-gpt-4o-mini 1.7 is above 1"):
        import_benchmark(path)
    with pytest.raises(RowError, match="row 1: the prompt 'k' is empty"):
        import_benchmark(write_sprout(path, [judged("k", None, 1.0)]))
    with pytest.raises(RowError, match="row 2: the prompt id 'k' repeats"):
        import_benchmark(write_sprout(path, [judged("k", "x", 1.0), judged("k", "y", 1.0)]))
    flat = write_sprout(path, [{"prompt": "x", "m_score": 1.0}])
    with pytest.raises(DataError, match="lacks <model>: struct of score, .* found: prompt, m_score"):
        import_benchmark(flat, format="sprout")
    path.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="is not readable Parquet"):
        import_benchmark(path, format="sprout")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"reading SPROUT's Parquet files .*\[train\]"):
        import_benchmark(path, format="sprout")
    assert detect_benchmark(path) is None


# LLMRouterBench


def record(number: int, score: float | None, cost: float = 0.01, **more: Any) -> dict:
    return {
        "index": number,
        "origin_query": f"query {number}",
        "prompt": f"Answer: query {number}",
        "prediction": "4",
        "ground_truth": "4",
        "score": score,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost": cost,
        "raw_output": "long",
        **more,
    }


def result(records: list, **more: Any) -> dict:
    return {"performance": 0.5, "counts": len(records), "demo": False, "records": records, **more}


def write_results(root: Path) -> Path:
    named = {"dataset_name": "aime", "split": "test", "model_name": "gpt-5"}
    old = result([record(1, 0.0), record(2, 0.0)], **named)
    new = result([record(1, 1.0), record(2, None)], **named)
    write_json(root / "aime/test/gpt-5/aime-test-gpt-5-20250901_000000.json", old)
    write_json(root / "aime/test/gpt-5/aime-test-gpt-5-20250902_000000.json", new)
    write_json(root / "aime/test/gpt-5/aime-test-gpt-5-20250903_000000.json", {**old, "demo": True})
    write_json(
        root / "aime/test/local-7b/a-20250901_000000.json",
        result([record(1, 0.5, 0.0), record(2, 0.0, 0.0)], split="test"),
    )
    write_json(root / "mbpp/local-7b/b-20250901_000000.json", result([record(1, 1.0, 0.0, origin_query=["code", 1])]))
    return root


def check_results(table: Any, report: Any) -> None:
    assert report.format == "llmrouterbench"
    rows = dict(zip(table.prompt_ids, range(len(table))))
    assert set(rows) == {"aime/test/1", "aime/test/2", "mbpp/1"}
    assert [table.texts[rows[key]] for key in ("aime/test/1", "mbpp/1")] == ["query 1", '["code",1]']
    big, local = table.models.index("gpt-5"), table.models.index("local-7b")
    np.testing.assert_array_equal(table.quality[rows["aime/test/1"], [big, local]], [1.0, 0.5])
    np.testing.assert_array_equal(table.quality[rows["aime/test/2"], [big, local]], [NAN, 0.0])
    assert table.cost_usd[rows["aime/test/1"], big] == 0.01
    assert np.isnan(table.cost_usd[:, local]).all()
    assert table.input_tokens[rows["mbpp/1"], local] == 10.0
    assert table.tasks[rows["mbpp/1"]] == "mbpp"
    assert "1 result files are demonstrations and were left out" in report.notes
    assert any("cost 0 throughout is not a price, so unknown: 1 models (local-7b)" in note for note in report.notes)
    assert any(note.startswith("1 result files are older") for note in report.notes)


def test_llmrouterbench_folder_and_archive(tmp_path: Path) -> None:
    root = write_results(tmp_path / "bench")
    check_results(*import_benchmark(root))
    archive = tmp_path / "bench-release.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(root, "bench-release")
        link = tarfile.TarInfo("bench-release/link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    check_results(*import_benchmark(archive))
    assert sorted(tmp_path.rglob("*")) == before, "read in place"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match="is not a readable archive"):
        import_benchmark(archive)


def test_llmrouterbench_csv_without_texts(tmp_path: Path) -> None:
    def row(prompt: str, model: str, score: object, cost: object, tokens: int = 9) -> dict:
        start = {"row_id": f"{prompt}|{model}", "dataset": "AIME", "prompt_id": prompt, "index": 1, "model": model}
        return {**start, "score": score, "cost": cost, "prompt_tokens": 10, "completion_tokens": tokens}

    rows = [row("A_1", "gpt-5", 1, "6.55E-05"), row("A_1", "local", 0, 0), row("A_2", "gpt-5", 0, 0, 0)]
    table, report = import_benchmark(write_csv(tmp_path / "sample.csv", rows))
    assert (report.format, table.texts, table.tasks) == ("llmrouterbench", (None, None), ("AIME", "AIME"))
    np.testing.assert_array_equal(table.cost_usd, [[6.55e-05, NAN], [0.0, NAN]])
    assert table.splits == (assign_split("A_1"), assign_split("A_2"))
    assert any(note.startswith("2 prompts have no text") for note in report.notes)


def test_llmrouterbench_flaws(tmp_path: Path) -> None:
    path = tmp_path / "d" / "m" / "r.json"
    with pytest.raises(RowError, match="record 2: no object with an 'index'"):
        import_benchmark(write_json(path, result([record(1, 1.0), {"score": 1}])))
    with pytest.raises(RowError, match="record 1: score 1.7 is above 1"):
        import_benchmark(write_json(path, result([record(1, 1.7)])))
    with pytest.raises(RowError, match="record 2: cost_usd of score -1 is below 0"):
        import_benchmark(write_json(path, result([record(1, 1.0), record(2, 1.0, -1)])))
    write_json(tmp_path / "d" / "n" / "r.json", result([record(1, 1.0, origin_query="another")]))
    write_json(path, result([record(1, 1.0)]))
    with pytest.raises(RowError, match="the text of prompt 'd/1' differs"):
        import_benchmark(tmp_path)
    with pytest.raises(DataError, match="lacks performance, records, dataset_name.*found: a"):
        import_benchmark(write_json(path, {"a": 1}), format="llmrouterbench")


# All of them


def test_formats_are_told_apart_only_where_certain(tmp_path: Path) -> None:
    write_csv(tmp_path / "log.csv", [{"prompt": "x", "model": "m", "score": 1}])
    assert detect_benchmark(tmp_path / "log.csv") is None
    assert detect_benchmark(write_json(tmp_path / "chat.json", [{"messages": []}])) is None
    (tmp_path / "broken.json").write_text("{")
    assert detect_benchmark(tmp_path / "broken.json") is None
    assert detect_benchmark(tmp_path / "nowhere") is None
    assert detect_benchmark("hub:RZ412/EmbedLLM") == "embedllm"
    assert detect_benchmark("hub:somebody/else") is None
    with pytest.raises(DataError, match="has no layout that is certain; give format as one of routerbench, routerdc"):
        import_benchmark(tmp_path / "log.csv")
    with pytest.raises(DataError, match="format 'xml' is unknown; one of auto, routerbench"):
        import_benchmark(tmp_path, format="xml")
    with pytest.raises(DataError, match="test_share 2 is outside"):
        import_benchmark(tmp_path, test_share=2)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; name a file or a folder"):
        import_benchmark(tmp_path / "nowhere", format="routerdc")
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        import_benchmark(tmp_path, format="sprout")
    (tmp_path / "train.csv").touch()
    with pytest.raises(DataError, match="is an empty file"):
        import_benchmark(tmp_path, format="embedllm")
    path = write_csv(tmp_path / "train.csv", [bench_row("a", "x")])
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="train: no prompt has a score"):
        import_benchmark(path)


def test_the_shared_subset_comes_out_of_its_published_form(tmp_path: Path, shared_data: Path) -> None:
    import pyarrow.parquet as pq

    expected = load_table(shared_data / "routerbench_subset")
    rows: dict[tuple[str, str], list[dict]] = {}
    prompts = pq.read_table(shared_data / "routerbench_subset" / "prompts.parquet").to_pylist()
    for prompt, scores, costs in zip(prompts, expected.quality.tolist(), expected.cost_usd.tolist()):
        values = {"sample_id": prompt["prompt_id"], "prompt": repr([prompt["prompt"]]), "eval_name": prompt["task"]}
        values.update(zip(expected.models, scores))
        values.update(zip([f"{model}|total_cost" for model in expected.models], costs))
        rows.setdefault((prompt["task"], prompt["split"]), []).append(values)
    for (task, split), members in rows.items():
        write_csv(tmp_path / f"{task}_{split}.csv", members)
    table, _ = import_benchmark(tmp_path)
    order = {identity: row for row, identity in enumerate(table.prompt_ids)}
    table = table.select([order[identity] for identity in expected.prompt_ids]).select_models(expected.models)
    assert [len(table), table.splits, table.tasks] == [2876, expected.splits, expected.tasks]
    assert sum(mine != theirs for mine, theirs in zip(table.texts, expected.texts)) == 0, "the texts a router reads"
    np.testing.assert_array_equal(table.quality, expected.quality)
    np.testing.assert_array_equal(table.cost_usd, expected.cost_usd)
    assert table.prices == expected.prices
