"""The official OpenAI client through a live gateway: every way of asking, routed and with a model of its own choice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from conformance_upstream import ARGUMENTS, CAPABLE, CITY, VECTOR, sensible
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion
from live_gateway import Live
from openai.lib.streaming.chat import FunctionToolCallArgumentsDoneEvent
from pydantic import BaseModel

Start = Callable[..., Live]

MODELS = pytest.mark.parametrize("model", ["auto", "llmrouter/auto", "alpha"])
ASK: Any = [{"role": "user", "content": "Say hello"}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="
USAGE = (12, 5, 17)


class City(BaseModel):
    name: str
    people: int


class Weather(BaseModel):
    """Tell the weather."""

    city: str
    unit: Literal["C", "F"]


WEATHER = openai.pydantic_function_tool(Weather)
WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


@pytest.fixture
def gateway(live: Start, upstream: MisbehavingUpstream) -> Live:
    upstream.behaviours |= {"alpha": sensible, "beta": sensible}
    entry = {**CAPABLE, "endpoints": ["chat", "embeddings"]}
    return live("alpha", "beta", models={"alpha": entry, "beta": CAPABLE})


@pytest.fixture
def client(gateway: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=30) as made:
        yield made


# Chat completions


@MODELS
def test_create(model: str, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=model, messages=ASK)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == USAGE
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


@MODELS
def test_stream(model: str, client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=model, messages=ASK, stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello there"
    assert chunks[-1].choices[0].finish_reason == "stop"


@MODELS
async def test_the_async_client(model: str, gateway: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:

        async def streamed() -> str:
            stream = await client.chat.completions.create(model=model, messages=ASK, stream=True)
            return "".join([one.choices[0].delta.content or "" async for one in stream])

        async def helper() -> str | None:
            async with client.chat.completions.stream(model=model, messages=ASK) as stream:
                return (await stream.get_final_completion()).choices[0].message.content

        async def whole() -> str | None:
            return (await client.chat.completions.create(model=model, messages=ASK)).choices[0].message.content

        async def response() -> str:
            return (await client.responses.create(model=model, input="Hi")).output_text

        answers = await asyncio.gather(*(ask() for ask in (streamed, helper, whole, response) for _ in range(4)))
        assert answers == ["Hello there"] * 16


def test_raw_and_streaming_responses(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=ASK)
    assert raw.headers["x-llmrouter-model"] == "alpha"
    assert raw.parse().choices[0].message.content == "Hello there"
    with client.chat.completions.with_streaming_response.create(model="auto", messages=ASK) as response:
        assert json.loads(response.read())["object"] == "chat.completion"
    with client.chat.completions.with_streaming_response.create(model="auto", messages=ASK, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


@MODELS
def test_structured_output(model: str, client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    answer = client.chat.completions.parse(model=model, messages=ASK, response_format=City)
    assert answer.choices[0].message.parsed == City(**CITY)
    (exchange,) = upstream.exchanges
    assert exchange.body["response_format"]["json_schema"]["strict"] is True
    with client.chat.completions.stream(model=model, messages=ASK, response_format=City) as stream:
        snapshots = [one.parsed for one in stream if one.type == "content.delta"]
        assert stream.get_final_completion().choices[0].message.parsed == City(**CITY)
    assert len(snapshots) > 1


@MODELS
def test_a_conversation_with_tools(model: str, client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    answer = client.chat.completions.create(model=model, messages=ASK, tools=[WEATHER], tool_choice="required")
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.arguments == ARGUMENTS
    history = [*ASK, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "12 C"}]
    last = client.chat.completions.create(model=model, messages=history, tools=[WEATHER])
    assert last.choices[0].message.content == "It is 12 C."
    assert upstream.exchanges[1].body["messages"][1]["tool_calls"][0]["id"] == call.id


@MODELS
def test_streamed_tools_with_the_helper(model: str, client: openai.OpenAI) -> None:
    second = openai.pydantic_function_tool(City, name="note")
    with client.chat.completions.stream(model=model, messages=ASK, tools=[WEATHER, second]) as stream:
        done = [one for one in stream if isinstance(one, FunctionToolCallArgumentsDoneEvent)]
        final = stream.get_final_completion().choices[0]
    assert [(one.name, one.index) for one in done] == [("Weather", 0), ("note", 1)]
    calls = final.message.tool_calls or ()
    assert [call.function.parsed_arguments for call in calls] == [Weather(city="Oslo", unit="C"), City(**CITY)]
    assert final.finish_reason == "tool_calls"


def test_images_and_audio_reach_the_model(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    client.chat.completions.create(model="auto", messages=[{"role": "user", "content": content}])
    assert upstream.exchanges[0].body["messages"][0]["content"] == content


def test_every_parameter_of_the_client_is_taken(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    given: dict[str, Any] = {
        "frequency_penalty": 0.1, "logit_bias": {"50256": -100}, "logprobs": True, "max_completion_tokens": 9,
        "metadata": {"a": "b"}, "n": 1, "parallel_tool_calls": False, "prediction": {"type": "content", "content": "x"},
        "presence_penalty": 0.1, "prompt_cache_key": "k", "reasoning_effort": "low", "safety_identifier": "s",
        "seed": 7, "service_tier": "flex", "stop": ["\n"], "store": False, "temperature": 0.5, "tool_choice": "auto",
        "top_logprobs": 2, "top_p": 0.9, "user": "u", "verbosity": "low", "modalities": ["text"],
    }  # fmt: skip
    client.chat.completions.create(model="auto", messages=ASK, tools=[WEATHER], **given)
    sent = upstream.exchanges[0].body
    assert {name: sent[name] for name in given} == given


def test_a_timeout_of_the_client_is_no_error_of_the_gateway(
    client: openai.OpenAI, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    async def think(exchange: Exchange) -> None:
        await exchange.pause(30)

    upstream.behaviours["alpha"] = think
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="alpha", messages=ASK, timeout=httpx.Timeout(5, read=0.2))
    assert upstream.hung_up.wait(5)
    upstream.behaviours["alpha"] = sensible
    assert client.chat.completions.create(model="alpha", messages=ASK).choices


def test_the_gateways_timeout_is_tried_again(live: Start, upstream: MisbehavingUpstream) -> None:
    async def slow_once(exchange: Exchange) -> None:
        if len(upstream.exchanges) == 1:
            await exchange.pause(30)
        await exchange.answer(completion())

    upstream.behaviours["alpha"] = slow_once
    gateway = live("alpha", models={"alpha": {"timeouts": {"total_s": 0.2}}})
    before = time.monotonic()
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=1) as client:
        assert client.chat.completions.create(model="alpha", messages=ASK).choices
    assert time.monotonic() - before < 5
    assert len(upstream.exchanges) == 2


# Responses


@MODELS
def test_responses(model: str, client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    answer = client.responses.create(model=model, input="Say hello", instructions="Be brief", max_output_tokens=50)
    assert answer.output_text == "Hello there"
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == USAGE
    assert answer._request_id is not None
    assert answer.id.removeprefix("resp_") == answer._request_id.removeprefix("req_")
    assert upstream.exchanges[0].body["messages"] == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Say hello"},
    ]


@MODELS
def test_streamed_responses(model: str, client: openai.OpenAI) -> None:
    kinds = [one.type for one in client.responses.create(model=model, input="Hi", stream=True)]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    with client.responses.stream(model=model, input="Hi") as stream:
        said = "".join(one.delta for one in stream if one.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert said == final.output_text == "Hello there"
    assert final.usage is not None
    assert final.usage.output_tokens == 5


@MODELS
def test_structured_responses(model: str, client: openai.OpenAI) -> None:
    assert client.responses.parse(model=model, input="Hi", text_format=City).output_parsed == City(**CITY)
    with client.responses.stream(model=model, input="Hi", text_format=City) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == City(**CITY)


@MODELS
def test_a_conversation_of_responses_with_tools(
    model: str, client: openai.OpenAI, upstream: MisbehavingUpstream
) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER_SCHEMA, "strict": True}
    first = client.responses.create(model=model, input="Weather?", tools=[tool])
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.call_id) == ("weather", ARGUMENTS, "call_0")
    history: Any = [
        {"role": "user", "content": "Weather?"},
        *(item.model_dump() for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "12 C"},
    ]
    last = client.responses.create(model=model, input=history, tools=[tool])
    assert last.output_text == "It is 12 C."
    roles = [message["role"] for message in upstream.exchanges[1].body["messages"]]
    assert roles == ["user", "assistant", "tool"]


@MODELS
def test_streamed_responses_with_tools(model: str, client: openai.OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(Weather), openai.pydantic_function_tool(City)]
    flat: Any = [{"type": "function", **tool["function"]} for tool in tools]
    with client.responses.stream(model=model, input="Hi", tools=flat) as stream:
        done = [one for one in stream if one.type == "response.function_call_arguments.done"]
        final = stream.get_final_response()
    assert [one.arguments for one in done] == [ARGUMENTS, json.dumps(CITY)]
    assert [item.name for item in final.output if item.type == "function_call"] == ["Weather", "City"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"conversation": "conv_1"}, "conversation"),
    ],
)
def test_what_responses_cannot_do_here_is_said(given: dict[str, Any], param: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="auto", input="Hi", **given)
    assert caught.value.param == param


# Legacy completions, embeddings, models


@MODELS
def test_completions(model: str, client: openai.OpenAI) -> None:
    answer = client.completions.create(model=model, prompt="Say hello", max_tokens=5)
    assert answer.choices[0].text == "Hello there"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 17
    pieces = list(client.completions.create(model=model, prompt="Say hello", stream=True))
    assert "".join(choice.text for piece in pieces for choice in piece.choices) == "Hello there"
    options: Any = {"include_usage": True}
    *pieces, last = client.completions.create(model=model, prompt="Hi", stream=True, stream_options=options)
    assert last.usage is not None
    assert last.usage.total_tokens == 17
    assert all(piece.usage is None for piece in pieces)


@pytest.mark.parametrize("given", ["Hi", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
@pytest.mark.parametrize("form", ["float", "base64", None])
def test_embeddings(given: Any, form: Any, client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    more = {} if form is None else {"encoding_format": form}
    answer = client.embeddings.create(model="alpha", input=given, **more)
    assert len(answer.data) == (2 if isinstance(given, list) and len(given) == 2 else 1)
    if form != "base64":
        assert tuple(answer.data[0].embedding) == VECTOR
    assert answer.usage.total_tokens == 8
    assert upstream.exchanges[0].path == "/v1/embeddings"
    assert upstream.exchanges[0].body["input"] == given


def test_embeddings_are_not_routed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="auto", input="Hi")
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="beta", input="Hi")
    assert unknown.value.code == "model_not_found"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "llmrouter/auto", "alpha", "beta"]
    assert client.models.retrieve("llmrouter/auto").id == "llmrouter/auto"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.files.list(),
        lambda client: client.images.generate(prompt="x"),
        lambda client: client.moderations.create(input="x"),
        lambda client: client.responses.retrieve("resp_1"),
        lambda client: client.batches.list(),
    ],
    ids=["files", "images", "moderations", "stored responses", "batches"],
)
def test_what_there_is_not_is_said(call: Callable[[openai.OpenAI], object], client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        call(client)
    assert caught.value.code == "unknown_url"
    assert caught.value.request_id is not None
