"""The prompt text of logged requests: chat completions, responses and plain completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmrouter.exceptions import LLMRouterError
from llmrouter.outcomes._calls import BadRowError, ChatText, UnusableRowError, decoded, shown

REDACTED_TEXTS = frozenset({"redacted-by-litellm", "[REDACTED]", "REDACTED"})

_TEXT_PARTS = ("text", "input_text", "output_text")


def last_user_turn(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the user messages since the last answer to one, joined by blank lines; images and tools are left out.

    The same text that `llmrouter.encoders.chat_text` gives by default (a test holds them together; this layer lies
    below the encoders). A chat without user text gives its last text.
    """
    turn: list[str] = []
    last = ""
    answered = True
    for message in messages:
        text = _message_text(message)
        if not text:
            continue
        last = text
        if message.get("role") == "assistant":
            answered = True
        elif message.get("role") == "user":
            turn = [text] if answered else [*turn, text]
            answered = False
    return "\n\n".join(turn) or last


def _message_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS]
    return "\n".join(text for text in texts if isinstance(text, str) and text).strip()


def request_text(request: Mapping[str, Any], chat_text: ChatText) -> str:
    """Return what the router would have read of a logged request (``messages``, ``input`` or ``prompt``).

    Raises
    ------
    BadRowError
        If there is no prompt, or it is malformed.
    UnusableRowError
        If the log hides it, or it has no text.
    """
    key = next((name for name in ("messages", "input", "prompt") if request.get(name)), None)
    if key is None:
        raise BadRowError("there is no prompt: the request has neither messages, input nor prompt; log one of them")
    # Exports write messages as a string of JSON; a prompt that happens to be JSON stays text.
    value = decoded(request[key]) if key == "messages" else request[key]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        try:
            # The Responses API mixes messages with tool results and reasoning, which have no role.
            text = chat_text([item for item in value if "role" in item])
        except LLMRouterError as error:
            raise BadRowError(f"{key} cannot be read: {error}") from error
    else:
        raise BadRowError(f"{key} {shown(value)} is neither text nor a list of messages; log what was sent")
    if text in REDACTED_TEXTS:
        raise UnusableRowError("the log redacts its prompts")
    if not text:
        raise UnusableRowError("the prompt has no text")
    return text
