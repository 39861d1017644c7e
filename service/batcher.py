"""Routing off the event loop, in one thread: requests that wait at the same moment are decided in one batch."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from llmrouter.exceptions import LLMRouterError
from llmrouter.types import Decision, RoutingRequest

logger = logging.getLogger(__name__)

MAX_BATCH = 64
"""More are decided in a second batch, so that the first of many waits for no more than these."""


class BatchEngine(Protocol):
    """Decides for several requests at once; see `llmrouter.engine.RoutingEngine.route_many`."""

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide."""
        ...


class _Job(NamedTuple):
    request: RoutingRequest
    neighbours: int
    engine: BatchEngine
    future: asyncio.Future[Decision]


class RoutingThread:
    """Decides in a thread of its own.

    The thread never waits for a batch to fill: it takes what is there. While it works, requests gather, and they are
    the next batch. So an idle gateway decides at once, and a busy one spends less on each decision; a request waits
    for at most the batch under way. One thread, because the work holds the interpreter lock for most of its time.

    Parameters
    ----------
    name : str
        Of the thread.
    max_batch : int
        Largest batch.
    """

    def __init__(self, name: str = "routing", *, max_batch: int = MAX_BATCH) -> None:
        self.max_batch = max_batch
        self.batches = self.decided = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    async def route(self, engine: BatchEngine, request: RoutingRequest, *, neighbours: int = 0) -> Decision:
        """Return the decision of `engine`; see `llmrouter.engine.RoutingEngine.route`."""
        if not self._started:
            self._started = True
            self._thread.start()
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(request, neighbours, engine, future))
        return await future

    def close(self) -> None:
        """End the thread once it has decided what was asked before."""
        if self._started:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            last = False
            while len(batch) < self.max_batch:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._decide(batch)
            if last:
                return

    def _decide(self, batch: list[_Job]) -> None:
        # Requests that differ in these were taken in the moment of a reload, or ask for neighbours (dry runs).
        groups: dict[tuple[int, int], list[_Job]] = {}
        for job in batch:
            if not job.future.cancelled():
                groups.setdefault((id(job.engine), job.neighbours), []).append(job)
        for group in groups.values():
            self.batches += 1
            self.decided += len(group)
            try:
                results: Sequence[Decision | BaseException] = group[0].engine.route_many(
                    [job.request for job in group], neighbours=group[0].neighbours
                )
            except Exception as error:
                logger.debug("a batch of %d failed: %s", len(group), error)
                results = [error] * len(group)
            self._answer(group, results)

    @staticmethod
    def _answer(group: Sequence[_Job], results: Sequence[Decision | BaseException]) -> None:
        try:
            group[0].future.get_loop().call_soon_threadsafe(_resolve, group, results)
        except RuntimeError:  # the loop has ended, and everybody who waited with it
            logger.debug("nobody waits for %d decisions any more", len(group))


def _resolve(group: Sequence[_Job], results: Sequence[Decision | BaseException]) -> None:
    for job, result in zip(group, results, strict=True):
        if job.future.done():  # its client has gone
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
