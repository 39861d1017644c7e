"""What text of a chat is encoded. The one place that says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from llmrouter.exceptions import ConfigError, EncoderError

TextMode = Literal["last_user_turn", "system_and_last_turns"]

_SYSTEM_ROLES = ("system", "developer")
_TEXT_PARTS = ("text", "input_text", "output_text")


def chat_text(messages: Sequence[Mapping[str, Any]], mode: TextMode = "last_user_turn", *, turns: int = 1) -> str:
    """Return the text of a chat that the router sees.

    Parameters
    ----------
    messages : sequence of mapping
        Messages in OpenAI's form: ``role`` and ``content``, a string or a list of parts.
    mode : {"last_user_turn", "system_and_last_turns"}
        ``last_user_turn``: the user messages with text since the last answer to one. What assistant and tools say
        afterwards changes nothing, so every step of an agent's loop is routed by the question that began it.
        ``system_and_last_turns``: all system (and developer) messages, then the last `turns` turns; a turn is a run of
        user messages and what the assistant answered.
    turns : int
        Turns taken by ``system_and_last_turns``, at least 1.

    Returns
    -------
    str
        The texts joined by blank lines, without role names; "" for a chat without text. A chat without user text
        gives, in either mode, the text of its last message that has any.

    Raises
    ------
    EncoderError
        If a message has no role, or its content is neither a string, null nor a list of parts.
    ConfigError
        If `mode` is unknown or `turns` is below 1.

    Notes
    -----
    Text parts of one message are joined by line breaks; images, audio, files and refusals are ignored. Messages of
    tools and functions, and the arguments of tool calls, are never encoded beside a user's text: long machine output
    would drown what was asked. White space at both ends of a message is dropped.
    """
    if mode not in get_args(TextMode):
        raise ConfigError(f"unknown text mode {mode!r}; one of {', '.join(get_args(TextMode))}")
    if not isinstance(turns, int) or isinstance(turns, bool) or turns < 1:
        raise ConfigError(f"turns must be an integer >= 1, not {turns!r}")
    said = [_role_and_text(message, position) for position, message in enumerate(messages)]
    said = [(role, text) for role, text in said if text]
    grouped = _turns([(role, text) for role, text in said if role in ("user", "assistant")])
    if not grouped:
        return said[-1][1] if said else ""
    if mode == "last_user_turn":
        return _joined(text for role, text in grouped[-1] if role == "user")
    system = [text for role, text in said if role in _SYSTEM_ROLES]
    return _joined([*system, *(text for turn in grouped[-turns:] for _, text in turn)])


def _turns(said: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    turns: list[list[tuple[str, str]]] = []
    previous = ""
    for role, text in said:
        if role == "user" and previous != "user":
            turns.append([])
        if turns:  # what the assistant said before the first user message answers nobody
            turns[-1].append((role, text))
        previous = role
    return turns


def _joined(texts: Iterable[str]) -> str:
    return "\n\n".join(texts)


def _role_and_text(message: Mapping[str, Any], position: int) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise EncoderError(f"messages[{position}] must be an object, not {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str):
        raise EncoderError(f"messages[{position}].role must be a string, not {role!r}")
    content = message.get("content")
    if content is None:
        return role, ""
    if isinstance(content, str):
        return role, content.strip()
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        raise EncoderError(
            f"messages[{position}].content must be a string, null or a list of parts, not {type(content).__name__}"
        )
    texts = [_part_text(part, f"messages[{position}].content[{number}]") for number, part in enumerate(content)]
    return role, "\n".join(text for text in texts if text).strip()


def _part_text(part: object, where: str) -> str:
    if not isinstance(part, Mapping):
        raise EncoderError(f"{where} must be an object, not {type(part).__name__}")
    if part.get("type") not in _TEXT_PARTS:
        return ""
    text = part.get("text")
    if not isinstance(text, str):
        raise EncoderError(f"{where}.text must be a string, not {type(text).__name__}")
    return text
