"""The endpoints that models answer, and the shape in which each is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from service.dialects.base import Dialect

Served = Literal["chat", "completions", "responses", "embeddings"]
"""What a pool entry may list under ``endpoints``."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the endpoints.

    Attributes
    ----------
    name : str
        In metrics and outcomes; in pool entries where an upstream may serve it itself.
    url : str
        Path of the gateway.
    upstream : str
        Path below an upstream's base URL; "" where no upstream is asked in this shape.
    dialect : str or None
        How requests and answers are translated where the upstream speaks chat completions alone.
    """

    name: str
    url: str
    upstream: str
    dialect: str | None = None


CHAT = Endpoint("chat", "/v1/chat/completions", "chat/completions")
COMPLETIONS = Endpoint("completions", "/v1/completions", "completions", "completions")
RESPONSES = Endpoint("responses", "/v1/responses", "responses", "responses")
MESSAGES = Endpoint("messages", "/v1/messages", "", "messages")
EMBEDDINGS = Endpoint("embeddings", "/v1/embeddings", "embeddings")


@lru_cache
def dialect_of(endpoint: Endpoint) -> Dialect | None:
    """Return the translation of an endpoint, None for chat completions and embeddings."""
    if endpoint.dialect is None:
        return None
    from service import dialects

    return dialects.dialect(endpoint.dialect)
