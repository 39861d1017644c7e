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
from service.log_retention import Retention
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
        self.judged: list[int] = []
        self.closed = threading.Event()

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        if self.broken:
            raise StoreError("the disk is full")
        if self.refused & {one.request_id for one in outcomes}:
            raise DataError("odd outcome")
        self.batches.append(len(outcomes))
        super().append(outcomes)

    def feedback_many(self, batch: Sequence[Feedback], /) -> list[bool]:
        if self.broken:
            raise StoreError("the disk is full")
        if self.refused & {one.source for one in batch}:
            raise DataError("odd judgement")
        self.judged.append(len(batch))
        return super().feedback_many(batch)

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


def busy(writer: OutcomeWriter) -> threading.Event:
    """Return once the writer's thread does nothing but wait for the event that is returned."""
    started, release = threading.Event(), threading.Event()
    writer.submit(lambda _: started.set() or release.wait(60))
    assert started.wait(30)
    return release


def stored(store: MemoryOutcomeStore) -> list[str]:
    return [one.request_id for one in store.scan()]


def test_everything_is_written_in_order_and_in_batches(writer: OutcomeWriter, store: FailingStore) -> None:
    may_go_on = busy(writer)
    for number in range(2000):
        writer.put(outcome(number))
    may_go_on.set()
    writer.close()
    assert stored(store) == [f"req_{number}" for number in range(2000)]
    assert len(store.batches) <= 5
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
    may_go_on = busy(writer)  # else a first part is spooled alone, and a rest that fits stays in memory
    for number in range(30):
        writer.put(outcome(number, candidates={"a": {"quality": 0.5}}))
    may_go_on.set()
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
    may_go_on = busy(writer)
    for number in range(25):
        writer.put(outcome(number))
    may_go_on.set()
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


def quality(store: MemoryOutcomeStore, number: int) -> float | None:
    found = store.get(f"req_{number}")
    return None if found is None else found.quality


def test_judgements_are_acknowledged_once_they_are_stored(writer: OutcomeWriter, store: FailingStore) -> None:
    writer.put(outcome(1))
    assert writer.judge([Feedback("req_1", 0.5), Feedback("req_2", 1.0)]).result(10) == ["stored", "pending"]
    assert quality(store, 1) == 0.5
    assert writer.state().judged == 2
    with pytest.raises(DataError, match=r"quality 7"):
        writer.judge([Feedback("req_1", 7.0)])


def test_judgements_that_come_at_once_are_stored_together(writer: OutcomeWriter, store: FailingStore) -> None:
    release = busy(writer)
    futures = [writer.judge([Feedback(f"req_{i}", 0.5), Feedback(f"req_{i}", 1.0, "judge")]) for i in range(700)]
    release.set()
    assert {status for future in futures for status in future.result(30)} == {"pending"}
    assert len(store.judged) <= 4
    assert sum(store.judged) == 1400


def test_judgements_wait_on_disk_while_the_store_fails_and_none_is_counted_twice(
    writer: OutcomeWriter, store: FailingStore, spool: Spool
) -> None:
    store.append([outcome(i) for i in range(4)])
    store.broken = True
    for i in range(4):
        assert writer.judge([Feedback(f"req_{i}", i / 4)]).result(10) == ["spooled"]
        assert len(spool.path.read_bytes().splitlines()) == i + 1, "on disk before it is acknowledged"
    assert writer.judge([Feedback("req_0", 1.0)]).result(10) == ["spooled"]
    assert writer.state().judged_spooled == 5
    store.broken = False
    until(lambda: not spool.exists())
    assert [quality(store, i) for i in range(4)] == [1.0, 0.25, 0.5, 0.75], "the last word counts"
    until(lambda: writer.state().trouble == "")
    assert writer.judge([Feedback("req_0", 0.0)]).result(10) == ["stored"]
    assert [event.outcome.request_id for event in store.events()] == [
        "req_0",
        "req_1",
        "req_2",
        "req_3",
        "req_0",
        "req_0",
    ]


def test_a_spool_replayed_twice_changes_nothing(store: FailingStore, spool: Spool) -> None:
    store.append([outcome(1)])
    judgements = [Feedback("req_1", 0.5, time=5.0), Feedback("req_1", 1.0, time=6.0)]
    for _ in range(2):
        spool.append(judgements)
        OutcomeWriter(store, spool=spool).close()
    assert not spool.exists()
    assert [event.outcome.quality for event in store.events()] == [0.5, 1.0]


def test_a_judgement_that_came_after_a_spooled_one_is_not_overtaken(
    writer: OutcomeWriter, store: FailingStore, spool: Spool
) -> None:
    """Of another process, whose store works already, say."""
    store.append([outcome(1)])
    store.broken = True
    assert writer.judge([Feedback("req_1", 0.0)]).result(10) == ["spooled"]
    MemoryOutcomeStore.feedback_many(store, [Feedback("req_1", 1.0, time=time.time() + 1)])
    store.broken = False
    until(lambda: not spool.exists())
    assert quality(store, 1) == 1.0


