"""The steps of an engine: sequences join, get a token each, and leave; texts are embedded in between."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import GenerationFailedError, LocalModelError
from llmrouter.moe._embedding import EmbeddingQueue
from llmrouter.moe._meter import LoadMeter
from llmrouter.moe._options import SelfContrast
from llmrouter.moe._sequence import Sequence

if TYPE_CHECKING:
    import torch

    from llmrouter.moe._batch import RunningBatch
    from llmrouter.moe._contrast import ContrastBatch

_LOGGER = logging.getLogger(__name__)


class BatchSteps:
    """What runs in the engine's thread; `Engine` has the sides that others see.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model in evaluation mode, on its device.
    embeddings : EmbeddingQueue
        Texts to embed.
    name : str
        The name under which it is served.
    end_tokens : frozenset of int
        Ids that end a completion.
    max_batch : int
        Sequences in the running batch at most.
    deterministic : bool
        Of the batch.
    contrast : SelfContrast, optional
        Decode by self-contrast.
    """

    def __init__(
        self,
        model: Any,
        embeddings: EmbeddingQueue,
        *,
        name: str,
        end_tokens: frozenset[int],
        max_batch: int,
        deterministic: bool,
        contrast: SelfContrast | None,
    ) -> None:
        from llmrouter.moe._batch import RunningBatch
        from llmrouter.moe._contrast import ContrastBatch
        from llmrouter.moe._expert_load import ExpertLoad

        self.model = model
        self.name = name
        self.max_batch = max_batch
        self.meter = LoadMeter()
        self._expert_load = ExpertLoad(model)
        self._end_tokens = end_tokens
        self._batch: RunningBatch | ContrastBatch = (
            RunningBatch(model, deterministic=deterministic)
            if contrast is None
            else ContrastBatch(model, contrast, deterministic=deterministic)
        )
        self._embeddings = embeddings
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._queue_lock = threading.Lock()
        self._step_lock = threading.Lock()

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
                self._embed()
            except Exception as error:  # whatever a forward pass raises must not end the thread
                _LOGGER.exception("model %r: the forward pass failed", self.name)
                self._fail_running(GenerationFailedError(f"the forward pass of {self.name!r} failed: {error}"))
            self.meter.present(len(self._running))
            return bool(self._running or self._waiting or self._embeddings)

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
        self.meter.present(len(self._running))
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

    def _embed(self) -> None:
        """Embed texts for one forward pass, if any wait."""
        begun = time.perf_counter()

        def count(tokens: int, ended: str | None) -> None:
            if tokens:
                self.meter.prefilled(tokens, time.perf_counter() - begun, [])
            if ended is not None:
                self.meter.ended(ended)

        self._embeddings.step(self.model, count=count)

    def _advance(self, first: int, logits: torch.Tensor) -> None:
        """Give the rows from `first` on their next tokens; the finished ones leave."""
        from llmrouter.moe._adjust import adjusted
        from llmrouter.moe._sampling import choose_tokens

        rows = self._running[first:]
        scores, refused = adjusted(logits, [sequence.adjustment for sequence in rows])
        choices = choose_tokens(logits, [sequence.sampling for sequence in rows], scores)
        self.meter.generated(len(rows))  # before anybody hears of a token
        ended = []
        for row, (sequence, choice) in enumerate(zip(rows, choices, strict=True), start=first):
            error = refused.get(row - first)
            if not choice.finite:
                error = GenerationFailedError(f"{self.name!r} gave logits that are not finite numbers")
            if error is not None:
                sequence.fail(error)
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
        self._embeddings.fail_all(error)
        with self._queue_lock:
            waiting, self._waiting = list(self._waiting), deque()
        for sequence in waiting:
            sequence.fail(error)
