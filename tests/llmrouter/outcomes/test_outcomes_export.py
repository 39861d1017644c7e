"""Exports of the log: whole, streamed, and tables again when loaded."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from outcome_samples import make_outcome
from test_outcomes_stores import FULL

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.outcomes import MemoryOutcomeStore, export_outcomes, import_logs, load_table, store_to_table
from llmrouter.types import Outcome

SUFFIXES = ("jsonl", "parquet")
OUTCOMES = [
    make_outcome("a", prompt="one", propensity=0.25, cost_usd=0.5, input_tokens=3, output_tokens=4, task="t"),
    make_outcome("b", prompt="two", quality=1.0, quality_weight=2.0, model="m", served_by="n", propensity=0.9),
    make_outcome("c", prompt="one", quality=0.5, model="n", propensity=math.nan),
    make_outcome("d", prompt_sha256="f" * 64, status="error", candidates={"m": {"quality": math.nan}}),
    FULL,
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_is_a_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    assert export_outcomes(OUTCOMES, path) == 5
    table = load_table(path)
    direct = store_to_table(OUTCOMES, models=table.models)
    kept = [table.prompt_ids.index(name) for name in direct.prompt_ids]
    for name in ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity"):
        np.testing.assert_array_equal(getattr(table, name)[kept], getattr(direct, name), err_msg=name)
    assert tuple(table.texts[row] for row in kept) == direct.texts
    assert [path.name for path in tmp_path.iterdir()] == [f"log.{suffix}"], "nothing else is left"


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in SUFFIXES:
        export_outcomes(OUTCOMES, tmp_path / f"log.{suffix}")
    lines = [orjson.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    assert parquet.read_table(tmp_path / "log.parquet").to_pylist() == lines
    whole = lines[-1]
    assert (whole["model"], whole["chosen"], whole["embedding"]) == ("n", "m", [0.5, -0.25, 1.0])
    assert orjson.loads(whole["candidates"])["m"]["standard_error"] == 0.125
    assert orjson.loads(whole["quality_by"]) == ["k1", "k2"]


def test_the_importer_reads_it(tmp_path: Path) -> None:
    export_outcomes(OUTCOMES[:3], tmp_path / "log.jsonl")
    table, report = import_logs(tmp_path / "log.jsonl")
    assert (report.rows_kept, report.problems) == (3, ())
    assert sorted(table.models) == ["m", "n"]
    row, column = table.texts.index("two"), table.models.index("n")
    assert table.quality[row, column] == 1.0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_is_written_while_it_is_read(tmp_path: Path, suffix: str) -> None:
    """So that memory is bounded: the first rows are on their way before the last ones are read."""
    sizes = []

    def outcomes() -> Iterator[Outcome]:
        for i in range(6000):
            yield make_outcome(f"r{i}", prompt=f"some text {i}", quality=0.5)
            if i % 2500 == 2499:
                (staging,) = tmp_path.iterdir()
                sizes.append(staging.stat().st_size)

    assert export_outcomes(outcomes(), tmp_path / f"log.{suffix}") == 6000
    assert 0 < sizes[0] < sizes[1] < (tmp_path / f"log.{suffix}").stat().st_size
    assert len(load_table(tmp_path / f"log.{suffix}")) == 6000


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    export_outcomes(OUTCOMES, path)
    before = path.read_bytes()

    def broken() -> Iterator[Outcome]:
        yield OUTCOMES[0]
        raise DataError("the log is damaged")

    with pytest.raises(DataError, match="damaged"):
        export_outcomes(broken(), path)
    with pytest.raises(DataError, match="no outcome to export"):
        export_outcomes([], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["log.csv", "log"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"must end with \.parquet or \.jsonl"):
        export_outcomes(OUTCOMES, tmp_path / name)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        export_outcomes(OUTCOMES, tmp_path / "nowhere" / "log.jsonl")


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="train"):
        export_outcomes(OUTCOMES, tmp_path / "log.parquet")
    store = MemoryOutcomeStore()
    store.append(OUTCOMES)
    assert export_outcomes(store.scan(), tmp_path / "log.jsonl") == 5
