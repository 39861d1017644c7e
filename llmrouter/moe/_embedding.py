"""Embeddings from a mixture-of-experts model as it is: hidden states and routing weights (MoEE, arXiv:2410.10814)."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from llmrouter.exceptions import GenerationFailedError, GenerationRequestError, LocalModelError
from llmrouter.moe._vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

EmbeddingKind = Literal["concat", "sum", "hidden", "routing"]

MAX_INPUTS = 2048
MAX_TOKENS = 300_000
_GROUP_TOKENS = 4096  # of one forward pass: generation goes on between two

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to embed.

    Parameters
    ----------
    inputs : sequence of str or of sequence of int
        Texts, given to the tokenizer as they are, or token ids; 1 to 2,048 of them.
    kind : {"concat", "sum", "hidden", "routing"}
        Of the last token: "hidden" is its last hidden state; "routing" are the probabilities that the routers give to
        all experts, layer after layer; "concat" is one after the other. "sum" is each of unit length, the second times
        ``sqrt(alpha)``, so that the product of two embeddings is ``(cos_hidden + alpha cos_routing) / (1 + alpha)``:
        the paper's weighted sum of similarities.
    alpha : float
        Weight of the routing similarity in "sum", at least 0.

    Raises
    ------
    GenerationRequestError
        If a value is out of its range.
    """

    inputs: Sequence[str | Sequence[int]]
    kind: EmbeddingKind = "concat"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.inputs) <= MAX_INPUTS:
            raise GenerationRequestError(
                f"input has {len(self.inputs)} texts; it must be 1 to {MAX_INPUTS}", param="input"
            )
        if self.kind not in get_args(EmbeddingKind):
            kinds = ", ".join(get_args(EmbeddingKind))
            raise GenerationRequestError(f"moee is {self.kind!r}; it must be one of {kinds}", param="moee")
        if not 0 <= self.alpha <= 1e6:
            raise GenerationRequestError(f"moee_alpha is {self.alpha}; it must be from 0 to 1e6", param="moee_alpha")


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """Vectors of unit length, shape (inputs, d) float32, and how many tokens the inputs had."""

    vectors: FloatArray
    input_tokens: int


class EmbeddingJob:
    """A submitted request: `future` gets its EmbeddingResult, or a LocalModelError."""

    def __init__(self, tokens: Sequence[Sequence[int]], request: EmbeddingRequest, *, rows_at_once: int) -> None:
        self.future: Future[EmbeddingResult] = Future()
        self.future.set_running_or_notify_cancel()  # from here on only the engine ends it
        self.cancelled = False
        self._tokens = tokens
        self._request = request
        self._groups = _groups(tokens, rows_at_once)
        self._vectors: list[FloatArray | None] = [None] * len(tokens)

    def cancel(self) -> None:
        """Ask the engine to stop working on it. Idempotent."""
        self.cancelled = True

    def advance(self, model: Any) -> int:
        """Embed the next inputs and return their tokens; sets the result after the last ones."""
        rows = self._groups.popleft()
        vectors = embed(model, [self._tokens[row] for row in rows], self._request.kind, alpha=self._request.alpha)
        if not np.isfinite(vectors).all():
            raise GenerationFailedError("the model gave embeddings that are not finite numbers")
        for row, vector in zip(rows, vectors, strict=True):
            self._vectors[row] = vector
        if not self._groups:
            whole = np.stack([vector for vector in self._vectors if vector is not None])
            self.future.set_result(EmbeddingResult(whole, sum(map(len, self._tokens))))
        return sum(len(self._tokens[row]) for row in rows)


