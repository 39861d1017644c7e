"""Answers in OpenAI's format: completions, chunks, log-probabilities and usage."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from llmrouter.moe import Delta, GenerationResult, TokenLogprob


class CompletionWriter:
    """Builds the objects of one answer, which share id, time and model name.

    Parameters
    ----------
    model : str
        Name under which the model is served.
    include_usage : bool
        Whether chunks carry a usage field (null but for the last).
    """

    prefix = "chatcmpl"

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._include_usage = include_usage

    def completion(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [
            {
                "index": index,
                "message": _message(result),
                "logprobs": _logprobs(result.logprobs),
                "finish_reason": result.finish_reason,
            }
            for index, result in enumerate(results)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(results)}

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        """Return a piece of choice `index`."""
        choice = {"index": index, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": finish_reason}
        extra = {"usage": None} if self._include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **extra}

    def usage_chunk(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Return the chunk that ends a stream with usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(results)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}


def delta_of(delta: Delta) -> dict[str, Any]:
    """Return a piece of a message."""
    if not delta.tool_calls:
        return {"content": delta.text}
    calls = []
    for call in delta.tool_calls:
        function = {"name": call.name, "arguments": call.arguments} if call.name else {"arguments": call.arguments}
        head = {"id": call.id, "type": "function"} if call.id else {}
        calls.append({"index": call.index, **head, "function": function})
    return {"tool_calls": calls, **({"content": delta.text} if delta.text else {})}


def _message(result: GenerationResult) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if result.tool_calls:
        message["content"] = result.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in result.tool_calls
        ]
    return message


def usage(results: Sequence[GenerationResult]) -> dict[str, int]:
    """Return the tokens of an answer; the prompt of several choices counts once."""
    prompt = results[0].input_tokens
    completion = sum(result.output_tokens for result in results)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _logprobs(entries: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if entries is None:
        return None
    content = [
        {
            "token": entry.text,
            "logprob": entry.logprob,
            "bytes": list(entry.bytes),
            "top_logprobs": [
                {"token": other.text, "logprob": other.logprob, "bytes": list(other.bytes)} for other in entry.top
            ],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}
