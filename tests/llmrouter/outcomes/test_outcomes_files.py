"""Outcome tables on disk: what is saved is what is loaded, and a table is never half there."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from outcome_samples import make_table

from llmrouter.exceptions import DataError, RowError
from llmrouter.outcomes import OutcomeTable, fill_costs, load_table, save_table
from llmrouter.outcomes import _files as files
from llmrouter.types import Price

ARRAYS = ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity", "weight")
FORMATS = ("parquet", "jsonl")


def assert_same(actual: OutcomeTable, expected: OutcomeTable) -> None:
    for field in dataclasses.fields(OutcomeTable):
        left, right = getattr(actual, field.name), getattr(expected, field.name)
        if field.name in ARRAYS and right is not None:
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name


def cells(n: int, m: int, low: float, high: float, **bounds: bool) -> st.SearchStrategy:
    number = st.floats(low, high, allow_subnormal=False, **bounds)
    return hnp.arrays(np.float64, (n, m), elements=st.one_of(st.just(np.nan), number))


# "\x00" and line separators must survive every kind.
TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["\u2028", "a\nb", '"', "\x00", "\ufeff"])
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@st.composite
def tables(draw: st.DrawFn) -> OutcomeTable:
    ids = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    models = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    n, m = len(ids), len(models)
    price = st.builds(Price, st.floats(0, 1e3), st.floats(0, 1e3), st.one_of(st.none(), st.floats(0, 1e3)))
    quality = draw(cells(n, m, 0.0, 1.0))
    quality[0, 0] = 0.25  # at least one row
    return OutcomeTable(
        prompt_ids=tuple(ids),
        models=tuple(models),
        texts=tuple(draw(st.lists(st.none() | TEXT, min_size=n, max_size=n))),
        tasks=tuple(draw(st.lists(st.none() | TEXT, min_size=n, max_size=n))),
        splits=tuple(draw(st.lists(st.sampled_from(["train", "test"]), min_size=n, max_size=n))),
        quality=quality,
        cost_usd=draw(cells(n, m, 0.0, 1e6)),
        input_tokens=draw(cells(n, m, 0.0, 1e20)),
        output_tokens=np.floor(draw(cells(n, m, 0.0, 1e6))),
        propensity=draw(cells(n, m, 0.0, 1.0, exclude_min=True)),
        prices=tuple(draw(st.lists(st.none() | price, min_size=m, max_size=m))),
        name=draw(TEXT),
        weight=draw(st.none() | cells(n, m, 0.0, 1e6)),
    )


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_round_trip_is_lossless(table: OutcomeTable, kind: str, tmp_path: Path) -> None:
    save_table(table, tmp_path / "t", format=kind)
    assert_same(load_table(tmp_path / "t", derive_costs=False), table)
    assert_same(load_table(tmp_path / "t"), fill_costs(table))


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_token_counts_are_written_as_integers(tmp_path: Path, kind: str) -> None:
    save_table(make_table(), tmp_path / "t", format=kind)
    if kind == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "t" / "outcomes.jsonl").read_text().splitlines()]
        assert isinstance(rows[0]["input_tokens"], int)
    else:
        import pyarrow.parquet as pq

        assert str(pq.read_schema(tmp_path / "t" / "outcomes.parquet").field("input_tokens").type) == "int64"


def test_costs_are_derived_cell_by_cell_and_never_overwrite_a_logged_one() -> None:
    table = make_table()
    table.cost_usd[1, 0] = 7.0
    table.output_tokens[2, 0] = np.nan
    filled = fill_costs(table)
    assert filled.cost_usd[0, 0] == pytest.approx((10 * 1.0 + 20 * 2.0) / 1e6)
    assert filled.cost_usd[1, 0] == 7.0
    assert np.isnan(filled.cost_usd[2, 0]), "no output tokens"
    assert np.isnan(filled.cost_usd[:, 1]).all(), "no price"


def test_saving_over_a_table_replaces_it_and_its_other_format_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    save_table(make_table(5), folder)
    (folder / "README.md").write_text("mine")
    save_table(make_table(2), folder, format="jsonl", provenance={"source_repo": "here"})
    assert_same(load_table(folder, derive_costs=False), make_table(2))
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "models.json", "outcomes.jsonl", "prompts.jsonl"
    ]  # fmt: skip
    assert json.loads((folder / "models.json").read_text())["source_repo"] == "here"
    assert list(tmp_path.iterdir()) == [folder], "nothing is left beside it"


def test_save_creates_missing_parents(tmp_path: Path) -> None:
    save_table(make_table(), tmp_path / "a" / "b" / "c")
    assert len(load_table(tmp_path / "a" / "b" / "c")) == 3


def test_failing_while_files_are_made_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t"
    save_table(make_table(5), folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_models", full)
    with pytest.raises(DataError, match="cannot be written: No space left on device; check space"):
        save_table(make_table(2), folder)
    assert_same(load_table(folder, derive_costs=False), make_table(5))
    assert list(tmp_path.iterdir()) == [folder]


def test_dying_between_two_moves_is_refused_on_load_and_healed_by_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "t"
    save_table(make_table(5), folder)
    moves = []
    replace = Path.replace

    def once(self: Path, target: Path) -> Path:
        if moves:
            raise OSError(5, "Input/output error")
        moves.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", once)
        with pytest.raises(DataError, match="cannot be written"):
            save_table(make_table(2), folder)
    with pytest.raises(DataError, match="its writer died half way"):
        load_table(folder)
    save_table(make_table(2), folder)
    assert_same(load_table(folder, derive_costs=False), make_table(2))


WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from outcome_samples import make_table
from llmrouter.outcomes import save_table
print("ready", flush=True)
while True:
    for n, text in ((40, "old"), (90, "new")):
        save_table(make_table(n, text=text), sys.argv[1], format="jsonl")
"""


