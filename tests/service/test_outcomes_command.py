"""``llmrouter outcomes``: export and prune."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contracts.redis_server import RedisServer

from llmrouter.cli import main
from llmrouter.outcomes import Feedback, load_table, open_store
from llmrouter.types import Outcome

DAY_S = 86_400.0


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/outcomes.db"
        return
    with RedisServer() as server:
        yield server.url


@pytest.fixture
def log(url: str) -> str:
    store = open_store(url)
    now = time.time()
    store.append([Outcome(f"r{i}", now - (9 - i) * DAY_S, "m", prompt=f"text {i}") for i in range(10)])
    store.feedback_many([Feedback(f"r{i}", 0.5) for i in range(0, 10, 2)])
    store.close()
    return url


def left(url: str) -> list[str]:
    store = open_store(url)
    names = [outcome.request_id for outcome in store.scan()]
    store.close()
    return names


def test_export(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "log.jsonl"
    assert main(["outcomes", "export", "--store", log, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"10 outcomes are in {out}\n"
    assert len(load_table(out)) == 10
    since, until = str(time.time() - 5.5 * DAY_S), str(time.time() - 1.5 * DAY_S)
    options = ["--since", since, "--until", until, "--judged-only", "--json"]
    assert main(["outcomes", "export", "--store", log, "--out", str(out), *options]) == 0
    assert json.loads(capsys.readouterr().out) == {"outcomes": 2, "file": str(out)}
    assert load_table(out).prompt_ids == ("r4", "r6")


def test_prune(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outcomes", "prune", "--store", log, "--days", "6.5"]) == 0
    assert capsys.readouterr().out == "3 outcomes were removed\n"
    assert left(log) == [f"r{i}" for i in range(3, 10)]
    assert main(["outcomes", "prune", "--store", log, "--keep", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 5}
    assert left(log) == ["r8", "r9"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune"], "give --days, --keep or both"),
        (["prune", "--days", "-1"], "must be a number of days, 0 or more; got -1.0"),
        (["prune", "--days", "nan"], "must be a number of days"),
        (["prune", "--keep", "-1"], "must be a number of outcomes, 0 or more; got -1"),
        (["export", "--out", "log.csv"], "must end with .parquet or .jsonl"),
        (["export", "--out", "log.jsonl", "--since", "soon"], "--since: must be a date"),
        (["export", "--out", "log.jsonl", "--until", "soon"], "--until: must be a date"),
        (["export", "--out", "log.jsonl", "--until", "1970-01-02"], "no outcome to export"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["outcomes", *arguments, "--store", "sqlite:///outcomes.db"]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "log.jsonl").exists()
