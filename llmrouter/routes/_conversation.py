"""What of a conversation those who pick a route get to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmrouter.encoders import chat_text
from llmrouter.types import CHARACTERS_PER_TOKEN, estimate_tokens

Conversation = tuple[tuple[str, str], ...]
"""Role and text, oldest first."""

_SAID_BY = ("user", "assistant")
_CUT = "\n[... cut ...]\n"
_TOKENS_A_TURN = 4
_HALF = 2
LEAST_TOKENS = 64
"""A window below this shows too little of a conversation to pick by."""


def conversation_of(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Return what user and assistant said up to the last message of the user that has text.

    What assistant and tools say after it changes nothing, so every step of an agent's loop is on the route of the
    question that began it. System messages and those of tools are left out, as in Arch-Router (arXiv 2506.16655).

    Raises
    ------
    EncoderError
        If a message has no role, or its content is neither a string, null nor a list of parts.
    """
    said = [(str(m.get("role")), chat_text([m])) for m in messages if m.get("role") in _SAID_BY]
    said = [turn for turn in said if turn[1]]
    last = max((i for i, (role, _) in enumerate(said) if role == "user"), default=-1)
    return tuple(said[: last + 1])


def within(conversation: Conversation, tokens: int) -> Conversation:
    """Return the end of a conversation that fits into a window.

    The newest message is always there, if need be with its middle left out; before it as many as fit whole.

    Parameters
    ----------
    conversation : tuple of (str, str)
        See `conversation_of`.
    tokens : int
        The window, in estimated tokens.
    """
    if not conversation:
        return ()
    role, text = conversation[-1]
    longest = (tokens - _TOKENS_A_TURN) * CHARACTERS_PER_TOKEN
    if len(text) > longest:
        half = (longest - len(_CUT)) // _HALF
        return ((role, text[:half] + _CUT + text[-half:]),)
    kept = [(role, text)]
    left = tokens - _TOKENS_A_TURN - estimate_tokens(text)
    for role, text in reversed(conversation[:-1]):
        left -= _TOKENS_A_TURN + estimate_tokens(text)
        if left < 0:
            break
        kept.append((role, text))
    return tuple(reversed(kept))
