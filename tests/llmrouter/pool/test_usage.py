"""Reading token counts and errors out of answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.pool import StreamObserver, error_in, parse_usage, usage_from_body
from llmrouter.types import Usage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(3, 2)),
        ({"input_tokens": 3, "output_tokens": 2}, Usage(3, 2)),
        (
            {
                "prompt_tokens": 30,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 10},
                "completion_tokens_details": {"reasoning_tokens": 15},
            },
            Usage(30, 20, cached_tokens=10, reasoning_tokens=15),
        ),
        ({"prompt_tokens": 3.0, "completion_tokens": None, "prompt_tokens_details": None}, Usage(3)),
        ({"prompt_tokens": -1, "completion_tokens": "7"}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, Usage()),
        ({}, Usage()),
        (None, Usage()),
        ([], Usage()),
    ],
)
def test_usage(usage: Any, expected: Usage) -> None:
    assert parse_usage(usage) == expected


@given(st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]), JSON))
def test_any_usage_is_read_without_a_crash(usage: dict[str, Any]) -> None:
    read = parse_usage(usage)
    assert read.input_tokens is None or read.input_tokens >= 0


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_without_a_crash(body: bytes) -> None:
    usage_from_body(body)
    error_in(body)
    StreamObserver().observe(body)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"error": {"message": "no"}}, {"message": "no"}),
        ({"error": "no"}, {"message": "no"}),
        ({"error": None, "choices": []}, None),
        ({"error": {}}, None),
        ({"choices": [{"delta": {"content": '"error": {"message"'}}]}, None),
    ],
)
def test_errors(data: dict[str, Any], found: dict[str, Any] | None) -> None:
    assert error_in(json.dumps(data).encode()) == found


def observed(*payloads: dict[str, Any] | str) -> tuple[StreamObserver, list[bool]]:
    observer = StreamObserver()
    encoded = [payload.encode() if isinstance(payload, str) else json.dumps(payload).encode() for payload in payloads]
    return observer, [observer.observe(data) for data in encoded]


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def test_the_extra_usage_chunk_is_told_apart() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    observer, extra = observed(
        chunk({"role": "assistant", "content": ""}, usage=None),
        chunk({"content": "hi"}, usage=None),
        chunk({}, "stop", usage=None),
        {"choices": [], "usage": usage},
        "[DONE]",
    )
    assert extra == [False, False, False, True, False]
    assert observer.usage == Usage(3, 2)
    assert observer.done
    assert observer.finished


def test_usage_in_the_last_content_chunk_is_read_and_not_hidden() -> None:
    observer, extra = observed(
        chunk({"content": "a"}), chunk({"content": "b"}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2})
    )
    assert extra == [False, False]
    assert observer.usage == Usage(3, 2)


def test_the_last_usage_counts() -> None:
    """Some upstreams send running totals with every chunk."""
    observer, _ = observed(
        *(chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in (1, 2, 9))
    )
    assert observer.usage.output_tokens == 9


@pytest.mark.parametrize("delta", [{"content": "x"}, {"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}])
def test_the_first_token_is_the_first_content(delta: dict[str, Any]) -> None:
    observer, _ = observed(chunk({"role": "assistant", "content": ""}))
    assert not observer.content_seen
    observer.observe(json.dumps(chunk(delta)).encode())
    assert observer.content_seen


def test_text_that_looks_like_usage_or_a_finish_changes_nothing() -> None:
    text = '{"usage": {"prompt_tokens": 9}, "finish_reason": "stop", "error": {"message": "x"}}'
    observer, extra = observed(chunk({"content": "a"}), chunk({"content": text}))
    assert extra == [False, False]
    assert observer.usage == Usage()
    assert not observer.finished
    assert observer.error is None


def test_an_error_within_a_stream_is_kept() -> None:
    observer, _ = observed(chunk({"content": "a"}), {"error": {"message": "overloaded", "code": 529}})
    assert observer.error == {"message": "overloaded", "code": 529}
