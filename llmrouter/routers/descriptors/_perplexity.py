"""Perplexity fingerprints: black boxes described by how a scorer language model finds their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.routers.descriptors._descriptor import ModelDescriptor
from llmrouter.routers.descriptors._probes import ProbeSet
from llmrouter.routers.descriptors._server import completion
from llmrouter.types import FloatArray

if TYPE_CHECKING:
    from llmrouter.pool import Backend

ANSWER_TOKENS = 256


class Scorer(Protocol):
    """A language model that says how probable it finds answers; `LocalModel` is one."""

    @property
    def weights(self) -> str:
        """Name of the weights: equal where the same texts get the same numbers."""
        ...

    def surprise(self, prompts: Sequence[str], answers: Sequence[str], *, with_prompt: bool) -> FloatArray:
        """Return the mean negative log-likelihood of each answer's tokens (n,), in nats; NaN for an empty answer."""
        ...


def perplexity_fingerprint(
    probes: ProbeSet, answers: Sequence[str], scorer: Scorer, *, model: str, with_prompt: bool = True
) -> ModelDescriptor:
    """Describe a model by its answers: the mean negative log-likelihood of each under a scorer.

    CSCR takes GPT-2 and the answer without its prompt (``with_prompt=False``). Its formula is the mean negative
    log-likelihood, used here; its program takes the exponential of that, which a single odd answer dominates.

    Parameters
    ----------
    probes : ProbeSet
        What was asked.
    answers : sequence of str
        One for each probe, in their order; an empty one says nothing (NaN).
    scorer : Scorer
        The same one for all models of a pool.
    model : str
        Whose answers they are, for messages.
    with_prompt : bool
        Whether the scorer reads the probe before the answer.

    Raises
    ------
    DataError
        If there is not one answer for each probe, or all are empty.
    """
    if len(answers) != len(probes.prompts):
        raise DataError(
            f"answers: {len(answers)} of {model!r} for {len(probes.prompts)} probes; give one for each, in their order"
        )
    vector = np.asarray(scorer.surprise(probes.prompts, answers, with_prompt=with_prompt), dtype=np.float64)
    answered = int(np.isfinite(vector).sum())
    if not answered:
        raise DataError(f"answers: {model!r} answered none of the {len(answers)} probes; nothing can be read of it")
    return ModelDescriptor(
        vector,
        probes.id,
        "perplexity",
        {"scorer": scorer.weights, "with_prompt": with_prompt},
        {"model": model, "answered": answered},
    )


async def answers_of_server(
    backend: Backend, probes: ProbeSet, *, model: str, max_tokens: int = ANSWER_TOKENS, concurrency: int = 4
) -> list[str]:
    """Return a pool model's greedy answers to the probes, in their order.

    Parameters
    ----------
    backend : Backend
        Reaches the model.
    probes : ProbeSet
        What to ask.
    model : str
        Its name, for messages.
    max_tokens : int
        Of an answer.
    concurrency : int
        Calls at a time.

    Raises
    ------
    BackendError
        If a call fails; nothing is tried twice here.
    """
    limit = asyncio.Semaphore(concurrency)

    async def ask(prompt: str) -> str:
        async with limit:
            choice = await completion(backend, prompt, model=model, max_tokens=max_tokens)
        content = (choice.get("message") or {}).get("content")
        return content if isinstance(content, str) else ""

    return list(await asyncio.gather(*(ask(prompt) for prompt in probes.prompts)))
