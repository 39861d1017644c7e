"""The outcome log behind the request path: batched, retried, spooled, replayed, and never silently dropped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.exceptions import DataError, StoreError
from llmrouter.outcomes import Feedback, MemoryOutcomeStore, SQLiteOutcomeStore
from llmrouter.types import Outcome
from service import outcome_writer
from service.outcome_writer import OutcomeWriter
from service.spool import Spool


def outcome(number: int, **changes: object) -> Outcome:
    return Outcome(request_id=f"req_{number}", time=float(number), model="a", fallbacks=("b",), **changes)  # type: ignore[arg-type]


class FailingStore(MemoryOutcomeStore):
    """A store that fails while `broken`, and refuses some outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False
        self.refused: set[str] = set()
        self.batches: list[int] = []
        self.closed = threading.Event()

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        if self.broken:
            raise StoreError("the disk is full")
        if self.refused & {one.request_id for one in outcomes}:
            raise DataError("odd outcome")
        self.batches.append(len(outcomes))
        super().append(outcomes)

    def close(self) -> None:
        self.closed.set()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.005)


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "log.spool.jsonl")


@pytest.fixture
def writer(store: FailingStore, spool: Spool) -> Iterator[OutcomeWriter]:
    made = OutcomeWriter(store, spool=spool, flush_interval_s=0.02, max_queue=10)
    yield made
    store.broken = False
    made.close()


def stored(store: MemoryOutcomeStore) -> list[str]:
    return [one.request_id for one in store.scan()]


def test_everything_is_written_in_order_and_in_batches(writer: OutcomeWriter, store: FailingStore) -> None:
    for number in range(2000):
        writer.put(outcome(number))
    writer.close()
    assert stored(store) == [f"req_{number}" for number in range(2000)]
    assert len(store.batches) < 500
    assert store.closed.is_set()


def test_an_outcome_is_written_without_a_further_push(writer: OutcomeWriter, store: FailingStore) -> None:
    writer.put(outcome(1))
    until(lambda: stored(store) == ["req_1"])
    until(lambda: writer.state().written == 1 and writer.state().queued == 0)


