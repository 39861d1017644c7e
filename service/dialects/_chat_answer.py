"""What upstreams say in chat completions, whole and in chunks, read without trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmrouter.pool import parse_usage

DONE = b"[DONE]"

NOT_JSON: Mapping[str, Any] = {
    "message": "The upstream sent an event that is not valid JSON.",
    "type": "upstream_error",
    "param": None,
    "code": "upstream_invalid_event",
}
"""Error of a stream whose events cannot be read."""

_KNOWN = frozenset({"id", "object", "created", "model", "choices", "usage"})
_NO_CHOICE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Counted:
    """Tokens of an answer, as the provider counted them; 0 where it did not say.

    Attributes
    ----------
    prompt : int
        All tokens of the prompt.
    cached, written : int
        Those of the prompt that were read from, and written to, the provider's cache.
    completion : int
        All tokens of the answer.
    reasoning : int
        Those of the answer that were reasoning.
    total : int
        Of both.
    """

    prompt: int
    cached: int
    written: int
    completion: int
    reasoning: int
    total: int


def read_usage(usage: object) -> Counted | None:
    """Read a ``usage`` object; None where there is none."""
    if not isinstance(usage, Mapping) or not usage:
        return None
    read = parse_usage(usage)  # as the log has it
    prompt, completion = read.input_tokens or 0, read.output_tokens or 0
    return Counted(
        prompt=prompt,
        cached=read.cached_tokens or 0,
        written=read.cache_write_tokens or 0,
        completion=completion,
        reasoning=read.reasoning_tokens or 0,
        total=_count(usage, "total_tokens") or prompt + completion,
    )


def read_chunk(data: bytes) -> dict[str, Any] | None:
    """Return the object that an event's data holds, {} for data of another kind, None for what is not JSON."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {} if not data.strip() else None
    return chunk if isinstance(chunk, dict) else {}


def error_of(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error object that a chunk carries, or None."""
    error = chunk.get("error")
    if not error:
        return None
    return error if isinstance(error, Mapping) else {"message": str(error)}


def first_choice(chat: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the choice with index 0, or an empty one."""
    choices = chat.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, Mapping) and choice.get("index", 0) in (0, None):
                return choice
    return _NO_CHOICE


def text_of(content: object) -> str:
    """Return the text of a content, which some upstreams send as parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the reasoning of a message or delta, under either of the names that upstreams use."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def vendor_fields(chat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-level fields of an answer that OpenAI does not define, null ones left out."""
    return {name: value for name, value in chat.items() if name not in _KNOWN and value is not None}


def message_of(error: Mapping[str, Any]) -> str:
    """Return the message of an error object."""
    message = error.get("message")
    return message if isinstance(message, str) and message else "The upstream reported an error."


def string_or(value: object, default: str) -> str:
    """Return `value` where it is a string that says something."""
    return value if isinstance(value, str) and value else default


def _count(mapping: Mapping[str, Any], name: str) -> int:
    value = mapping.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
