"""Chat completions as messages, read by Anthropic's own client and types."""

from __future__ import annotations

import json

import anthropic
import pytest
from anthropic.types import Message
from dialect_samples import (
    BESIDE,
    REQUEST_ID,
    TOOL_CALLS,
    USAGE,
    USAGE_PLACES,
    Upstream,
    call_chunk,
    chat_answer,
    chunk,
    chunked_answers,
    events_of,
    run,
    text_chunks,
)
from hypothesis import given, settings

from service.dialects import MessagesDialect
from service.errors import APIError

DIALECT = MessagesDialect()
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
ASK = {"model": "auto", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


def answer(chat, **asked):
    message = DIALECT.answer(chat, {**ASK, **asked}, request_id=REQUEST_ID)
    Message.model_validate(message)
    return message


def accumulate(chunks, **asked):
    """Return the message that Anthropic's client makes of the stream."""
    client = Upstream(DIALECT, lambda chat: chunks).anthropic()
    with client.messages.stream(**ASK, **asked) as stream:
        return stream.get_final_message().model_dump(exclude_none=True)


def test_text():
    assert answer(chat_answer("Hello")) == {
        "id": "msg_0123456789abcdef",
        "type": "message",
        "role": "assistant",
        "model": "upstream-model",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 12,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }


def test_tools():
    message = answer(chat_answer(None, finish_reason="tool_calls", tool_calls=TOOL_CALLS))
    assert message["content"] == [
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_b", "name": "clock", "input": {"zone": "CET", "n": [1, 2]}},
    ]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", {}), ("{", {"arguments": "{"}), ("[1]", {"arguments": [1]}), ('{"a":' * 300 + "1" + "}" * 300, None)],
)
def test_arguments_that_are_no_object_are_kept(arguments, expected):
    calls = [{"function": {"name": "weather", "arguments": arguments}}]
    (block,) = answer(chat_answer(None, tool_calls=calls))["content"]
    assert block["input"] == ({"arguments": arguments} if expected is None else expected)
    assert block["id"] == "toolu_0123456789abcdef_0"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_is_shown_where_it_was_asked_for(name):
    chat = chat_answer("Hello", **{name: "hm"})
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    said = {"type": "text", "text": "Hello"}
    assert answer(chat, **THINKING)["content"] == [thought, said]
    assert answer(chat, thinking={"type": "adaptive"})["content"] == [thought, said]
    assert answer(chat, thinking={"type": "adaptive", "display": "omitted"})["content"] == [said]
    assert answer(chat)["content"] == [said]


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_stop_reasons(finish_reason, stop_reason):
    assert answer(chat_answer(finish_reason=finish_reason))["stop_reason"] == stop_reason
    chunks = [chunk({"content": "a"}), chunk({}, finish_reason=finish_reason)]
    assert accumulate(chunks)["stop_reason"] == stop_reason


def test_refusals():
    message = answer(chat_answer(None, refusal="No."))
    assert message["content"] == [{"type": "text", "text": "No."}]
    assert message["stop_reason"] == "refusal"


@pytest.mark.parametrize("name", ["stop_reason", "matched_stop"])
def test_stop_sequence_where_the_upstream_tells_it(name):
    chat = chat_answer()
    chat["choices"][0][name] = "END"
    message = answer(chat, stop_sequences=["END"])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    chat["choices"][0][name] = 151_643  # a token that ends every answer
    assert answer(chat, stop_sequences=["END"])["stop_reason"] == "end_turn"


def test_tools_that_end_with_stop_are_tool_use():
    assert answer(chat_answer(None, tool_calls=TOOL_CALLS))["stop_reason"] == "tool_use"


def test_vendor_fields_are_kept():
    chat = chat_answer(usage={**USAGE, "cost": 0.5}) | {"provider": "somebody", "system_fingerprint": None}
    message = answer(chat)
    assert message["provider"] == "somebody"
    assert message["usage"]["cost"] == 0.5
    assert "system_fingerprint" not in message


def test_answer_without_choices_or_usage():
    message = answer({"choices": [], "usage": None})
    assert message["content"] == []
    assert message["model"] == "auto"
    assert message["usage"]["input_tokens"] == 0


def test_cache_writes_are_not_counted_as_input():
    details = {"cached_tokens": 5, "cache_write_tokens": 10}
    usage = answer(chat_answer(usage={**USAGE, "prompt_tokens_details": details}))["usage"]
    assert (usage["input_tokens"], usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]) == (5, 10, 5)


@pytest.mark.parametrize("place", USAGE_PLACES)
def test_usage_is_found_wherever_it_is(place):
    whole = answer({**chat_answer(usage=None), **USAGE_PLACES[place]})
    streamed = accumulate([*text_chunks("a", usage=None), {**chunk(None), **USAGE_PLACES[place]}])
    for message in (whole, streamed):
        assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (8, 7)
        assert message["usage"]["cache_read_input_tokens"] == 12


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (BESIDE, (12, 0, 1005)),
        ({"prompt_tokens": 20, "completion_tokens": 7, "prompt_cache_hit_tokens": 15}, (5, 15, 7)),
        ({"prompt_tokens": 20, "completion_tokens": 7, "cached_tokens": 15}, (5, 15, 7)),
    ],
    ids=["xai", "deepseek", "moonshot"],
)
def test_tokens_are_counted_as_in_the_log(usage, told):
    whole = answer(chat_answer(usage=usage))["usage"]
    streamed = accumulate(text_chunks("a", usage=usage))["usage"]
    for counted in (whole, streamed):
        assert (counted["input_tokens"], counted["cache_read_input_tokens"], counted["output_tokens"]) == told


