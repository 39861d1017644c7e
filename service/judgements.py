"""Judgements on their way into the outcome log: acknowledged once they are in the store, or on the disk beside it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import Feedback, OutcomeStore, check_feedback
from service.spool import Spool

logger = logging.getLogger(__name__)

JudgementStatus = Literal["stored", "pending", "spooled"]
"""Where a judgement is: with its outcome, waiting for its outcome, or on disk until the store works again."""

_BATCH = 500


class Judgements:
    """The judgements that wait for the writer's thread; `add` is for any thread, the rest for that one.

    Parameters
    ----------
    spool : Spool
        Takes what the store cannot take now.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._waiting: deque[tuple[list[Feedback], Future[list[JudgementStatus]]]] = deque()
        self.stored = self.spooled = 0

    def add(self, batch: Sequence[Feedback]) -> Future[list[JudgementStatus]]:
        """Queue judgements; the future has their statuses once they are durable.

        Raises
        ------
        DataError
            If one of them cannot be stored.
        """
        for feedback in batch:
            check_feedback(feedback)
        # Stamped here: what is spooled meanwhile must not overtake what comes after it.
        stamped = [dataclasses.replace(feedback, time=feedback.time or time.time()) for feedback in batch]
        future: Future[list[JudgementStatus]] = Future()
        self._waiting.append((stamped, future))
        return future

    @property
    def waiting(self) -> bool:
        """Whether any wait."""
        return bool(self._waiting)

    def run(self, store: OutcomeStore, *, working: bool) -> StoreError | None:
        """Take what waits to the store, many in one transaction, or to the spool; return what the store said.

        Parameters
        ----------
        store : OutcomeStore
            Where to.
        working : bool
            Whether the store can be expected to take them; else they are spooled without asking it.
        """
        trouble: StoreError | None = None
        while self._waiting:
            group = self._next_group()
            batch = [feedback for judgements, _ in group for feedback in judgements]
            try:
                if working and trouble is None:
                    try:
                        statuses = self._store(store, batch)
                    except StoreError as error:
                        trouble = error
                        statuses = self._put_aside(batch)
                else:
                    try:
                        statuses = self._put_aside(batch)
                    except StoreError:  # then the store is asked before its time
                        statuses = self._store(store, batch)
            except Exception as error:
                for _, future in group:
                    future.set_exception(error)
                continue
            following = iter(statuses)
            for judgements, future in group:
                future.set_result(list(itertools.islice(following, len(judgements))))
        return trouble

    def _next_group(self) -> list[tuple[list[Feedback], Future[list[JudgementStatus]]]]:
        group = []
        size = 0
        while self._waiting and size < _BATCH:
            judgements, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                group.append((judgements, future))
                size += len(judgements)
        return group

    def _store(self, store: OutcomeStore, batch: Sequence[Feedback]) -> list[JudgementStatus]:
        known = store.feedback_many(batch)
        self.stored += len(batch)
        return ["stored" if one else "pending" for one in known]

    def _put_aside(self, batch: Sequence[Feedback]) -> list[JudgementStatus]:
        """Spool judgements.

        Raises
        ------
        StoreError
            If the disk does not take them either.
        """
        try:
            self._spool.append(batch)
        except OSError as error:
            raise StoreError(
                f"neither the outcome log nor its spool {self._spool.path} takes judgements now ({error}); try again"
            ) from error
        self.spooled += len(batch)
        return ["spooled"] * len(batch)
