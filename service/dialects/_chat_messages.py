"""Chat messages under construction, in the order that chat completions demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Part = dict[str, Any]
"""A part of a message's content."""


class ChatMessages:
    """Collects messages.

    Messages of tools must stand right behind the message that called them, and hold text only. Images and files of a
    result are therefore kept back, and lead the next user message.
    """

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._kept_back: list[Part] = []

    def add(self, message: dict[str, Any]) -> None:
        """Append a message of the system or the assistant."""
        self._release()
        self._messages.append(message)

    def add_user(self, parts: Sequence[Part]) -> None:
        """Append a user message."""
        self._messages.append({"role": "user", "content": content_of([*self._kept_back, *parts])})
        self._kept_back = []

    def add_tool_result(self, call_id: str, parts: Sequence[Part], *, is_error: bool = False) -> None:
        """Append what a tool returned; a failure is told to the model in words, since chat has no field for it."""
        texts = [part for part in parts if part.get("type") == "text"]
        others = [part for part in parts if part.get("type") != "text"]
        if others:
            self._kept_back += [{"type": "text", "text": f"Returned by tool call {call_id}:"}, *others]
        if not texts:
            texts = [{"type": "text", "text": _stand_in(bool(others), is_error)}]
        elif is_error:
            texts[0] = {**texts[0], "text": f"Error: {texts[0]['text']}"}
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content_of(texts)})

    def add_tool_call(self, call_id: str, name: str, arguments: str) -> None:
        """Append a call to the assistant's message, or begin one."""
        last = self._messages[-1] if self._messages else None
        if last is None or last["role"] != "assistant":
            last = {"role": "assistant", "content": None}
            self.add(last)
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        last.setdefault("tool_calls", []).append(call)

    def finish(self) -> list[dict[str, Any]]:
        """Return all messages."""
        self._release()
        return self._messages

    def _release(self) -> None:
        if self._kept_back:
            self.add_user([])


def content_of(parts: Sequence[Part]) -> str | list[Part]:
    """Return the content of a message: a lone text as a string, which every upstream takes, else the parts."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return list(parts)


def _stand_in(has_others: bool, is_error: bool) -> str:
    text = "See the next message for what was returned." if has_others else ""
    if is_error:
        return f"Error: the tool failed. {text}".strip()
    return text


def without_cache_control(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat body without the ``cache_control`` marks of parts and tools, for upstreams that refuse them.

    Parameters
    ----------
    body : mapping
        A checked chat body; not changed.
    """
    plain = dict(body)
    plain["messages"] = [
        {**message, "content": content_of([_unmarked(part) for part in message["content"]])}
        if isinstance(message.get("content"), list)
        else message
        for message in body["messages"]
    ]
    if isinstance(body.get("tools"), list):
        plain["tools"] = [_unmarked(tool) for tool in body["tools"]]
    return plain


def _unmarked(part: Any) -> Any:
    if not isinstance(part, dict) or "cache_control" not in part:
        return part
    return {name: value for name, value in part.items() if name != "cache_control"}
