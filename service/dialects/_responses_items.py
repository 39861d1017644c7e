"""Objects of OpenAI's responses: the response itself, its output items, their parts, its usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.dialects._blocks import Block, Kind
from service.dialects._chat_answer import Counted, read_usage, string_or, vendor_fields
from service.dialects.base import answer_id

COMPLETED, INCOMPLETE, IN_PROGRESS, FAILED = "completed", "incomplete", "in_progress", "failed"

_INCOMPLETE_REASONS: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIXES: Mapping[Kind, str] = {Kind.REASONING: "rs", Kind.TEXT: "msg", Kind.REFUSAL: "msg", Kind.TOOL: "fc"}
_ECHOED = ("instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key", "safety_identifier")
_ECHOED_TOO = ("temperature", "top_p", "user")


def incomplete_reason(finish_reason: object) -> str | None:
    """Return why a response is incomplete, or None where it is complete."""
    return _INCOMPLETE_REASONS.get(finish_reason) if isinstance(finish_reason, str) else None


def response_object(
    asked: Mapping[str, Any],
    chat: Mapping[str, Any],
    *,
    request_id: str,
    created_at: int,
    status: str,
    output: Sequence[Mapping[str, Any]] = (),
    usage: object = None,
    reason: str | None = None,
    completed_at: int | None = None,
    error: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a response.

    Parameters
    ----------
    asked : mapping
        The client's request; its settings are told back, those that it left open as null (they are the upstream's).
    chat : mapping
        The chat completion, or the first chunk of one: model and vendors' fields.
    request_id : str
        Ours.
    created_at, completed_at : int
        Seconds since the epoch.
    status : str
        ``in_progress``, ``completed``, ``incomplete`` or ``failed``.
    output : sequence of mapping
        Items.
    usage : object
        As the upstream gave it.
    reason : str, optional
        Why it is incomplete.
    error : mapping, optional
        Why it failed.
    """
    text, reasoning = asked.get("text") or {}, asked.get("reasoning") or {}
    return {
        **vendor_fields(chat),
        "id": answer_id("resp", request_id),
        "object": "response",
        "created_at": created_at,
        "status": status,
        "background": False,
        "completed_at": completed_at if status == COMPLETED else None,
        "error": error,
        "incomplete_details": {"reason": reason} if status == INCOMPLETE else None,
        **{name: asked.get(name) for name in (*_ECHOED, *_ECHOED_TOO)},
        "metadata": asked.get("metadata") or {},
        "model": string_or(chat.get("model"), str(asked.get("model", ""))),
        "output": list(output),
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "service_tier": chat.get("service_tier") or asked.get("service_tier"),
        "store": False,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_logprobs": asked.get("top_logprobs") or 0,
        "truncation": asked.get("truncation") or "disabled",
        "usage": _usage(read_usage(usage)),
    }


def item_id(block: Block, request_id: str) -> str:
    """Return the id of the item that a block becomes."""
    return f"{answer_id(_PREFIXES[block.kind], request_id)}_{block.index}"


def call_id_of(block: Block, request_id: str) -> str:
    """Return the id of a call: the upstream's, or one of ours where it gave none."""
    return block.call_id or f"{answer_id('call', request_id)}_{block.index}"


def item_of(block: Block, request_id: str, status: str, annotations: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the item that a block becomes; while it is in progress it is empty."""
    name = item_id(block, request_id)
    empty = status == IN_PROGRESS
    if block.kind is Kind.TOOL:
        return {
            "id": name,
            "type": "function_call",
            "status": status,
            "call_id": call_id_of(block, request_id),
            "name": block.name,
            "arguments": "" if empty else block.text,
        }
    content = [] if empty else [part_of(block, block.text, block.logprobs, annotations)]
    if block.kind is Kind.REASONING:
        return {"id": name, "type": "reasoning", "status": status, "summary": [], "content": content}
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def part_of(block: Block, text: str, logprobs: Sequence[Any] = (), annotations: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the content part that holds `text`."""
    if block.kind is Kind.REASONING:
        return {"type": "reasoning_text", "text": text}
    if block.kind is Kind.REFUSAL:
        return {"type": "refusal", "refusal": text}
    return {
        "type": "output_text",
        "text": text,
        "annotations": list(annotations),
        "logprobs": [token_of(token) for token in logprobs],
    }


def token_of(token: object) -> dict[str, Any]:
    """Return a token's log-probability; responses leave no field of it open, chat does."""
    given = token if isinstance(token, Mapping) else {}
    top = given.get("top_logprobs")
    return {**_one_token(given), "top_logprobs": [_one_token(one) for one in top] if isinstance(top, list) else []}


def annotations_of(message: Mapping[str, Any]) -> list[Any]:
    """Return the annotations of a message or delta: chat nests what responses hold flat."""
    given = message.get("annotations")
    return [_flat(annotation) for annotation in given] if isinstance(given, list) else []


def _flat(annotation: object) -> Any:
    if not isinstance(annotation, Mapping):
        return annotation
    inner = annotation.get(str(annotation.get("type")))
    return {"type": annotation["type"], **inner} if isinstance(inner, Mapping) else annotation


def _one_token(token: object) -> dict[str, Any]:
    given = token if isinstance(token, Mapping) else {}
    text = string_or(given.get("token"), "")
    spelled = given.get("bytes")
    return {
        "token": text,
        "bytes": spelled if isinstance(spelled, list) else list(text.encode()),
        "logprob": given.get("logprob", 0.0),
    }


def _usage(counted: Counted | None) -> dict[str, Any] | None:
    if counted is None:
        return None
    return {
        "input_tokens": counted.prompt,
        "input_tokens_details": {"cached_tokens": counted.cached, "cache_write_tokens": counted.written},
        "output_tokens": counted.completion,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning},
        "total_tokens": counted.total,
    }
