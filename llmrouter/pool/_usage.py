"""What accounting needs of an answer: tokens as the provider counted them, first content, errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from llmrouter.pool._sse import DONE
from llmrouter.types import Usage

_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE_PRESENT = re.compile(rb'"usage"\s*:\s*\{')
_ERROR_PRESENT = re.compile(rb'"error"\s*:\s*[{"]')


def parse_usage(usage: object) -> Usage:
    """Read an OpenAI ``usage`` object (chat completions or responses naming); what is missing or odd stays None."""
    if not isinstance(usage, Mapping):
        return Usage()
    return Usage(
        input_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        output_tokens=_count(usage, "completion_tokens", "output_tokens"),
        cached_tokens=_count(_details(usage, "prompt_tokens_details", "input_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(
            _details(usage, "completion_tokens_details", "output_tokens_details"), "reasoning_tokens"
        ),
    )


def usage_from_body(body: bytes) -> Usage:
    """Return the usage of a whole answer; every field None where the body says nothing."""
    payload = _object(body)
    return parse_usage(payload.get("usage")) if payload else Usage()


def error_in(data: bytes) -> Mapping[str, Any] | None:
    """Return the error object of a chunk (``{"error": ...}``), or None where it carries none."""
    if not _ERROR_PRESENT.search(data):
        return None
    payload = _object(data)
    error = payload.get("error") if payload else None
    if isinstance(error, str) and error:
        return {"message": error}
    return error if isinstance(error, Mapping) and error else None


class StreamObserver:
    """Watch the events of an OpenAI stream go by; parses only those that can matter.

    Attributes
    ----------
    usage : Usage
        Of the last chunk that carried one.
    content_seen : bool
        Whether a token (text, tool call, reasoning) has come.
    finished : bool
        Whether a finish reason has come.
    done : bool
        Whether the closing event has come.
    error : mapping or None
        The error object that the upstream sent within the stream.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.content_seen = False
        self.finished = False
        self.done = False
        self.error: Mapping[str, Any] | None = None

    def observe(self, data: bytes) -> bool:
        """Take note of one event's data; return whether it is the extra chunk that carries usage and nothing else."""
        if data.startswith(DONE):
            self.done = True
            return False
        if not self.finished and _FINISHED.search(data):
            self.finished = True
        if self.error is None:
            self.error = error_in(data)
        has_usage = _USAGE_PRESENT.search(data) is not None
        if self.content_seen and not has_usage:
            return False
        payload = _object(data)
        if payload is None:
            return False
        choices = payload.get("choices")
        if not self.content_seen:
            self.content_seen = _has_content(choices)
        usage = payload.get("usage")
        if not isinstance(usage, Mapping) or not usage:
            return False
        self.usage = parse_usage(usage)
        return choices == []


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None


def _has_content(choices: object) -> bool:
    if not isinstance(choices, list):
        return False
    for choice in choices:
        delta = choice.get("delta") if isinstance(choice, Mapping) else None
        if isinstance(delta, Mapping) and any(value for key, value in delta.items() if key != "role"):
            return True
    return False


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        details = usage.get(name)
        if isinstance(details, Mapping):
            return details
    return {}


def _count(source: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = source.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
