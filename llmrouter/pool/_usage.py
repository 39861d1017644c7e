"""What accounting needs of an answer: tokens as the provider counted them, first content, end, errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from llmrouter.pool._sse import DONE
from llmrouter.types import Usage

# Text of the model cannot look like any of these: quotes within a JSON string are escaped.
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"([^"\\]{0,40})')
_INCOMPLETE = re.compile(rb'"incomplete_details"\s*:\s*\{[^{}]*"reason"\s*:\s*"([^"\\]{0,40})')
_COMPLETED = re.compile(rb'"status"\s*:\s*"completed"')
_REASONS = {b"max_output_tokens": "length", b"content_filter": "content_filter"}
_USAGE_PRESENT = re.compile(rb'"usage"\s*:\s*\{')
_ERROR_PRESENT = re.compile(rb'"error"(?!\s*:\s*null)')
_CLOSING = re.compile(rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed|cancelled)"')
_CLOSING_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_FAILED = "response.failed"
_GAVE_UP: Mapping[str, Any] = {"message": "the upstream gave up without saying why"}
_EVENT_PREFIX = "response."
_DELTA_SUFFIX = ".delta"
_ITEM_ADDED = "response.output_item.added"
# Sent before there is anything to say; an item of another kind is a call of something, which is said.
_EMPTY_ITEMS = ("message", "reasoning")
_EMPTY_EVENTS = frozenset({
    "response.created", "response.queued", "response.in_progress", "response.content_part.added",
    "response.reasoning_summary_part.added",
})  # fmt: skip

_CACHED = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens", "num_cached_tokens")
_NOTHING: Mapping[str, Any] = MappingProxyType({})

_LONG_BODY = 16 * 1024
_TAIL = 4 * 1024


_LARGEST_COUNT = 2**53
"""More is no count: JSON cannot say it exactly, and no log can keep it."""


def parse_usage(usage: object) -> Usage:
    """Read a provider's ``usage`` object; what is missing or odd stays None, and nothing is estimated.

    Known are the namings of OpenAI (chat completions, responses, embeddings), Anthropic (whose ``input_tokens`` leave
    out what was cached: it is added), DeepSeek, Moonshot, Mistral, OpenRouter, and providers that count reasoning
    beside the completion and not in it (then it is added, where their total or the counts themselves show it).
    """
    if not isinstance(usage, Mapping):
        return Usage()
    read = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    spent = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cached = _count(read, "cached_tokens")
    if cached is None:
        cached = _count(usage, *_CACHED)
    stored = _count(read, "cache_write_tokens", "cache_creation_tokens")
    if stored is None:
        stored = _count(usage, "cache_creation_input_tokens", "cache_write_tokens")
    reasoning = _count(spent, "reasoning_tokens")
    if reasoning is None:
        reasoning = _count(usage, "reasoning_tokens")
    input_tokens = _count(usage, "prompt_tokens", "input_tokens")
    if input_tokens is not None and _leaves_out_cached(usage):
        input_tokens += (cached or 0) + (stored or 0)
    return Usage(
        input_tokens=input_tokens,
        output_tokens=_output(usage, input_tokens, reasoning),
        cached_tokens=cached,
        reasoning_tokens=reasoning,
        cache_write_tokens=stored,
        input_audio_tokens=_count(read, "audio_tokens"),
        output_audio_tokens=_count(spent, "audio_tokens"),
        raw=usage if usage else None,
    )


def usage_in(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the usage object of an answer, chunk or event, wherever the provider puts it; None where there is none.

    At the top, in ``response`` (events of the responses API), in ``x_groq``, or in a choice (Moonshot's streams).
    """
    for holder in (payload, payload.get("response"), payload.get("x_groq"), *_choices(payload)):
        usage = holder.get("usage") if isinstance(holder, Mapping) else None
        if isinstance(usage, Mapping) and usage:
            return usage
    return None


def usage_from_body(body: bytes) -> Usage:
    """Return the usage of a whole answer; every field None where the body says nothing."""
    payload = _tail(body) if len(body) > _LONG_BODY else None
    usage = usage_in(payload) if payload else None
    if usage is None:
        payload = _object(body)
        usage = usage_in(payload) if payload else None
    return parse_usage(usage)


def finish_reason_in(body: bytes) -> str | None:
    """Return why a whole answer (its first choice) ended, in OpenAI's words; None where it does not say."""
    if (told := _FINISHED.search(body)) is not None:
        return told.group(1).decode("ascii", "replace") or None
    return _reason_of_response(body)


def _reason_of_response(data: bytes) -> str | None:
    """Return why an answer of the responses API ended, in the words of chat completions."""
    if (told := _INCOMPLETE.search(data)) is not None:
        return _REASONS.get(told.group(1), told.group(1).decode("ascii", "replace") or None)
    return "stop" if _COMPLETED.search(data) else None


def error_in(data: bytes) -> Mapping[str, Any] | None:
    """Return the error object of an answer, chunk or event, or None where it carries none.

    That is ``{"error": ...}``, and in the responses API the events ``error`` and ``response.failed``.
    """
    if not _ERROR_PRESENT.search(data):
        return None
    payload = _object(data)
    return _error_of(payload) if payload else None


