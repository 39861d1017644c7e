"""Other shapes of requests and answers than chat completions, translated both ways."""

from __future__ import annotations

from collections.abc import Mapping

from service.dialects._chat_messages import without_cache_control
from service.dialects.base import Dialect, StreamTranslator
from service.dialects.completions import CompletionsDialect
from service.dialects.embeddings import EmbeddingsRequest, parse_embeddings
from service.dialects.messages import MessagesDialect, count_tokens
from service.dialects.responses import ResponsesDialect

_DIALECTS: Mapping[str, Dialect] = {
    each.name: each for each in (MessagesDialect(), ResponsesDialect(), CompletionsDialect())
}


def dialect(name: str) -> Dialect:
    """Return the dialect of a name: ``messages``, ``responses`` or ``completions``.

    Raises
    ------
    KeyError
        If there is none of that name.
    """
    return _DIALECTS[name]


__all__ = [
    "CompletionsDialect",
    "Dialect",
    "EmbeddingsRequest",
    "MessagesDialect",
    "ResponsesDialect",
    "StreamTranslator",
    "count_tokens",
    "dialect",
    "parse_embeddings",
    "without_cache_control",
]