def test_a_killed_writer_leaves_a_whole_table_or_a_refusal(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    save_table(make_table(40, text="old"), folder, format="jsonl")
    wanted = {40: make_table(40, text="old"), 90: make_table(90, text="new")}
    for trial in range(4):
        command = [sys.executable, "-c", WRITER, str(folder), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.02 + 0.013 * trial)
            writer.send_signal(signal.SIGKILL)
        if (folder / ".being-written").exists():
            with pytest.raises(DataError, match="died half way"):
                load_table(folder)
        else:
            table = load_table(folder, derive_costs=False)
            assert_same(table, wanted[len(table)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": ("dev", "train", "train")}, "row 1: split 'dev' is neither 'train' nor 'test'"),
        ({"input_tokens": np.full((3, 2), -1.0)}, "input_tokens -1 is below 0"),
        ({"propensity": np.zeros((3, 2))}, r"propensity 0 is not above 0; .* in \(0, 1\]"),
        ({"prompt_ids": ("", "b", "c")}, "prompt_id is empty"),
        ({"texts": ("\ud800", "b", "c")}, "half a surrogate pair"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(RowError, match=message):
        save_table(dataclasses.replace(make_table(), **change), tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_an_empty_table_is_not_saved(tmp_path: Path) -> None:
    nothing = np.full((1, 1), np.nan)
    table = OutcomeTable(("p",), ("m",), ("x",), (None,), ("train",), *[nothing] * 5, (None,))
    with pytest.raises(DataError, match="1 prompts and 0 outcomes; there is nothing to save"):
        save_table(table, tmp_path / "t")


def test_bad_targets_and_options(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="it is a file, not a folder"):
        save_table(make_table(), tmp_path / "file")
    with pytest.raises(DataError, match="format 'csv' is unknown; one of parquet, jsonl"):
        save_table(make_table(), tmp_path / "t", format="csv")
    with pytest.raises(DataError, match="provenance must not set 'models'"):
        save_table(make_table(), tmp_path / "t", provenance={"models": []})
    with pytest.raises(DataError, match="must be JSON"):
        save_table(make_table(), tmp_path / "t", provenance={"made": object()})


# Flat files: the prompt repeated beside each outcome.


def flat(tmp_path: Path, *rows: dict) -> Path:
    path = tmp_path / "flat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_flat_file_without_ids_and_splits(tmp_path: Path) -> None:
    path = flat(
        tmp_path,
        {"prompt": "long shared part: one", "query": "one", "model": "m2", "score": 1},
        {"prompt": "two", "model": "m1", "score": 0.5, "task": "t"},
        {"prompt": "two", "model": "m2", "score": None, "task": "t"},
    )
    table = load_table(path)
    assert table.texts == ("one", "two")
    assert table.models == ("m2", "m1")
    assert table.tasks == (None, "t")
    np.testing.assert_array_equal(table.quality, [[1.0, np.nan], [np.nan, 0.5]])
    np.testing.assert_array_equal(table.propensity, [[1.0, np.nan], [1.0, 1.0]])
    save_table(table, tmp_path / "folder")
    assert_same(load_table(tmp_path / "folder"), table)


def test_a_flat_parquet_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"prompt_id": ["a", "a"], "split": ["test", "test"], "model": ["x", "y"], "quality": [1, 0]}
    pq.write_table(pa.table(columns), tmp_path / "flat.parquet")
    table = load_table(tmp_path / "flat.parquet")
    assert (table.prompt_ids, table.splits, table.texts) == (("a",), ("test",), (None,))
    np.testing.assert_array_equal(table.quality, [[1.0, 0.0]])


def test_rows_of_one_prompt_must_agree(tmp_path: Path) -> None:
    path = flat(
        tmp_path,
        {"prompt_id": "a", "prompt": "x", "model": "m", "score": 1},
        {"prompt_id": "a", "prompt": "y", "model": "n", "score": 1},
        {"prompt_id": "b", "prompt": "y", "model": "n", "score": 3},
    )
    with pytest.raises(RowError) as caught:
        load_table(path)
    assert len(caught.value.problems) == 2 + 1  # the text, the split that follows from it, the score
    assert "flat.jsonl line 2: prompt differs from line 1, which has the same prompt_id 'a'" in str(caught.value)
    assert "flat.jsonl line 3: score 3 is above 1" in str(caught.value)


def test_a_flat_file_must_tell_prompts_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has neither 'prompt_id' nor 'prompt'"):
        load_table(flat(tmp_path, {"model": "m", "score": 1}))
    (tmp_path / "table.xlsx").write_text("x")
    with pytest.raises(DataError, match="llmrouter import"):
        load_table(tmp_path / "table.xlsx")
