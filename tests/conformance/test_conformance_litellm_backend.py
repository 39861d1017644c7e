"""Models behind LiteLLM: the same endpoints, errors and accounts as models that are reached directly."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import anthropic
import openai
import pytest
from conformance_upstream import ARGUMENTS, CAPABLE, sensible
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from corpus_readers import check_message_events, check_response_events
from live_gateway import Live

# Not importorskip: that would import it before the backend has told it to stay off the network.
if find_spec("litellm") is None:
    pytest.skip("the extra litellm is not installed", allow_module_level=True)

Start = Callable[..., Live]

ASK: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"unit": {"type": "string"}}}},
}


def mocked(live: Start, **options: Any) -> Live:
    """Return a gateway whose model is LiteLLM's own mock."""
    entry = {**CAPABLE, "backend": "litellm", "model": "openai/gpt-4o-mini", "api_key": "any", "base_url": None}
    return live("alpha", models={"alpha": {**entry, "options": {"mock_response": "Hello there", **options}}})


def behind(live: Start, upstream: MisbehavingUpstream, model: str) -> Live:
    """Return a gateway whose model is asked through LiteLLM at the scripted upstream."""
    base_url = upstream.base_url if model.startswith("openai/") else upstream.base_url.removesuffix("/v1")
    entry = {**CAPABLE, "backend": "litellm", "model": model, "api_key": "any", "base_url": base_url}
    return live("alpha", "beta", models={"alpha": entry})


def client_of(gateway: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=60)


@pytest.mark.parametrize("model", ["auto", "alpha"])
def test_chat(model: str, live: Start) -> None:
    gateway = mocked(live)
    raw = client_of(gateway).chat.completions.with_raw_response.create(model=model, messages=ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    (outcome,) = gateway.outcomes()
    assert (outcome.input_tokens, outcome.output_tokens) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert outcome.cost_usd == pytest.approx((outcome.input_tokens * 1.0 + outcome.output_tokens * 2.0) / 1e6)
    assert float(raw.headers["x-llmrouter-cost"]) == pytest.approx(outcome.cost_usd)


@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked"])
def test_stream(asked: bool, live: Start) -> None:
    gateway = mocked(live)
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(client_of(gateway).chat.completions.create(model="auto", messages=ASK, stream=True, **options))
    said = "".join(choice.delta.content or "" for one in chunks for choice in one.choices)
    assert said == "Hello there"
    assert any(choice.finish_reason == "stop" for one in chunks for choice in one.choices)
    assert (chunks[-1].usage is not None) is asked
    (outcome,) = gateway.outcomes()
    assert outcome.status == "ok"
    assert outcome.output_tokens is not None
    assert outcome.output_tokens > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_tools(stream: bool, live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["up-1"] = sensible
    client = client_of(behind(live, upstream, "openai/up-1"))
    message: Any
    if stream:
        with client.chat.completions.stream(model="auto", messages=ASK, tools=[WEATHER]) as streamed:
            message = streamed.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(model="auto", messages=ASK, tools=[WEATHER]).choices[0].message
    (call,) = message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_0", "weather", ARGUMENTS)
    assert upstream.exchanges[0].body["tools"] == [WEATHER]


def test_other_dialects(live: Start) -> None:
    gateway = mocked(live)
    client = anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0)
    message = client.messages.create(model="auto", max_tokens=9, messages=ASK)
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello there"}]
    assert client_of(gateway).responses.create(model="auto", input="Hi").output_text == "Hello there"
    bodies: dict[str, Any] = {"/v1/messages": {"max_tokens": 9, "messages": ASK}, "/v1/responses": {"input": "Hi"}}
    for path, check in (("/v1/messages", check_message_events), ("/v1/responses", check_response_events)):
        answer = gateway.client.post(path, json={"model": "auto", "stream": True, **bodies[path]})
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert check(answer.content) == "well"
        assert gateway.outcome(answer)["output_tokens"] > 0


@pytest.mark.parametrize(
    ("mock", "error"),
    [
        ("litellm.RateLimitError", openai.RateLimitError),
        ("litellm.InternalServerError", openai.InternalServerError),
        ("litellm.ContextWindowExceededError", openai.BadRequestError),
    ],
)
def test_mocked_errors(mock: str, error: type[openai.APIStatusError], live: Start) -> None:
    gateway = mocked(live, mock_response=mock)
    for stream in (False, True):
        with pytest.raises(error) as caught:
            client_of(gateway).chat.completions.create(model="alpha", messages=ASK, stream=stream)
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"]
    assert [outcome.status for outcome in gateway.outcomes()] == ["error", "error"]


WORDS = [
    (400, "context_length_exceeded", openai.BadRequestError),
    (401, "invalid_api_key", openai.AuthenticationError),
    (404, "model_not_found", openai.NotFoundError),
    (422, "some_code", openai.UnprocessableEntityError),
    (429, "rate_limit_exceeded", openai.RateLimitError),
    (500, "server_error", openai.InternalServerError),
    (503, "overloaded", openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "code", "error"), WORDS, ids=[str(status) for status, _, _ in WORDS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_providers_error_keeps_status_and_words(
    status: int, code: str, error: type[openai.APIStatusError], stream: bool, live: Start, upstream: MisbehavingUpstream
) -> None:
    said = {"message": "As the provider puts it.", "type": "its_type", "param": "p", "code": code}

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(json.dumps({"error": said}).encode(), status, retry_after="7")

    upstream.behaviours["up-1"] = refuse
    gateway = behind(live, upstream, "openai/up-1")
    with pytest.raises(error) as caught:
        client_of(gateway).chat.completions.create(model="alpha", messages=ASK, stream=stream)
    assert caught.value.status_code == status
    assert "As the provider puts it." in caught.value.message
    assert caught.value.code == code
    assert caught.value.response.headers.get("retry-after") == "7"
    assert len(upstream.exchanges) == 1, "LiteLLM tries nothing again by itself"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_failing_model_behind_it_falls_back(stream: bool, live: Start, upstream: MisbehavingUpstream) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(b'{"error": {"message": "down"}}', 500)

    upstream.behaviours["up-1"] = fail
    gateway = behind(live, upstream, "openai/up-1")
    assert gateway.chat(stream=stream).headers["x-llmrouter-model"] == "beta"


ANTHROPIC = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "Hello there"}],
    "usage": {"input_tokens": 20, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 0, "output_tokens": 5},
}  # fmt: skip


