"""A broken answer asked again: what the next model gets, and when it cannot go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmrouter.pool import StreamText, resume_body

BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Count"}], "stream": True}


def said(*deltas: dict[str, Any], index: int = 0) -> StreamText:
    text = StreamText()
    for delta in deltas:
        text.feed(json.dumps({"choices": [{"index": index, "delta": delta}]}).encode())
    return text


def test_the_next_model_sees_what_was_said() -> None:
    text = said({"role": "assistant", "content": ""}, {"content": "One, t"}, {"content": "wo, "}, {})
    text.feed(b'{"choices": [], "usage": {}}')
    text.feed(b"[DONE]")
    body = resume_body(BODY, text)
    assert body is not None
    assert body["messages"][0] == BODY["messages"][0]
    assert body["messages"][1] == {"role": "assistant", "content": "One, two, "}
    assert body["messages"][2]["role"] == "user"
    assert body["stream"] is True
    assert len(BODY["messages"]) == 1, "the caller's body is left alone"
    assert resume_body(BODY, "One, two, ") == body


def test_where_nothing_was_said_it_is_asked_as_before() -> None:
    assert resume_body(BODY, said({"role": "assistant", "content": ""})) == BODY
    assert resume_body(BODY, said({"reasoning_content": "Hm"})) == BODY


def test_what_was_said_counts_against_the_limit() -> None:
    body = resume_body({**BODY, "max_tokens": 100, "max_completion_tokens": 5}, "x" * 40)
    assert body is not None
    assert (body["max_tokens"], body["max_completion_tokens"]) == (90, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"modalities": ["text", "audio"]},
        {"messages": "Count"},
    ],
)
def test_some_requests_cannot_be_resumed(changes: dict[str, Any]) -> None:
    assert resume_body({**BODY, **changes}, "One") is None
    harmless = {"n": 1, "response_format": {"type": "text"}, "modalities": ["text"], "tools": []}
    assert resume_body({**BODY, **harmless}, "One") is not None


@pytest.mark.parametrize(
    "text",
    [
        said({"content": "I will look"}, {"tool_calls": [{"index": 0}]}),
        said({"function_call": {"name": "f"}}),
        said({"refusal": "No"}),
        said({"audio": {"id": "1"}}),
        said({"content": "x"}, index=1),
        said({"content": ["x"]}),
    ],
)
def test_some_answers_cannot_be_resumed(text: StreamText) -> None:
    assert resume_body(BODY, text) is None


@pytest.mark.parametrize("data", [b"{", b"[]", b'"x"', b'{"choices": [1]}'])
def test_what_is_no_chat_chunk_cannot_be_resumed(data: bytes) -> None:
    text = StreamText()
    text.feed(data)
    assert resume_body(BODY, text) is None
