"""Logit footprints of models behind an OpenAI-compatible API that returns the probabilities of its tokens."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrouter.exceptions import BackendError, BackendStatusError, DataError, FingerprintError
from llmrouter.routers.descriptors._descriptor import ModelDescriptor
from llmrouter.routers.descriptors._probes import ProbeSet, Tokenizer, TokenList
from llmrouter.types import FloatArray

if TYPE_CHECKING:
    from llmrouter.pool import Backend

PLACES = 10
"""T of the paper."""
TOP = 20
"""Most tokens a place that OpenAI's API returns."""
_REFUSALS = (400, 404, 422)
_LEAST_ALIKE = 0.5
_REMEDY = "describe it by the perplexity of its answers instead (kind perplexity), which any backend allows"


async def logit_footprint_of_server(
    backend: Backend,
    probes: ProbeSet,
    tokens: TokenList,
    *,
    model: str,
    places: int = PLACES,
    top: int = TOP,
    concurrency: int = 4,
    tokenizer: Tokenizer | None = None,
) -> ModelDescriptor:
    """Describe a model by the mean probability of each listed token, read from ``top_logprobs``.

    A token outside the `top` of a place counts as 0 there, so that a footprint lies a little below that of the whole
    distribution (`LocalModel.logit_footprint`); how much of the probability was seen is in the provenance.

    Parameters
    ----------
    backend : Backend
        Reaches the model.
    probes : ProbeSet
        What to ask.
    tokens : TokenList
        Whose probabilities to read.
    model : str
        Its name, for messages.
    places : int
        T, the tokens of each answer that are read.
    top : int
        Tokens a place to ask for.
    concurrency : int
        Calls at a time.
    tokenizer : Tokenizer, optional
        The tokenizer that the list is from. No API says how its model divides text, so the server's own division of its
        answers is compared with this one's; without it only a list of which no token appears is found out.

    Raises
    ------
    BackendError
        If a call fails, or the backend offers no log-probabilities.
    FingerprintError
        If the model has another tokenizer than the list, or `tokenizer` is not the list's.
    DataError
        If the model answered none of the probes.
    """
    if tokenizer is not None and tokenizer.tokenizer != tokens.tokenizer:
        raise FingerprintError(
            f"tokenizer is {tokenizer.tokenizer!r}, but the list of tokens is from {tokens.tokenizer!r}; "
            "give the tokenizer that the list was made with"
        )
    limit = asyncio.Semaphore(concurrency)

    async def ask(prompt: str) -> list[Mapping[str, Any]]:
        asked = {"logprobs": True, "top_logprobs": top}
        async with limit:
            return _places_of(await completion(backend, prompt, model=model, max_tokens=places, **asked), model, top)

    read = await asyncio.gather(*(ask(prompt) for prompt in probes.prompts))
    if tokenizer is not None:
        _check_division(read, tokenizer, model)
    rows, masses = [], []
    for answer in read:
        if answer:
            row = np.mean([_listed(place, tokens) for place in answer[:places]], axis=0)
            rows.append(row)
            masses.append(np.mean([_mass(place) for place in answer[:places]]))
    return footprint(
        rows, probes, tokens, model=model, places=places,
        about={"top": top, "seen": round(float(np.mean(masses)), 4) if masses else 0.0},
    )  # fmt: skip


def footprint(
    rows: Sequence[FloatArray],
    probes: ProbeSet,
    tokens: TokenList,
    *,
    model: str,
    places: int,
    about: Mapping[str, Any],
) -> ModelDescriptor:
    """Return the footprint of mean probabilities (K,), one row a probe that was answered.

    Raises
    ------
    DataError
        If there is no row.
    FingerprintError
        If no listed token has any probability.
    """
    if not rows:
        raise DataError(f"{model!r} answered none of the {len(probes.prompts)} probes; nothing can be read of it")
    vector = np.asarray(np.mean(rows, axis=0), dtype=np.float64)
    if not vector.any():
        raise FingerprintError(
            f"{model!r} gives none of the {len(tokens.tokens)} listed tokens any probability: its tokenizer is not "
            f"{tokens.tokenizer!r}; make the list with its tokenizer, or describe the models by perplexity"
        )
    return ModelDescriptor(
        vector,
        probes.id,
        "logit",
        {"tokenizer": tokens.tokenizer, "vocabulary": tokens.id, "places": places},
        {"model": model, "answered": len(rows), "listed": round(float(vector.sum()), 4), **about},
    )


