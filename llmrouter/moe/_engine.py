"""Continuous batching: requests join and leave the running batch at every step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

from llmrouter.exceptions import EngineStoppedError, QueueFullError
from llmrouter.moe._embedding import EmbeddingJob, EmbeddingQueue, EmbeddingRequest
from llmrouter.moe._grammar import GrammarMaker
from llmrouter.moe._handle import GenerationHandle
from llmrouter.moe._layer_load import LayerLoad
from llmrouter.moe._meter import LoadReport, MachinePrice
from llmrouter.moe._options import SelfContrast
from llmrouter.moe._prepare import prepared
from llmrouter.moe._sequence import Sequence
from llmrouter.moe._steps import BatchSteps
from llmrouter.moe._types import GenerationRequest, GenerationResult, SamplingDefaults
from llmrouter.moe._vocabulary import Vocabulary
from llmrouter.moe._worker import EngineWorker

NO_GRAMMAR_UNDER_CONTRAST = (
    "this engine decodes by self-contrast, which may rule out every token that the answer needs; "
    "serve the model without --self-contrast for it"
)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Load of an engine: sequences running and waiting, and tokens generated since it was made."""

    running: int
    waiting: int
    generated_tokens: int


class Engine(BatchSteps):
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
        self.vocabulary = vocabulary
        self.context_window = context_window
        self.defaults = defaults
        self.max_queue = max_queue
        self.price = price or MachinePrice()
        self._grammars = GrammarMaker(
            vocabulary,
            size=model.config.get_text_config().vocab_size,
            end_tokens=end_tokens,
            refusal=None if contrast is None else NO_GRAMMAR_UNDER_CONTRAST,
        )
        embeddings = EmbeddingQueue(
            vocabulary, context_window=context_window, size=self._grammars.size, alone=deterministic
        )
        super().__init__(
            model,
            embeddings,
            name=name,
            end_tokens=end_tokens,
            max_batch=max_batch,
            deterministic=deterministic,
            contrast=contrast,
        )
        self._worker: EngineWorker | None = None

    @property
    def alive(self) -> bool:
        """Whether it is started and its thread runs."""
        worker = self._worker
        return worker is not None and worker.alive

    def stats(self) -> EngineStats:
        """Return the present load."""
        waiting = len(self._waiting) + len(self._embeddings)
        return EngineStats(len(self._running), waiting, self.meter.output_tokens)

    def load_report(self) -> LoadReport:
        """Return what one more token costs, in time, money and energy, at the present load."""
        stats = self.stats()
        return self.meter.report(self.price, running=stats.running, waiting=stats.waiting, max_batch=self.max_batch)

    def expert_load(self) -> dict[str, LayerLoad]:
        """Return how often decoding chose each expert, by layer (empty if the experts are not ours).

        Counted is what the routers chose, before a `reduction` leaves some out; under self-contrast, the model's own
        choice and not that of its weak side.
        """
        return self._expert_load.loads()

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

    def submit_embedding(self, request: EmbeddingRequest) -> EmbeddingJob:
        """Queue texts to embed and return the job at once; from any thread.

        Raises
        ------
        GenerationRequestError
            If the request is wrong.
        QueueFullError
            If `max_queue` embedding requests wait already.
        EngineStoppedError
            If the engine is not started.
        """
        job = self._embeddings.job(request)
        with self._queue_lock:
            worker = self._worker
            if worker is None:
                raise EngineStoppedError(f"the engine of {self.name!r} is not running; call start() first")
            if len(self._embeddings) >= self.max_queue:
                self.meter.ended("refused")
                raise QueueFullError(self.name, waiting=len(self._embeddings))
            self._embeddings.add(job)
        worker.notify()
        return job

    def _sequence(self, request: GenerationRequest, handle: GenerationHandle) -> Sequence:
        return prepared(
            request,
            handle,
            vocabulary=self.vocabulary,
            grammars=self._grammars,
            context_window=self.context_window,
            defaults=self.defaults,
        )