def test_many_threads_may_put(writer: OutcomeWriter, store: FailingStore) -> None:
    threads = [
        threading.Thread(target=lambda start=start: [writer.put(outcome(start + i)) for i in range(200)])
        for start in range(0, 800, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(stored(store)) == 800


def test_a_job_sees_what_was_put_before(writer: OutcomeWriter) -> None:
    for number in range(50):
        writer.put(outcome(number))
        found = writer.submit(lambda store, number=number: store.get(f"req_{number}")).result(10)
        assert found is not None


def test_a_jobs_error_is_its_callers_only(writer: OutcomeWriter, store: FailingStore) -> None:
    with pytest.raises(ZeroDivisionError):
        writer.submit(lambda _: 1 // 0).result(10)
    writer.put(outcome(1))
    assert writer.submit(lambda store: store.feedback(Feedback("req_1", 1.0))).result(10)


def test_a_store_that_fails_is_tried_again(
    writer: OutcomeWriter, store: FailingStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.broken = True
    for number in range(5):
        writer.put(outcome(number))
    until(lambda: writer.state().trouble == "the disk is full")
    time.sleep(0.3)
    assert writer.state().queued == 5
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1, (
        "said once, not each time"
    )
    store.broken = False
    until(lambda: len(stored(store)) == 5)
    until(lambda: writer.state().trouble == "")


def test_a_full_queue_goes_into_the_spool_and_comes_back(
    writer: OutcomeWriter, store: FailingStore, spool: Spool
) -> None:
    store.broken = True
    for number in range(30):
        writer.put(outcome(number, candidates={"a": {"quality": 0.5}}))
    until(lambda: writer.state().spooled == 30)
    assert writer.state().queued == 0
    assert len(spool.path.read_bytes().splitlines()) == 30
    store.broken = False
    until(lambda: len(stored(store)) == 30)
    until(lambda: not spool.exists())
    assert store.get("req_7") == outcome(7, candidates={"a": {"quality": 0.5}})


def test_the_spool_of_the_last_run_is_replayed(store: FailingStore, spool: Spool) -> None:
    spool.append([outcome(number) for number in range(3)])
    writer = OutcomeWriter(store, spool=spool)
    writer.start()
    until(lambda: len(stored(store)) == 3)
    writer.close()
    assert not spool.exists()


def test_replaying_twice_stores_once(store: FailingStore, spool: Spool) -> None:
    store.append([outcome(1)])
    spool.append([outcome(1), outcome(2)])
    writer = OutcomeWriter(store, spool=spool)
    writer.close()
    assert stored(store) == ["req_1", "req_2"]


def test_closing_spools_what_the_store_does_not_take(writer: OutcomeWriter, store: FailingStore, spool: Spool) -> None:
    store.broken = True
    writer.put(outcome(1))
    writer.close()
    assert [one.request_id for batch in spool.batches(10) for one in batch] == ["req_1"]


def test_an_outcome_that_the_store_refuses_does_not_hold_up_the_others(
    writer: OutcomeWriter, store: FailingStore, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    store.refused = {"req_3"}
    for number in range(6):
        writer.put(outcome(number))
    until(lambda: len(stored(store)) == 5)
    until(lambda: writer.state().rejected == 1)
    assert b"req_3" in spool.rejected_path.read_bytes()
    assert "req_3 was refused" in caplog.text


def test_when_nothing_works_losses_are_counted_and_logged(
    store: FailingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outcome_writer, "_MEMORY_FACTOR", 2)
    (tmp_path / "file").touch()
    unwritable = Spool(tmp_path / "file" / "log.spool.jsonl")
    writer = OutcomeWriter(store, spool=unwritable, flush_interval_s=0.02, max_queue=5)
    store.broken = True
    for number in range(25):
        writer.put(outcome(number))
    until(lambda: writer.state().lost == 15)
    assert writer.state().queued == 10
    assert "15 outcomes are lost, req_0 first" in caplog.text
    store.broken = False
    until(lambda: len(stored(store)) == 10)
    writer.close()


def test_closing_does_not_wait_for_a_store_that_hangs(store: FailingStore, spool: Spool) -> None:
    started, release = threading.Event(), threading.Event()
    writer = OutcomeWriter(store, spool=spool, flush_interval_s=0.02)
    hanging = writer.submit(lambda _: started.set() or release.wait(30))
    assert started.wait(10)
    writer.put(outcome(1))
    writer.close(timeout_s=0.1)
    assert [one.request_id for batch in spool.batches(10) for one in batch] == ["req_1"]
    release.set()
    assert hanging.result(10)
    assert store.closed.wait(10)


def test_an_outcome_after_the_end_is_spooled(writer: OutcomeWriter, spool: Spool) -> None:
    writer.close()
    writer.put(outcome(1))
    assert [one.request_id for batch in spool.batches(10) for one in batch] == ["req_1"]


def test_after_closing_jobs_are_refused(writer: OutcomeWriter) -> None:
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.submit(lambda store: store.get("x")).result(1)
    writer.close()


def test_a_line_cut_off_by_a_crash_is_put_aside(spool: Spool) -> None:
    spool.append([outcome(1)])
    with spool.path.open("ab") as file:
        file.write(b'{"request_id": "req_2", "ti')
    spool.append([outcome(3)])
    assert [one.request_id for batch in spool.batches(10) for one in batch] == ["req_1", "req_3"]
    assert spool.rejected_path.read_bytes() == b'{"request_id": "req_2", "ti\n'


def test_spooled_prompts_are_private(spool: Spool) -> None:
    spool.append([outcome(1, prompt="secret")])
    assert spool.path.stat().st_mode & 0o077 == 0


@given(st.binary(max_size=300))
def test_any_spool_file_is_read_without_a_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "s.jsonl")
    spool.path.write_bytes(content)
    for batch in spool.batches(3):
        assert batch


def test_with_sqlite(tmp_path: Path, spool: Spool) -> None:
    writer = OutcomeWriter(SQLiteOutcomeStore(tmp_path / "o.db"), spool=spool)
    for number in range(1200):
        writer.put(outcome(number))
    assert writer.submit(lambda store: store.get("req_1199")).result(10) == outcome(1199)
    writer.close()
    assert writer.state().written == 1200
