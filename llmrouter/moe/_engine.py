"""Continuous batching: requests join and leave the running batch at every step."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import (
    ContextLengthError,
    EngineStoppedError,
    GenerationFailedError,
    GenerationRequestError,
    LocalModelError,
    QueueFullError,
)
from llmrouter.moe._handle import GenerationHandle
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
    ) -> None:
        from llmrouter.moe._batch import RunningBatch

        self.model = model
        self.vocabulary = vocabulary
        self.name = name
        self.context_window = context_window
        self.defaults = defaults
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._end_tokens = end_tokens
        self._batch = RunningBatch(model, deterministic=deterministic)
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._generated = 0
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
        return EngineStats(len(self._running), len(self._waiting), self._generated)

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
                    self._advance(0, self._batch.decode([sequence.last_token for sequence in self._running]))
            except Exception as error:  # whatever a forward pass raises must not end the thread
                _LOGGER.exception("model %r: the forward pass failed", self.name)
                self._fail_running(GenerationFailedError(f"the forward pass of {self.name!r} failed: {error}"))
            return bool(self._running or self._waiting)

    def _sequence(self, request: GenerationRequest, handle: GenerationHandle) -> Sequence:
        from llmrouter.moe._sampling import Sampling

        if request.messages is not None:
            prompt = self.vocabulary.encode(self.vocabulary.render(request.messages), special_tokens=False)
        else:
            prompt = self.vocabulary.encode(request.prompt or "", special_tokens=True)
        room = self.context_window - len(prompt)
        if room < 1:
            raise ContextLengthError(prompt_tokens=len(prompt), context_window=self.context_window)
        if not prompt:
            raise GenerationRequestError("the prompt has no tokens; give at least one character", param="prompt")
        defaults = self.defaults
        sampling = Sampling(
            temperature=defaults.temperature if request.temperature is None else request.temperature,
            top_p=defaults.top_p if request.top_p is None else request.top_p,
            top_k=defaults.top_k if request.top_k is None else request.top_k,
            random=Random(request.seed),
            logprobs=request.logprobs,
            top_logprobs=request.top_logprobs,
        )
        return Sequence(
            request,
            prompt,
            sampling=sampling,
            # max_tokens is a limit, not a wish: where the window ends first, the completion ends with "length".
            max_new_tokens=min(request.max_tokens or room, room),
            vocabulary=self.vocabulary,
            handle=handle,
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
        self._advance(first, self._batch.prefill([sequence.prompt for sequence in newcomers]))

    def _advance(self, first: int, logits: torch.Tensor) -> None:
        """Give the rows from `first` on their next tokens; the finished ones leave."""
        from llmrouter.moe._sampling import choose_tokens

        rows = self._running[first:]
        choices = choose_tokens(logits, [sequence.sampling for sequence in rows])
        self._generated += len(rows)
        ended = []
        for row, (sequence, choice) in enumerate(zip(rows, choices, strict=True), start=first):
            if not choice.finite:
                sequence.fail(GenerationFailedError(f"{self.name!r} gave logits that are not finite numbers"))
                ended.append(row)
            elif sequence.advance(choice, self._end_tokens):
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

    def _fail_all(self, error: LocalModelError) -> None:
        self._fail_running(error)
        with self._queue_lock:
            waiting, self._waiting = list(self._waiting), deque()
        for sequence in waiting:
            sequence.fail(error)
