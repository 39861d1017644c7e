"""Logs of the first version of the schema: opened, kept, and extended."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from outcome_samples import make_outcome

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import Feedback, SQLiteOutcomeStore
from llmrouter.outcomes import _sqlite_schema as schema_module
from llmrouter.outcomes._sqlite_rows import COLUMN_NAMES, to_checked_row, to_row
from llmrouter.outcomes._sqlite_schema import SCHEMA_VERSION

# As version 1 wrote it.
FIRST_VERSION = """
CREATE TABLE llmrouter_schema (version INTEGER NOT NULL);
INSERT INTO llmrouter_schema (version) VALUES (1);
CREATE TABLE outcomes ("request_id" TEXT NOT NULL PRIMARY KEY, "time" REAL NOT NULL, "model" TEXT NOT NULL,
  "router" TEXT, "artifact_id" TEXT, "policy" TEXT, "propensity" REAL, "candidates" TEXT, "key_id" TEXT,
  "conversation_id" TEXT, "prompt" TEXT, "prompt_sha256" TEXT, "embedding" BLOB, "task" TEXT, "served_by" TEXT,
  "fallbacks" TEXT, "status" TEXT, "error" TEXT, "input_tokens" INTEGER, "cached_tokens" INTEGER,
  "output_tokens" INTEGER, "reasoning_tokens" INTEGER, "cost_usd" REAL, "time_to_first_token_s" REAL,
  "latency_s" REAL, "quality" REAL, "quality_source" TEXT, "quality_weight" REAL, "quality_time" REAL);
CREATE INDEX outcomes_by_time ON outcomes (time);
CREATE TABLE feedback (request_id TEXT NOT NULL, source TEXT NOT NULL, quality REAL NOT NULL, weight REAL NOT NULL,
  time REAL NOT NULL, received REAL NOT NULL, pending INTEGER NOT NULL, PRIMARY KEY (request_id, source));
CREATE INDEX feedback_pending ON feedback (received) WHERE pending = 1;
"""
FIRST_COLUMNS = COLUMN_NAMES[: COLUMN_NAMES.index("endpoint")]
FIRST_APPEND = (
    f"INSERT INTO outcomes ({', '.join(FIRST_COLUMNS)}) VALUES ({', '.join('?' * len(FIRST_COLUMNS))}) "
    "ON CONFLICT (request_id) DO NOTHING"
)


def append_as_first_version(connection: sqlite3.Connection, name: str) -> None:
    row = to_checked_row(make_outcome(name, prompt="text", fallbacks=("x",), cost_usd=0.5))
    connection.execute(FIRST_APPEND, row[: len(FIRST_COLUMNS)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "o.db", isolation_level=None)) as connection:
        connection.executescript(FIRST_VERSION)
        for i in range(3):
            append_as_first_version(connection, f"old{i}")
        connection.execute("INSERT INTO feedback VALUES ('old1', 'user', 1.0, 1.0, 5.0, 5.0, 0)")
    return tmp_path / "o.db"


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute("SELECT max(version) FROM llmrouter_schema").fetchone()[0]
        return number


def test_an_old_log_keeps_its_rows_and_takes_new_ones(path: Path) -> None:
    store = SQLiteOutcomeStore(path)
    assert version(path) == SCHEMA_VERSION == 3
    old = store.get("old1")
    assert old == make_outcome(
        "old1",
        prompt="text",
        fallbacks=("x",),
        cost_usd=0.5,
        quality=1.0,
        quality_source="user",
        quality_weight=1.0,
        quality_time=5.0,
        quality_by=("",),
    ), "new fields have their defaults"
    new = make_outcome("new", usage={"prompt_tokens": 3}, stream=False, attempts=({"model": "m", "status": 500},))
    store.append([new])
    assert store.get("new") == new
    assert [outcome.request_id for outcome in store.scan()] == ["old0", "old1", "old2", "new"]
    store.close()
    assert SQLiteOutcomeStore(path).get("new") == new, "and opens again"


def test_a_process_of_the_old_version_can_go_on_writing(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as old_process:
        append_as_first_version(old_process, "before")
        store = SQLiteOutcomeStore(path)
        append_as_first_version(old_process, "after")
    after = store.get("after")
    assert after is not None
    assert (after.endpoint, after.cache, after.attempts, after.usage) == ("", "", (), None)


def test_stores_that_open_an_old_log_at_once(path: Path) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            SQLiteOutcomeStore(path).append([make_outcome(name, team="t")])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"new{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(1 for _ in SQLiteOutcomeStore(path).scan()) == 9


def test_a_migration_that_fails_leaves_the_old_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    definitions = {2: (*schema_module.ADDED_COLUMNS[2][:3], '"time" REAL')}
    monkeypatch.setattr(schema_module, "ADDED_COLUMNS", definitions)
    with pytest.raises(StoreError, match="duplicate column name: time"):
        SQLiteOutcomeStore(path)
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(outcomes)")]
    assert tuple(columns) == FIRST_COLUMNS
    assert version(path) == 1
    monkeypatch.undo()
    assert sum(1 for _ in SQLiteOutcomeStore(path).scan()) == 3


def test_the_quick_row_is_the_checked_row() -> None:
    outcome = make_outcome(
        "r",
        candidates={"m": {"quality": 0.5}},
        embedding=(0.5, 1.0),
        fallbacks=("a", "b"),
        usage={"prompt_tokens": 3},
        attempts=({"model": "m"},),
        stream=True,
        input_tokens=3,
        cost_usd=0.25,
    )
    assert to_row(outcome) == to_checked_row(outcome)
    assert to_row(make_outcome("r")) == to_checked_row(make_outcome("r"))


def test_odd_text_in_structured_fields_loses_nothing_else(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    odd = make_outcome("odd", attempts=({"model": "m", "error": "half \ud800", "n": 2**70},), usage={"n": 2**70})
    store.feedback(Feedback("odd", 0.5))
    store.append([make_outcome("before"), odd, make_outcome("half \udfff", error="half \ud800"), make_outcome("after")])
    assert [outcome.request_id for outcome in store.scan()] == ["before", "odd", "half ?", "after"]
    found = store.get("odd")
    assert found is not None
    assert found.attempts[0]["error"] == "half ?"
    assert found.quality == 0.5


def test_feedback_that_waited_is_claimed_by_a_batch(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db", pending_s=0.0)
    store.feedback(Feedback("a", 0.5))
    store.append([make_outcome("b"), make_outcome("a")])
    store.feedback(Feedback("unknown", 0.5))  # sweeps what still waits
    found = store.get("a")
    assert found is not None
    assert found.quality == 0.5
