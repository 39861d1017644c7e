"""Every flaw of an outcome folder has its own error, and all bad rows are reported at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrouter.exceptions import DataError, MissingExtraError, RowError
from llmrouter.outcomes import _parquet, load_table

PROMPTS = [
    {"prompt_id": "a", "prompt": "one", "query": None, "task": "t", "split": "train"},
    {"prompt_id": "b", "prompt": "two", "query": "2", "task": None, "split": "test"},
]
OUTCOMES = [
    {"prompt_id": "a", "model": "m", "score": 1.0, "cost_usd": 0.25, "input_tokens": 3, "output_tokens": 4},
    {"prompt_id": "b", "model": "m", "score": 0.0, "cost_usd": None, "input_tokens": 3, "output_tokens": 4},
    {"prompt_id": "b", "model": "n", "score": None, "cost_usd": None, "input_tokens": None, "output_tokens": 4},
]
MODELS = {"dataset": "tiny", "models": [{"name": "m", "price_in_per_1m": 1, "price_out_per_1m": 2}, {"name": "n"}]}


def write(folder: Path, kind: str, prompts: list[dict], outcomes: list[dict], models: Any = MODELS) -> Path:
    for stem, rows in (("prompts", prompts), ("outcomes", outcomes)):
        if kind == "jsonl":
            (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), folder / f"{stem}.parquet")
    if models is not None:
        (folder / "models.json").write_text(models if isinstance(models, str) else json.dumps(models))
    return folder


def changed(rows: list[dict], position: int, **values: Any) -> list[dict]:
    return [{**row, **values} if i == position else row for i, row in enumerate(rows)]


@pytest.fixture(params=["parquet", "jsonl"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_good_folder(tmp_path: Path, kind: str) -> None:
    table = load_table(write(tmp_path, kind, PROMPTS, OUTCOMES))
    assert (table.name, table.models, table.texts) == ("tiny", ("m", "n"), ("one", "2"))
    np.testing.assert_array_equal(table.quality, [[1.0, np.nan], [0.0, np.nan]])
    np.testing.assert_allclose(table.cost_usd, [[0.25, np.nan], [11e-6, np.nan]])
    np.testing.assert_array_equal(table.propensity, [[1.0, np.nan], [1.0, 1.0]])
    assert table.weight is None


@pytest.mark.parametrize(
    ("position", "values", "message"),
    [
        (0, {"score": 1.7}, "1: score 1.7 is above 1; quality lies in [0, 1]: rescale it"),
        (1, {"score": -0.1}, "2: score -0.1 is below 0"),
        (0, {"cost_usd": -0.5}, "1: cost_usd -0.5 is below 0; costs are US dollars per call"),
        (2, {"output_tokens": -4}, "3: output_tokens -4 is below 0"),
        (0, {"propensity": 0.0}, "1: propensity 0 is not above 0"),
        (0, {"propensity": 1.5}, "1: propensity 1.5 is above 1"),
        (0, {"weight": -1.0}, "1: weight -1 is below 0"),
        (1, {"prompt_id": "a"}, "2: prompt_id 'a' with model 'm' repeats {unit} 1; keep one, or their mean"),
        (2, {"model": "typo"}, "3: model 'typo' is not in models.json (m, n)"),
        (2, {"model": ""}, "3: model is empty"),
        (2, {"prompt_id": None}, "3: prompt_id is empty"),
        (2, {"prompt_id": "z"}, "3: prompt_id 'z' is not in prompts.{kind} (1 outcomes are without their prompt)"),
    ],
)
def test_bad_outcome(tmp_path: Path, kind: str, position: int, values: dict, message: str) -> None:
    unit = "line" if kind == "jsonl" else "row"
    rows = changed(OUTCOMES, position, **values)
    if kind == "parquet":
        rows = [{**dict.fromkeys(values), **row} for row in rows]
    with pytest.raises(RowError) as caught:
        load_table(write(tmp_path, kind, PROMPTS, rows))
    (problem,) = caught.value.problems
    assert problem.startswith(f"outcomes.{kind} {unit} {message.format(unit=unit, kind=kind)}")


@pytest.mark.parametrize(
    ("position", "values", "message"),
    [
        (1, {"split": "dev"}, "2: split 'dev' is neither 'train' nor 'test'"),
        (1, {"split": None}, "2: split is empty"),
        (0, {"prompt_id": ""}, "1: prompt_id is empty"),
        (1, {"prompt_id": "a"}, "2: prompt_id 'a' repeats {unit} 1; ids are unique"),
    ],
)
def test_bad_prompt(tmp_path: Path, kind: str, position: int, values: dict, message: str) -> None:
    unit = "line" if kind == "jsonl" else "row"
    with pytest.raises(RowError) as caught:
        load_table(write(tmp_path, kind, changed(PROMPTS, position, **values), OUTCOMES))
    assert f"prompts.{kind} {unit} {message.format(unit=unit)}" in str(caught.value)


def test_all_problems_of_both_files_are_reported(tmp_path: Path, kind: str) -> None:
    prompts = [{"prompt_id": f"p{i}", "prompt": "x", "split": "dev" if i < 9 else "train"} for i in range(40)]
    outcomes = [{"prompt_id": f"p{i}", "model": "m", "score": 1.0 + (i % 2)} for i in range(40)]
    with pytest.raises(RowError, match="29 bad row") as caught:
        load_table(write(tmp_path, kind, prompts, outcomes))
    assert len(caught.value.problems) == 9 + 20
    assert str(caught.value).endswith("... and 19 more")


def test_no_outcome_belongs_to_a_prompt(tmp_path: Path, kind: str) -> None:
    strangers = [{**row, "prompt_id": f"other{i}"} for i, row in enumerate(OUTCOMES)]
    with pytest.raises(DataError, match=r"none of the 3 outcomes has a prompt_id of prompts.*different data sets"):
        load_table(write(tmp_path, kind, PROMPTS, strangers))


@pytest.mark.parametrize(
    ("stem", "column"),
    [("prompts", "split"), ("prompts", "prompt_id"), ("outcomes", "model"), ("outcomes", "prompt_id")],
)
def test_missing_column(tmp_path: Path, kind: str, stem: str, column: str) -> None:
    rows = {"prompts": PROMPTS, "outcomes": OUTCOMES}
    rows[stem] = [{key: value for key, value in row.items() if key != column} for row in rows[stem]]
    with pytest.raises(DataError, match=rf"{stem}\.{kind} has no column '{column}'; it has: "):
        load_table(write(tmp_path, kind, rows["prompts"], rows["outcomes"]))


@pytest.mark.parametrize(("column", "value", "wanted"), [("score", "high", "number"), ("prompt_id", 7, "text"),
                                                        ("cost_usd", True, "number")])  # fmt: skip
def test_wrong_type(tmp_path: Path, kind: str, column: str, value: object, wanted: str) -> None:
    rows = [{**row, column: value} for row in OUTCOMES]
    with pytest.raises(DataError, match=f"{column}.*must (be a|be|hold) {wanted}"):
        load_table(write(tmp_path, kind, PROMPTS, rows))


def test_infinity(tmp_path: Path) -> None:
    rows = changed(OUTCOMES, 1, score=float("inf"))
    with pytest.raises(RowError, match="row 2: score inf is infinite; leave the field empty"):
        load_table(write(tmp_path, "parquet", PROMPTS, rows))


def test_a_value_of_another_type_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        load_table(write(tmp_path, "jsonl", PROMPTS, changed(OUTCOMES, 1, score="0.5")))
    assert caught.value.problems == ('outcomes.jsonl line 2: score "0.5" is a str; it must be a number',)


def test_quality_under_two_names(tmp_path: Path, kind: str) -> None:
    rows = [{**row, "quality": row["score"]} for row in OUTCOMES]
    with pytest.raises(DataError, match="both 'quality' and 'score', which mean the same"):
        load_table(write(tmp_path, kind, PROMPTS, rows))


def test_empty_files(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind, PROMPTS, OUTCOMES)
    (tmp_path / f"outcomes.{kind}").write_bytes(b"")
    with pytest.raises(DataError, match="is an empty file"):
        load_table(tmp_path)


def test_files_without_rows(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind, PROMPTS, OUTCOMES)
    if kind == "jsonl":
        (tmp_path / "outcomes.jsonl").write_text("\n  \n")
    else:
        import pyarrow.parquet as pq

        path = tmp_path / "outcomes.parquet"
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match="outcomes.* has no rows"):
        load_table(tmp_path)


@pytest.mark.parametrize("keep", [0.3, 0.9, "garbage", "middle"])
def test_truncated_or_corrupt_parquet(tmp_path: Path, keep: object) -> None:
    many = [{"prompt_id": f"p{i}", "prompt": f"text {i * 7919}", "split": "train"} for i in range(3000)]
    write(tmp_path, "parquet", many, [{"prompt_id": "p1", "model": "m", "score": 1.0}])
    path = tmp_path / "prompts.parquet"
    data = path.read_bytes()
    if keep == "garbage":
        path.write_bytes(b"not a parquet file at all" * 10)
    elif keep == "middle":
        path.write_bytes(data[:200] + b"\xff" * 2000 + data[2200:])
    else:
        path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="not readable Parquet"):
        load_table(tmp_path)


def test_malformed_lines(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", PROMPTS, OUTCOMES)
    lines = (tmp_path / "outcomes.jsonl").read_text().splitlines()
    (tmp_path / "outcomes.jsonl").write_bytes(
        b"\xef\xbb\xbf" + "\n".join([lines[0], "", lines[1][:20], "[1]", '{"prompt_id": "\\ud800"}']).encode()
    )
    with pytest.raises(RowError) as caught:
        load_table(tmp_path)
    text = str(caught.value)
    assert "outcomes.jsonl line 3: malformed JSON" in text
    assert "outcomes.jsonl line 4: a list, not an object" in text
    assert "outcomes.jsonl line 5: malformed JSON" in text
    assert len(caught.value.problems) == 3


def test_a_file_of_malformed_lines_only(tmp_path: Path) -> None:
    write(tmp_path, "jsonl", PROMPTS, OUTCOMES)
    (tmp_path / "outcomes.jsonl").write_text("{\n{\n")
    with pytest.raises(RowError, match="2 bad row"):
        load_table(tmp_path)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("{", "models.json is not JSON"),
        ([], 'has no list "models"'),
        ({"models": []}, 'has no list "models"'),
        ({"models": [{"price_in_per_1m": 1}]}, r"models\[0\] has no name"),
        ({"models": [{"name": "m"}, {"name": "m"}]}, r"models\[1\] repeats the name 'm'"),
        (
            {"models": [{"name": "m", "price_in_per_1m": -1, "price_out_per_1m": 1}]},
            "price_in_per_1m -1 is not a price",
        ),
        ({"models": [{"name": "m", "price_in_per_1m": "1", "price_out_per_1m": 1}]}, "'1' is not a price"),
        ({"models": [{"name": "m", "price_in_per_1m": 1}]}, "give both, or neither"),
    ],
)
def test_bad_models_file(tmp_path: Path, models: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_table(write(tmp_path, "jsonl", PROMPTS, OUTCOMES, models))


def test_without_a_models_file(tmp_path: Path, kind: str) -> None:
    table = load_table(write(tmp_path, kind, PROMPTS, OUTCOMES[::-1], None))
    assert table.models == ("n", "m")
    assert table.prices == (None, None)
    assert table.name == tmp_path.name


def test_a_model_or_prompt_without_outcomes_stays_as_nan(tmp_path: Path, kind: str) -> None:
    models = {"models": [{"name": "never"}, {"name": "m"}, {"name": "n"}]}
    table = load_table(write(tmp_path, kind, PROMPTS, OUTCOMES[1:], models))
    assert table.models == ("never", "m", "n")
    assert np.isnan(table.quality[:, 0]).all()
    assert np.isnan(table.propensity[0]).all()


def test_missing_and_doubled_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_table(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no prompts\.parquet or prompts\.jsonl"):
        load_table(tmp_path)
    write(tmp_path, "jsonl", PROMPTS, OUTCOMES)
    write(tmp_path, "parquet", PROMPTS, OUTCOMES)
    with pytest.raises(DataError, match=r"has both prompts\.parquet and prompts\.jsonl"):
        load_table(tmp_path)


def test_parquet_types_that_hold_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path, "parquet", PROMPTS, OUTCOMES)
    path = tmp_path / "outcomes.parquet"
    data = pq.read_table(path)
    as_other = pa.table(
        {
            "prompt_id": data["prompt_id"].dictionary_encode(),
            "model": data["model"].cast(pa.large_string()),
            "score": data["score"].cast(pa.float32()),
            "input_tokens": data["input_tokens"].cast(pa.int32()),
            "latency_ms": pa.nulls(3),
        }
    )
    pq.write_table(as_other, path)
    np.testing.assert_array_equal(load_table(tmp_path).quality, [[1.0, np.nan], [0.0, np.nan]])


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    write(tmp_path, "parquet", PROMPTS, OUTCOMES)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmrouter-service\[train\]'"):
        load_table(tmp_path)
    with pytest.raises(MissingExtraError):
        _parquet.read_parquet(tmp_path / "prompts.parquet", (), source="x")


@pytest.mark.parametrize(("given", "missing"), [("train", "test"), ("test", "train")])
def test_an_empty_split_is_an_error_where_it_is_asked_for(tmp_path: Path, kind: str, given: str, missing: str) -> None:
    table = load_table(write(tmp_path, kind, [{**row, "split": given} for row in PROMPTS], OUTCOMES))
    assert len(table.split(given)) == 2
    with pytest.raises(DataError, match=rf"tiny has no rows in split '{missing}'; it has \['{given}'\]; import data"):
        table.split(missing)


def test_an_unknown_model_is_an_error(tmp_path: Path, kind: str) -> None:
    table = load_table(write(tmp_path, kind, PROMPTS, OUTCOMES))
    with pytest.raises(DataError, match=r"unknown model\(s\) typo; the table has m, n"):
        table.select_models(["m", "typo"])
    with pytest.raises(RowError, match="model 'n' is not in models.json .m.; add it there or mend the name"):
        load_table(write(tmp_path, kind, PROMPTS, OUTCOMES, {"models": [{"name": "m"}]}))