async def completion(
    backend: Backend, prompt: str, *, model: str, max_tokens: int, **further: Any
) -> Mapping[str, Any]:
    """Return the first choice of a greedy chat completion.

    Raises
    ------
    BackendError
        If the call fails, the answer is none, or log-probabilities were asked for and refused.
    """
    from llmrouter.pool import Timeouts

    body = {
        "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0, **further
    }  # fmt: skip
    try:
        answer = json.loads((await backend.complete(body, timeouts=Timeouts())).body)
        choice = answer["choices"][0]
    except BackendStatusError as error:
        if "logprobs" not in further or error.status not in _REFUSALS:
            raise
        raise BackendError(
            f"{model} refuses logprobs with top_logprobs={further['top_logprobs']} (status {error.status}: "
            f"{error.body[:200].decode(errors='replace')}); {_REMEDY}",
            model=model,
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise BackendError(f"{model} sent something that is no chat completion ({error!r})", model=model) from error
    if not isinstance(choice, Mapping):
        raise BackendError(f"{model} sent a choice that is no object: {choice!r:.80}", model=model)
    return choice


def _places_of(choice: Mapping[str, Any], model: str, top: int) -> list[Mapping[str, Any]]:
    """Return the places of an answer, each with its alternatives; none for an empty answer."""
    content = (choice.get("logprobs") or {}).get("content")
    if content is None and not (choice.get("message") or {}).get("content"):
        return []
    if not isinstance(content, list) or any(not isinstance(place.get("top_logprobs"), list) for place in content):
        raise BackendError(
            f"{model} offers no logprobs: the answer to a request with logprobs=true and top_logprobs={top} has "
            f"choices[0].logprobs {choice.get('logprobs')!r:.80}; {_REMEDY}",
            model=model,
        )
    if any(not place["top_logprobs"] for place in content):
        raise BackendError(
            f"{model} offers logprobs of its own tokens only: top_logprobs is empty where {top} were asked for; "
            f"{_REMEDY}",
            model=model,
        )
    return content


def _listed(place: Mapping[str, Any], tokens: TokenList) -> FloatArray:
    found = {_bytes(other): math.exp(other["logprob"]) for other in place["top_logprobs"]}
    return np.array([found.get(token, 0.0) for token in tokens.tokens])


def _mass(place: Mapping[str, Any]) -> float:
    return float(sum(math.exp(other["logprob"]) for other in place["top_logprobs"]))


def _bytes(token: Mapping[str, Any]) -> bytes:
    """Return a token's bytes; servers that do not send them send its text."""
    values = token.get("bytes")
    return bytes(values) if values is not None else str(token.get("token", "")).encode()


def _check_division(read: Sequence[Sequence[Mapping[str, Any]]], tokenizer: Tokenizer, model: str) -> None:
    """Refuse a server most of whose answers are divided otherwise than the tokenizer divides them.

    Not all of them can be alike: an answer is cut in the middle, and a model may write a word in pieces.
    """
    answers = [[_bytes(place) for place in answer] for answer in read if answer]
    pairs = [(own, tokenizer.split(b"".join(own).decode(errors="replace"))) for own in answers]
    different = [(own, other) for own, other in pairs if own != other]
    if len(different) > (1.0 - _LEAST_ALIKE) * len(pairs):
        own, other = different[0]
        raise FingerprintError(
            f"{model!r} has another tokenizer than {tokenizer.tokenizer!r}: {len(different)} of {len(pairs)} answers "
            f"are divided otherwise, the first into {own[:5]!r} in place of {other[:5]!r}; make the list of tokens "
            "with its tokenizer, or describe the models by perplexity"
        )
