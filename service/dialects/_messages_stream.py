"""Streamed chat completions as the events of Anthropic's messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmrouter.pool import usage_in
from service.dialects._blocks import Action, Block, BlockSequencer, Kind, Step
from service.dialects._chat_answer import (
    first_choice,
    message_of,
    read_usage,
    string_or,
    vendor_fields,
)
from service.dialects._messages_request import asks_for_thinking
from service.dialects._messages_wire import message_usage, stop_of, stream_error_type, tool_use_id
from service.dialects.base import ChunkTranslator, answer_id, named_event


class MessagesStream(ChunkTranslator):
    """The state of one streamed message.

    ``message_delta`` is held back until ``[DONE]``, since the usage comes after the finish reason.

    Parameters
    ----------
    asked : mapping
        The client's request.
    request_id : str
        Ours.
    """

    def __init__(self, asked: Mapping[str, Any], *, request_id: str) -> None:
        self._asked = asked
        self._request_id = request_id
        self._id = answer_id("msg", request_id)
        self._thinks = asks_for_thinking(asked)
        self._blocks = BlockSequencer()
        self._shown = 0
        self._end: dict[str, Any] = {}
        self._usage: object = None
        self._kinds: set[Kind] = set()
        self._started = False
        self._ended = False

    def _take(self, chunk: dict[str, Any]) -> bytes:
        if (usage := usage_in(chunk)) is not None:
            self._usage = usage
        events = [] if self._started else [self._start(chunk)]
        choice = first_choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, Mapping):
            self._render(events, self._blocks.take(delta))
        if choice.get("finish_reason"):
            self._end = dict(choice)
        return b"".join(events)

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """Return the error event that ends the stream."""
        if self._ended:
            return b""
        self._ended = True
        kept = {name: value for name, value in error.items() if value is not None}
        kept |= {"type": stream_error_type(error), "message": message_of(error)}
        return named_event("error", {"type": "error", "error": kept, "request_id": self._request_id})

    def finish(self) -> bytes:
        """Return the end of the message: what is open is closed, then stop reason and usage."""
        if self._ended:
            return b""
        events = [] if self._started else [self._start({})]
        self._render(events, self._blocks.close())
        self._ended = True
        reason, sequence = stop_of(
            self._end, self._asked, has_tools=Kind.TOOL in self._kinds, refused=Kind.REFUSAL in self._kinds
        )
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = message_usage(read_usage(self._usage), self._usage)
        events.append(named_event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage}))
        events.append(named_event("message_stop", {"type": "message_stop"}))
        return b"".join(events)

    def _start(self, chunk: Mapping[str, Any]) -> bytes:
        self._started = True
        message = {
            **vendor_fields(chunk),
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": string_or(chunk.get("model"), str(self._asked.get("model", ""))),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": message_usage(read_usage(self._usage), self._usage),
        }
        start = named_event("message_start", {"type": "message_start", "message": message})
        return start + named_event("ping", {"type": "ping"})

    def _render(self, events: list[bytes], steps: Sequence[Step]) -> None:
        for action, block, piece, _ in steps:
            if block.kind is Kind.REASONING and not self._thinks:
                continue
            if action is Action.PIECE:
                delta = _delta(block.kind, piece)
                index = self._shown - 1
                events.append(
                    named_event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})
                )
            elif action is Action.OPEN:
                self._kinds.add(block.kind)
                content = _empty(block, tool_use_id(block.call_id, self._request_id, block.index))
                start = {"type": "content_block_start", "index": self._shown, "content_block": content}
                self._shown += 1
                events.append(named_event("content_block_start", start))
            else:
                stop = {"type": "content_block_stop", "index": self._shown - 1}
                events.append(named_event("content_block_stop", stop))


def _empty(block: Block, call_id: str) -> dict[str, Any]:
    if block.kind is Kind.TOOL:
        return {"type": "tool_use", "id": call_id, "name": block.name, "input": {}}
    if block.kind is Kind.REASONING:
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _delta(kind: Kind, piece: str) -> dict[str, str]:
    if kind is Kind.TOOL:
        return {"type": "input_json_delta", "partial_json": piece}
    if kind is Kind.REASONING:
        return {"type": "thinking_delta", "thinking": piece}
    return {"type": "text_delta", "text": piece}
