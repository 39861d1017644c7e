"""OpenAI's responses over chat completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from llmrouter.pool import usage_in
from service.dialects._blocks import Block, Kind, whole_blocks
from service.dialects._chat_answer import first_choice
from service.dialects._responses_items import (
    COMPLETED,
    INCOMPLETE,
    annotations_of,
    incomplete_reason,
    item_of,
    response_object,
)
from service.dialects._responses_request import responses_to_chat
from service.dialects._responses_stream import ResponsesStream
from service.dialects.base import StreamTranslator


class ResponsesDialect:
    """Requests and answers of ``POST /v1/responses``, for upstreams that have no such endpoint.

    Nothing is stored: answers say ``store: false``, and what refers to stored responses, conversations, prompts or
    items is refused. Reasoning that an upstream shows is a reasoning item whose content is ``reasoning_text``.

    Parameters
    ----------
    clock : callable
        Seconds since the epoch.
    """

    name = "responses"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def to_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the chat completion that a request asks for; see `responses_to_chat`."""
        return responses_to_chat(body)

    def answer(self, chat: dict[str, Any], asked: dict[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return a response."""
        choice = first_choice(chat)
        given = choice.get("message")
        said = given if isinstance(given, Mapping) else {}
        blocks = whole_blocks(said, choice.get("logprobs"))
        reason = incomplete_reason(choice.get("finish_reason"))
        status = COMPLETED if reason is None else INCOMPLETE
        now = int(self._clock())
        created = chat.get("created")
        return response_object(
            asked,
            chat,
            request_id=request_id,
            created_at=created if isinstance(created, int) and created > 0 else now,
            status=status,
            output=_items(blocks, said, request_id, status),
            usage=usage_in(chat),
            reason=reason,
            completed_at=now,
        )

    def stream(self, asked: dict[str, Any], *, request_id: str) -> StreamTranslator:
        """Return the translator of one streamed response."""
        return ResponsesStream(asked, request_id=request_id, clock=self._clock)

    def error(self, status: int, error: Mapping[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return an error; the shape is that of chat completions."""
        del status, request_id
        return {"error": dict(error)}


def _items(blocks: list[Block], said: Mapping[str, Any], request_id: str, status: str) -> list[dict[str, Any]]:
    """Return the output; only its last item can be incomplete."""
    annotations = annotations_of(said)
    return [
        item_of(
            block,
            request_id,
            status if block is blocks[-1] else COMPLETED,
            annotations if block.kind is Kind.TEXT else (),
        )
        for block in blocks
    ]
