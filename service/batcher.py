"""Routing for concurrent requests in batches: what waits at the same moment is decided together.

Where a decision is cheap (the static encoders: a few tenths of a millisecond) it is made between two turns of the
event loop; where it is not (a neural encoder, a large index, a long prompt) in a thread of its own. A thread for cheap
work costs more than the work: with 16 requests at a time on one core, handing the interpreter lock back and forth was
measured to add 9 ms to a decision of 0.4 ms. For the same reason what a decision costs in the thread is its processor
time: its duration there is mostly waiting for that lock, and cheap work would never come back.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from llmrouter.exceptions import LLMRouterError
from llmrouter.types import Decision, RoutingRequest

logger = logging.getLogger(__name__)

MAX_BATCH = 64
"""More are decided in a second batch, so that the first of many waits for no more than these."""

LONGEST_WAIT_S = 0.001
"""A request waits no longer than this for others to be decided with."""

LONGEST_TURN_S = 0.004
"""The event loop is held up by a batch for no longer than about this; a decision dearer than half of it goes to the
thread. Twice as long a turn takes in more of what waits under load, and spends a tenth less on each (measured)."""

_LONG_TEXT = 4000
# Both figures that are learned step by these shares towards what was measured, however far off that was: so they follow
# medians. A page fault, or another program on the core, makes one decision take a hundred times as long.
_COST_STEP = 0.1
_FITTING_STEP = 0.1
# Until it is known what a decision costs. The first ones load what is loaded on first use, and count for little.
_FIRST_GUESS_S = 0.0005
# What turned out dear in the loop stays in the thread for a while, longer each time: work that waits for a device takes
# little processor time, and must not be tried in the loop again and again.
_FIRST_AWAY_S = 1.0
_LONGEST_AWAY_S = 300.0
_FORGIVEN_AFTER = 10


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


class Routing:
    """Decides for one event loop.

    An idle gateway decides at once. A busy one takes together what came within one turn of the loop, and within the
    turns after it for as long as each brings more, up to `longest_wait_s`; so it spends less on each decision.

    Parameters
    ----------
    name : str
        Of the thread.
    max_batch : int
        Largest batch.
    longest_turn_s : float
        Seconds for which the event loop may be held up, half of it for one decision; 0 decides all in the thread.
    longest_wait_s : float
        Seconds for which a request may wait for others to come.

    Attributes
    ----------
    batches, decided : int
        Since the start.
    cost_s : float
        Seconds that a decision takes, about the median of the last ones.
    fitting : float
        Decisions that fit into a turn. Not `longest_turn_s` over `cost_s`: a large batch spends less on each, so what
        fits is found by what full turns took.
    """

    def __init__(
        self,
        name: str = "routing",
        *,
        max_batch: int = MAX_BATCH,
        longest_turn_s: float = LONGEST_TURN_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        self.max_batch = max_batch
        self.longest_turn_s = longest_turn_s
        self._longest_decision_s = longest_turn_s / 2
        self.longest_wait_s = min(longest_wait_s, longest_turn_s)
        self.batches = self.decided = 0
        self.cost_s = _FIRST_GUESS_S
        self.fitting = max(longest_turn_s / _FIRST_GUESS_S, 1.0)
        self._gathered: deque[_Job] = deque()
        self._seen = 0
        self._gather_until = self._ended = 0.0
        self._away_until = 0.0
        self._away_s = _FIRST_AWAY_S
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = self._closed = False

    async def route(self, engine: BatchEngine, request: RoutingRequest, *, neighbours: int = 0) -> Decision:
        """Return the decision of `engine`; see `llmrouter.engine.RoutingEngine.route`.

        Raises
        ------
        RuntimeError
            If it was closed.
        """
        if self._closed:
            raise RuntimeError("routing was closed; nothing is decided any more")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decision] = loop.create_future()
        job = _Job(request, neighbours, engine, future)
        if self._dear(loop) or len(request.text) > _LONG_TEXT:
            self._hand_over(job)
        else:
            self._gathered.append(job)
            if len(self._gathered) == 1:
                self._seen = 1
                now = loop.time()
                # Where the last batch has only just been decided, more may be coming.
                self._gather_until = now + self.longest_wait_s if now - self._ended < self.longest_wait_s else 0.0
                loop.call_soon(self._turn, loop)
        return await future

    def close(self) -> None:
        """End the thread once it has decided what was asked before."""
        self._closed = True
        if self._started:
            self._jobs.put(None)
            self._thread.join()

    # In the event loop

    def _dear(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self.cost_s > self._longest_decision_s or loop.time() < self._away_until

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Decide as many as fit into a turn; the rest has the next one."""
        waiting = len(self._gathered)
        fitting = min(int(self.fitting), self.max_batch)
        if self._seen < waiting < fitting and loop.time() < self._gather_until:
            self._seen = waiting
            loop.call_soon(self._turn, loop)
            return
        batch = [self._gathered.popleft() for _ in range(min(fitting, waiting))]
        before = time.perf_counter()
        for group, results in self._decided(batch, time.perf_counter):
            _resolve(group, results)
        if len(batch) == fitting:
            self._adjust(time.perf_counter() - before)
        self._ended = loop.time()
        if self.cost_s > self._longest_decision_s:
            self._away_until = self._ended + self._away_s
            self._away_s = min(2 * self._away_s, _LONGEST_AWAY_S)
        elif self._ended - self._away_until > _FORGIVEN_AFTER * self._away_s:
            self._away_s = _FIRST_AWAY_S
        if self._gathered:
            loop.call_soon(self._turn, loop)

    def _adjust(self, taken_s: float) -> None:
        """Learn from a full turn how many fit."""
        step = _FITTING_STEP if taken_s <= self.longest_turn_s else -_FITTING_STEP
        self.fitting = min(max(self.fitting * (1.0 + step), 1.0), float(self.max_batch))

    # In the thread

    def _hand_over(self, job: _Job) -> None:
        if not self._started:
            self._started = True
            self._thread.start()
        self._jobs.put(job)

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
            for group, results in self._decided(batch, time.thread_time):
                try:
                    group[0].future.get_loop().call_soon_threadsafe(_resolve, group, results)
                except RuntimeError:  # the loop has ended, and everybody who waited with it
                    logger.debug("nobody waits for %d decisions any more", len(group))
            if last:
                return

    # In either

    def _decided(
        self, batch: Sequence[_Job], clock: Callable[[], float]
    ) -> list[tuple[list[_Job], Sequence[Decision | BaseException]]]:
        # Requests that differ in these were taken in the moment of a reload, or ask for neighbours (dry runs).
        groups: dict[tuple[int, int], list[_Job]] = {}
        for job in batch:
            if not job.future.cancelled():
                groups.setdefault((id(job.engine), job.neighbours), []).append(job)
        self.batches += len(groups)
        self.decided += sum(map(len, groups.values()))
        return [(group, self._decide(group, clock)) for group in groups.values()]

    def _decide(self, group: Sequence[_Job], clock: Callable[[], float]) -> Sequence[Decision | BaseException]:
        before = clock()
        try:
            return group[0].engine.route_many([job.request for job in group], neighbours=group[0].neighbours)
        except Exception as error:
            if len(group) == 1:
                return [error]
        finally:
            taken_s = (clock() - before) / len(group)
            self.cost_s *= 1.0 + (_COST_STEP if taken_s > self.cost_s else -_COST_STEP)
        # One of them met a fault of the router's: the others get what they would have got alone.
        return [result for job in group for result in self._decide([job], clock)]


def _resolve(group: Sequence[_Job], results: Sequence[Decision | BaseException]) -> None:
    for job, result in zip(group, results, strict=True):
        if job.future.done():  # its client has gone
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
