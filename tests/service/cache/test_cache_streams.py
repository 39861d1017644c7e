from __future__ import annotations

import orjson
import pytest
from cache_samples import (
    DONE,
    USAGE,
    USAGE_EVENT,
    answer,
    chunk,
    chunks_of,
    events_of,
    make_cache,
    plan,
    recorded,
    stream,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cache import Entry, Hit, StreamRecorder, replay
from service.cache.assembling import assemble, cut
from service.cache.entry import decode, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGER = st.integers(-(2**53), 2**53)
CALL = st.fixed_dictionaries(
    {
        "id": st.uuids().map(lambda value: f"call_{value}"),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXT.filter(bool), "arguments": TEXT}),
    }
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXT},
    optional={
        "refusal": st.none() | TEXT,
        "reasoning_content": st.none() | TEXT,
        "reasoning": TEXT,
        "tool_calls": st.none() | st.lists(CALL, max_size=3),
        "function_call": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}),
        "annotations": st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=2),
        "vendor": st.none() | INTEGER | TEXT | st.dictionaries(TEXT, INTEGER | TEXT | st.none(), max_size=2),
    },
)
TOKENS = st.lists(st.fixed_dictionaries({"token": TEXT, "logprob": st.just(-0.5)}), max_size=3)
LOGPROBS = st.none() | st.fixed_dictionaries({"content": st.none() | TOKENS, "refusal": st.none() | TOKENS})
CHOICE = st.fixed_dictionaries(
    {"message": MESSAGE, "finish_reason": st.sampled_from(["stop", "length", "tool_calls"])},
    optional={"logprobs": LOGPROBS, "content_filter_results": st.none() | st.dictionaries(TEXT, TEXT, max_size=2)},
)
ANSWER = st.fixed_dictionaries(
    {
        "id": TEXT.filter(bool),
        "object": st.just("chat.completion"),
        "created": st.integers(1, 2**40),
        "model": TEXT.filter(bool),
        "choices": st.lists(CHOICE, min_size=1, max_size=3).map(
            lambda choices: [{"index": i, **choice} for i, choice in enumerate(choices)]
        ),
    },
    optional={
        "usage": st.just(USAGE),
        "system_fingerprint": st.none() | TEXT,
        "service_tier": TEXT,
        "provider": st.none() | TEXT,
    },
)


def hit(payload, *, streamed=False, **more):
    return Hit(Entry(payload=payload, streamed=streamed, served_by="m1", stored=0.0, **more))


def of_stream(raw, *, usage=None, choices=1):
    recording = recorded(StreamRecorder(max_bytes=10**6, choices=choices), raw).recording()
    return hit(
        recording.payload,
        streamed=True,
        usage=usage,
        usage_event=recording.usage_event,
        usage_shown=recording.usage_shown,
    )


@given(ANSWER)
@settings(max_examples=150, deadline=None)
def test_cutting_and_assembling_are_inverse(whole):
    assert assemble(cut(whole), usage=whole.get("usage")) == whole


@given(ANSWER, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_replayed_stream_recorded_again_is_the_same_answer(whole, usage_asked):
    payload = orjson.dumps(whole)
    raw = replay(hit(payload), stream=True, usage_asked=usage_asked)
    again = of_stream(raw, usage=whole.get("usage"), choices=len(whole["choices"]))
    assert orjson.loads(replay(again, stream=False, usage_asked=False)) == whole
    assert (again.entry.usage_event != b"") == (usage_asked and "usage" in whole)


def test_a_whole_answer_is_sent_as_it_came():
    assert replay(hit(answer("x")), stream=False, usage_asked=True) == answer("x")


def test_a_whole_answer_as_a_stream():
    raw = replay(hit(answer("hello", tool_calls=[{"id": "c", "type": "function"}])), stream=True, usage_asked=False)
    chunks = chunks_of(raw)
    deltas = [made["choices"][0]["delta"] for made in chunks]
    assert raw.endswith(DONE)
    assert {made["object"] for made in chunks} == {"chat.completion.chunk"}
    assert {made["id"] for made in chunks} == {"chatcmpl-1"}
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1] == {"content": "hello"}
    assert deltas[2] == {"tool_calls": [{"index": 0, "id": "c", "type": "function"}]}
    assert deltas[3] == {}
    assert [made["choices"][0]["finish_reason"] for made in chunks] == [None, None, None, "stop"]


def test_usage_chunk_of_a_whole_answer():
    last = chunks_of(replay(hit(answer("x", usage=USAGE)), stream=True, usage_asked=True))[-1]
    assert (last["choices"], last["usage"]) == ([], USAGE)


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_is_sent_as_it_came_but_for_the_usage_chunk(asked):
    raw = stream("one ", "two")
    expected = raw if asked else raw.replace(USAGE_EVENT, b"")
    assert replay(of_stream(raw), stream=True, usage_asked=asked) == expected


