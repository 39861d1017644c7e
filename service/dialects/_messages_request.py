"""Requests in the shape of Anthropic's messages, as chat completions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from service.dialects._chat_messages import ChatMessages, Part, content_of
from service.dialects._checks import (
    ARRAY,
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    STRING,
    check_at_least_one,
    check_single_choice,
    check_types,
    expect,
    missing,
    optional,
    require,
    to_json,
    unsupported,
    wrong_value,
)
from service.dialects._messages_content import blocks_of, content_parts, text_part, unknown_block
from service.errors import APIError

_TYPES: Mapping[str, tuple[str, ...]] = {
    "max_tokens": (INTEGER,),
    "messages": (ARRAY,),
    "metadata": (OBJECT,),
    "output_config": (OBJECT,),
    "service_tier": (STRING,),
    "stop_sequences": (ARRAY,),
    "stream": (BOOLEAN,),
    "system": (STRING, ARRAY),
    "temperature": (NUMBER,),
    "thinking": (OBJECT,),
    "tool_choice": (OBJECT,),
    "tools": (ARRAY,),
    "top_k": (INTEGER,),
    "top_p": (NUMBER,),
}
# What has a counterpart in chat, and what changes nothing about the answer's meaning.
_TRANSLATED = frozenset(
    {"max_tokens", "messages", "metadata", "output_config", "output_format", "service_tier", "stop_sequences"}
) | {"system", "thinking", "tool_choice", "tools"}
_LEFT_OUT = frozenset({"betas", "cache_control", "context_management", "inference_geo"})
_REFUSED: Mapping[str, str] = {
    "container": "Containers run at Anthropic and are not supported by this gateway. Leave 'container' out.",
    "mcp_servers": "MCP servers are called by Anthropic and are not supported by this gateway. Offer their tools "
    "in 'tools' and run them yourself.",
}
_ROLES = ("user", "assistant", "system")
_TOOL_CHOICES = ("auto", "any", "tool", "none")
_THINKING = ("enabled", "adaptive", "disabled")
_SMALLEST_BUDGETS = ((16_384, "high"), (4_096, "medium"), (0, "low"))
_LONGEST_USER = 64
"""OpenAI refuses a longer `user`."""


def messages_to_chat(body: Mapping[str, Any], *, needs_max_tokens: bool = True) -> dict[str, Any]:
    """Return the chat completion that a messages request asks for.

    Thinking of earlier turns is left out: it is signed by the model that wrote it, and another may read this. Images
    that a tool returned lead the next user message. A failed tool is told in words. ``top_k`` and unknown fields go
    with the request as they are.

    Parameters
    ----------
    body : mapping
        As the client sent it; not changed.
    needs_max_tokens : bool
        Whether ``max_tokens`` must be there.

    Raises
    ------
    APIError
        400, with ``param`` naming the client's own field.
    """
    check_types(body, _TYPES)
    check_single_choice(body, "messages")
    for name, message in _REFUSED.items():
        if body.get(name):
            raise unsupported(name, message)
    chat = {name: value for name, value in body.items() if name not in _TRANSLATED and name not in _LEFT_OUT}
    max_tokens = body.get("max_tokens")
    if max_tokens is None and needs_max_tokens:
        raise missing("max_tokens")
    check_at_least_one("max_tokens", max_tokens)
    if max_tokens is not None:
        chat["max_completion_tokens"] = max_tokens
    chat["messages"] = _messages(body)
    if stop := _stop_sequences(body):
        chat["stop"] = stop
    if body.get("service_tier") is not None:
        chat["service_tier"] = "default" if body["service_tier"] == "standard_only" else body["service_tier"]
    if user := _user(body):
        chat["user"] = user
    _add_tools(chat, body)
    _add_output(chat, body)
    return chat


def asks_for_thinking(body: Mapping[str, Any]) -> bool:
    """Return whether the client wants to see what the model thinks."""
    thinking = body.get("thinking")
    if not isinstance(thinking, Mapping):
        return False
    return thinking.get("type") in ("enabled", "adaptive") and thinking.get("display") != "omitted"


# Messages


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = require(body, "messages", ARRAY)
    if not given:
        raise APIError(
            "Invalid 'messages': the array is empty. Expected at least one message.",
            param="messages",
            code="empty_array",
        )
    messages = ChatMessages()
    if system := _system(body.get("system"), "system"):
        messages.add({"role": "system", "content": content_of(system)})
    for i, message in enumerate(given):
        where = f"messages[{i}]"
        expect(message, OBJECT, where)
        role = require(message, "role", STRING, where)
        if role == "user":
            _add_user(messages, message, where)
        elif role == "assistant":
            _add_assistant(messages, message, where)
        elif role == "system":
            parts = _system(message.get("content"), f"{where}.content")
            messages.add({"role": "system", "content": content_of(parts)})
        else:
            raise wrong_value(f"{where}.role", role, _ROLES)
    return messages.finish()


def _system(content: object, where: str) -> list[Part]:
    parts: list[Part] = []
    for block, place in blocks_of(content, where):
        if block["type"] != "text":
            raise wrong_value(f"{place}.type", block["type"], ("text",))
        parts.append(text_part(block, place))
    return parts


def _add_user(messages: ChatMessages, message: Mapping[str, Any], where: str) -> None:
    _require_content(message, where)
    parts: list[Part] = []
    results = 0
    for block, place in blocks_of(message["content"], f"{where}.content"):
        if block["type"] == "tool_result":
            results += 1
            _add_tool_result(messages, block, place)
        else:
            parts += content_parts(block, place)
    if parts or not results:
        messages.add_user(parts)


def _add_tool_result(messages: ChatMessages, block: Mapping[str, Any], where: str) -> None:
    call_id = require(block, "tool_use_id", STRING, where)
    parts: list[Part] = []
    for inner, place in blocks_of(block.get("content"), f"{where}.content"):
        parts += content_parts(inner, place)
    is_error = bool(optional(block, "is_error", BOOLEAN, where))
    if parts and block.get("cache_control") is not None:
        parts[-1] = {"cache_control": block["cache_control"], **parts[-1]}
    messages.add_tool_result(call_id, parts, is_error=is_error)


def _add_assistant(messages: ChatMessages, message: Mapping[str, Any], where: str) -> None:
    _require_content(message, where)
    parts: list[Part] = []
    calls: list[dict[str, Any]] = []
    for block, place in blocks_of(message["content"], f"{where}.content"):
        kind = block["type"]
        if kind == "text":
            parts.append(text_part(block, place))
        elif kind == "tool_use":
            calls.append(_tool_call(block, place))
        elif kind not in ("thinking", "redacted_thinking"):
            raise unknown_block(kind, place)
    said: dict[str, Any] = {"role": "assistant", "content": content_of(parts) if parts or not calls else None}
    if calls:
        said["tool_calls"] = calls
    messages.add(said)


def _tool_call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = to_json(require(block, "input", OBJECT, where), f"{where}.input")
    function = {"name": require(block, "name", STRING, where), "arguments": arguments}
    return {"id": require(block, "id", STRING, where), "type": "function", "function": function}


def _require_content(message: Mapping[str, Any], where: str) -> None:
    if message.get("content") is None:
        raise missing(f"{where}.content")


# Settings


def _stop_sequences(body: Mapping[str, Any]) -> list[str]:
    given = body.get("stop_sequences") or []
    return [expect(text, STRING, f"stop_sequences[{i}]") for i, text in enumerate(given)]


def _user(body: Mapping[str, Any]) -> str | None:
    user_id: str | None = optional(body.get("metadata") or {}, "user_id", STRING, "metadata")
    if user_id is None or len(user_id) <= _LONGEST_USER:
        return user_id
    return hashlib.sha256(user_id.encode("utf-8", "replace")).hexdigest()


def _add_tools(chat: dict[str, Any], body: Mapping[str, Any]) -> None:
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.get("tools") or [])]
    if tools:
        chat["tools"] = tools
    choice = body.get("tool_choice")
    if choice is None:
        return
    kind = require(choice, "type", STRING, "tool_choice")
    if kind not in _TOOL_CHOICES:
        raise wrong_value("tool_choice.type", kind, _TOOL_CHOICES)
    one_at_a_time = optional(choice, "disable_parallel_tool_use", BOOLEAN, "tool_choice")
    if kind == "tool":
        name = require(choice, "name", STRING, "tool_choice")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind == "any":
        chat["tool_choice"] = "required"
    elif tools:  # chat refuses a choice among no tools, even where it chooses none
        chat["tool_choice"] = kind
    if one_at_a_time is not None and tools:
        chat["parallel_tool_calls"] = not one_at_a_time


def _tool(tool: object, where: str) -> dict[str, Any]:
    given: Mapping[str, Any] = expect(tool, OBJECT, where)
    kind = optional(given, "type", STRING, where)
    if kind not in (None, "custom"):
        raise unsupported(
            f"{where}.type",
            f"The tool type {kind!r} is Anthropic's own and is not supported by this gateway. "
            "Offer a tool with 'name' and 'input_schema' and run it yourself.",
            code="unsupported_value",
        )
    function = {"name": require(given, "name", STRING, where)}
    description = optional(given, "description", STRING, where)
    if description is not None:
        function["description"] = description
    function["parameters"] = require(given, "input_schema", OBJECT, where)
    strict = optional(given, "strict", BOOLEAN, where)
    if strict is not None:
        function["strict"] = strict
    translated: dict[str, Any] = {"type": "function", "function": function}
    if given.get("cache_control") is not None:
        translated["cache_control"] = given["cache_control"]
    return translated


def _add_output(chat: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Translate thinking, effort and output format."""
    effort = _thinking_effort(body.get("thinking"))
    config = body.get("output_config") or {}
    effort = optional(config, "effort", STRING, "output_config") or effort
    if effort is not None:
        chat["reasoning_effort"] = effort
    form, where = optional(config, "format", OBJECT, "output_config"), "output_config.format"
    if form is None:
        form, where = optional(body, "output_format", OBJECT), "output_format"
    if form is None:
        return
    kind = require(form, "type", STRING, where)
    if kind != "json_schema":
        raise wrong_value(f"{where}.type", kind, ("json_schema",))
    schema = require(form, "schema", OBJECT, where)
    json_schema = {"name": "output", "schema": schema, "strict": True}
    chat["response_format"] = {"type": "json_schema", "json_schema": json_schema}


def _thinking_effort(thinking: Mapping[str, Any] | None) -> str | None:
    """Return the effort that a budget of thinking tokens comes to; None leaves it to the model."""
    if thinking is None:
        return None
    kind = require(thinking, "type", STRING, "thinking")
    if kind not in _THINKING:
        raise wrong_value("thinking.type", kind, _THINKING)
    if kind != "enabled":
        return None
    budget = require(thinking, "budget_tokens", INTEGER, "thinking")
    return next((effort for smallest, effort in _SMALLEST_BUDGETS if budget >= smallest), "low")
