"""A change that a signal interrupts: the program may go on, and what it is told later is on disk."""

import collections
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter.exceptions import VectorIndexError
from llmrouter.index import StoredIndex, _log, _segmented, _stored
from tests.contracts.index_kit import unit_rows

sys.path.append(str(Path(__file__).parents[2] / "faults"))

from soak_results import record

ROWS = unit_rows(40, seed=5)


@pytest.fixture
def interrupt(monkeypatch):
    """Return a function after which the next change is interrupted, once, at a named moment."""

    def at(moment):
        def once(owner, name, *, before, patched):
            real = getattr(owner, name)

            def interrupted(*arguments):
                monkeypatch.setattr(owner, name, real)
                if not before:
                    patched(real, *arguments)
                raise KeyboardInterrupt

            monkeypatch.setattr(owner, name, interrupted)

        def whole(real, *arguments):
            real(*arguments)

        def half(real, handle, content):
            real(handle, content[: content.nbytes // 2])

        if moment == "before it is written":
            once(_log, "write_all", before=True, patched=whole)
        elif moment == "half of it is written":
            once(_log, "write_all", before=False, patched=half)
        elif moment == "it is written":
            once(_log, "write_all", before=False, patched=whole)
        elif moment == "it is on disk":
            once(_log.os, "fsync", before=False, patched=whole)
        elif moment == "it is recorded":
            once(_stored.ChangeLog, "append", before=False, patched=whole)
        elif moment == "it is made":
            once(_stored.ChangeLog, "keep", before=True, patched=whole)
        else:
            assert moment == "it counts"
            once(_stored.ChangeLog, "keep", before=False, patched=whole)

    return at


MOMENTS = (
    "before it is written",
    "half of it is written",
    "it is written",
    "it is on disk",
    "it is recorded",
    "it is made",
    "it counts",
)
CHANGES = {
    "add": lambda index: index.add([10, 11], ROWS[10:12], times=0.0),
    "update": lambda index: index.update([1, 2], ROWS[20:22], times=0.0),
    "remove": lambda index: index.remove([0, 3]),
}


def content(index):
    found = index.search(ROWS[:3], max(len(index), 1))
    return index.ids().tolist(), found.ids.tolist(), found.similarities.tolist()


def interrupted(index, change):
    try:
        CHANGES[change](index)
    except KeyboardInterrupt:
        return
    pytest.fail("nothing interrupted the change")


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_index_goes_on_and_opens_as_it_was(tmp_path, interrupt, moment, change, background):
    with StoredIndex.create(tmp_path, 6, f"flat:background={background}") as index:
        index.add(np.arange(5), ROWS[:5], times=0.0)
        before = content(index)
        interrupt(moment)
        interrupted(index, change)
        made = moment in ("it is made", "it counts")
        assert (content(index) != before) == made  # all of it or nothing
        if not made:
            CHANGES[change](index)
        index.add([99], ROWS[30:31], times=0.0)
        index.verify()
        expected = content(index)
    with StoredIndex.open(tmp_path) as index:
        assert content(index) == expected


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_snapshot_after_it(tmp_path, interrupt, moment, monkeypatch):
    monkeypatch.setattr(_segmented, "TAIL_ROWS", 16)
    with StoredIndex.create(tmp_path, 6) as index:
        index.add(np.arange(5), ROWS[:5], times=0.0)
        interrupt(moment)
        interrupted(index, "add")
        expected = content(index)
        index.snapshot()
        assert content(index) == expected
    with StoredIndex.open(tmp_path) as index:
        assert content(index) == expected


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_last_change_before_the_end(tmp_path, interrupt, moment):
    index = StoredIndex.create(tmp_path, 6)
    index.add(np.arange(5), ROWS[:5], times=0.0)
    interrupt(moment)
    interrupted(index, "add")
    expected = content(index)
    index.close()
    with StoredIndex.open(tmp_path) as index:
        assert content(index) == expected


def test_what_cannot_be_taken_off_again_stops_all_changes(tmp_path, interrupt, monkeypatch):
    with StoredIndex.create(tmp_path, 6) as index:
        index.add(np.arange(5), ROWS[:5], times=0.0)
        interrupt("half of it is written")
        interrupted(index, "add")

        def fails(*_):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", fails)
            with pytest.raises(VectorIndexError, match="Input/output error"):
                index.add([50], ROWS[7:8])
        with pytest.raises(VectorIndexError, match="could not be written before .Input/output error.; open the"):
            index.add([50], ROWS[7:8])
        assert index.ids().tolist() == [0, 1, 2, 3, 4]
    with StoredIndex.open(tmp_path) as index:
        assert index.ids().tolist() == [0, 1, 2, 3, 4]


def changed_until_interrupted(index, ids, chance, seconds):
    """Add and remove rows until a timer's signal raises; `ids`, which the index holds, follow what was acknowledged."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            if not ids or chance.random() < 0.8:
                fresh = max(ids, default=0) + 1
                index.add([fresh], ROWS[fresh % 40 : fresh % 40 + 1])
                ids.add(fresh)
            else:
                gone = chance.choice(sorted(ids))
                index.remove([gone])
                ids.discard(gone)
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def interrupted_by_signals(folder, trials, *, seed):
    """Return how often the change under way was made and how often not; a folder that does not open ends the test."""
    chance, told = random.Random(seed), collections.Counter()
    for _ in range(trials):
        shutil.rmtree(folder, ignore_errors=True)
        with StoredIndex.create(folder, 6) as index:
            ids: set[int] = set()
            for _ in range(20):
                changed_until_interrupted(index, ids, chance, chance.uniform(5e-5, 4e-3))
                held = set(index.ids().tolist())
                assert len(held ^ ids) <= 1  # the change that was under way, and no other
                told["not made" if held == ids else "made"] += 1
                ids = held
            index.add([10**6], ROWS[:1])
            expected = index.ids().tolist()
        with StoredIndex.open(folder) as index:
            index.verify()
            assert index.ids().tolist() == expected
    return told


@pytest.fixture
def raising_timer():
    def raises(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raises)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.soak
@pytest.mark.usefixtures("raising_timer")
def test_ten_thousand_signals(tmp_path):
    """Not in CI: a signal that comes while coverage takes note of a line leaves its lock held for good."""
    told = interrupted_by_signals(tmp_path / "index", 500, seed=1)
    record("changes of an index interrupted by signals", dict(sorted(told.items())))
    assert sum(told.values()) == 10_000
