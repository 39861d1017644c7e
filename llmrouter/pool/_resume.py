"""A chat whose answer broke off, asked again so that another model goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmrouter.pool._sse import DONE
from llmrouter.types import estimate_tokens

INSTRUCTION = (
    "Your answer broke off at the end of your last message. Go on exactly where it ends: repeat nothing of it, "
    "and write no introduction and no remark about the interruption."
)
"""What the next model is told."""

_LIMITS = ("max_completion_tokens", "max_tokens")


class StreamText:
    """The text that a chat stream has said so far.

    The events are kept as they come and read only when they are asked for: streams seldom break.

    Attributes
    ----------
    datas : list of bytes
        Data of the events.
    """

    __slots__ = ("datas",)

    def __init__(self) -> None:
        self.datas: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take the data of one event."""
        self.datas.append(data)

    def read(self) -> str | None:
        """Return the text of the only choice; None where there was more than text, or the stream is no chat's."""
        pieces = []
        for data in self.datas:
            if data.startswith(DONE):
                continue
            try:
                choices = orjson.loads(data).get("choices")
                for choice in choices or ():
                    delta = choice.get("delta") or {}
                    if choice.get("index", 0) != 0 or delta.get("tool_calls") or delta.get("function_call"):
                        return None
                    if delta.get("refusal") or delta.get("audio"):
                        return None
                    pieces.append(delta.get("content") or "")
            except (orjson.JSONDecodeError, AttributeError):
                return None
        try:
            return "".join(pieces)
        except TypeError:
            return None


def resume_body(body: Mapping[str, Any], said: StreamText | str) -> dict[str, Any] | None:
    """Return the chat body with which another model goes on where an answer broke off; None where none can.

    That is so for one answer (``n`` of 1) in plain text, before any tool was called: the halves of a tool call, of
    JSON or of speech, written by two models, make no whole. A token limit is lowered by about what was said.

    Parameters
    ----------
    body : mapping
        Of the chat that was asked; left as it is.
    said : StreamText or str
        What was said of the answer.
    """
    text = said if isinstance(said, str) else said.read()
    if text is None or not _resumable(body):
        return None
    if not text:
        return dict(body)
    resumed = dict(body)
    resumed["messages"] = [
        *body["messages"],
        {"role": "assistant", "content": text},
        {"role": "user", "content": INSTRUCTION},
    ]
    for name in _LIMITS:
        if isinstance(limit := body.get(name), int):
            resumed[name] = max(limit - estimate_tokens(text), 1)
    return resumed


def _resumable(body: Mapping[str, Any]) -> bool:
    if not isinstance(body.get("messages"), list) or (body.get("n") or 1) != 1:
        return False
    form = body.get("response_format")
    if isinstance(form, Mapping) and form.get("type") not in (None, "text"):
        return False
    modalities = body.get("modalities")
    return not modalities or list(modalities) == ["text"]
