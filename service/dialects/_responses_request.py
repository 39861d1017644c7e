"""Requests in the shape of OpenAI's responses, as chat completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from service.dialects._chat_messages import ChatMessages, content_of
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
    unsupported,
    wrong_value,
)
from service.dialects._responses_content import content_parts
from service.errors import APIError

_TYPES: Mapping[str, tuple[str, ...]] = {
    "background": (BOOLEAN,),
    "include": (ARRAY,),
    "input": (STRING, ARRAY),
    "instructions": (STRING,),
    "max_output_tokens": (INTEGER,),
    "max_tool_calls": (INTEGER,),
    "metadata": (OBJECT,),
    "parallel_tool_calls": (BOOLEAN,),
    "previous_response_id": (STRING,),
    "prompt_cache_key": (STRING,),
    "reasoning": (OBJECT,),
    "safety_identifier": (STRING,),
    "service_tier": (STRING,),
    "store": (BOOLEAN,),
    "stream": (BOOLEAN,),
    "stream_options": (OBJECT,),
    "temperature": (NUMBER,),
    "text": (OBJECT,),
    "tool_choice": (STRING, OBJECT),
    "tools": (ARRAY,),
    "top_logprobs": (INTEGER,),
    "top_p": (NUMBER,),
    "truncation": (STRING,),
    "user": (STRING,),
}
_TRANSLATED = frozenset(
    {"input", "instructions", "max_output_tokens", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools"}
) | {"top_logprobs"}
# Chat knows none of these, or (metadata, store) takes them to mean that the upstream shall store the answer.
_LEFT_OUT = frozenset({"background", "context_management", "conversation", "include", "max_tool_calls", "metadata"}) | {
    "previous_response_id",
    "prompt",
    "store",
    "truncation",
}
_REFUSED: Mapping[str, str] = {
    "background": "Background responses are not supported by this gateway. Leave 'background' out and wait for the "
    "answer, or stream it.",
    "conversation": "Conversations are not stored by this gateway. Leave 'conversation' out and send the items of the "
    "conversation in 'input'.",
    "moderation": "Moderation is not supported by this gateway. Leave 'moderation' out.",
    "previous_response_id": "Responses are not stored by this gateway. Leave 'previous_response_id' out and send the "
    "items of the earlier turns in 'input'.",
    "prompt": "Prompt templates are not stored by this gateway. Leave 'prompt' out and send the text in 'input'.",
}
_ROLES = ("user", "assistant", "system", "developer")
_TOOL_CHOICES = ("none", "auto", "required")
_LOGPROBS = "message.output_text.logprobs"


def responses_to_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chat completion that a request for a response asks for.

    Developer messages become system messages, which every upstream knows. Reasoning items are left out: they belong
    to the model that wrote them, and another may read this. Images and files that a tool returned lead the next user
    message. Unknown fields go with the request as they are.

    Parameters
    ----------
    body : mapping
        As the client sent it; not changed.

    Raises
    ------
    APIError
        400, with ``param`` naming the client's own field.
    """
    for name, message in _REFUSED.items():
        if body.get(name):
            raise unsupported(name, message)
    check_types(body, _TYPES)
    check_single_choice(body, "responses")
    chat = {name: value for name, value in body.items() if name not in _TRANSLATED and name not in _LEFT_OUT}
    chat["messages"] = _messages(body)
    max_tokens = body.get("max_output_tokens")
    check_at_least_one("max_output_tokens", max_tokens)
    if max_tokens is not None:
        chat["max_completion_tokens"] = max_tokens
    _add_tools(chat, body)
    _add_text(chat, body.get("text") or {})
    effort = optional(body.get("reasoning") or {}, "effort", STRING, "reasoning")
    if effort is not None:
        chat["reasoning_effort"] = effort
    _add_logprobs(chat, body)
    return chat


