"""Whatever clients and upstreams send: nothing but an APIError, and nothing that cannot be written as JSON.

Rich requests and answers are damaged in a few places: what is random altogether rarely comes past the first check.
"""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from dialect_samples import DONE, REQUEST_ID, TOOL_CALLS, USAGE, call_chunk, chat_answer, chunk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.dialects import count_tokens, dialect, parse_embeddings, without_cache_control
from service.errors import APIError

_CACHE = {"type": "ephemeral"}
_URL = {"type": "url", "url": "https://example.org/a.png"}
_BASE64 = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
_REQUESTS: dict[str, dict[str, Any]] = {
    "messages": {
        "model": "auto",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s", "cache_control": _CACHE}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "image", "source": _URL},
                    {"type": "image", "source": _BASE64, "cache_control": _CACHE},
                    {"type": "document", "source": _BASE64, "title": "t", "context": "c"},
                    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}},
                    {"type": "search_result", "title": "t", "source": "s", "content": [{"type": "text", "text": "a"}]},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "b"},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "c"}]},
                    {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": "d"},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
        "service_tier": "auto",
    },
    "responses": {
        "model": "auto",
        "instructions": "i",
        "input": [
            {"role": "developer", "content": "d"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "image_url": "u", "detail": "low"},
                    {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
                    {"type": "input_file", "file_data": "d", "filename": "f"},
                ],
            },
            {"type": "reasoning", "summary": []},
            {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}]},
        ],
        "tools": [{"type": "function", "name": "weather", "description": "d", "parameters": {}, "strict": True}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": None},
        "max_output_tokens": 5,
        "parallel_tool_calls": False,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "metadata": {"a": "b"},
        "store": True,
        "truncation": "auto",
    },
    "completions": {
        "model": "auto",
        "prompt": ["Once"],
        "echo": True,
        "n": 1,
        "best_of": 1,
        "max_tokens": 5,
        "stream_options": {"include_usage": True},
        "suffix": None,
        "stop": ["x"],
    },
}
NAMES = tuple(_REQUESTS)
_TOKEN = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -1, "bytes": None}]}
_ANNOTATION = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": "u"}}
_ANSWER = chat_answer(
    [{"type": "text", "text": "a"}],
    reasoning_content="hm",
    refusal="no",
    tool_calls=TOOL_CALLS,
    annotations=[_ANNOTATION],
)
_ANSWER["choices"][0]["logprobs"] = {"content": [_TOKEN]}
_TEXT = chunk({"content": "a", "reasoning": "hm", "annotations": [_ANNOTATION]})
_TEXT["choices"][0]["logprobs"] = {"content": [_TOKEN]}
_CHUNKS = [
    _TEXT,
    call_chunk(0, "{", call_id="c", name="weather"),
    call_chunk(1, "{}", call_id="d", name="clock"),
    call_chunk(0, "}"),
    chunk({"content": "b"}, finish_reason="stop"),
    chunk(None, usage=USAGE),
]

_scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
_values = st.recursive(
    _scalars | st.sampled_from(["text", "image", "function", "user", "message", "none", "stop"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "a"]), inner),
    max_leaves=5,
)
_fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def damaged(draw: st.DrawFn, sample: Any) -> Any:
    """Draw a copy of a JSON value in which up to three places are replaced or removed."""
    whole = [copy.deepcopy(sample)]
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(whole))
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()) and holder is not whole:
            del holder[key]
        else:
            holder[key] = draw(_values)
    return whole[0]


def _places(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield value, key
        yield from _places(one)


def _object(sample: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return damaged(sample).filter(lambda value: isinstance(value, dict))


def taken(translate, body):
    """Return what `translate` makes of a body, or None where it refuses it as it should."""
    try:
        return translate(body)
    except APIError as error:
        refusal = error
    assert refusal.status == 400
    assert refusal.body["error"]["message"]
    assert refusal.body["error"]["param"]
    return None


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_whole(name):
    body = _REQUESTS[name]
    assert taken(dialect(name).to_chat, copy.deepcopy(body)) is not None


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@_fuzz
def test_requests(name, data):
    body = data.draw(_object(_REQUESTS[name]))
    chat = taken(dialect(name).to_chat, body)
    if chat is None:
        return
    assert chat["messages"]
    assert all(isinstance(message["role"], str) for message in chat["messages"])
    orjson.dumps(chat)
    orjson.dumps(without_cache_control(chat))
    # What was taken is answered too, whatever else stands in it.
    orjson.dumps(dialect(name).answer(copy.deepcopy(_ANSWER), body, request_id=REQUEST_ID))
    translator = dialect(name).stream(body, request_id=REQUEST_ID)
    assert translator.feed(orjson.dumps(_TEXT))
    assert translator.feed(DONE)


@given(_object(_REQUESTS["messages"]), _object({"model": "m", "input": [[1, 2], [3]], "user": "u", "dimensions": 2}))
@_fuzz
def test_other_requests(messages, embeddings):
    counted = taken(count_tokens, messages)
    assert counted is None or counted["input_tokens"] >= 0
    taken(parse_embeddings, embeddings)


@given(st.dictionaries(st.sampled_from([key for body in _REQUESTS.values() for key in body]), _values))
@_fuzz
def test_arbitrary_objects(body):
    for name in NAMES:
        taken(dialect(name).to_chat, body)


@pytest.mark.parametrize("name", NAMES)
@given(chat=_object(_ANSWER))
@_fuzz
def test_whole_answers(name, chat):
    orjson.dumps(dialect(name).answer(chat, _REQUESTS[name], request_id=REQUEST_ID))


@pytest.mark.parametrize("name", NAMES)
@given(chunks=damaged(_CHUNKS).filter(lambda value: isinstance(value, list)), noise=st.binary(max_size=5))
@_fuzz
def test_streams(name, chunks, noise):
    translator = dialect(name).stream(_REQUESTS[name], request_id=REQUEST_ID)
    stream = b"".join([*(translator.feed(orjson.dumps(one)) for one in chunks), translator.feed(noise)])
    stream += translator.finish()
    assert stream.endswith(b"\n\n")
    for raw in stream.removesuffix(b"\n\n").split(b"\n\n"):
        data = raw.rpartition(b"data: ")[2]
        assert data == DONE or orjson.loads(data)
    assert translator.finish() == b""
