"""The official Anthropic client through a live gateway: any model behind it, routed or of its own choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from conformance_upstream import ARGUMENTS, CAPABLE, CITY, sensible
from contracts.misbehaving_upstream import (
    Exchange,
    MisbehavingUpstream,
    chunk,
    completion,
    event,
    finish_chunk,
    ordinary_stream,
)
from live_gateway import Live
from pydantic import BaseModel

Start = Callable[..., Live]

MODELS = pytest.mark.parametrize("model", ["auto", "llmrouter/auto", "alpha"])
ASK: Any = [{"role": "user", "content": "Say hello"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Tell the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}},
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def gateway(live: Start, upstream: MisbehavingUpstream) -> Live:
    upstream.behaviours |= {"alpha": sensible, "beta": sensible}
    return live("alpha", "beta", models={"alpha": CAPABLE, "beta": CAPABLE})


@pytest.fixture
def client(gateway: Live) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0, timeout=30) as made:
        yield made


@MODELS
def test_create(model: str, client: anthropic.Anthropic, gateway: Live) -> None:
    raw = client.messages.with_raw_response.create(model=model, max_tokens=50, messages=ASK)
    message = raw.parse()
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello there"}]
    assert (message.stop_reason, message.stop_sequence, message.role) == ("end_turn", None, "assistant")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (12, 5)
    assert message.model == "up-1"
    assert message._request_id == raw.headers["request-id"] == raw.headers["x-request-id"]
    assert message.id.removeprefix("msg_") == raw.headers["request-id"].removeprefix("req_")
    assert raw.headers["x-llmrouter-model"] == "alpha"
    (outcome,) = gateway.outcomes()
    assert (outcome.endpoint, outcome.status, outcome.output_tokens) == ("messages", "ok", 5)


@MODELS
def test_stream(model: str, client: anthropic.Anthropic) -> None:
    events = list(client.messages.create(model=model, max_tokens=50, messages=ASK, stream=True))
    kinds = [one.type for one in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    with client.messages.stream(model=model, max_tokens=50, messages=ASK) as stream:
        assert "".join(stream.text_stream) == "Hello there"
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (12, 5)


@MODELS
async def test_the_async_client(model: str, gateway: Live) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0) as client:
        message = await client.messages.create(model=model, max_tokens=50, messages=ASK)
        assert message.content[0].type == "text"
        async with client.messages.stream(model=model, max_tokens=50, messages=ASK) as stream:
            assert "".join([text async for text in stream.text_stream]) == "Hello there"


def test_system_prompts_and_parameters(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    system: Any = [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}]
    client.messages.create(
        model="auto",
        max_tokens=50,
        system=system,
        messages=[*ASK, {"role": "assistant", "content": "Hel"}],
        stop_sequences=["\n\n"],
        temperature=0.5,
        top_p=0.9,
        metadata={"user_id": "u1"},
    )
    sent = upstream.exchanges[0].body
    assert sent["messages"][0] == {"role": "system", "content": "Be brief"}
    assert sent["messages"][-1] == {"role": "assistant", "content": "Hel"}
    given = {"stop": ["\n\n"], "temperature": 0.5, "top_p": 0.9, "user": "u1", "max_completion_tokens": 50}
    assert {name: sent.get(name) for name in given} == given


def test_images(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    content: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "text", "text": "What is this?"},
    ]
    client.messages.create(model="auto", max_tokens=50, messages=[{"role": "user", "content": content}])
    parts = upstream.exchanges[0].body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"
    assert parts[1]["image_url"]["url"] == "https://example.org/a.png"


@MODELS
def test_a_conversation_with_tools(model: str, client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    first = client.messages.create(
        model=model, max_tokens=50, messages=ASK, tools=[WEATHER], tool_choice={"type": "any"}
    )
    assert first.stop_reason == "tool_use"
    (call,) = first.content
    assert call.type == "tool_use"
    assert (call.id, call.name, call.input) == ("call_0", "weather", json.loads(ARGUMENTS))
    assert upstream.exchanges[0].body["tool_choice"] == "required"
    history: Any = [
        *ASK,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "12 C"}]},
    ]
    last = client.messages.create(model=model, max_tokens=50, messages=history, tools=[WEATHER])
    assert [block.to_dict() for block in last.content] == [{"type": "text", "text": "It is 12 C."}]
    sent = upstream.exchanges[1].body["messages"]
    assert sent[1]["tool_calls"][0]["id"] == call.id
    assert sent[2] == {"role": "tool", "tool_call_id": call.id, "content": "12 C"}


@MODELS
def test_streamed_tools(model: str, client: anthropic.Anthropic) -> None:
    note: Any = {"name": "note", "input_schema": City.model_json_schema()}
    with client.messages.stream(model=model, max_tokens=50, messages=ASK, tools=[WEATHER, note]) as stream:
        pieces = [one.partial_json for one in stream if one.type == "input_json"]
        final = stream.get_final_message()
    assert len(pieces) > 4
    assert [(block.name, block.input) for block in final.content if block.type == "tool_use"] == [
        ("weather", json.loads(ARGUMENTS)),
        ("note", CITY),
    ]
    assert final.stop_reason == "tool_use"


def test_structured_output(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    message = client.messages.parse(model="auto", max_tokens=50, messages=ASK, output_format=City)
    assert message.parsed_output == City(**CITY)
    assert upstream.exchanges[0].body["response_format"]["type"] == "json_schema"


def test_thinking_is_shown_to_those_who_asked(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    async def think(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            thought = chunk(choices=[{"index": 0, "delta": {"reasoning_content": "Hm"}, "finish_reason": None}])
            await exchange.event_stream([event(thought), *ordinary_stream()])
        else:
            message = {"role": "assistant", "content": "Hello there", "reasoning_content": "Hm"}
            await exchange.answer(completion(choices=[{"index": 0, "message": message, "finish_reason": "stop"}]))

    upstream.behaviours["alpha"] = think
    thinking: Any = {"type": "enabled", "budget_tokens": 5000}
    shown = client.messages.create(model="alpha", max_tokens=9000, messages=ASK, thinking=thinking)
    assert [block.type for block in shown.content] == ["thinking", "text"]
    assert upstream.exchanges[0].body["reasoning_effort"] == "medium"
    with client.messages.stream(model="alpha", max_tokens=9000, messages=ASK, thinking=thinking) as stream:
        assert [block.type for block in stream.get_final_message().content] == ["thinking", "text"]
    hidden = client.messages.create(model="alpha", max_tokens=9000, messages=ASK)
    assert [block.type for block in hidden.content] == ["text"]
    history: Any = [*ASK, {"role": "assistant", "content": shown.content}, *ASK]
    assert client.messages.create(model="alpha", max_tokens=9000, messages=history).content
    assert upstream.exchanges[-1].body["messages"][1] == {"role": "assistant", "content": "Hello there"}


def test_cached_tokens_are_told_apart(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    usage |= {"prompt_tokens_details": {"cached_tokens": 80}}

    async def send(exchange: Exchange) -> None:
        await exchange.answer(completion(usage=usage))

    upstream.behaviours["alpha"] = send
    told = client.messages.create(model="alpha", max_tokens=9, messages=ASK).usage
    assert (told.input_tokens, told.cache_read_input_tokens, told.output_tokens) == (20, 80, 5)


@pytest.mark.parametrize(
    ("reason", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "tool_use")],
)
def test_stop_reasons(reason: str, stop: str, client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    last = finish_chunk()
    last["choices"][0]["finish_reason"] = reason

    async def send(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream([event(chunk("Hi")), event(last), event("[DONE]")])
        else:
            message = {"role": "assistant", "content": "Hi"}
            await exchange.answer(completion(choices=[{"index": 0, "message": message, "finish_reason": reason}]))

    upstream.behaviours["alpha"] = send
    assert client.messages.create(model="alpha", max_tokens=9, messages=ASK).stop_reason == stop
    with client.messages.stream(model="alpha", max_tokens=9, messages=ASK) as stream:
        assert stream.get_final_message().stop_reason == stop


def test_counting_tokens_asks_no_model(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    few = client.messages.count_tokens(model="auto", messages=ASK)
    many = client.messages.count_tokens(
        model="auto", messages=[{"role": "user", "content": "x" * 4000}], tools=[WEATHER]
    )
    assert 0 < few.input_tokens < 20
    assert 900 < many.input_tokens < 1300
    assert upstream.exchanges == []


def test_the_clients_list_of_models(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "llmrouter/auto", "alpha", "beta"]


def test_an_error_within_a_stream_raises(client: anthropic.Anthropic, upstream: MisbehavingUpstream) -> None:
    async def fail(exchange: Exchange) -> None:
        fault = event({"error": {"message": "overloaded", "code": "server_overloaded"}})
        await exchange.event_stream([event(chunk("Hello")), fault], pause=0.05)

    upstream.behaviours["alpha"] = fail
    got = []
    with (
        pytest.raises(anthropic.APIStatusError, match="overloaded"),
        client.messages.stream(model="alpha", max_tokens=9, messages=ASK) as stream,
    ):
        got += list(stream.text_stream)


def test_a_faulty_request_names_the_clients_own_field(client: anthropic.Anthropic) -> None:
    wrong: Any = [{"role": "user", "content": [{"type": "text", "text": 5}]}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="auto", max_tokens=9, messages=wrong)
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == "messages[0].content[0].text"
    assert caught.value.request_id is not None


def test_the_client_tries_again_as_it_is_told(gateway: Live, upstream: MisbehavingUpstream) -> None:
    async def busy_once(exchange: Exchange) -> None:
        if len(upstream.exchanges) == 1:
            await exchange.answer(b'{"error": {"message": "busy"}}', 429, retry_after_ms="10")
        else:
            await exchange.answer(completion())

    upstream.behaviours["alpha"] = busy_once
    with anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=1) as client:
        assert client.messages.create(model="alpha", max_tokens=9, messages=ASK).content
    assert len(upstream.exchanges) == 2
