"""The SQLite log: many processes, damaged files, full disks, and what survives a kill."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from outcome_samples import make_outcome

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import Feedback, SQLiteOutcomeStore, open_store
from llmrouter.outcomes._sqlite_rows import COLUMN_NAMES
from llmrouter.types import Outcome


def pragma(store: SQLiteOutcomeStore, name: str) -> object:
    assert store._connection is not None
    return store._connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_every_field_of_an_outcome_has_a_column() -> None:
    # A new field needs a new schema version and a migration, not only a column here.
    assert tuple(field.name for field in dataclasses.fields(Outcome)) == COLUMN_NAMES


def test_durability_settings(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    assert (pragma(store, "journal_mode"), pragma(store, "synchronous")) == ("wal", 2)


def test_relative_and_absolute_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///sub/o.db").append([make_outcome("a")])
    assert open_store(f"sqlite:///{tmp_path}/sub/o.db").get("a") == make_outcome("a")


def test_values_from_numpy_and_missing_ones(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    odd = make_outcome(
        "a",
        propensity=float("nan"),
        candidates={"m": {"quality": np.float32(0.5), "cost_usd": float("nan")}},
        embedding=np.asarray([0.1, 0.2], dtype=np.float32),
        input_tokens=np.int64(7),
        output_tokens=float("nan"),
        cost_usd=np.float64(0.25),
        prompt="half a pair: \ud800",
    )
    store.append([odd])
    outcome = store.get("a")
    assert outcome is not None
    assert np.isnan(outcome.propensity)
    assert outcome.candidates["m"]["quality"] == 0.5
    assert np.isnan(outcome.candidates["m"]["cost_usd"])
    assert outcome.embedding == pytest.approx((0.1, 0.2))
    assert (outcome.input_tokens, outcome.output_tokens, outcome.cost_usd) == (7, None, 0.25)
    assert outcome.prompt == "half a pair: ?"
    assert store.get("\ud800") is None
    assert store.feedback(Feedback("\ud800", 1.0, "\ud800")) is False


def test_pending_feedback_expires(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db", pending_s=0.0)
    store.append([make_outcome("known")])
    store.feedback(Feedback("known", 1.0))
    store.feedback(Feedback("early", 1.0))
    time.sleep(0.01)
    store.feedback(Feedback("other", 1.0))
    store.append([make_outcome("early"), make_outcome("other")])
    assert {o.request_id: o.quality for o in store.scan()} == {"known": 1.0, "early": None, "other": 1.0}


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")

    def work(name: int) -> None:
        for i in range(20):
            store.append([make_outcome(f"{name}-{i}")])
            store.feedback(Feedback(f"{name}-{i}", 0.5))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [o.quality for o in store.scan()] == [0.5] * 80


PROCESS = """
import sys
from llmrouter.outcomes import Feedback, open_store
from llmrouter.types import Outcome
name, url = sys.argv[1:3]
store = open_store(url)
for i in range(25):
    store.append([Outcome(f"{name}-{i}-{j}", float(i), "m") for j in range(4)])
    store.feedback(Feedback("shared", 0.5, source=name))