def test_a_provider_with_another_wire_format(live: Start, upstream: MisbehavingUpstream) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(ANTHROPIC).encode())

    upstream.behaviours["claude-x"] = answer
    gateway = behind(live, upstream, "anthropic/claude-x")
    made = client_of(gateway).chat.completions.create(model="alpha", messages=ASK, max_tokens=9)
    assert made.choices[0].message.content == "Hello there"
    assert made.choices[0].finish_reason == "stop"
    (exchange,) = upstream.exchanges
    assert exchange.path.endswith("/messages")
    (outcome,) = gateway.outcomes()
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens) == (100, 80, 5)
    assert outcome.cost_usd == pytest.approx((20 * 1.0 + 80 * 0.5 + 5 * 2.0) / 1e6)


def test_a_stream_of_another_wire_format(live: Start, upstream: MisbehavingUpstream) -> None:
    head = {**ANTHROPIC, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " there"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]  # fmt: skip

    async def answer(exchange: Exchange) -> None:
        pieces = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events]
        await exchange.event_stream(pieces)

    upstream.behaviours["claude-x"] = answer
    gateway = behind(live, upstream, "anthropic/claude-x")
    chunks = list(client_of(gateway).chat.completions.create(model="alpha", messages=ASK, max_tokens=9, stream=True))
    assert "".join(choice.delta.content or "" for one in chunks for choice in one.choices) == "Hello there"
    assert all(one.usage is None for one in chunks)
    (outcome,) = gateway.outcomes()
    assert (outcome.status, outcome.input_tokens, outcome.output_tokens) == ("ok", 100, 5)
