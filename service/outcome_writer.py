"""Outcomes go to the store in a thread of their own: batched, retried, spooled; never silently dropped."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import Feedback, OutcomeStore
from llmrouter.types import Outcome
from service.judgements import Judgements, JudgementStatus
from service.log_retention import Retention
from service.spool import Spool

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH = 500
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
_MEMORY_FACTOR = 10
# Of the flush interval a quarter is spent collecting a batch; the rest is for writing it.
_COLLECT_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class WriterState:
    """Where the outcomes are.

    Attributes
    ----------
    queued : int
        In memory, not stored yet.
    written : int
        In the store since the start.
    spooled : int
        Put into the spool file since the start, because the store could not write and the queue was full.
    rejected : int
        Refused by the store as wrong and put aside.
    lost : int
        Dropped because store, spool and memory all failed; every loss is logged as an error.
    trouble : str
        What the store last said, "" while it works.
    weakness : str
        How the store could lose what it acknowledged; "" where it cannot.
    judged, judged_spooled : int
        Judgements in the store, and put into the spool file, since the start.
    pruned : int
        Outcomes removed because they were too old or too many.
    """

    queued: int
    written: int
    spooled: int
    rejected: int
    lost: int
    trouble: str
    weakness: str = ""
    judged: int = 0
    judged_spooled: int = 0
    pruned: int = 0


class OutcomeWriter:
    """Own a store and its thread.

    Parameters
    ----------
    store : OutcomeStore
        Used by the writer's thread only, and closed with the writer.
    spool : Spool
        Takes what exceeds `max_queue` while the store fails, and is replayed when it works again and at the start.
    flush_interval_s : float
        An outcome is stored at most that long after `put`, while the store works.
    max_queue : int
        Outcomes kept in memory while the store fails.
    retention : Retention, optional
        What is pruned; by default nothing.
    """

    def __init__(
        self,
        store: OutcomeStore,
        *,
        spool: Spool,
        flush_interval_s: float = 0.25,
        max_queue: int = 10_000,
        retention: Retention | None = None,
    ) -> None:
        self.flush_interval_s = flush_interval_s
        self.max_queue = max_queue
        self._store = store
        self._spool = spool
        self._judgements = Judgements(spool)
        self._retention = retention or Retention()
        self._wake = threading.Condition()
        self._queue: deque[Outcome] = deque()
        self._jobs: deque[tuple[Callable[[OutcomeStore], Any], Future[Any]]] = deque()
        self._closing = False
        self._ended = False
        self._retry_s = 0.0
        self._retry_at = 0.0
        self._written = self._spooled = self._rejected = self._lost = 0
        self._trouble = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, where it has not been started; the first use does so too."""
        with self._wake:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outcome-writer", daemon=True)
                self._thread.start()

    def put(self, outcome: Outcome) -> None:
        """Hand over an outcome; never blocks on the store and never raises."""
        if self._thread is None:
            self.start()
        with self._wake:
            self._queue.append(outcome)
            if len(self._queue) == 1:
                self._wake.notify()
        if self._ended:  # a request that outlived the end of the log
            self._spool_queue()

    def submit(self, job: Callable[[OutcomeStore], T]) -> Future[T]:
        """Run `job` with the store, after everything put so far is written; its result or error is the future's."""
        if self._thread is None:
            self.start()
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                future.set_exception(StoreError("the outcome log is closed: the gateway is stopping"))
                return future
            self._jobs.append((job, future))
            self._wake.notify()
        return future

    def judge(self, batch: Sequence[Feedback]) -> Future[list[JudgementStatus]]:
        """Store judgements, or spool them while the store fails; the future has their statuses once they are durable.

        Its error is a `StoreError` where neither is possible: then none of them counts as acknowledged.

        Raises
        ------
        DataError
            If one of them cannot be stored.
        """
        if self._thread is None:
            self.start()
        with self._wake:
            if self._closing:
                refused: Future[list[JudgementStatus]] = Future()
                refused.set_exception(StoreError("the outcome log is closed: the gateway is stopping"))
                return refused
            future = self._judgements.add(batch)
            self._wake.notify()
        return future

    def state(self) -> WriterState:
        """Return the counters."""
        return WriterState(
            queued=len(self._queue),
            written=self._written,
            spooled=self._spooled,
            rejected=self._rejected,
            lost=self._lost,
            trouble=self._trouble,
            weakness=str(getattr(self._store, "weakness", "")),
            judged=self._judgements.stored,
            judged_spooled=self._judgements.spooled,
            pruned=self._retention.removed,
        )

    def close(self, timeout_s: float = 10.0) -> None:
        """Write (or spool) everything, close the store and end the thread; idempotent."""
        self.start()  # there may be a spool, and there is a store to close
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                # It hangs in the store, and ends with the process. What it may still store is stored once only.
                logger.error("the outcome log did not stop within %g s; what waits is spooled", timeout_s)
                self._spool_queue()

    # The thread

    def _run(self) -> None:
        self._guarded(self._flush)  # a spool of the last run
        while self._wait():
            # While the store fails, judgements alone are no reason to try it again before its time.
            if self._jobs or time.monotonic() >= self._retry_at:
                self._guarded(self._flush)
            self._guarded(self._judge)
            self._run_jobs()
            if not self._trouble:
                self._guarded(self._prune)
        self._finish()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Let nothing end the thread: who waits for it would wait for ever."""
        try:
            step()
        except Exception as error:
            logger.exception("a fault in the outcome log")
            self._failed(StoreError(f"a fault of the gateway itself: {type(error).__name__}"))

    def _wait(self) -> bool:
        """Wait for a batch, a job or the end; return whether to go on."""
        with self._wake:
            if self._retry_s:
                self._wake.wait_for(self._urgent, timeout=max(self._retry_at - time.monotonic(), 0.0))
            else:
                self._wake.wait_for(lambda: self._queue or self._urgent(), timeout=self._retention.due_in_s())
                if self._queue:
                    self._wake.wait_for(self._urgent, timeout=self.flush_interval_s * _COLLECT_SHARE)
            return not self._closing

    def _urgent(self) -> bool:
        return self._closing or bool(self._jobs) or self._judgements.waiting

    def _flush(self) -> None:
        try:
            while batch := self._next_batch():
                self._append(batch)
                self._done_with(len(batch))
            if self._spool.exists():
                self._replay()
        except StoreError as error:
            self._failed(error)
        else:
            self._worked()

    def _next_batch(self) -> list[Outcome]:
        with self._wake:
            return list(itertools.islice(self._queue, _BATCH))

    def _done_with(self, count: int) -> None:
        with self._wake:
            for _ in range(min(count, len(self._queue))):  # `close` may have spooled them meanwhile
                self._queue.popleft()

    def _append(self, batch: Sequence[Outcome]) -> None:
        """Store a batch; where the store refuses it as wrong, find and put aside the wrong ones.

        Raises
        ------
        StoreError
            If the store cannot write now.
        """
        try:
            self._store.append(batch)
            self._written += len(batch)
        except StoreError:
            raise
        except Exception as error:
            if len(batch) > 1:
                for outcome in batch:
                    self._append([outcome])
                return
            self._reject(batch, error)

    def _reject(self, batch: Sequence[Outcome | Feedback], error: Exception) -> None:
        request_id = batch[0].request_id
        try:
            self._spool.reject(batch)
        except (OSError, TypeError) as trouble:
            self._lost += 1
            logger.error(
                "what is known of %s is lost: refused (%s), and not written aside: %s", request_id, error, trouble
            )
            return
        self._rejected += 1
        logger.error("what is known of %s was refused (%s); it is in %s", request_id, error, self._spool.rejected_path)

    def _failed(self, error: StoreError) -> None:
        if not self._trouble:
            logger.error("the outcome log cannot be written, outcomes wait in memory: %s", error)
        self._trouble = str(error)
        self._retry_s = min(self._retry_s * 2 or _FIRST_RETRY_S, _LAST_RETRY_S)
        self._retry_at = time.monotonic() + self._retry_s
        if len(self._queue) > self.max_queue:
            self._spool_queue()

    def _worked(self) -> None:
        if self._trouble:
            logger.warning("the outcome log works again")
        self._trouble = ""
        self._retry_s = self._retry_at = 0.0

    def _judge(self) -> None:
        if self._judgements.waiting:
            error = self._judgements.run(self._store, working=not self._trouble)
            if error is not None:
                self._failed(error)

    def _prune(self) -> None:
        try:
            self._retention.step(self._store)
        except StoreError as error:
            logger.warning("the outcome log could not be pruned: %s", error)

    def _spool_queue(self) -> None:
        with self._wake:
            batch = list(self._queue)
        if not batch:
            return
        try:
            self._spool.append(batch)
        except OSError as error:
            self._drop_beyond(self.max_queue * _MEMORY_FACTOR, error)
            return
        self._done_with(len(batch))
        self._spooled += len(batch)
        logger.warning("%d outcomes were spooled to %s", len(batch), self._spool.path)

    def _drop_beyond(self, limit: int, error: OSError) -> None:
        with self._wake:
            dropped = [self._queue.popleft().request_id for _ in range(max(len(self._queue) - limit, 0))]
        if dropped:
            self._lost += len(dropped)
            logger.error(
                "%d outcomes are lost, %s first: neither store nor spool works: %s", len(dropped), dropped[0], error
            )

    def _replay(self) -> None:
        try:
            for batch in self._spool.batches(_BATCH):
                self._replay_batch(batch)
            self._spool.clear()
        except OSError as error:
            raise StoreError(f"the spool {self._spool.path} cannot be replayed: {error}") from error
        logger.warning("what was spooled to %s is in the store now", self._spool.path)

    def _replay_batch(self, batch: list[Outcome] | list[Feedback]) -> None:
        judgements = [item for item in batch if isinstance(item, Feedback)]
        if not judgements:
            self._append([item for item in batch if isinstance(item, Outcome)])
            return
        try:
            self._store.feedback_many(judgements)
        except StoreError:
            raise
        except Exception as error:
            if len(judgements) > 1:
                for judgement in judgements:
                    self._replay_batch([judgement])
                return
            self._reject(judgements, error)

    def _run_jobs(self) -> None:
        while self._jobs:
            job, future = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job(self._store))
            except Exception as error:
                future.set_exception(error)

    def _finish(self) -> None:
        self._guarded(self._flush)
        self._guarded(self._judge)
        self._run_jobs()
        self._spool_queue()
        with self._wake:
            self._ended = True
        self._spool_queue()
        if self._queue:
            logger.error("%d outcomes are lost: neither the store nor the spool works", len(self._queue))
        self._store.close()