def test_the_usage_chunk_is_made_where_the_stream_had_none_and_it_is_known():
    made = of_stream(stream("one", usage_event=b""), usage=USAGE)
    last = chunks_of(replay(made, stream=True, usage_asked=True))[-1]
    assert (last["id"], last["choices"], last["usage"]) == ("chatcmpl-2", [], USAGE)


def test_usage_within_the_last_chunk_is_not_sent_twice():
    raw = chunk({"content": "x"}) + chunk(finish_reason="stop", usage=USAGE) + DONE
    made = of_stream(raw, usage=USAGE)
    assert replay(made, stream=True, usage_asked=True) == raw
    assert replay(made, stream=True, usage_asked=False) == raw


def test_a_stream_as_a_whole_answer():
    whole = orjson.loads(replay(of_stream(stream("one ", "two")), stream=False, usage_asked=False))
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"}
    ]
    assert whole["usage"] == USAGE


def test_comments_are_left_out_and_other_fields_kept():
    event = b"event: message\r\nid: 7\r\ndata: {}\r\n\r\n"
    raw = b": ping\n\n" + event + chunk(finish_reason="stop") + DONE
    assert replay(of_stream(raw), stream=True, usage_asked=False) == event + chunk(finish_reason="stop") + DONE


@pytest.mark.parametrize(
    "pieces",
    [
        # As OpenAI sends them.
        [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"x"'}},
            {"index": 0, "function": {"arguments": ":1}"}},
            {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
        # The name again in every piece.
        [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x"'}},
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ":1}"}},
            {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
        # The same index for all calls.
        [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x"'}},
            {"index": 0, "function": {"arguments": ":1}"}},
            {"index": 0, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
        # No index.
        [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x"'}},
            {"function": {"arguments": ":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    ],
)
def test_tool_calls_in_pieces(pieces):
    chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in pieces]
    assert assemble(chunks)["choices"][0]["message"]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


JUNK = st.recursive(
    st.none() | st.booleans() | INTEGER | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "index", "tool_calls", "logprobs", "usage", "content", "function", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.lists(JUNK, max_size=4))
@settings(max_examples=200, deadline=None)
def test_odd_chunks_break_nothing(chunks):
    orjson.dumps(assemble(chunks))


@pytest.mark.parametrize(
    "raw",
    [
        stream("x", done=b""),
        stream("x", finish_reason=None),
        stream("x", finish_reason="content_filter"),
        stream("x", finish_reason="error"),
        chunk({"content": "x"}) + b'data: {"error": {"message": "no"}}\n\n' + chunk(finish_reason="stop") + DONE,
        b'data: {"finish_reason": "stop", broken\n\n' + stream("x"),
        b"",
        DONE,
    ],
)
def test_streams_without_a_good_end_are_not_kept(raw):
    assert recorded(StreamRecorder(max_bytes=10**6), raw).recording() is None


def test_every_choice_has_to_end():
    raw = stream("x")
    assert recorded(StreamRecorder(max_bytes=10**6, choices=2), raw).recording() is None


def test_a_long_stream_is_given_up_and_let_go():
    recorder = StreamRecorder(max_bytes=len(stream("x")) - len(DONE) - 1)
    recorded(recorder, stream("x"))
    assert recorder.recording() is None
    assert recorder._events == []


def test_text_that_looks_like_the_wire_is_only_text():
    text = '{"error": {"message": "x"}, "finish_reason": "error", "usage": {}} [DONE]'
    made = of_stream(stream(text))
    assert orjson.loads(replay(made, stream=False, usage_asked=False))["choices"][0]["message"]["content"] == text


def test_events_after_the_end_are_left_out():
    raw = stream("x")
    assert of_stream(raw + chunk({"content": "more"})).entry == of_stream(raw).entry


async def test_stream_and_whole_share_an_entry():
    cache = make_cache()
    made = plan(cache)
    recorder = recorded(cache.recorder(made), stream("one ", "two"))
    cache.store_stream(made, recorder, served_by="m1", usage=USAGE)
    found = await cache.lookup(plan(cache))
    assert found.entry.served_by == "m1"
    whole = orjson.loads(replay(found, stream=False, usage_asked=False))
    assert whole["choices"][0]["message"]["content"] == "one two"


ENTRY = of_stream(stream("one"), usage=USAGE).entry


def test_an_entry_survives_encoding():
    assert decode(b"key", encode(b"key", ENTRY)) == ENTRY


@given(st.integers(0, len(encode(b"key", ENTRY)) - 1), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_damaged_value_is_none(position, change):
    value = bytearray(encode(b"key", ENTRY))
    value[position] ^= change
    assert decode(b"key", bytes(value)) is None


@pytest.mark.parametrize("value", [b"", b"llmr1", "text", None, encode(b"other", ENTRY), encode(b"key", ENTRY)[:-1]])
def test_other_values_are_none(value):
    assert decode(b"key", value) is None


def test_all_events_of_a_cut_answer_are_events():
    raw = replay(hit(answer("a\n\nb\r\ndata: c")), stream=True, usage_asked=True)
    assert b"".join(event.raw for event in events_of(raw)) == raw
    assert all(event.data is not None for event in events_of(raw))