# Streams


def test_events_of_a_text():
    events = events_of(run(DIALECT.stream(ASK, request_id=REQUEST_ID), text_chunks("Hel", "lo")))
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["id"] == "msg_0123456789abcdef"
    assert events[3] == {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}
    assert events[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[6]["usage"]["input_tokens"] == 8


def test_text_comes_as_soon_as_its_chunk():
    translator = DIALECT.stream(ASK, request_id=REQUEST_ID)
    translator.feed(json.dumps(chunk({"role": "assistant"})).encode())
    assert b"Hello" in translator.feed(json.dumps(chunk({"content": "Hello"})).encode())


def test_stream_without_done_or_usage_is_closed():
    translator = DIALECT.stream(ASK, request_id=REQUEST_ID)
    stream = run(translator, text_chunks("a")[:-1], done=False)
    assert events_of(stream)[-1] == {"type": "message_stop"}
    assert translator.finish() == b""
    assert translator.feed(b"[DONE]") == b""
    assert translator.fail({"message": "late"}) == b""


def test_client_reads_whole_and_streamed_tools_alike():
    chat = chat_answer("Look", finish_reason="tool_calls", tool_calls=TOOL_CALLS, reasoning_content="hm")
    chunks = [
        chunk({"role": "assistant", "reasoning_content": "hm"}),
        chunk({"content": "Look"}),
        call_chunk(0, '{"city": ', call_id="call_a", name="weather"),
        call_chunk(1, '{"zone": "CET",', call_id="call_b", name="clock"),
        call_chunk(0, '"Paris"}'),
        call_chunk(1, ' "n": [1, 2]}'),
        chunk({}, finish_reason="tool_calls"),
        chunk(None, usage=USAGE),
    ]
    whole = Upstream(DIALECT, lambda _: chat).anthropic().messages.create(**ASK, **THINKING)
    assert accumulate(chunks, **THINKING) == whole.model_dump(exclude_none=True)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]


@given(chunked_answers())
@settings(max_examples=60, deadline=None)
def test_any_chunking_accumulates_to_the_whole(sample):
    chat, chunks = sample
    expected = Message.model_validate(answer(chat, **THINKING)).model_dump(exclude_none=True)
    assert accumulate(chunks, **THINKING) == expected


@given(chunked_answers())
@settings(max_examples=30, deadline=None)
def test_hidden_thinking_leaves_no_gap_in_the_blocks(sample):
    chat, chunks = sample
    expected = Message.model_validate(answer(chat)).model_dump(exclude_none=True)
    assert accumulate(chunks) == expected


def test_error_in_the_middle_of_a_stream():
    upstream = Upstream(DIALECT, lambda _: [chunk({"content": "Hel"}), APIError("It broke off.", code="x", status=502)])
    seen = []
    with pytest.raises(anthropic.APIStatusError) as caught, upstream.anthropic().messages.stream(**ASK) as stream:
        seen += stream.text_stream
    assert caught.value.body["error"]["message"] == "It broke off."
    assert caught.value.body["request_id"] == REQUEST_ID
    assert seen == ["Hel"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "m", "type": "overloaded_error"}, "overloaded_error"),
        ({"message": "m", "code": 429}, "rate_limit_error"),
        ({"message": "m", "code": "rate_limit_exceeded"}, "rate_limit_error"),
        ({"message": "m", "code": "upstream_timeout"}, "timeout_error"),
        ({"message": "m", "code": "whatever"}, "api_error"),
        ("words", "api_error"),
    ],
)
def test_errors_that_the_upstream_sends_within_its_stream(error, kind):
    stream = run(DIALECT.stream(ASK, request_id=REQUEST_ID), [chunk({"content": "a"}), {"error": error}])
    last = events_of(stream)[-1]
    assert last["type"] == "error"
    assert last["error"]["type"] == kind
    assert last["error"]["message"] == ("words" if error == "words" else "m")


def test_event_that_is_not_json_is_an_error():
    stream = run(DIALECT.stream(ASK, request_id=REQUEST_ID), [chunk({"content": "a"}), b'{"choices": [{'])
    assert events_of(stream)[-1]["error"]["code"] == "upstream_invalid_event"
    assert b"message_stop" not in stream


# Errors


@pytest.mark.parametrize(
    ("status", "kind", "raised"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.APIStatusError),
        (422, "invalid_request_error", anthropic.UnprocessableEntityError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (503, "overloaded_error", anthropic.InternalServerError),
        (504, "timeout_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.APIStatusError),
    ],
)
def test_errors(status, kind, raised):
    def refuse(_):
        raise APIError("No.", status=status, type="whatever", param="p", code="c")

    with pytest.raises(raised) as caught:
        Upstream(DIALECT, refuse).anthropic().messages.create(**ASK)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": kind, "message": "No.", "param": "p", "code": "c"},
        "request_id": REQUEST_ID,
    }
