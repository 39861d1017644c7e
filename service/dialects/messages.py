"""Anthropic's messages over chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmrouter.pool import usage_in
from llmrouter.types import estimate_tokens
from service.dialects._blocks import Block, Kind, whole_blocks
from service.dialects._chat_answer import first_choice, message_of, read_usage, string_or, vendor_fields
from service.dialects._messages_request import asks_for_thinking, messages_to_chat
from service.dialects._messages_stream import MessagesStream
from service.dialects._messages_wire import error_type, message_usage, stop_of, tool_use_id
from service.dialects.base import StreamTranslator, answer_id

_IMAGE_TOKENS = 1_000
"""About what an image of usual size comes to."""

_DEEP = 200
"""Arguments with more brackets than this are checked for what JSON writers can nest."""


class MessagesDialect:
    """Requests and answers of ``POST /v1/messages``.

    A thinking block is shown only where the request turns thinking on, as at Anthropic: clients that did not ask for
    one read the first block as text.
    """

    name = "messages"

    def to_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the chat completion that a request asks for; see `messages_to_chat`."""
        return messages_to_chat(body)

    def answer(self, chat: dict[str, Any], asked: dict[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return a message."""
        choice = first_choice(chat)
        given = choice.get("message")
        said = given if isinstance(given, Mapping) else {}
        thinks = asks_for_thinking(asked)
        blocks = [block for block in whole_blocks(said) if thinks or block.kind is not Kind.REASONING]
        kinds = {block.kind for block in blocks}
        reason, sequence = stop_of(choice, asked, has_tools=Kind.TOOL in kinds, refused=Kind.REFUSAL in kinds)
        usage = usage_in(chat)
        return {
            **vendor_fields(chat),
            "id": answer_id("msg", request_id),
            "type": "message",
            "role": "assistant",
            "model": string_or(chat.get("model"), str(asked.get("model", ""))),
            "content": [_content(block, request_id) for block in blocks],
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": message_usage(read_usage(usage), usage),
        }

    def stream(self, asked: dict[str, Any], *, request_id: str) -> StreamTranslator:
        """Return the translator of one streamed message."""
        return MessagesStream(asked, request_id=request_id)

    def error(self, status: int, error: Mapping[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return an error; ``param``, ``code`` and vendors' fields are kept where they say something."""
        kept = {name: value for name, value in error.items() if value is not None}
        kept |= {"type": error_type(status), "message": message_of(error)}
        return {"type": "error", "error": kept, "request_id": request_id}


def count_tokens(body: dict[str, Any]) -> dict[str, int]:
    """Return an estimate of the tokens of a request: ``{"input_tokens": n}``.

    A quarter of the characters of all text, tool calls and tool definitions, and a thousand for an image. Files are
    not counted: their text is not known here.

    Raises
    ------
    APIError
        400, if the request is not one that `MessagesDialect.to_chat` takes (``max_tokens`` may be missing).
    """
    chat = messages_to_chat(body, needs_max_tokens=False)
    total = 0
    for message in chat["messages"]:
        content = message["content"]
        if isinstance(content, str):
            total += estimate_tokens(content)
        elif content is not None:
            total += sum(_part_tokens(part) for part in content)
        for call in message.get("tool_calls", ()):
            total += estimate_tokens(call["function"]["name"] + call["function"]["arguments"])
    return {"input_tokens": total + (estimate_tokens(str(chat["tools"])) if "tools" in chat else 0)}


def _part_tokens(part: Mapping[str, Any]) -> int:
    if part["type"] == "text":
        return estimate_tokens(part["text"])
    return _IMAGE_TOKENS if part["type"] == "image_url" else 0


def _content(block: Block, request_id: str) -> dict[str, Any]:
    if block.kind is Kind.TOOL:
        return {
            "type": "tool_use",
            "id": tool_use_id(block.call_id, request_id, block.index),
            "name": block.name,
            "input": _tool_input(block.text),
        }
    if block.kind is Kind.REASONING:
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    return {"type": "text", "text": block.text}


def _tool_input(arguments: str) -> dict[str, Any]:
    """Return the arguments as an object; what is none goes under ``arguments``, so that nothing is lost."""
    if not arguments.strip():
        return {}
    try:
        value = orjson.loads(arguments)
        if arguments.count("{") + arguments.count("[") > _DEEP:
            orjson.dumps(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        value = arguments
    return value if isinstance(value, dict) else {"arguments": value}