# Items


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = ChatMessages()
    if body.get("instructions"):
        messages.add({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    if given is None:
        raise missing("input")
    if isinstance(given, str):
        messages.add_user([{"type": "text", "text": given}])
        return messages.finish()
    if not given:
        raise APIError(
            "Invalid 'input': the array is empty. Expected at least one item.", param="input", code="empty_array"
        )
    for i, item in enumerate(given):
        where = f"input[{i}]"
        expect(item, OBJECT, where)
        kind = optional(item, "type", STRING, where) or ("message" if "role" in item else None)
        if kind is None:
            raise missing(f"{where}.type")
        translate = _ITEMS.get(kind)
        if translate is None:
            raise _unknown_item(kind, where)
        translate(messages, item, where)
    translated = messages.finish()
    if not translated:
        raise APIError(
            "Invalid 'input': it holds no message. Expected at least one beside the reasoning.",
            param="input",
            code="invalid_value",
        )
    return translated


def _add_message(messages: ChatMessages, item: Mapping[str, Any], where: str) -> None:
    role = require(item, "role", STRING, where)
    if role not in _ROLES:
        raise wrong_value(f"{where}.role", role, _ROLES)
    parts = content_parts(item.get("content"), f"{where}.content")
    if role == "user":
        messages.add_user(parts)
    else:
        messages.add({"role": "assistant" if role == "assistant" else "system", "content": content_of(parts)})


def _add_call(messages: ChatMessages, item: Mapping[str, Any], where: str) -> None:
    arguments = require(item, "arguments", STRING, where)
    messages.add_tool_call(require(item, "call_id", STRING, where), require(item, "name", STRING, where), arguments)


def _add_output(messages: ChatMessages, item: Mapping[str, Any], where: str) -> None:
    call_id = require(item, "call_id", STRING, where)
    messages.add_tool_result(call_id, content_parts(item.get("output"), f"{where}.output"))


def _leave_out(messages: ChatMessages, item: Mapping[str, Any], where: str) -> None:
    """Reasoning of earlier turns stays with the client."""


_ITEMS: Mapping[str, Callable[[ChatMessages, Mapping[str, Any], str], None]] = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
    "reasoning": _leave_out,
}


def _unknown_item(kind: str, where: str) -> APIError:
    if kind == "item_reference":
        message = "Items are not stored by this gateway. Send the item itself instead of an 'item_reference'."
    else:
        message = (
            f"Items of type {kind!r} are not supported by this gateway. Supported are {', '.join(sorted(_ITEMS))}."
        )
    return unsupported(f"{where}.type", message, code="unsupported_value")


# Settings


def _add_tools(chat: dict[str, Any], body: Mapping[str, Any]) -> None:
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.get("tools") or [])]
    if tools:
        chat["tools"] = tools
        if body.get("parallel_tool_calls") is not None:
            chat["parallel_tool_calls"] = body["parallel_tool_calls"]
    choice = body.get("tool_choice")
    if choice is None:
        return
    translated = _tool_choice(choice)
    # Chat refuses a choice among no tools, even where it chooses none.
    if tools or translated not in ("auto", "none"):
        chat["tool_choice"] = translated


def _tool(tool: object, where: str) -> dict[str, Any]:
    given: Mapping[str, Any] = expect(tool, OBJECT, where)
    kind = require(given, "type", STRING, where)
    if kind != "function":
        raise unsupported(
            f"{where}.type",
            f"The tool {kind!r} is not supported by this gateway: it has no counterpart in chat completions. "
            "Offer a tool of type 'function' and run it yourself.",
            code="unsupported_value",
        )
    function: dict[str, Any] = {"name": require(given, "name", STRING, where)}
    for name, value_kind in (("description", STRING), ("parameters", OBJECT), ("strict", BOOLEAN)):
        value = optional(given, name, value_kind, where)
        if value is not None:
            function[name] = value
    return {"type": "function", "function": function}


def _tool_choice(choice: str | Mapping[str, Any]) -> str | dict[str, Any]:
    if isinstance(choice, str):
        if choice not in _TOOL_CHOICES:
            raise wrong_value("tool_choice", choice, _TOOL_CHOICES)
        return choice
    kind = require(choice, "type", STRING, "tool_choice")
    if kind == "function":
        return _function_choice(choice, "tool_choice")
    if kind == "allowed_tools":
        tools = require(choice, "tools", ARRAY, "tool_choice")
        chosen = [_allowed_tool(tool, f"tool_choice.tools[{i}]") for i, tool in enumerate(tools)]
        mode = require(choice, "mode", STRING, "tool_choice")
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": chosen}}
    raise wrong_value("tool_choice.type", kind, ("function", "allowed_tools"))


def _allowed_tool(tool: object, where: str) -> dict[str, Any]:
    given: Mapping[str, Any] = expect(tool, OBJECT, where)
    kind = require(given, "type", STRING, where)
    if kind != "function":
        raise wrong_value(f"{where}.type", kind, ("function",))
    return _function_choice(given, where)


def _function_choice(choice: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": require(choice, "name", STRING, where)}}


def _add_text(chat: dict[str, Any], text: Mapping[str, Any]) -> None:
    verbosity = optional(text, "verbosity", STRING, "text")
    if verbosity is not None:
        chat["verbosity"] = verbosity
    form = optional(text, "format", OBJECT, "text")
    if form is None:
        return
    kind = require(form, "type", STRING, "text.format")
    if kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind == "json_schema":
        schema = {
            "name": require(form, "name", STRING, "text.format"),
            "description": optional(form, "description", STRING, "text.format"),
            "schema": require(form, "schema", OBJECT, "text.format"),
            "strict": optional(form, "strict", BOOLEAN, "text.format"),
        }
        given = {name: value for name, value in schema.items() if value is not None}
        chat["response_format"] = {"type": kind, "json_schema": given}
    elif kind != "text":
        raise wrong_value("text.format.type", kind, ("text", "json_object", "json_schema"))


def _add_logprobs(chat: dict[str, Any], body: Mapping[str, Any]) -> None:
    top_logprobs = body.get("top_logprobs")
    if top_logprobs or _LOGPROBS in (body.get("include") or ()):
        chat["logprobs"] = True
        if top_logprobs is not None:
            chat["top_logprobs"] = top_logprobs
