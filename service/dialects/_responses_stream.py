"""Streamed chat completions as the events of OpenAI's responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmrouter.pool import usage_in
from service.dialects._blocks import Action, Block, BlockSequencer, Kind, Step
from service.dialects._chat_answer import first_choice, message_of
from service.dialects._responses_items import (
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    INCOMPLETE,
    annotations_of,
    incomplete_reason,
    item_id,
    item_of,
    part_of,
    response_object,
    token_of,
)
from service.dialects.base import ChunkTranslator, named_event

_EVENTS: Mapping[Kind, str] = {
    Kind.REASONING: "response.reasoning_text",
    Kind.TEXT: "response.output_text",
    Kind.REFUSAL: "response.refusal",
    Kind.TOOL: "response.function_call_arguments",
}
_ERROR_CODES: Mapping[str, str] = {
    "rate_limit_exceeded": "rate_limit_exceeded",
    "insufficient_quota": "rate_limit_exceeded",
    "context_length_exceeded": "invalid_prompt",
    "content_policy_violation": "invalid_prompt",
}


class ResponsesStream(ChunkTranslator):
    """The state of one streamed response.

    ``response.completed`` is held back until ``[DONE]``, since the usage comes after the finish reason.

    Parameters
    ----------
    asked : mapping
        The client's request.
    request_id : str
        Ours.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, asked: Mapping[str, Any], *, request_id: str, clock: Callable[[], float]) -> None:
        self._asked = asked
        self._request_id = request_id
        self._clock = clock
        self._blocks = BlockSequencer()
        self._annotations: list[Any] = []
        self._output: list[dict[str, Any]] = []
        self._first: Mapping[str, Any] = {}
        self._created_at = 0
        self._finish_reason: object = None
        self._usage: object = None
        self._sequence = 0
        self._started = False
        self._ended = False

    def _take(self, chunk: dict[str, Any]) -> bytes:
        if (usage := usage_in(chunk)) is not None:
            self._usage = usage
        events = [] if self._started else self._start(chunk)
        choice = first_choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, Mapping):
            self._annotations += annotations_of(delta)
            self._render(events, self._blocks.take(delta, choice.get("logprobs")), COMPLETED)
        if choice.get("finish_reason"):
            self._finish_reason = choice["finish_reason"]
        return b"".join(events)

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """Return ``response.failed``, with what had come by then."""
        if self._ended:
            return b""
        events = [] if self._started else self._start({})
        self._render(events, self._blocks.close(), INCOMPLETE)
        self._ended = True
        failure = {"code": _error_code(error), "message": message_of(error)}
        events.append(self._event("response.failed", response=self._response(FAILED, error=failure)))
        return b"".join(events)

    def finish(self) -> bytes:
        """Return the end of the response: what is open is closed, then the whole response."""
        if self._ended:
            return b""
        events = [] if self._started else self._start({})
        reason = incomplete_reason(self._finish_reason)
        status = COMPLETED if reason is None else INCOMPLETE
        steps = self._blocks.close()
        self._render(events, steps[:-1], COMPLETED)
        self._render(events, steps[-1:], status)  # only the last item can be incomplete
        self._ended = True
        events.append(self._event(f"response.{status}", response=self._response(status, reason=reason)))
        return b"".join(events)

    def _start(self, chunk: Mapping[str, Any]) -> list[bytes]:
        self._started = True
        self._first = chunk
        created = chunk.get("created")
        self._created_at = created if isinstance(created, int) and created > 0 else int(self._clock())
        response = self._response(IN_PROGRESS)
        return [self._event(name, response=response) for name in ("response.created", "response.in_progress")]

    def _response(
        self, status: str, *, reason: str | None = None, error: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        return response_object(
            self._asked,
            self._first,
            request_id=self._request_id,
            created_at=self._created_at,
            status=status,
            output=self._output,
            usage=self._usage if status != IN_PROGRESS else None,
            reason=reason,
            completed_at=int(self._clock()),
            error=error,
        )

    def _render(self, events: list[bytes], steps: Sequence[Step], status: str) -> None:
        """Add the events of `steps`; `status` is that of the items that they close."""
        for action, block, piece, logprobs in steps:
            if action is Action.PIECE:
                extra = {"logprobs": [token_of(token) for token in logprobs]} if block.kind is Kind.TEXT else {}
                events.append(self._event(f"{_EVENTS[block.kind]}.delta", **self._place(block), delta=piece, **extra))
            elif action is Action.OPEN:
                self._open(events, block)
            else:
                self._close(events, block, status)

    def _open(self, events: list[bytes], block: Block) -> None:
        item = item_of(block, self._request_id, IN_PROGRESS)
        events.append(self._event("response.output_item.added", output_index=block.index, item=item))
        if block.kind is not Kind.TOOL:
            events.append(self._event("response.content_part.added", **self._place(block), part=part_of(block, "")))

    def _close(self, events: list[bytes], block: Block, status: str) -> None:
        annotations = []
        if block.kind is Kind.TEXT:
            annotations, self._annotations = self._annotations, []
        item = item_of(block, self._request_id, status, annotations)
        self._output.append(item)
        place, done = self._place(block), f"{_EVENTS[block.kind]}.done"
        if block.kind is Kind.TOOL:
            events.append(self._event(done, **place, name=block.name, arguments=block.text))
        else:
            part = item["content"][0]
            for i, annotation in enumerate(annotations):
                name = "response.output_text.annotation.added"
                events.append(self._event(name, **place, annotation_index=i, annotation=annotation))
            said = {key: value for key, value in part.items() if key not in ("type", "annotations")}
            events.append(self._event(done, **place, **said))
            events.append(self._event("response.content_part.done", **place, part=part))
        events.append(self._event("response.output_item.done", output_index=block.index, item=item))

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": item_id(block, self._request_id), "output_index": block.index}
        return place if block.kind is Kind.TOOL else {**place, "content_index": 0}

    def _event(self, name: str, /, **fields: Any) -> bytes:
        event = named_event(name, {"type": name, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return event


def _error_code(error: Mapping[str, Any]) -> str:
    """Return the code of a failed response; the set of them is closed."""
    code = error.get("code")
    if code == 429:
        return "rate_limit_exceeded"
    return _ERROR_CODES.get(code, "server_error") if isinstance(code, str) else "server_error"
