"""What a caller holds while a completion is generated in another thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from llmrouter.exceptions import GenerationFailedError, LocalModelError
from llmrouter.moe._types import Delta, GenerationResult


class GenerationHandle:
    """A submitted request: iterate it for deltas, or wait for its result; from asyncio or from any thread.

    Iterate once (``async for delta in handle``), await ``handle.result()``, or block in ``handle.wait()``. The async
    ways belong to the event loop that was running at `submit`.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop or None
        The loop whose tasks consume the handle; None where only `wait` is used.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._condition = threading.Condition()
        self._deltas: deque[Delta] = deque()
        self._outcome: GenerationResult | LocalModelError | None = None
        self._cancelled = False
        self._streaming = False
        self._wake_pending = False
        self._changed = asyncio.Event()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to end it early."""
        return self._cancelled

    @property
    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._outcome is not None

    def cancel(self) -> None:
        """Ask the engine to stop generating; its place in the batch is free before the next step. Idempotent."""
        self._cancelled = True

    def wait(self, timeout_s: float | None = None) -> GenerationResult:
        """Block until the completion is finished and return it.

        Raises
        ------
        GenerationFailedError
            If it was cancelled, or generation failed.
        EngineStoppedError
            If the engine was stopped before it was finished.
        TimeoutError
            If it is not finished after `timeout_s` seconds.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: self._outcome is not None, timeout_s):
                raise TimeoutError(f"the completion is not finished after {timeout_s} s")
        return self._settled()

    async def result(self) -> GenerationResult:
        """Return the finished completion; raises as `wait` does."""
        self._check_loop()
        while not self.done:
            self._changed.clear()
            if not self.done:
                await self._changed.wait()
        return self._settled()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield pieces of text as they are generated; raises as `wait` does."""
        self._check_loop()
        self._streaming = True
        while True:
            self._changed.clear()
            with self._condition:
                deltas = list(self._deltas)
                self._deltas.clear()
                finished = self.done
                self._wake_pending = False
            for delta in deltas:
                yield delta
            if finished:
                break
            await self._changed.wait()
        self._settled()

    def push(self, delta: Delta) -> None:
        """Add a piece of text (called by the engine)."""
        with self._condition:
            self._deltas.append(delta)
            wake = self._streaming and not self._wake_pending
            self._wake_pending = self._wake_pending or wake
        if wake:
            self._wake()

    def settle(self, outcome: GenerationResult | LocalModelError) -> None:
        """Give the result, or the error that ended it (called by the engine)."""
        with self._condition:
            self._outcome = outcome
            self._condition.notify_all()
        self._wake()

    def _check_loop(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("this handle wakes another event loop; give submit() the loop that consumes it")

    def _wake(self) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop is closed: nobody is left to read
            self.cancel()

    def _settled(self) -> GenerationResult:
        if isinstance(self._outcome, LocalModelError):
            raise self._outcome
        if self._outcome is None:
            raise GenerationFailedError("the completion is not finished")
        return self._outcome
