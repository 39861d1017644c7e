"""Legacy completions over chat, read by OpenAI's own client and types."""

from __future__ import annotations

import openai
import pytest
from dialect_samples import REQUEST_ID, USAGE, USAGE_PLACES, Upstream, chat_answer, chunk, events_of, run, text_chunks
from openai.types import Completion

from service.dialects import CompletionsDialect
from service.errors import APIError

DIALECT = CompletionsDialect()
ASK = {"model": "auto", "prompt": "Once"}
TOKEN = {"token": "He", "logprob": -0.1, "top_logprobs": [{"token": "She", "logprob": -2.0}]}


def answer(chat, **asked):
    completion = DIALECT.answer(chat, {**ASK, **asked}, request_id=REQUEST_ID)
    Completion.model_validate(completion)
    return completion


def test_the_least_request():
    assert DIALECT.to_chat(dict(ASK)) == {
        "model": "auto",
        "messages": [{"role": "user", "content": "Once"}],
        "max_completion_tokens": 16,
    }


def test_settings():
    chat = DIALECT.to_chat(
        {**ASK, "prompt": ["Once"], "max_tokens": 5, "logprobs": 2, "n": 2, "best_of": 2, "stop": "x", "min_p": 0.1}
    )
    assert chat == {
        "model": "auto",
        "messages": [{"role": "user", "content": "Once"}],
        "max_completion_tokens": 5,
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "stop": "x",
        "min_p": 0.1,
    }


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": 1}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "empty_array"),
        ({"prompt": [1, 2]}, "prompt", "unsupported_value"),
        ({"prompt": [[1], [2]]}, "prompt", "unsupported_value"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_value"),
        ({"prompt": [None]}, "prompt[0]", "invalid_type"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"logprobs": -1}, "logprobs", "integer_below_min_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"logprobs": 1, "echo": True}, "echo", "unsupported_parameter"),
    ],
)
def test_errors_name_the_clients_own_field(body, param, code):
    with pytest.raises(APIError) as caught:
        DIALECT.to_chat({**ASK, **body})
    error = caught.value.body["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_answer():
    assert answer({**chat_answer("Hello"), "provider": "somebody"}) == {
        "provider": "somebody",
        "id": "cmpl_0123456789abcdef",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "upstream-model",
        "choices": [{"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def test_choices_echo_and_finish_reasons():
    chat = chat_answer("a", finish_reason="length")
    chat["choices"].append({"index": 1, "message": {"content": "b"}, "finish_reason": "tool_calls"})
    completion = answer(chat, echo=True)
    assert [choice["text"] for choice in completion["choices"]] == ["Oncea", "Onceb"]
    assert [choice["finish_reason"] for choice in completion["choices"]] == ["length", "stop"]


def test_logprobs():
    chat = chat_answer("HeHe")
    chat["choices"][0]["logprobs"] = {"content": [TOKEN, {**TOKEN, "top_logprobs": []}]}
    assert answer(chat)["choices"][0]["logprobs"] == {
        "tokens": ["He", "He"],
        "token_logprobs": [-0.1, -0.1],
        "top_logprobs": [{"She": -2.0, "He": -0.1}, {"He": -0.1}],
        "text_offset": [0, 2],
    }


def test_client_reads_a_stream():
    upstream = Upstream(DIALECT, lambda _: text_chunks("Hel", "lo"))
    chunks = list(upstream.openai().completions.create(**ASK, stream=True))
    assert [(one.choices[0].text, one.choices[0].finish_reason) for one in chunks] == [
        ("Hel", None),
        ("lo", None),
        ("", "stop"),
    ]
    assert all(one.object == "text_completion" and one.usage is None for one in chunks)


def test_usage_comes_in_a_chunk_of_its_own_where_it_was_asked_for():
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    together = [chunk({"content": "a"}), chunk({}, finish_reason="stop", usage=USAGE)]
    for chunks in (text_chunks("a"), together):
        events = events_of(run(DIALECT.stream(asked, request_id=REQUEST_ID), chunks))
        assert [event["usage"] for event in events] == [None, None, USAGE]
        assert events[-1]["choices"] == []


@pytest.mark.parametrize("place", USAGE_PLACES)
def test_usage_is_found_wherever_it_is(place):
    assert answer({**chat_answer(usage=None), **USAGE_PLACES[place]})["usage"] == USAGE
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk({"content": "a"}), {**chunk({}, finish_reason="stop"), **USAGE_PLACES[place]}]
    events = events_of(run(DIALECT.stream(asked, request_id=REQUEST_ID), chunks))
    assert [event["usage"] for event in events] == [None, None, USAGE]


def test_stream_echoes_once_and_counts_on():
    first, second = chunk({"content": "He"}), chunk({"content": "He"}, finish_reason="stop")
    for one in (first, second):
        one["choices"][0]["logprobs"] = {"content": [TOKEN]}
    events = events_of(run(DIALECT.stream(ASK, request_id=REQUEST_ID), [first, second]))
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in events] == [[0], [2]]
    events = events_of(run(DIALECT.stream({**ASK, "echo": True}, request_id=REQUEST_ID), text_chunks("a", "b")))
    assert "".join(event["choices"][0]["text"] for event in events) == "Onceab"


def test_stream_ends_in_done_once():
    for done in (True, False):
        stream = run(DIALECT.stream(ASK, request_id=REQUEST_ID), text_chunks("a"), done=done)
        assert stream.endswith(b"data: [DONE]\n\n")
        assert stream.count(b"[DONE]") == 1


def test_error_in_the_middle_of_a_stream():
    upstream = Upstream(DIALECT, lambda _: [chunk({"content": "Hel"}), APIError("It broke off.", code="x", status=502)])
    seen = []
    with pytest.raises(openai.APIError, match=r"It broke off\."):
        seen.extend(one.choices[0].text for one in upstream.openai().completions.create(**ASK, stream=True))
    assert seen == ["Hel"]
    stream = run(DIALECT.stream(ASK, request_id=REQUEST_ID), [{"error": {"message": "m"}}])
    assert stream == b'data: {"error":{"message":"m"}}\n\n'


def test_errors_are_openais():
    with pytest.raises(openai.BadRequestError) as caught:
        Upstream(DIALECT, lambda _: text_chunks("a")).openai().completions.create(**{**ASK, "prompt": [1, 2]})
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "prompt")