def test_a_failing_store_is_not_asked_for_every_judgement(writer: OutcomeWriter, store: FailingStore) -> None:
    asked = []

    def failing(batch: Sequence[Feedback], /) -> list[bool]:
        asked.append(len(batch))
        raise StoreError("away")

    store.broken = True
    store.feedback_many = failing  # type: ignore[method-assign]
    for i in range(50):
        assert writer.judge([Feedback(f"req_{i}", 0.5)]).result(10) == ["spooled"]
    assert len(asked) < 10
    del store.feedback_many  # type: ignore[method-assign]


def test_judgements_are_refused_where_neither_store_nor_disk_takes_them(store: FailingStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = OutcomeWriter(store, spool=Spool(tmp_path / "file" / "s.jsonl"), flush_interval_s=0.02)
    store.broken = True
    with pytest.raises(StoreError, match="neither the outcome log nor its spool"):
        writer.judge([Feedback("req_1", 0.5)]).result(10)
    with pytest.raises(StoreError, match="the disk is full"):
        writer.judge([Feedback("req_1", 0.5)]).result(10)
    store.broken = False
    assert writer.judge([Feedback("req_1", 0.5)]).result(10) == ["pending"], "at once"
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.judge([Feedback("req_1", 0.5)]).result(1)


def test_a_spooled_judgement_that_the_store_refuses_does_not_hold_up_the_others(
    store: FailingStore, spool: Spool
) -> None:
    store.append([outcome(i) for i in range(3)])
    spool.append([Feedback(f"req_{i}", 0.5, "odd" if i == 1 else "user", time=5.0) for i in range(3)])
    store.refused = {"odd"}
    writer = OutcomeWriter(store, spool=spool)
    writer.close()
    assert [quality(store, i) for i in range(3)] == [0.5, None, 0.5]
    assert b"odd" in spool.rejected_path.read_bytes()
    assert writer.state().rejected == 1


def test_what_waits_at_the_end_is_stored_or_spooled(writer: OutcomeWriter, store: FailingStore, spool: Spool) -> None:
    release = threading.Event()
    writer.submit(lambda _: release.wait(10))
    store.broken = True
    future = writer.judge([Feedback("req_1", 0.5)])
    closing = threading.Thread(target=writer.close)
    closing.start()
    release.set()
    closing.join(10)
    assert future.result(0) == ["spooled"]
    assert [one.request_id for batch in spool.batches(10) for one in batch] == ["req_1"]


ITEMS = st.lists(
    st.one_of(
        st.builds(
            Feedback,
            st.text(min_size=1, max_size=8),
            st.floats(0, 1),
            st.text(min_size=1, max_size=5),
            st.floats(0.1, 10),
            st.floats(1, 1e10),
            st.text(max_size=5),
            st.floats(0, 1),
        ),
        st.builds(
            outcome,
            st.integers(0, 99),
            prompt=st.none() | st.text(max_size=20),
            quality=st.none() | st.floats(0, 1),
            embedding=st.none() | st.lists(st.floats(-2, 2, width=32), max_size=3).map(tuple),
            usage=st.none() | st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False)),
        ),
    ),
    max_size=12,
)


@given(ITEMS, st.integers(1, 5))
def test_a_spool_gives_back_what_was_put_into_it(
    tmp_path_factory: pytest.TempPathFactory, items: list[Outcome | Feedback], size: int
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool") / "s.jsonl")
    spool.append(items)
    batches = list(spool.batches(size))
    assert all(0 < len(batch) <= size and len(set(map(type, batch))) == 1 for batch in batches)
    found = [one for batch in batches for one in batch]
    assert [(type(one), one.request_id) for one in found] == [(type(one), one.request_id) for one in items]
    plain = [
        (one, other)
        for one, other in zip(found, items, strict=True)
        if isinstance(other, Feedback) or not any(abs(v) >= 2**63 or v != v for v in (other.usage or {}).values())
    ]
    assert all(one == other for one, other in plain)


def test_old_outcomes_go_step_by_step(store: FailingStore, spool: Spool) -> None:
    now = time.time()
    store.append([outcome(i, quality=0.5) for i in range(5)])
    store.append([Outcome(request_id=f"new_{i}", time=now + i, model="a") for i in range(4)])
    ticks = [0.0]
    retention = Retention(days=1.0, most=3, step=2, clock=lambda: ticks[0])
    steps = []
    for moment in (0.0, 1.0, 1.01, 1.1, 1.2, 1.3, 30.0, 70.0):
        ticks[0] = moment
        before = retention.removed
        retention.step(store)
        steps.append(retention.removed - before)
    assert steps == [0, 2, 0, 2, 2, 0, 0, 0]
    assert stored(store) == ["new_1", "new_2", "new_3"]
    assert store.events() == []


def test_the_writer_prunes_also_while_nothing_comes(store: FailingStore, spool: Spool) -> None:
    store.append([outcome(i) for i in range(20)])
    writer = OutcomeWriter(store, spool=spool, retention=Retention(most=5, step=10))
    writer.start()
    until(lambda: len(stored(store)) == 5)
    until(lambda: writer.state().pruned == 15)
    writer.close()


def test_a_log_that_is_to_keep_all_is_never_pruned(store: FailingStore) -> None:
    retention = Retention()
    assert retention.due_in_s() is None
    store.append([outcome(0)])
    retention.step(store)
    assert stored(store) == ["req_0"]
