"""The official OpenAI client against a live gateway: answers, streams, and its error classes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
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

Start = Callable[..., Live]

ASK: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Say hello"}]}


@pytest.fixture
def gateway(live: Start) -> Live:
    return live("alpha", "beta")


@pytest.fixture
def client(gateway: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=30) as made:
        yield made


def test_a_whole_answer(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello there"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 17
    assert answer.model == "up-1"
    assert answer.model_extra == {"vendor_field": {"kept": True}}
    assert raw.headers["x-llmrouter-model"] == "alpha"
    assert answer._request_id == raw.headers["x-request-id"]


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hello there"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(one.usage is None for one in chunks)


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    *chunks, last = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert all(one.choices for one in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 17


def test_the_clients_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "Hello there"


async def test_the_async_client(gateway: Live) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=30) as client:

        async def streamed() -> str:
            stream = await client.chat.completions.create(**ASK, stream=True)
            return "".join([one.choices[0].delta.content or "" async for one in stream])

        async def whole() -> str | None:
            return (await client.chat.completions.create(**ASK)).choices[0].message.content

        answers = await asyncio.gather(*(streamed() if i % 2 else whole() for i in range(20)))
        assert answers == ["Hello there"] * 20


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "llmrouter/auto", "alpha", "beta"]
    assert client.models.retrieve("beta").owned_by == "llmrouter"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


def test_control_through_the_client(client: openai.OpenAI, gateway: Live, upstream: MisbehavingUpstream) -> None:
    client.chat.completions.create(
        **ASK, extra_body={"llmrouter": {"models": ["beta"]}}, extra_headers={"x-llmrouter-cost-weight": "0.9"}
    )
    assert upstream.exchanges[0].body["model"] == "beta"
    assert gateway.engine.requests[0].preference.cost_weight == 0.9


def test_tools_pass_both_ways(client: openai.OpenAI, live: Start, upstream: MisbehavingUpstream) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}

    async def use_a_tool(exchange: Exchange) -> None:
        await exchange.answer(completion(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}]))

    upstream.behaviours["gamma"] = use_a_tool
    gateway = live("gamma", models={"gamma": {"capabilities": ["tools"]}})
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as made:
        history = [*ASK["messages"], message, {"role": "tool", "tool_call_id": "call_1", "content": "2"}]
        answer = made.chat.completions.create(model="auto", messages=history, tools=tools)  # type: ignore[arg-type]
    assert answer.choices[0].message.tool_calls
    assert upstream.exchanges[0].body["messages"][1] == message


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "empty_array"),
        ({"temperature": "hot"}, openai.BadRequestError, "invalid_type"),
    ],
)
def test_our_errors_are_its_classes(
    change: dict[str, Any], error: type[openai.APIStatusError], code: str, client: openai.OpenAI
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{**ASK, **change})
    assert caught.value.code == code
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_the_upstreams_errors_are_its_classes(
    status: int, error: type[openai.APIStatusError], client: openai.OpenAI, upstream: MisbehavingUpstream
) -> None:
    body = {"error": {"message": "no", "type": "some_type", "param": "p", "code": "some_code"}}

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(body).encode(), status)

    upstream.behaviours["alpha"] = refuse
    for stream in (False, True):
        with pytest.raises(error) as caught:
            client.chat.completions.create(**{**ASK, "model": "alpha"}, stream=stream)
        assert (caught.value.code, caught.value.type, caught.value.param) == ("some_code", "some_type", "p")


def test_it_backs_off_as_the_upstream_asks(gateway: Live, upstream: MisbehavingUpstream) -> None:
    async def busy_once(exchange: Exchange) -> None:
        if len(upstream.exchanges) == 1:
            await exchange.answer(b'{"error": {"message": "busy"}}', 429, retry_after_ms="10")
        else:
            await exchange.answer(completion())

    upstream.behaviours["alpha"] = busy_once
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=2) as client:
        assert client.chat.completions.create(**{**ASK, "model": "alpha"}).choices
    assert len(upstream.exchanges) == 2


def test_a_stream_that_breaks_off_raises(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    async def break_off(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("Hel")), event(chunk("lo"))])

    upstream.behaviours["alpha"] = break_off
    got = []

    def read() -> None:
        for one in client.chat.completions.create(**ASK, stream=True):
            got.append(one.choices[0].delta.content)  # noqa: PERF401 - the exception is to come after the items

    with pytest.raises(openai.APIError, match="alpha: the upstream's stream ended in the middle"):
        read()
    assert got == ["Hel", "lo"]


def test_leaving_a_stream_early_cancels_it_upstream(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("a"))] * 1000, pause=0.02)

    upstream.behaviours["alpha"] = endless
    with client.chat.completions.create(**ASK, stream=True) as stream:
        next(iter(stream))
    assert upstream.hung_up.wait(5)


def test_odd_streams_are_understood(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    whole = b"".join(
        [
            b": ping\n\n",
            event(chunk("Hé 漢"), "\r\n"),
            event(chunk("🙂")),
            event(finish_chunk()),
            *ordinary_stream()[-1:],
        ]
    )

    async def odd(exchange: Exchange) -> None:
        await exchange.event_stream([whole[i : i + 5] for i in range(0, len(whole), 5)])

    upstream.behaviours["alpha"] = odd
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hé 漢🙂"