class EmbeddingQueue:
    """Jobs of one engine; filled from any thread, worked on by the engine's.

    Parameters
    ----------
    vocabulary : Vocabulary
        The model's.
    context_window : int
        Most tokens of one input.
    size : int
        Tokens that the model knows.
    alone : bool
        Never embed two inputs in one pass: the same bits whatever else is asked for.
    """

    def __init__(self, vocabulary: Vocabulary, *, context_window: int, size: int, alone: bool) -> None:
        self._vocabulary = vocabulary
        self._context_window = context_window
        self._size = size
        self._rows = 1 if alone else _GROUP_TOKENS
        self._jobs: deque[EmbeddingJob] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._jobs)

    def job(self, request: EmbeddingRequest) -> EmbeddingJob:
        """Return a job for `request`, not queued yet.

        Raises
        ------
        GenerationRequestError
            If an input is empty or too long.
        """
        tokens = [self._encoded(text, index) for index, text in enumerate(request.inputs)]
        total = sum(map(len, tokens))
        if total > MAX_TOKENS:
            raise GenerationRequestError(
                f"input has {total} tokens in all; give at most {MAX_TOKENS} in one request", param="input"
            )
        return EmbeddingJob(tokens, request, rows_at_once=self._rows)

    def add(self, job: EmbeddingJob) -> None:
        """Queue a job."""
        with self._lock:
            self._jobs.append(job)

    def step(self, model: Any, *, count: Callable[[int, str | None], None]) -> None:
        """Work on the first job for one forward pass.

        Parameters
        ----------
        model : transformers.PreTrainedModel
            The engine's.
        count : callable
            Gets the tokens embedded and, where the job ended, how: "embedded", "failed" or "cancelled".
        """
        with self._lock:
            job = self._jobs[0] if self._jobs else None
        if job is None:
            return
        tokens, ended = 0, None
        try:
            if job.cancelled:
                raise GenerationFailedError("the embedding was cancelled")
            tokens = job.advance(model)
        except LocalModelError as error:
            job.future.set_exception(error)
        except Exception as error:  # whatever a forward pass raises must not end the thread
            job.future.set_exception(GenerationFailedError(f"the embedding failed: {error}"))
        if job.future.done():
            failed = job.future.exception() is not None
            ended = "cancelled" if job.cancelled and failed else "failed" if failed else "embedded"
            with self._lock:
                self._jobs.popleft()
        count(tokens, ended)

    def fail_all(self, error: LocalModelError) -> None:
        """End all jobs with `error`."""
        with self._lock:
            jobs, self._jobs = list(self._jobs), deque()
        for job in jobs:
            job.future.set_exception(error)

    def _encoded(self, text: str | Sequence[int], index: int) -> list[int]:
        param = f"input[{index}]"
        tokens = self._vocabulary.encode(text, special_tokens=True) if isinstance(text, str) else list(text)
        if not tokens:
            raise GenerationRequestError(f"{param} is empty; give at least one token", param=param)
        if len(tokens) > self._context_window:
            raise GenerationRequestError(
                f"{param} has {len(tokens)} tokens; this model takes {self._context_window}. Shorten or split it",
                param=param,
            )
        if strange := [token for token in tokens if not 0 <= token < self._size]:
            raise GenerationRequestError(
                f"{param} has the token {strange[0]}; this model's tokens are 0 to {self._size - 1}", param=param
            )
        return tokens


def embed(model: Any, inputs: Sequence[Sequence[int]], kind: EmbeddingKind, *, alpha: float) -> FloatArray:
    """Return the embeddings of inputs of one length, shape (len(inputs), d), each of unit length.

    Raises
    ------
    GenerationRequestError
        If the model's class does not tell its routing.
    """
    import torch

    # Of one length, so there is no padding, and no row sees anything of another.
    with torch.inference_mode(), _recorded_logits(model) as own_routers:
        output = model.get_decoder()(
            input_ids=torch.tensor(inputs, device=model.device),
            use_cache=False,
            output_router_logits=kind != "hidden",
        )
        hidden = output.last_hidden_state[:, -1].double()
        if kind == "hidden":
            return _unit(hidden).float().cpu().numpy()
        routing = _routing(own_routers or getattr(output, "router_logits", None), len(inputs))
        if kind == "routing":
            return _unit(routing).float().cpu().numpy()
        if kind == "sum":
            hidden, routing = _unit(hidden), _unit(routing) * math.sqrt(alpha)
        vectors: FloatArray = _unit(torch.cat([hidden, routing], dim=-1)).float().cpu().numpy()
        return vectors


@contextlib.contextmanager
def _recorded_logits(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the logits of routers of ours by layer: Hugging Face records those of its own classes only."""
    from llmrouter.moe.routing import routers_of

    recorded: list[torch.Tensor] = []
    hooks = [
        router.register_forward_hook(lambda _, __, output: recorded.append(output[0])) for router in routers_of(model)
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _routing(router_logits: Sequence[torch.Tensor | None] | None, count: int) -> torch.Tensor:
    """Return the routers' probabilities for the last token, layer after layer, shape (count, sum of experts)."""
    import torch

    layers = [logits for logits in router_logits or () if logits is not None]
    if not layers:
        raise GenerationRequestError(
            "this model does not tell the weights of its routers; give moee: hidden", param="moee"
        )
    last = [logits.reshape(count, -1, logits.shape[-1])[:, -1].double() for logits in layers]
    return torch.cat([torch.softmax(logits, dim=-1) for logits in last], dim=-1)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def _groups(tokens: Sequence[Sequence[int]], rows_at_once: int) -> deque[list[int]]:
    """Return the inputs' numbers in groups of one length, each with at most so many rows and tokens."""
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(tokens):
        by_length.setdefault(len(ids), []).append(row)
    groups: deque[list[int]] = deque()
    for length, rows in by_length.items():
        size = max(min(rows_at_once, _GROUP_TOKENS // length), 1)
        groups.extend(rows[start : start + size] for start in range(0, len(rows), size))
    return groups