store.append([Outcome("shared", 0.0, "m", cost_usd=float(name))])
"""


def test_processes_open_the_same_new_file_at_once_and_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/o.db"
    writers = [subprocess.Popen([sys.executable, "-c", PROCESS, str(name), url]) for name in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    store = open_store(url)
    assert sum(1 for _ in store.scan()) == 4 * 100 + 1
    shared = store.get("shared")
    assert shared is not None
    assert (shared.quality, shared.quality_weight) == (0.5, 4.0)


def test_a_held_lock_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db", busy_timeout_s=0.05)
    other = sqlite3.connect(tmp_path / "o.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked; another process holds the log"):
        store.append([make_outcome("a")])
    assert list(store.scan()) == [], "reading goes on"
    other.execute("ROLLBACK")
    store.append([make_outcome("a")])
    assert store.get("a") is not None


# Files that cannot be used are refused and left alone.


def fill(path: Path, rows: int = 500) -> None:
    store = SQLiteOutcomeStore(path)
    store.append([make_outcome(f"r{i}", prompt="x" * 200) for i in range(rows)])
    store.close()


def overwrite(path: Path, start: int, stop: int) -> None:
    data = bytearray(path.read_bytes())
    data[start:stop] = b"\xa5" * (stop - start)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("this is not a database, but long enough to be mistaken for one\n" * 40),
        lambda path: overwrite(path, 0, 100),
        lambda path: overwrite(path, 100, 4096),
        lambda path: path.write_bytes(path.read_bytes()[:4096]),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
    ],
    ids=["text", "header", "schema", "one page left", "torn page"],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = tmp_path / "o.db"
    fill(path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="damaged or no SQLite database; it was left as it is. Move it") as caught:
        list(SQLiteOutcomeStore(path).scan())
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_damage_further_in_is_found_when_read(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    fill(path)
    overwrite(path, 8 * 4096, path.stat().st_size)
    store = SQLiteOutcomeStore(path)
    with pytest.raises(StoreError, match="damaged"):
        list(store.scan())


def test_a_row_that_does_not_decode(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    fill(path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE outcomes SET candidates = '{' WHERE request_id = 'r0'")
    with pytest.raises(StoreError, match="a row cannot be decoded"):
        SQLiteOutcomeStore(path).get("r0")


def test_another_programs_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "o.db") as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = (tmp_path / "o.db").read_bytes()
    with pytest.raises(StoreError, match=r"database of another program \(tables bookmarks\)"):
        SQLiteOutcomeStore(tmp_path / "o.db")
    assert (tmp_path / "o.db").read_bytes() == before, "not even switched to write-ahead logging"


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "o.db", 1)
    with sqlite3.connect(tmp_path / "o.db") as connection:
        connection.execute("UPDATE llmrouter_schema SET version = 4")
    with pytest.raises(StoreError, match="has schema version 4, this llmrouter knows 3.*Upgrade llmrouter"):
        SQLiteOutcomeStore(tmp_path / "o.db")


def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    store.append([make_outcome("before")])
    limit = pragma(store, "page_count")
    pragma(store, f"max_page_count = {limit}")
    with pytest.raises(StoreError, match="full; the disk is full: free space; nothing of this call was stored"):
        store.append([make_outcome(f"r{i}", prompt="x" * 5000) for i in range(10)])
    assert [o.request_id for o in store.scan()] == ["before"]
    pragma(store, "max_page_count = 100000")
    store.append([make_outcome(f"r{i}", prompt="x" * 5000) for i in range(10)])
    assert sum(1 for _ in store.scan()) == 11


def test_a_read_only_log(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    pragma_connection = store._connection
    assert pragma_connection is not None
    pragma_connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="readonly.*make both writable"):
        store.append([make_outcome("a")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write read-only files")
def test_a_read_only_file(tmp_path: Path) -> None:
    fill(tmp_path / "o.db", 1)
    (tmp_path / "o.db").chmod(0o444)
    with pytest.raises(StoreError, match="read-only: make both writable"):
        SQLiteOutcomeStore(tmp_path / "o.db")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="check that it is a file"):
        SQLiteOutcomeStore(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="check its folder"):
        SQLiteOutcomeStore(tmp_path / "file" / "o.db")


def test_closed_and_forked_stores(tmp_path: Path) -> None:
    store = SQLiteOutcomeStore(tmp_path / "o.db")
    store._process += 1
    with pytest.raises(StoreError, match="opened before a fork; open one in each process"):
        store.get("a")
    store._process -= 1
    store.close()
    store.close()
    with pytest.raises(StoreError, match="the store is closed"):
        store.append([make_outcome("a")])


# Kills

KILLED = """
import sys
from llmrouter.outcomes import Feedback, open_store
from llmrouter.types import Outcome
trial, url = sys.argv[1:3]
store = open_store(url)
print("ready", flush=True)
i = 0
while True:
    batch = [f"{trial}-{i}-{j}" for j in range(5)]
    store.append([Outcome(name, float(i), "m", prompt="x" * 300) for name in batch])
    store.feedback(Feedback(batch[0], 0.5))
    print(i, flush=True)
    i += 1
"""


def kill_writers(path: Path, *, kills: int, seed: int = 0) -> int:
    """Kill a writing process `kills` times; check the log after each. Return the acknowledged batches."""
    delays = random.Random(seed)
    acknowledged: list[tuple[int, int]] = []
    for trial in range(kills):
        command = [sys.executable, "-c", KILLED, str(trial), f"sqlite:///{path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delays.uniform(0.0, 0.15))
            writer.send_signal(signal.SIGKILL)
            # A line that the kill cut off was not acknowledged.
            acknowledged += [(trial, int(line)) for line in writer.stdout if line.endswith("\n")]
        store = SQLiteOutcomeStore(path)
        assert pragma(store, "integrity_check") == "ok"
        stored = {outcome.request_id: outcome for outcome in store.scan()}
        for number, batch in acknowledged:
            assert all(f"{number}-{batch}-{j}" in stored for j in range(5)), f"batch {batch} of trial {number} is lost"
            assert stored[f"{number}-{batch}-0"].quality == 0.5
        assert len(stored) % 5 == 0, "a batch is stored whole or not at all"
        store.close()
    return len(acknowledged)


def test_nothing_acknowledged_is_lost_in_five_kills(tmp_path: Path) -> None:
    assert kill_writers(tmp_path / "o.db", kills=5) > 0


@pytest.mark.soak
def test_nothing_acknowledged_is_lost_in_many_kills(tmp_path: Path) -> None:
    kills = int(os.environ.get("LLMROUTER_SOAK_KILLS", "100"))
    batches = kill_writers(tmp_path / "o.db", kills=kills, seed=1)
    print(f"\nsqlite: {kills} kills, {batches} acknowledged batches of 5 outcomes, 0 lost")
    assert batches > kills