def _error_of(payload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error object of a parsed answer, chunk or event; see `error_in`."""
    error = payload.get("error")
    kind = payload.get("type")
    if kind == _FAILED:
        failed = payload.get("response")
        error = failed.get("error") if isinstance(failed, Mapping) else None
    elif kind == "error" and not error:
        error = {key: value for key, value in payload.items() if key in ("message", "code", "param")}
    if isinstance(error, str) and error:
        return {"message": error}
    return error if isinstance(error, Mapping) and error else None


class StreamObserver:
    """Watch the events of a stream go by; parses only those that can matter.

    Understands chunks of chat completions and of legacy completions, and the events of the responses API.

    Attributes
    ----------
    content_seen : bool
        Whether a token (text, tool call, reasoning) has come.
    finished : bool
        Whether a finish reason, or a closing event, has come.
    finish_reason : str or None
        Why the first choice to end did, in OpenAI's words.
    done : bool
        Whether the closing event has come: ``[DONE]``, or one of the responses API.
    error : mapping or None
        The error object that the upstream sent within the stream.
    """

    __slots__ = ("_of_responses", "_other", "_usage", "content_seen", "done", "error", "finish_reason", "finished")

    def __init__(self) -> None:
        self._usage: Mapping[str, Any] | None = None
        self._of_responses = False
        self._other = False
        self.content_seen = False
        self.finished = False
        self.finish_reason: str | None = None
        self.done = False
        self.error: Mapping[str, Any] | None = None

    @property
    def usage(self) -> Usage:
        """Tokens of the last event that counted them: where they come with every chunk, they are running totals."""
        return parse_usage(self._usage)

    @property
    def begun(self) -> bool:
        """Whether the answer has begun, be it with its end. Known to be empty is what many upstreams send at once.

        That is a chunk with a role and nothing else, and a response that is created but says nothing yet. What is not
        understood counts as a beginning: it may be all that this upstream sends.
        """
        return self.content_seen or self.finished or self.done or self._other

    def observe(self, data: bytes) -> bool:
        """Take note of one event's data; return whether it is the extra chunk that carries usage and nothing else.

        A chunk that carries usage beside content (the last one of some providers, every one of others) is none: it
        has to reach the client, and does so unchanged.
        """
        if data.startswith(DONE):
            self.done = True
            return False
        if not self.finished and (told := _FINISHED.search(data)) is not None:
            self.finished = True
            self.finish_reason = told.group(1).decode("ascii", "replace") or None
        if self.content_seen and not (
            _USAGE_PRESENT.search(data) or _ERROR_PRESENT.search(data) or (self._of_responses and _CLOSING.search(data))
        ):
            return False
        return self._read(data)

    def _read(self, data: bytes) -> bool:
        payload = _object(data)
        if payload is None:
            self._other = self._other or bool(data.strip())
            return False
        if self.error is None:
            self.error = _error_of(payload)
        kind = payload.get("type")
        if isinstance(kind, str) and kind.startswith(_EVENT_PREFIX):
            self._of_responses = True
            if kind in _CLOSING_EVENTS:
                self.finished = self.done = True
                self.finish_reason = _reason_of_response(data)
                if kind == _FAILED and self.error is None:
                    self.error = _GAVE_UP
            elif kind.endswith(_DELTA_SUFFIX):
                self.content_seen = True
            elif not self._other:
                self._other = not _is_empty(kind, payload)
        elif not self.content_seen:
            choices = payload.get("choices")
            self.content_seen = _has_content(choices)
            self._other = self._other or not isinstance(choices, list)
        usage = usage_in(payload)
        if usage is None:
            return False
        self._usage = usage
        return payload.get("choices") == []


def _object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in `data`, or None where it holds none."""
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None


def _has_content(choices: object) -> bool:
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, Mapping):
            continue
        if choice.get("text"):  # legacy completions
            return True
        delta = choice.get("delta")
        if isinstance(delta, Mapping) and any(value for key, value in delta.items() if key != "role"):
            return True
    return False


def _is_empty(kind: str, payload: Mapping[str, Any]) -> bool:
    """Return whether an event of the responses API announces something and says nothing yet."""
    if kind == _ITEM_ADDED:
        item = payload.get("item")
        return isinstance(item, Mapping) and item.get("type") in _EMPTY_ITEMS
    return kind in _EMPTY_EVENTS


def _tail(body: bytes) -> dict[str, Any] | None:
    """Return the end of a long answer from its usage on, so that megabytes of embeddings need not be parsed.

    What follows the last ``"usage"`` is an object with one brace put before it only where that key is of the outermost
    object: any deeper, and a brace too many is left at the end.
    """
    start = body.rfind(b'"usage"', len(body) - _TAIL)
    return _object(b"{" + body[start:]) if start >= 0 else None


def _choices(payload: Mapping[str, Any]) -> list[Any]:
    choices = payload.get("choices")
    return choices if isinstance(choices, list) else []


def _leaves_out_cached(usage: Mapping[str, Any]) -> bool:
    """Return whether this is Anthropic's object: its input tokens are those that the cache had no part in."""
    if "prompt_tokens" in usage or "input_tokens_details" in usage:
        return False
    return "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage


def _output(usage: Mapping[str, Any], input_tokens: int | None, reasoning: int | None) -> int | None:
    output, total = _count(usage, "completion_tokens", "output_tokens"), _count(usage, "total_tokens")
    if output is None:
        # Embeddings have a prompt and a total.
        return None if input_tokens is None or total is None or total < input_tokens else total - input_tokens
    if not reasoning:
        return output
    beside = reasoning > output if total is None else total == (input_tokens or 0) + output + reasoning
    return output + reasoning if beside else output


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        details = usage.get(name)
        if isinstance(details, dict):
            return details
    return _NOTHING


def _count(source: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = source.get(name)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and 0 <= value <= _LARGEST_COUNT:  # and no boolean
            return value
    return None
