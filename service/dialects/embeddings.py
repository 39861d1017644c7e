"""Requests for embeddings: checked, and their size told; they are relayed as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrouter.types import estimate_tokens
from service.dialects._checks import (
    INTEGER,
    STRING,
    check_at_least_one,
    check_types,
    is_kind,
    missing,
    require,
    wrong_type,
)
from service.errors import APIError

_TYPES: Mapping[str, tuple[str, ...]] = {
    "dimensions": (INTEGER,),
    "encoding_format": (STRING,),
    "user": (STRING,),
}
_EXPECTED = "a string, an array of strings, an array of tokens or an array of arrays of tokens"


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """A checked request.

    Attributes
    ----------
    model : str
        As the client gave it.
    texts : tuple of str
        The texts to embed; empty where the inputs are tokens.
    inputs : int
        How many vectors are asked for.
    prompt_tokens : int
        Of all inputs: estimated for texts, exact for tokens.
    """

    model: str
    texts: tuple[str, ...]
    inputs: int
    prompt_tokens: int


def parse_embeddings(body: Mapping[str, Any]) -> EmbeddingsRequest:
    """Check the body of ``POST /v1/embeddings``; only types, ranges are the upstream's business.

    Parameters
    ----------
    body : mapping
        As the client sent it; not changed. All of it may go upstream.

    Raises
    ------
    APIError
        400, with ``param`` naming the field.
    """
    model: str = require(body, "model", STRING)
    check_types(body, _TYPES)
    check_at_least_one("dimensions", body.get("dimensions"))
    given = body.get("input")
    if given is None:
        raise missing("input")
    if isinstance(given, str):
        return EmbeddingsRequest(model, (given,), inputs=1, prompt_tokens=estimate_tokens(given))
    if not isinstance(given, list):
        raise wrong_type("input", _EXPECTED, given)
    if not given:
        raise APIError("Invalid 'input': the array is empty.", param="input", code="empty_array")
    if isinstance(given[0], str):
        _check_each(given, STRING, "input")
        return EmbeddingsRequest(
            model, tuple(given), inputs=len(given), prompt_tokens=sum(estimate_tokens(text) for text in given)
        )
    if isinstance(given[0], list):
        for i, tokens in enumerate(given):
            if not isinstance(tokens, list):
                raise wrong_type(f"input[{i}]", "an array of tokens", tokens)
            _check_each(tokens, INTEGER, f"input[{i}]")
        return EmbeddingsRequest(model, (), inputs=len(given), prompt_tokens=sum(map(len, given)))
    if not is_kind(given[0], INTEGER):
        raise wrong_type("input", _EXPECTED, given)
    _check_each(given, INTEGER, "input")
    return EmbeddingsRequest(model, (), inputs=1, prompt_tokens=len(given))


def _check_each(values: list[Any], kind: str, where: str) -> None:
    for i, value in enumerate(values):
        if not is_kind(value, kind):
            raise wrong_type(f"{where}[{i}]", kind, value)
