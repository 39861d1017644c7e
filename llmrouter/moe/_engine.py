"""Continuous batching: requests join and leave the running batch at every step."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import (
    EngineStoppedError,
    GenerationFailedError,
    LocalModelError,
    QueueFullError,
)
from llmrouter.moe._handle import GenerationHandle
from llmrouter.moe._meter import LoadMeter, LoadReport, MachinePrice
from llmrouter.moe._options import SelfContrast
from llmrouter.moe._prepare import prepared
from llmrouter.moe._sequence import Sequence
from llmrouter.moe._types import GenerationRequest, GenerationResult, SamplingDefaults
from llmrouter.moe._vocabulary import Vocabulary
from llmrouter.moe._worker import EngineWorker

if TYPE_CHECKING:
    import torch

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Load of an engine: sequences running and waiting, and tokens generated since it was made."""

    running: int
    waiting: int
    generated_tokens: int


class Engine:
    """A local model that generates for many requests at once; made by `load_engine`.

    Use it offline with `run`, or `start` it and `submit` requests from any thread.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model in evaluation mode, on its device.
    vocabulary : Vocabulary
        Its tokenizer.
    name : str
        The name under which it is served.
    context_window : int
        Prompt plus completion tokens it takes.
    end_tokens : frozenset of int
        Ids that end a completion.
    defaults : SamplingDefaults
        Sampling values for requests that leave them out.
    max_batch : int
        Sequences in the running batch at most.
    max_queue : int
        Requests that may wait; more are refused with QueueFullError.
    deterministic : bool
        Compute every request's logits with the same bits whatever requests run beside it; slower.
    contrast : SelfContrast, optional
        Decode by self-contrast; log-probabilities are then those of the contrast.
    price : MachinePrice, optional
        What the machine costs, for `load_report`.

    Attributes
    ----------
    meter : LoadMeter
        Counts and times of its steps.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        *,
        name: str,
        context_window: int,
        end_tokens: frozenset[int],
        defaults: SamplingDefaults,
        max_batch: int,
        max_queue: int,
        deterministic: bool = False,
        contrast: SelfContrast | None = None,
        price: MachinePrice | None = None,
    ) -> None:
        from llmrouter.moe._batch import RunningBatch
        from llmrouter.moe._contrast import ContrastBatch
        from llmrouter.moe._expert_load import ExpertLoad

        self.model = model
        self.vocabulary = vocabulary
        self.name = name
        self.context_window = context_window
        self.defaults = defaults
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.price = price or MachinePrice()
        self.meter = LoadMeter()
        self._expert_load = ExpertLoad(model)
        self._end_tokens = end_tokens
        self._batch: RunningBatch | ContrastBatch = (
            RunningBatch(model, deterministic=deterministic)
            if contrast is None
            else ContrastBatch(model, contrast, deterministic=deterministic)
        )
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._queue_lock = threading.Lock()
        self._step_lock = threading.Lock()
        self._worker: EngineWorker | None = None

    @property
    def alive(self) -> bool:
        """Whether it is started and its thread runs."""
        worker = self._worker
        return worker is not None and worker.alive

    def stats(self) -> EngineStats:
        """Return the present load."""
        return EngineStats(len(self._running), len(self._waiting), self.meter.output_tokens)

    def load_report(self) -> LoadReport:
        """Return what one more token costs, in time, money and energy, at the present load."""
        stats = self.stats()
        return self.meter.report(self.price, running=stats.running, waiting=stats.waiting, max_batch=self.max_batch)

    def expert_load(self) -> dict[str, list[int]]:
        """Return how often decoding chose each expert, by layer (empty if the experts are not ours)."""
        return self._expert_load.counts()

    def run(self, requests: SequenceOf[GenerationRequest]) -> list[GenerationResult]:
        """Generate for all `requests` and return the results in their order; waits, without a limit to the queue.

        Raises
        ------
        GenerationRequestError
            If a request is wrong (nothing is generated then).
        GenerationFailedError
            If a generation failed.
        """
        sequences = [self._sequence(request, GenerationHandle()) for request in requests]
        with self._queue_lock:
            self._waiting.extend(sequences)
            worker = self._worker
        if worker is not None:
            worker.notify()
        else:
            while self.step():
                pass
        return [sequence.handle.wait() for sequence in sequences]

    def start(self, worker: EngineWorker | None = None) -> None:
        """Take requests from `submit`, computing in `worker` (shared with other engines) or in an own one."""
        with self._queue_lock:
            if self._worker is not None:
                return
            self._worker = worker or EngineWorker()
        self._worker.add(self)

    def stop(self) -> None:
        """Take no more requests and end those that run or wait with EngineStoppedError. Idempotent."""
        with self._queue_lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.remove(self)
        with self._step_lock:
            self._fail_all(EngineStoppedError(f"the engine of {self.name!r} was stopped"))

    def submit(self, request: GenerationRequest, *, loop: asyncio.AbstractEventLoop | None = None) -> GenerationHandle:
        """Queue a request and return its handle at once; from any thread.

        Parameters
        ----------
        request : GenerationRequest
            What to generate.
        loop : asyncio.AbstractEventLoop, optional
            The loop that will consume the handle; by default the running one, if any.

        Raises
        ------
        GenerationRequestError
            If the request is wrong, e.g. ContextLengthError.
        QueueFullError
            If `max_queue` requests wait already.
        EngineStoppedError
            If the engine is not started.
        """
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = None
        sequence = self._sequence(request, GenerationHandle(loop))
        with self._queue_lock:
            worker = self._worker
            if worker is None:
                raise EngineStoppedError(f"the engine of {self.name!r} is not running; call start() first")
            if len(self._waiting) >= self.max_queue:
                self.meter.ended("refused")
                raise QueueFullError(self.name, waiting=len(self._waiting))
            self._waiting.append(sequence)
        worker.notify()
        return sequence.handle

    def step(self) -> bool:
        """Admit newcomers, generate one token for every running sequence, and return whether work is left.

        Called by the worker; `run` calls it where there is none.
        """
        with self._step_lock:
            try:
                self._drop_cancelled()
                self._admit()
                if self._running:
                    self._decode()
            except Exception as error:  # whatever a forward pass raises must not end the thread
                _LOGGER.exception("model %r: the forward pass failed", self.name)
                self._fail_running(GenerationFailedError(f"the forward pass of {self.name!r} failed: {error}"))
            return bool(self._running or self._waiting)

    def _sequence(self, request: GenerationRequest, handle: GenerationHandle) -> Sequence:
        return prepared(
            request,
            handle,
            vocabulary=self.vocabulary,
            context_window=self.context_window,
            defaults=self.defaults,
        )

    def _drop_cancelled(self) -> None:
        error = GenerationFailedError("the generation was cancelled")
        cancelled = [sequence for sequence in self._running if sequence.handle.cancelled]
        for sequence in cancelled:
            self._leave(self._running.index(sequence))
        with self._queue_lock:
            waiting, self._waiting = self._waiting, deque()
            for sequence in waiting:
                # Looked at once: a handle cancelled meanwhile is in one of the two, and goes in the next step.
                (cancelled if sequence.handle.cancelled else self._waiting).append(sequence)
        for sequence in cancelled:
            sequence.fail(error)
            self.meter.ended("cancelled")

    def _admit(self) -> None:
        """Move waiting sequences into the batch as far as there is room, and generate their first tokens."""
        with self._queue_lock:
            count = min(len(self._waiting), self.max_batch - len(self._running))
            newcomers = [self._waiting.popleft() for _ in range(count)]
        if not newcomers:
            return
        newcomers.sort(key=lambda sequence: len(sequence.prompt), reverse=True)
        first = len(self._running)
        self._running += newcomers  # before the forward pass, so that its failure reaches them
        begun = time.perf_counter()
        self._advance(first, self._batch.prefill([sequence.prompt for sequence in newcomers]))
        self.meter.prefilled(
            sum(len(sequence.prompt) for sequence in newcomers),
            time.perf_counter() - begun,
            [sequence.token_interval_s for sequence in newcomers],
        )

    def _decode(self) -> None:
        """Generate one token for every running sequence."""
        from llmrouter.moe.experts import routing_hooks

        rows, begun = list(self._running), time.perf_counter()
        with routing_hooks(self._expert_load):
            logits = self._batch.decode([sequence.last_token for sequence in rows])
        self._advance(0, logits)
        taken = time.perf_counter() - begun
        self.meter.decoded(len(rows), taken, [sequence.token_interval_s for sequence in rows])

    def _advance(self, first: int, logits: torch.Tensor) -> None:
        """Give the rows from `first` on their next tokens; the finished ones leave."""
        from llmrouter.moe._sampling import choose_tokens

        rows = self._running[first:]
        choices = choose_tokens(logits, [sequence.sampling for sequence in rows])
        self.meter.generated(len(rows))  # before anybody hears of a token
        ended = []
        for row, (sequence, choice) in enumerate(zip(rows, choices, strict=True), start=first):
            if not choice.finite:
                sequence.fail(GenerationFailedError(f"{self.name!r} gave logits that are not finite numbers"))
                self.meter.ended("failed")
                ended.append(row)
            elif reason := sequence.advance(choice, self._end_tokens):
                self.meter.ended(reason)
                ended.append(row)
        for row in reversed(ended):
            self._leave(row)

    def _leave(self, row: int) -> None:
        """Take a row out; the last one takes its place, as in the batch."""
        self._batch.remove(row)
        self._running[row] = self._running[-1]
        self._running.pop()

    def _fail_running(self, error: LocalModelError) -> None:
        running, self._running = self._running, []
        self._batch.clear()
        for sequence in running:
            if not sequence.handle.done:
                sequence.fail(error)
                self.meter.ended("failed")

    def _fail_all(self, error: LocalModelError) -> None:
        self._fail_running(error)
        with self._queue_lock:
            waiting, self._waiting = list(self._waiting), deque()
        for sequence in waiting:
            sequence.fail(error)
