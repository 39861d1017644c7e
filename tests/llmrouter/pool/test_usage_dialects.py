"""The ways in which providers count tokens, and what streams of other shapes tell of themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmrouter.pool import StreamObserver, error_in, parse_usage, usage_from_body
from llmrouter.types import Usage

DIALECTS = {
    "openai chat": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 10},
            "completion_tokens_details": {
                "reasoning_tokens": 20,
                "audio_tokens": 5,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        Usage(100, 50, 60, 20, None, 10, 5),
    ),
    "openai responses": (
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 60},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 150,
        },
        Usage(100, 50, 60, 20),
    ),
    "openai embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0)),
    "anthropic: cached tokens are beside the input": (
        {
            "input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
            "output_tokens": 5,
            "service_tier": "standard",
        },
        Usage(3210, 5, cached_tokens=3000, cache_write_tokens=200),
    ),
    "anthropic without a cache": (
        {"input_tokens": 10, "cache_creation_input_tokens": None, "cache_read_input_tokens": 0, "output_tokens": 5},
        Usage(10, 5, cached_tokens=0),
    ),
    "anthropic through a translation: cached tokens are within the prompt": (
        {
            "prompt_tokens": 3210,
            "completion_tokens": 5,
            "total_tokens": 3215,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
        },
        Usage(3210, 5, cached_tokens=3000, cache_write_tokens=200),
    ),
    "deepseek": (
        {"prompt_tokens": 30, "completion_tokens": 5, "prompt_cache_hit_tokens": 20, "prompt_cache_miss_tokens": 10},
        Usage(30, 5, cached_tokens=20),
    ),
    "openrouter": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 5,
            "total_tokens": 35,
            "cost": 0.001,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 6},
        },
        Usage(30, 5, cached_tokens=4, cache_write_tokens=6),
    ),
    "moonshot": ({"prompt_tokens": 30, "completion_tokens": 5, "cached_tokens": 7}, Usage(30, 5, cached_tokens=7)),
    "flat reasoning tokens": (
        {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39, "reasoning_tokens": 20},
        Usage(9, 30, reasoning_tokens=20),
    ),
    "xai: reasoning is beside the completion, as the total shows": (
        {
            "prompt_tokens": 10120,
            "completion_tokens": 1499,
            "total_tokens": 14428,
            "prompt_tokens_details": {"cached_tokens": 128},
            "completion_tokens_details": {"reasoning_tokens": 2809},
        },
        Usage(10120, 4308, cached_tokens=128, reasoning_tokens=2809),
    ),
    "more reasoning than completion, no total": (
        {"prompt_tokens": 12, "completion_tokens": 1, "reasoning_tokens": 386},
        Usage(12, 387, reasoning_tokens=386),
    ),
    "nothing is made up": ({"completion_tokens": 5, "total_tokens": 9}, Usage(None, 5)),
}


@pytest.mark.parametrize(("raw", "expected"), DIALECTS.values(), ids=DIALECTS)
def test_dialects(raw: dict[str, Any], expected: Usage) -> None:
    read = parse_usage(raw)
    assert read == expected
    assert read.raw == raw


def test_no_usage_has_no_raw() -> None:
    assert parse_usage(None).raw is None
    assert parse_usage({}).raw is None


@pytest.mark.parametrize(
    "body",
    [
        {"usage": {"prompt_tokens": 3, "completion_tokens": 2}, "choices": []},
        {"choices": [], "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}},
        {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 2}}},
        {"choices": [{"index": 0, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}]},
    ],
)
def test_places_of_usage(body: dict[str, Any]) -> None:
    assert usage_from_body(json.dumps(body).encode()) == Usage(3, 2)


USAGE = {"prompt_tokens": 3, "total_tokens": 3}
LONG = [0.125] * 10_000


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data": LONG, "usage": USAGE}, Usage(3, 0)),
        ({"data": LONG, "usage": USAGE, "model": "m"}, Usage(3, 0)),
        ({"usage": USAGE, "data": LONG}, Usage(3, 0)),
        # Only the key of the outermost object is the answer's usage.
        ({"usage": USAGE, "data": LONG, "meta": {"usage": {"prompt_tokens": 999}}}, Usage(3, 0)),
        ({"data": LONG, "meta": [{"usage": {"prompt_tokens": 999}}]}, Usage()),
        ({"usage": USAGE, "data": LONG, "word": "usage"}, Usage(3, 0)),
        ({"data": LONG, "text": '"usage": {"prompt_tokens": 999}'}, Usage()),
        ({"data": LONG, "usage": None, "x_groq": {"usage": USAGE}}, Usage(3, 0)),
    ],
)
def test_long_bodies_are_read_from_their_end_to_the_same_effect(body: dict[str, Any], expected: Usage) -> None:
    assert usage_from_body(json.dumps(body).encode()) == expected
    assert usage_from_body(json.dumps(body, separators=(",", ":")).encode()) == expected


# Streams of the responses API


def event(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()


RESPONSE = {"id": "resp_1", "error": None, "usage": None}


def test_a_stream_of_the_responses_api() -> None:
    observer = StreamObserver()
    usage = {"input_tokens": 3, "output_tokens": 2}
    for data in (
        event("response.created", response=RESPONSE),
        event("response.in_progress", response=RESPONSE),
        event("response.output_item.added", item={"type": "message", "content": []}),
    ):
        assert observer.observe(data) is False
        assert not observer.content_seen
    observer.observe(event("response.output_text.delta", delta="hi"))
    assert observer.content_seen
    assert not observer.finished
    observer.observe(event("response.output_text.done", text='{"type":"response.completed"}'))
    assert not observer.done
    hidden = observer.observe(event("response.completed", response={**RESPONSE, "usage": usage}))
    assert hidden is False, "the client needs this event, asked for usage or not"
    assert (observer.finished, observer.done, observer.error) == (True, True, None)
    assert observer.usage == Usage(3, 2)


EMPTY: dict[str, bytes] = {
    "role": b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}',
    "filter results": b'{"choices":[],"prompt_filter_results":[]}',
    "legacy": b'{"choices":[{"text":"","index":0,"finish_reason":null}]}',
    "created": event("response.created", response=RESPONSE),
    "in progress": event("response.in_progress", response=RESPONSE),
    "message": event("response.output_item.added", item={"type": "message", "content": []}),
    "part": event("response.content_part.added", part={"type": "output_text", "text": ""}),
    "blank": b" ",
}
BEGINNINGS: dict[str, bytes] = {
    "text": b'{"choices":[{"index":0,"delta":{"content":"a"}}]}',
    "tool": b'{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}',
    "finish": b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    "done": b"[DONE]",
    "delta": event("response.output_text.delta", delta="a"),
    "call": event("response.output_item.added", item={"type": "function_call", "name": "f"}),
    "odd item": event("response.output_item.added", item={"type": {}}),
    "searching": event("response.web_search_call.searching"),
    "completed": event("response.completed", response=RESPONSE),
    "no JSON": b"hello",
    "no object": b"[]",
    "no choices": b'{"text":"a"}',
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_says_nothing_is_no_beginning(name: str) -> None:
    observer = StreamObserver()
    observer.observe(EMPTY[name])
    assert not observer.begun


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_is_a_beginning(name: str) -> None:
    observer = StreamObserver()
    for data in (*EMPTY.values(), BEGINNINGS[name]):
        assert not observer.begun
        observer.observe(data)
    assert observer.begun


@pytest.mark.parametrize("kind", ["response.function_call_arguments.delta", "response.reasoning_summary_text.delta"])
def test_deltas_of_any_kind_are_content(kind: str) -> None:
    observer = StreamObserver()
    observer.observe(event(kind, delta="x"))
    assert observer.content_seen


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
@pytest.mark.parametrize("content_first", [True, False])
def test_closing_events(kind: str, content_first: bool) -> None:
    observer = StreamObserver()
    if content_first:
        observer.observe(event("response.output_text.delta", delta="hi"))
    observer.observe(event(kind, response=RESPONSE))
    assert observer.done
    assert observer.finished


def test_failures_within_the_responses_api() -> None:
    observer = StreamObserver()
    observer.observe(event("response.output_text.delta", delta="hi"))
    observer.observe(event("response.failed", response={"error": {"code": "server_error", "message": "no"}}))
    assert observer.error == {"code": "server_error", "message": "no"}
    other = StreamObserver()
    other.observe(event("response.output_text.delta", delta="hi"))
    other.observe(event("error", code="rate_limit_exceeded", message="slow down", param=None, sequence_number=4))
    assert other.error == {"code": "rate_limit_exceeded", "message": "slow down", "param": None}
    silent = StreamObserver()
    silent.observe(event("response.failed", response=RESPONSE))
    assert silent.error == {"message": "the upstream gave up without saying why"}
    assert error_in(event("response.failed", response=RESPONSE)) is None, "the stream still has its own end"
    assert error_in(event("response.created", response=RESPONSE)) is None


# Legacy completions, and chunks of vendors


def test_legacy_completions() -> None:
    observer = StreamObserver()
    observer.observe(json.dumps({"choices": [{"text": "", "index": 0, "finish_reason": None}]}).encode())
    assert not observer.content_seen
    observer.observe(json.dumps({"choices": [{"text": "hi", "index": 0, "finish_reason": None}]}).encode())
    assert observer.content_seen
    observer.observe(json.dumps({"choices": [{"text": "", "index": 0, "finish_reason": "stop"}]}).encode())
    assert observer.finished


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_usage_of_vendors_in_the_last_content_chunk(separators: tuple[str, str]) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 2}
    last = {"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}
    for chunk in (
        {"choices": [last], "usage": counts},
        {"choices": [last], "x_groq": {"usage": counts}},
        {"choices": [{**last, "usage": counts}]},
    ):
        observer = StreamObserver()
        observer.observe(json.dumps({"choices": [{"delta": {"content": "a"}}], "usage": None}).encode())
        assert observer.observe(json.dumps(chunk, separators=separators).encode()) is False
        assert observer.usage == Usage(3, 2)
        assert observer.finished


def test_a_first_chunk_without_choices_is_not_hidden() -> None:
    observer = StreamObserver()
    assert observer.observe(b'{"choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}') is False


def test_a_token_that_reads_error_is_none() -> None:
    observer = StreamObserver()
    logprobs = {"content": [{"token": "error", "logprob": -0.1}]}
    for _ in range(2):
        observer.observe(json.dumps({"choices": [{"delta": {"content": "error"}, "logprobs": logprobs}]}).encode())
    assert observer.error is None
    assert not observer.finished
