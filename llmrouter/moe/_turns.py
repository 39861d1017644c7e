"""The turns of a chat, checked and in the form that a model's chat template takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from llmrouter.exceptions import GenerationRequestError
from llmrouter.moe._tools import Tool, described

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

Turn = dict[str, Any]


def turns_of(messages: Sequence[Mapping[str, Any]], *, calls_as_text: bool) -> list[Turn]:
    """Return the turns for a template.

    Parameters
    ----------
    messages : sequence of mapping
        In OpenAI's form.
    calls_as_text : bool
        For templates without a place for calls: a call becomes the text of its turn, a result the user's words.

    Raises
    ------
    GenerationRequestError
        If a message has another role or other content than text, or a result belongs to no call.
    """
    names: dict[str, str] = {}  # of the calls so far, by id
    turns = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = _ROLES.get(message.get("role", ""))
        if role is None:
            _refuse(f"{where}.role", message.get("role"), f"it must be {', '.join(_ROLES)}")
        if role == "tool":
            turns.append(_result(message, where, names, as_text=calls_as_text))
        elif role == "assistant" and message.get("tool_calls"):
            turns.append(_calling(message, where, names, as_text=calls_as_text))
        else:
            turns.append({"role": role, "content": _text(message.get("content"), f"{where}.content")})
    return turns


def with_tools_described(turns: Sequence[Turn], tools: Sequence[Tool]) -> list[Turn]:
    """Return the turns with a system message that offers `tools`, joined to the first one if that is the system's."""
    offer = described(tools)
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{offer}"}, *turns[1:]]
    return [{"role": "system", "content": offer}, *turns]


def _calling(message: Mapping[str, Any], where: str, names: dict[str, str], *, as_text: bool) -> Turn:
    calls = [_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(message["tool_calls"])]
    names.update((call["id"], call["function"]["name"]) for call in calls)
    content = message.get("content")
    text = "" if content is None else _text(content, f"{where}.content")
    if not as_text:
        return {"role": "assistant", "content": text, "tool_calls": calls}
    lines = [json.dumps(call["function"], ensure_ascii=False) for call in calls]
    return {"role": "assistant", "content": "\n".join([text, *lines] if text else lines)}


def _call(call: Any, where: str) -> dict[str, Any]:
    """Return a call with its arguments as an object, as templates write them out themselves."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        _refuse(where, call, "it must be {'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': ...}}")
    if not isinstance(call.get("id"), str):
        _refuse(f"{where}.id", call.get("id"), "it must be the id that the call came with")
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError):
        arguments = None
    if not isinstance(arguments, dict):
        _refuse(f"{where}.function.arguments", function.get("arguments"), "it must be an object as JSON in a string")
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _result(message: Mapping[str, Any], where: str, names: Mapping[str, str], *, as_text: bool) -> Turn:
    call = message.get("tool_call_id")
    if not isinstance(call, str) or call not in names:
        _refuse(f"{where}.tool_call_id", call, "it must be the id of a call in the assistant's messages before it")
    text = _text(message.get("content"), f"{where}.content")
    if as_text:
        return {"role": "user", "content": f"Result of {names[call]}: {text}"}
    return {"role": "tool", "content": text, "tool_call_id": call, "name": names[call]}


def _text(content: Any, where: str) -> str:
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(_text_of(part, f"{where}[{place}]") for place, part in enumerate(content))
    if not isinstance(content, str):
        _refuse(where, content, "it must be a string or a list of text parts")
    return str(content)


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise GenerationRequestError(f"{where} is of type {kind!r}; this model takes text only", param=where)


def _refuse(where: str, value: object, wanted: str) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    raise GenerationRequestError(f"{where} is {shown}; {wanted}", param=where)
