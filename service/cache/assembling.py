"""Chunks of a chat stream put together to the whole answer, and a whole answer cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

# What names a thing is not written piece by piece: upstreams that send it again mean the same.
_ONCE = frozenset({"id", "name", "role", "type"})
_OF_A_CHUNK = frozenset({"choices", "object", "obfuscation", "usage"})
_OF_A_CHOICE = frozenset({"delta", "finish_reason", "index", "logprobs"})
_OF_AN_ANSWER = ("id", "created", "model", "system_fingerprint", "service_tier")
_FIRST_FIELDS = ("reasoning_content", "reasoning", "content", "refusal", "tool_calls")


def assemble(chunks: Iterable[object], *, usage: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the chat completion that chunks of a stream add up to.

    Parameters
    ----------
    chunks : iterable of object
        Parsed data of the events; whatever is no chunk is passed over.
    usage : mapping, optional
        For an answer whose chunks hold none.

    Returns
    -------
    dict
        With ``choices`` in the order of their index. Texts are joined, tool calls by their index; of what is not
        written piece by piece the first value holds, of finish reasons and vendor fields of a choice the last. Every
        message has ``content``, null where there was none.
    """
    outer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if not isinstance(chunk, Mapping):
            continue
        for name, value in chunk.items():
            if name not in _OF_A_CHUNK and outer.get(name) is None:
                outer[name] = value
        if isinstance(chunk.get("usage"), Mapping):
            usage = chunk["usage"]
        for choice in _mappings(chunk.get("choices")):
            index = choice.get("index", 0)
            if isinstance(index, int):
                _take(choices.setdefault(index, _empty_choice(index)), choice)
    answer = {"id": outer.pop("id", None), "object": "chat.completion", **outer}
    answer["choices"] = [_without_positions(choices[index]) for index in sorted(choices)]
    if usage is not None:
        answer["usage"] = usage
    return answer


def cut(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the chunks of a stream that says what a chat completion says; the inverse of `assemble`.

    Each choice begins with its role, goes on with one chunk per field of its message (reasoning first, then content,
    refusal, tool calls one by one) and ends with its finish reason. What OpenAI does not define is passed on: of the
    answer in the first chunk, of a choice in its last. The usage is left to the caller.
    """
    base = {name: answer[name] for name in _OF_AN_ANSWER if name in answer}
    base["object"] = "chat.completion.chunk"
    chunks = []
    for position, choice in enumerate(_mappings(answer.get("choices"))):
        index = choice.get("index", position)
        chunks += [{**base, "choices": [{"index": index, **part}]} for part in _parts(choice)]
    if chunks:
        outer = {name: value for name, value in answer.items() if name not in _OF_A_CHUNK and name not in base}
        chunks[0] = {**chunks[0], **outer}
    return chunks


def usage_chunk(like: Mapping[str, Any], usage: Mapping[str, Any]) -> bytes:
    """Return the data of the extra chunk that carries the usage of an answer, or of a stream with chunks like this."""
    base = {name: like[name] for name in _OF_AN_ANSWER if name in like}
    return orjson.dumps({**base, "object": "chat.completion.chunk", "choices": [], "usage": dict(usage)})


# Putting together


def _empty_choice(index: int) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}


def _take(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    delta = piece.get("delta")
    if isinstance(delta, Mapping):
        message = choice["message"]
        if isinstance(delta.get("role"), str):
            message["role"] = delta["role"]
        for name, value in delta.items():
            if name == "tool_calls":
                message[name] = _with_calls(message.get(name), value)
            elif name != "role":
                _merge(message, name, value)
    if "logprobs" in piece:
        _merge(choice, "logprobs", piece["logprobs"])
    if piece.get("finish_reason") is not None:
        choice["finish_reason"] = piece["finish_reason"]
    for name, value in piece.items():
        if name not in _OF_A_CHOICE and (value is not None or name not in choice):
            choice[name] = value


def _merge(target: dict[str, Any], name: str, value: Any) -> None:
    """Add a piece of a value to what came of it before; null adds nothing."""
    before = target.get(name)
    if value is None:
        target.setdefault(name, None)
    elif isinstance(value, str) and isinstance(before, str):
        target[name] = before if before and name in _ONCE else before + value
    elif isinstance(value, Mapping):
        inner = target[name] = before if isinstance(before, dict) else {}
        for key, piece in value.items():
            _merge(inner, key, piece)
    elif isinstance(value, list):
        target[name] = [*before, *value] if isinstance(before, list) else list(value)
    else:
        target[name] = value


def _with_calls(calls: list[dict[str, Any]] | None, pieces: object) -> list[dict[str, Any]] | None:
    """Return the calls so far with further pieces."""
    if pieces is None:
        return calls
    calls = calls or []
    for piece in _mappings(pieces):
        call = _call_of(calls, piece)
        if call is None:
            call = {"index": piece.get("index")}
            calls.append(call)
        for name, value in piece.items():
            if name != "index":
                _merge(call, name, value)
    return calls


def _call_of(calls: Sequence[dict[str, Any]], piece: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the call that a piece belongs to, None where it begins one.

    A piece without an index goes on with the last call. Some upstreams give all calls the same index: another id
    begins another call.
    """
    index = piece.get("index")
    known = calls[-1:] if index is None else [call for call in calls if call["index"] == index][-1:]
    if not known:
        return None
    before, named = known[0].get("id"), piece.get("id")
    return None if before and named and before != named else known[0]


def _without_positions(choice: dict[str, Any]) -> dict[str, Any]:
    for call in choice["message"].get("tool_calls") or ():
        call.pop("index")
    return choice


# Cutting


def _parts(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the chunks' parts of one choice, without its index."""
    given = choice.get("message")
    message = given if isinstance(given, Mapping) else {}
    first = {"role": message.get("role") or "assistant", **{n: v for n, v in message.items() if not v and n != "role"}}
    first["content"] = "" if isinstance(message.get("content"), str) else None
    deltas: list[dict[str, Any]] = [first]
    names = [name for name in _FIRST_FIELDS if name in message]
    names += [name for name in message if name not in _FIRST_FIELDS and name != "role"]
    spoken = 0
    for name in names:
        if not message[name]:
            continue
        if name in ("content", "refusal"):
            spoken = spoken or len(deltas)
        if name == "tool_calls":
            calls = _mappings(message[name])
            deltas += [{name: [{**call, "index": position}]} for position, call in enumerate(calls)]
        else:
            deltas.append({name: message[name]})
    parts = [{"delta": delta, "finish_reason": None} for delta in deltas]
    rest = {name: value for name, value in choice.items() if name not in _OF_A_CHOICE and name != "message"}
    parts.append({"delta": {}, "finish_reason": choice.get("finish_reason"), **rest})
    if "logprobs" in choice:
        # Beside the text whose tokens they are.
        parts[spoken or -1]["logprobs"] = choice["logprobs"]
    return parts


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
