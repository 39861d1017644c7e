"""An upstream that answers sensibly whatever clients of the OpenAI API ask: text, JSON to a schema, tool calls."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from contracts.misbehaving_upstream import Exchange, chunk, completion, event, finish_chunk, usage_chunk

CITY: dict[str, Any] = {"name": "Oslo", "people": 700_000}
ARGUMENTS = '{"city": "Oslo", "unit": "C"}'
VECTOR = (0.25, -0.5, 1.0)
CAPABLE: dict[str, Any] = {"capabilities": ["tools", "vision", "audio", "json_schema", "logprobs"]}
"""Of a pool entry that takes every request here."""


async def sensible(exchange: Exchange) -> None:
    """Answer a request, whole or streamed, as it asks: an embedding, a tool call, JSON to a schema, or text."""
    if exchange.path.endswith("/embeddings"):
        await _embed(exchange)
        return
    body = exchange.body
    last = body["messages"][-1]
    if body.get("tools") and last["role"] != "tool":
        message = _call(body["tools"])
    elif (body.get("response_format") or {}).get("type") in ("json_schema", "json_object"):
        message = {"role": "assistant", "content": json.dumps(CITY)}
    elif last["role"] == "tool":
        message = {"role": "assistant", "content": f"It is {last['content']}."}
    else:
        message = {"role": "assistant", "content": "Hello there"}
    if body.get("stream"):
        await exchange.event_stream(_pieces(message))
    else:
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        await exchange.answer(completion(choices=[{"index": 0, "message": message, "finish_reason": reason}]))


def _call(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a message that calls each tool once; those that want a city get their arguments."""
    calls = []
    for i, tool in enumerate(tools):
        wants = tool["function"].get("parameters", {}).get("properties", {})
        arguments = ARGUMENTS if "unit" in wants else json.dumps(CITY)
        function = {"name": tool["function"]["name"], "arguments": arguments}
        calls.append({"id": f"call_{i}", "type": "function", "function": function})
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _pieces(message: dict[str, Any]) -> list[bytes]:
    def delta(**said: Any) -> bytes:
        return event(chunk(choices=[{"index": 0, "delta": said, "finish_reason": None}]))

    pieces = [delta(role="assistant", content=None if message.get("tool_calls") else "")]
    if text := message["content"]:
        pieces += [delta(content=text[i : i + 6]) for i in range(0, len(text), 6)]
    calls = message.get("tool_calls") or ()
    for i, call in enumerate(calls):
        function = call["function"]
        first = {**call, "index": i, "function": {"name": function["name"], "arguments": ""}}
        pieces.append(delta(tool_calls=[first]))
        for start in range(0, len(function["arguments"]), 7):
            part = {"index": i, "function": {"arguments": function["arguments"][start : start + 7]}}
            pieces.append(delta(tool_calls=[part]))
    last = finish_chunk()
    if calls:
        last["choices"][0]["finish_reason"] = "tool_calls"
    return [*pieces, event(last), event(usage_chunk()), event("[DONE]")]


async def _embed(exchange: Exchange) -> None:
    given = exchange.body["input"]
    several = isinstance(given, list) and not all(isinstance(token, int) for token in given)
    vector: Any = list(VECTOR)
    if exchange.body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(given) if several else 1)]
    payload = {"object": "list", "data": data, "model": "up-1", "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    await exchange.answer(json.dumps(payload).encode())
