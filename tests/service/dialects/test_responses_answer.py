"""Chat completions as responses, read by OpenAI's own client and types."""

from __future__ import annotations

import json

import openai
import pytest
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
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from service.dialects import ResponsesDialect
from service.errors import APIError

DIALECT = ResponsesDialect(clock=lambda: 1_700_000_050.5)
ASK = {"model": "auto", "input": "Hi"}
EVENT = TypeAdapter(ResponseStreamEvent)


def answer(chat, **asked):
    response = DIALECT.answer(chat, {**ASK, **asked}, request_id=REQUEST_ID)
    Response.model_validate(response)
    return response


def translate(chunks, **asked):
    events = events_of(run(DIALECT.stream({**ASK, **asked}, request_id=REQUEST_ID), chunks))
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def test_text():
    response = answer(chat_answer("Hello"), temperature=0.5, metadata={"a": "b"}, store=True, llmrouter={})
    assert response == {
        "id": "resp_0123456789abcdef",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "background": False,
        "completed_at": 1_700_000_050,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "temperature": 0.5,
        "top_p": None,
        "user": None,
        "metadata": {"a": "b"},
        "model": "upstream-model",
        "output": [
            {
                "id": "msg_0123456789abcdef_0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": None,
        "store": False,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 27,
        },
    }


def test_settings_are_told_back():
    tool = {"type": "function", "name": "weather", "parameters": {}, "strict": False}
    asked = {
        "instructions": "Be brief.",
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
        "max_output_tokens": 50,
        "top_p": 0.9,
        "truncation": "auto",
        "user": "u",
    }
    response = answer(chat_answer(), **asked, text={"verbosity": "low"}, reasoning={"effort": "low"})
    assert {name: response[name] for name in asked} == asked
    assert response["text"] == {"verbosity": "low", "format": {"type": "text"}}
    assert response["reasoning"]["effort"] == "low"


def test_reasoning_text_refusal_and_calls_are_items_in_order():
    chat = chat_answer("Look", refusal="No.", reasoning_content="hm", tool_calls=TOOL_CALLS)
    reasoning, text, refusal, first, second = answer(chat)["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert text["content"][0]["text"] == "Look"
    assert refusal["content"] == [{"type": "refusal", "refusal": "No."}]
    assert first == {
        "id": "fc_0123456789abcdef_3",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_a",
        "name": "weather",
        "arguments": '{"city": "Paris"}',
    }
    assert second["call_id"] == "call_b"


def test_call_without_an_id_gets_one():
    (call,) = answer(chat_answer(None, tool_calls=[{"function": {"name": "weather", "arguments": "{}"}}]))["output"]
    assert call["call_id"] == "call_0123456789abcdef_0"


@pytest.mark.parametrize(
    ("finish_reason", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_incomplete(finish_reason, reason):
    response = answer(chat_answer("Hel", finish_reason=finish_reason))
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert response["completed_at"] is None
    assert response["output"][-1]["status"] == "incomplete"
    last = translate(text_chunks("Hel", finish_reason=finish_reason))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"] == response


def test_logprobs():
    top = [{"token": "He", "logprob": -0.1, "bytes": [72, 101]}, {"token": "é", "logprob": -2.0, "bytes": None}]
    token = {"token": "He", "logprob": -0.1, "bytes": [72, 101], "top_logprobs": top}
    chat = chat_answer("He")
    chat["choices"][0]["logprobs"] = {"content": [token]}
    expected = {**token, "top_logprobs": [top[0], {**top[1], "bytes": [195, 169]}]}
    assert answer(chat)["output"][0]["content"][0]["logprobs"] == [expected]
    one = chunk({"content": "He"})
    one["choices"][0]["logprobs"] = {"content": [token]}
    events = translate([one, chunk({}, finish_reason="stop")])
    named = {event["type"]: event for event in events}
    assert named["response.output_text.delta"]["logprobs"] == [expected]
    assert named["response.output_text.done"]["logprobs"] == [expected]


def test_annotations_become_flat():
    citation = {"start_index": 0, "end_index": 2, "title": "t", "url": "https://example.org"}
    nested = [{"type": "url_citation", "url_citation": citation}]
    flat = [{"type": "url_citation", **citation}]
    assert answer(chat_answer("Hello", annotations=nested))["output"][0]["content"][0]["annotations"] == flat
    events = translate([chunk({"content": "Hello"}), chunk({"annotations": nested}, finish_reason="stop")])
    assert events[-1]["response"]["output"][0]["content"][0]["annotations"] == flat
    assert [event["annotation"] for event in events if "annotation" in event] == flat


def test_vendor_fields_are_kept_and_missing_usage_is_null():
    response = answer({**chat_answer(usage=None), "provider": "somebody", "service_tier": "flex"})
    assert response["provider"] == "somebody"
    assert response["service_tier"] == "flex"
    assert response["usage"] is None


# Streams


def test_events_of_a_text():
    events = translate(text_chunks("Hel", "lo"))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert events[4] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": "msg_0123456789abcdef_0",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hel",
        "logprobs": [],
    }
    assert events[-1]["response"] == answer(chat_answer("Hello"))


def test_events_of_reasoning_refusal_and_call():
    chunks = [
        chunk({"reasoning": "hm"}),
        chunk({"refusal": "No."}),
        call_chunk(0, "{}", call_id="call_a", name="weather"),
        chunk({}, finish_reason="tool_calls"),
    ]
    types = [event["type"] for event in translate(chunks)]
    assert types[2:] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


@given(chunked_answers())
@settings(max_examples=60, deadline=None)
def test_any_chunking_ends_in_the_whole(sample):
    chat, chunks = sample
    expected = answer(chat)
    events = translate(chunks)
    assert events[-1]["response"] == expected
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == expected["output"]
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == (chat["choices"][0]["message"]["content"] or "")


@given(chunked_answers())
@settings(max_examples=30, deadline=None)
def test_client_accumulates_the_same(sample):
    chat, chunks = sample
    with Upstream(DIALECT, lambda _: chunks).openai().responses.stream(**ASK) as stream:
        pieces: dict[int, str] = {}
        for event in stream:
            if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
                assert event.snapshot == pieces.get(event.output_index, "") + event.delta
                pieces[event.output_index] = event.snapshot
        final = stream.get_final_response()
    whole = Upstream(DIALECT, lambda _: chat).openai().responses.parse(**ASK)
    assert final.output_text == whole.output_text
    assert [item.to_dict() for item in final.output] == [item.to_dict() for item in whole.output]


def test_structured_output_is_parsed():
    class City(BaseModel):
        name: str

    upstream = Upstream(DIALECT, lambda _: chat_answer('{"name": "Paris"}'))
    assert upstream.openai().responses.parse(**ASK, text_format=City).output_parsed == City(name="Paris")
    form = upstream.chat["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("City", True)
    assert form["schema"]["properties"]["name"]["type"] == "string"
    upstream.reply = lambda _: text_chunks('{"name"', ': "Paris"}')
    with upstream.openai().responses.stream(**ASK, text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(name="Paris")


def test_error_in_the_middle_of_a_stream():
    failure = APIError("Slow down.", code="rate_limit_exceeded", status=502)
    upstream = Upstream(DIALECT, lambda _: [chunk({"content": "Hel"}), failure])
    events = list(upstream.openai().responses.create(**ASK, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.message == "Slow down."
    assert events[-1].response.error.code == "rate_limit_exceeded"
    assert events[-1].response.output_text == "Hel"
    assert events[-1].response.output[0].status == "incomplete"


def test_stream_that_fails_before_it_begins_is_created_first():
    translator = DIALECT.stream(ASK, request_id=REQUEST_ID)
    events = events_of(translator.fail({"message": "m", "code": "upstream_timeout"}))
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "m"}
    assert translator.finish() == b""
    assert translator.fail({"message": "late"}) == b""


def test_status_of_an_error_within_the_stream_is_told():
    last = translate([chunk({"content": "a"}), {"error": {"message": "m", "code": 429}}])[-1]
    assert last["response"]["error"] == {"code": "rate_limit_exceeded", "message": "m"}


def test_event_that_is_not_json_is_an_error():
    assert translate([chunk({"content": "a"}), b"{"])[-1]["type"] == "response.failed"


def test_stream_without_done_is_completed():
    stream = run(DIALECT.stream(ASK, request_id=REQUEST_ID), text_chunks("a")[:-1], done=False)
    last = events_of(stream)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["usage"] is None
    assert b"[DONE]" not in stream


def test_answer_can_be_sent_back_as_input():
    chat = chat_answer("Look", reasoning_content="hm", tool_calls=TOOL_CALLS)
    upstream = Upstream(DIALECT, lambda _: chat)
    client = upstream.openai()
    first = client.responses.create(**ASK)
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "12"}
        for item in first.output
        if item.type == "function_call"
    ]
    client.responses.create(model="auto", input=[*(item.to_dict() for item in first.output), *results])
    said = upstream.chat["messages"]
    assert [message["role"] for message in said] == ["assistant", "tool", "tool"]
    assert said[0]["content"] == "Look"
    assert [call["function"] for call in said[0]["tool_calls"]] == [call["function"] for call in TOOL_CALLS]


def test_errors_are_openais():
    def refuse(_):
        raise APIError("No.", status=404, param="model", code="model_not_found")

    with pytest.raises(openai.NotFoundError) as caught:
        Upstream(DIALECT, refuse).openai().responses.create(**ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_usage_comes_even_where_chunks_repeat_null():
    chunks = [{**one, "usage": one.get("usage")} for one in text_chunks("a")]
    assert translate(chunks)[-1]["response"]["usage"]["total_tokens"] == USAGE["total_tokens"]
    assert json.dumps(translate(chunks)[0]["response"]["usage"]) == "null"


@pytest.mark.parametrize("place", USAGE_PLACES)
def test_usage_is_found_wherever_it_is(place):
    whole = answer({**chat_answer(usage=None), **USAGE_PLACES[place]})
    streamed = translate([*text_chunks("a", usage=None), {**chunk(None), **USAGE_PLACES[place]}])[-1]["response"]
    for response in (whole, streamed):
        assert (response["usage"]["input_tokens"], response["usage"]["output_tokens"]) == (20, 7)


def test_reasoning_beside_the_completion_is_output():
    for response in (
        answer(chat_answer(usage=BESIDE)),
        translate(text_chunks("a", usage=BESIDE))[-1]["response"],
    ):
        usage = response["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (12, 1005, 1017)
        assert usage["output_tokens_details"]["reasoning_tokens"] == 1000
