"""Sealing in a thread of its own: no change waits, nothing is lost, failures are told."""

import errno
import logging
import os
import shutil
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule
from test_segmented_index import AgainstADictionary, StoredAgainstADictionary

from llmrouter import _files
from llmrouter.exceptions import VectorIndexError
from llmrouter.index import (
    IndexKind,
    SegmentedIndex,
    StoredIndex,
    _disk,
    _kinds,
    _log,
    _segmented,
    _state,
    _stored,
    create_index,
)
from tests.contracts.index_kit import assert_searches_like, check_index, unit_rows

KIND = IndexKind(name="flat", background=True)
ROWS, QUERIES = unit_rows(600, seed=3), unit_rows(3, seed=8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Seal after 16 rows, and build structures over 40."""
    monkeypatch.setattr(_segmented, "TAIL_ROWS", 16)
    monkeypatch.setattr(_kinds, "MIN_STRUCTURE_ROWS", 40)


class Gate:
    """Stops the building of segments until it is opened, or makes it fail."""

    def __init__(self, monkeypatch):
        self.entered, self.open, self.error = threading.Event(), threading.Event(), None
        self.builds = 0
        real = _state.Segment.of

        def of(*arguments, **options):
            self.builds += 1
            self.entered.set()
            assert self.open.wait(20)
            if self.error is not None:
                raise self.error
            return real(*arguments, **options)

        monkeypatch.setattr(_state.Segment, "of", of)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def made(where, folder):
    return SegmentedIndex(6, KIND) if where == "memory" else StoredIndex.create(folder / "index", 6, KIND)


def test_in_the_background_the_contract_is_kept():
    class Background(SegmentedIndex):
        def __init__(self, dimension):
            super().__init__(dimension, KIND)

    check_index(Background)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_changes_and_searches_go_on_while_a_segment_is_built(where, tmp_path, gate):
    index = made(where, tmp_path)
    stored = {}

    def add(start, end):
        index.add(np.arange(start, end), ROWS[start:end], times=float(start))
        stored.update(zip(range(start, end), ROWS[start:end]))

    add(0, 20)
    assert gate.entered.wait(20)  # the tail of twenty rows is being sealed, and that does not end
    for start in range(20, 60, 5):
        add(start, start + 5)
    index.remove([3, 25])
    index.update([4, 26], ROWS[500:502])
    index.update([26], ROWS[502:503])
    del stored[3], stored[25]
    stored |= {4: ROWS[500], 26: ROWS[502]}
    index.remove([7])
    index.add([7], ROWS[510:511], times=1e6)
    stored[7] = ROWS[510]
    assert not index._state.segments
    assert_searches_like(index, stored, QUERIES, 70)
    gate.open.set()
    index.flush()
    assert index._state.segments
    assert index._state.tail.size <= 16
    assert_searches_like(index, stored, QUERIES, 70)
    assert index.ids().tolist() == sorted(stored)
    assert index.expire(10.0) == 18 - 1  # of 0 to 19: 3 gone, 4 updated (now), 7 added again
    if where == "disk":
        index.close()
        with StoredIndex.open(tmp_path / "index") as again:
            again.verify()
            assert again.kind.background
            assert len(again) == len(stored) - 17


def test_many_rows_at_once_are_sealed_later(tmp_path, gate):
    index = made("disk", tmp_path)
    index.add(np.arange(500), ROWS[:500])
    assert gate.entered.wait(20)
    shutil.copytree(tmp_path / "index", tmp_path / "killed")  # as a kill now would leave it
    with StoredIndex.open(tmp_path / "killed", read_only=True) as left:
        assert_searches_like(left, dict(enumerate(ROWS[:500])), QUERIES, 60)
        left.flush()
    gate.open.set()
    index.flush()
    assert index._log.end < 100
    index.close()
    with StoredIndex.open(tmp_path / "killed") as left:  # sealed at opening, since its tail is long
        left.flush()
        assert not left._state.tail.size
        assert_searches_like(left, dict(enumerate(ROWS[:500])), QUERIES, 60)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_what_fails_is_told_and_nothing_is_lost(where, tmp_path, gate, caplog):
    index = made(where, tmp_path)
    gate.error = MemoryError("no room for a graph")
    gate.open.set()
    with caplog.at_level(logging.ERROR):
        index.add(np.arange(20), ROWS[:20])
        with pytest.raises(MemoryError, match="no room for a graph"):
            index.flush()
    assert "sealing an index in the background failed" in caplog.text
    for key in range(20, 30):
        index.add([key], ROWS[key : key + 1])
    assert gate.builds == 1  # not tried again at every change
    assert_searches_like(index, dict(enumerate(ROWS[:30])), QUERIES, 40)
    index.add(np.arange(30, 40), ROWS[30:40])
    with pytest.raises(MemoryError):
        index.flush()
    assert gate.builds == 2
    gate.error = None
    index.flush()
    assert len(index._state.segments) == 1
    assert_searches_like(index, dict(enumerate(ROWS[:40])), QUERIES, 50)
    if where == "disk":
        index.close()
        with StoredIndex.open(tmp_path / "index") as again:
            assert_searches_like(again, dict(enumerate(ROWS[:40])), QUERIES, 50)


def test_a_change_is_made_where_no_thread_can_be_had(caplog, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    index = SegmentedIndex(6, KIND)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        index.add(np.arange(20), ROWS[:20])
    assert "cannot seal an index in the background: can't start new thread" in caplog.text
    assert_searches_like(index, dict(enumerate(ROWS[:20])), QUERIES, 30)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        index.flush()
    index.flush()
    assert not index._state.tail.size


def test_a_disk_that_fails_anywhere_in_the_background(tmp_path, monkeypatch):
    """The rows stay acknowledged, whichever call fails: in the tail of the index, and for who opens it next."""

    class Failing:
        def __init__(self, fails_at):
            self.calls, self.fails_at = 0, fails_at

        def __getattr__(self, name):
            real = getattr(os, name)
            if name not in ("open", "write", "fsync", "replace", "ftruncate"):
                return real

            def call(*arguments):
                if threading.current_thread().name == "llmrouter-index-sealer":
                    self.calls += 1
                    if self.calls == self.fails_at:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
                return real(*arguments)

            return call

    stored, failures = dict(enumerate(ROWS[:21])), 0
    for fails_at in range(1, 100):
        folder = tmp_path / str(fails_at)
        with StoredIndex.create(folder, 6, KIND) as index:
            disk = Failing(fails_at)
            for module in (_disk, _files, _log):
                monkeypatch.setattr(module, "os", disk)
            index.add(np.arange(20), ROWS[:20])
            try:
                index.flush()
                refusal = None
            except VectorIndexError as raised:
                refusal = str(raised)
            for module in (_disk, _files, _log):
                monkeypatch.setattr(module, "os", os)
            if refusal is not None:
                failures += 1
                assert os.strerror(errno.ENOSPC) in refusal
            if refusal is None or "open it again" not in refusal:
                index.add([20], ROWS[20:21])
                assert_searches_like(index, stored, QUERIES, 30)
        with StoredIndex.open(folder) as again:
            again.verify()
            if len(again) == 20:
                assert "open it again" in refusal
                again.add([20], ROWS[20:21])
            assert_searches_like(again, stored, QUERIES, 30)
        shutil.rmtree(folder)
        if disk.calls < fails_at:
            break
    assert failures >= 10
    assert refusal is None


def test_compaction_and_snapshots_let_changes_go_on(tmp_path, gate):
    index = made("disk", tmp_path)
    index.add(np.arange(10), ROWS[:10])
    for rebuild in (index.snapshot, index.compact):
        gate.open.clear()
        gate.entered.clear()
        thread = threading.Thread(target=rebuild)
        thread.start()
        assert gate.entered.wait(20)
        key = len(index)
        index.add([key], ROWS[key : key + 1])
        gate.open.set()
        thread.join()
        assert_searches_like(index, dict(enumerate(ROWS[: key + 1])), QUERIES, 30)
    index.close()
    with StoredIndex.open(tmp_path / "index") as again:
        assert_searches_like(again, dict(enumerate(ROWS[:12])), QUERIES, 30)


def test_closing_waits_for_the_segment(tmp_path, gate):
    index = made("disk", tmp_path)
    index.add(np.arange(20), ROWS[:20])
    assert gate.entered.wait(20)
    thread = threading.Thread(target=index.close)
    thread.start()
    with pytest.raises(VectorIndexError, match="being written by another"):
        StoredIndex.open(tmp_path / "index")
    gate.open.set()
    thread.join()
    with StoredIndex.open(tmp_path / "index") as again:
        assert len(again._state.segments) == 1
        assert len(again) == 20


def test_a_long_log_is_cut_short_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(_stored, "_LOG_LIMIT_BYTES", 2000)
    with made("disk", tmp_path) as index:
        index.add(np.arange(500), ROWS[:500])
        for key in range(300):
            index.remove([key])
        index.flush()
        assert index._log.end < 2100
    with StoredIndex.open(tmp_path / "index") as again:
        assert again.ids().tolist() == list(range(300, 500))


def test_the_word_of_a_configuration():
    index = create_index("flat:background=True", 6)
    assert index.kind == KIND
    index.flush()
    create_index("flat", 6).flush()  # nothing to wait for


@pytest.mark.parametrize("base", [AgainstADictionary, StoredAgainstADictionary])
def test_against_a_dictionary(base):
    class Machine(base):
        kind = KIND

        @rule()
        def compact(self):
            self.index.compact()

        @rule()
        def flush(self):
            self.index.flush()
            assert self.index._state.tail.size <= 16

    case = Machine.TestCase
    case.settings = settings(
        max_examples=10, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    case("runTest").runTest()
