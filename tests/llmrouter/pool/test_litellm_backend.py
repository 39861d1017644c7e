"""The LiteLLM backend, offline: LiteLLM's own mock answers, and a local server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from contracts.backend_kit import BODY, check_backend, read
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, chunk, completion, event, ordinary_stream

# Not importorskip: that would import it before the backend has told it to stay off the network.
if find_spec("litellm") is None:
    pytest.skip("the extra litellm is not installed", allow_module_level=True)

from llmrouter.exceptions import (
    BackendError,
    BackendStatusError,
    BackendStreamError,
    BackendTimeoutError,
    MissingExtraError,
)
from llmrouter.pool import FailureKind, LiteLLMBackend, Timeouts, failure_kind
from llmrouter.pool._litellm_wire import litellm_module, translated

MODEL = "gpt-4o-mini"


def mocked(reply: str = "Hello there", **options: Any) -> LiteLLMBackend:
    return LiteLLMBackend("pool-a", model=MODEL, api_key="sk-secret", mock_response=reply, **options)


def test_the_library_does_not_import_it() -> None:
    script = (
        "import sys, llmrouter.pool\n"
        "llmrouter.pool.LiteLLMBackend('a', model='gpt-4o-mini')\n"
        "print(sorted({'litellm', 'openai', 'torch', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmrouter-service\[litellm\]'"):
        LiteLLMBackend("a", model=MODEL)


async def test_it_keeps_the_contract() -> None:
    await check_backend(mocked())


async def test_it_speaks_to_a_real_server(upstream: MisbehavingUpstream) -> None:
    async def ordinary(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream(ordinary_stream())
        else:
            await exchange.answer(completion())

    upstream.behaviours["up"] = ordinary
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    await check_backend(backend)
    asked = upstream.exchanges[0]
    assert asked.headers["authorization"] == "Bearer sk-1"


async def test_a_client_cannot_set_addresses_credentials_or_callbacks(upstream: MisbehavingUpstream) -> None:
    """LiteLLM takes these as arguments; from a request body they would send our key to anybody."""

    async def ordinary(exchange: Exchange) -> None:
        await exchange.answer(completion())

    upstream.behaviours["up"] = ordinary
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    hostile = {
        "api_base": "http://127.0.0.1:1/v1",
        "base_url": "http://127.0.0.1:1/v1",
        "api_key": "sk-other",
        "custom_llm_provider": "anthropic",
        "mock_response": "fooled",
        "extra_headers": {"authorization": "Bearer stolen"},
        "fallbacks": ["gpt-4"],
        "timeout": 0.001,
        "vendor_field": 1,
    }
    response = await backend.complete({**BODY, **hostile}, timeouts=Timeouts())
    assert b"Hello there" in response.body
    (asked,) = upstream.exchanges
    assert asked.headers["authorization"] == "Bearer sk-1"
    assert asked.body["vendor_field"] == 1, "unknown fields pass through"


@pytest.mark.parametrize(
    ("mock", "status", "kind"),
    [
        ("litellm.RateLimitError", 429, FailureKind.NEXT),
        ("litellm.InternalServerError", 500, FailureKind.NEXT),
        ("litellm.ContextWindowExceededError", 400, FailureKind.LARGER),
    ],
)
async def test_its_errors_become_ours(mock: str, status: int, kind: FailureKind) -> None:
    for call in (mocked(mock).complete, mocked(mock).stream):
        with pytest.raises(BackendStatusError) as caught:
            await call(BODY, timeouts=Timeouts())
        assert caught.value.status == status
        assert failure_kind(caught.value) is kind
        assert b"litellm" not in caught.value.body
        assert "sk-secret" not in str(caught.value)


async def test_an_upstream_error_keeps_its_words(upstream: MisbehavingUpstream) -> None:
    async def refuse(exchange: Exchange) -> None:
        error = b'{"error": {"message": "bad thing", "type": "invalid_request_error", "param": "n", "code": "odd"}}'
        await exchange.answer(error, 400)

    upstream.behaviours["up"] = refuse
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    with pytest.raises(BackendStatusError) as caught:
        await backend.complete(BODY, timeouts=Timeouts())
    assert caught.value.status == 400
    assert b"bad thing" in caught.value.body
    assert failure_kind(caught.value) is FailureKind.CLIENT


async def test_an_unreachable_upstream_goes_to_the_next() -> None:
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url="http://127.0.0.1:1/v1", api_key="sk-1")
    with pytest.raises(BackendError) as caught:
        await backend.complete(BODY, timeouts=Timeouts())
    assert failure_kind(caught.value) is FailureKind.NEXT


async def test_time_limits(upstream: MisbehavingUpstream) -> None:
    async def think(exchange: Exchange) -> None:
        await exchange.pause(30)

    upstream.behaviours["up"] = think
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    with pytest.raises(BackendTimeoutError):
        await backend.complete(BODY, timeouts=Timeouts(total_s=0.3))
    with pytest.raises(BackendTimeoutError, match="first_byte_s"):
        await backend.stream({**BODY, "stream": True}, timeouts=Timeouts(first_byte_s=0.3))
    assert await asyncio.to_thread(upstream.hung_up.wait, 5)


async def test_a_stream_that_breaks_off(upstream: MisbehavingUpstream) -> None:
    async def break_off(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("a"))], end=False)
        await asyncio.sleep(0.1)
        exchange.reset()

    upstream.behaviours["up"] = break_off
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    with pytest.raises(BackendStreamError):
        await read(await backend.stream({**BODY, "stream": True}, timeouts=Timeouts()))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 529])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_an_error_keeps_code_type_param_and_advice(
    provider: str, status: int, upstream: MisbehavingUpstream
) -> None:
    said = {"message": "As the provider puts it.", "type": "its_type", "param": "p", "code": "its_code"}

    async def refuse(exchange: Exchange) -> None:
        headers = {"retry_after": "7", "x_should_retry": "false", "x_request_id": "req_theirs", "server": "x"}
        await exchange.answer(json.dumps({"error": said}).encode(), status, x_ratelimit_limit_requests="9", **headers)

    upstream.behaviours["up"] = refuse
    base_url = upstream.base_url if provider == "openai" else upstream.base_url.removesuffix("/v1")
    backend = LiteLLMBackend("pool-a", model=f"{provider}/up", base_url=base_url, api_key="sk-1")
    for call in (backend.complete(BODY, timeouts=Timeouts()), backend.stream(BODY, timeouts=Timeouts())):
        with pytest.raises(BackendStatusError) as caught:
            await call
        assert json.loads(caught.value.body) == {"error": said}
        assert caught.value.headers == {
            "retry-after": "7",
            "x-should-retry": "false",
            "x-request-id": "req_theirs",
            "x-ratelimit-limit-requests": "9",
        }


def mapped(message: str, **attributes: Any) -> BackendError:
    """Return what becomes of an error of LiteLLM's."""
    error = litellm_module().InternalServerError(message=message, model="m", llm_provider="openai")
    for name, value in attributes.items():
        setattr(error, name, value)
    return translated(error, "pool-a")


@pytest.mark.parametrize(
    "message",
    [
        "InternalServerError: OpenAIException - It broke.",
        "OpenAIException - It broke.",
        "AnthropicException BadGatewayError - It broke.",
        "It broke.",
    ],
)
def test_an_errors_message_is_the_providers(message: str) -> None:
    error = mapped(message)
    assert isinstance(error, BackendStatusError)
    assert json.loads(error.body)["error"]["message"] == "It broke."


def test_odd_errors_are_read_without_trust() -> None:
    for message in ("{", "}{", '{"error": []}', '{"error": {"message": 1}}', "{'error': {'message': 'x'}}"):
        error = mapped(message, litellm_response_headers={"retry-after": 7, b"x": None})
        assert isinstance(error, BackendStatusError)
        assert json.loads(error.body)["error"]["message"] == message
        assert error.headers == {"retry-after": "7"}


def test_an_error_takes_no_words_from_the_call_before_it() -> None:
    said = {"message": "of another call"}
    first = litellm_module().InternalServerError(message="first", model="m", llm_provider="openai")
    first.body = said
    try:
        try:
            raise BackendStreamError("pool-a: broke off") from first
        except BackendStreamError:
            raise litellm_module().InternalServerError(message="second", model="m", llm_provider="openai") from None
    except Exception as error:
        failed = translated(error, "pool-a")
    assert isinstance(failed, BackendStatusError)
    assert json.loads(failed.body)["error"]["message"] == "second"


async def test_a_prompt_that_is_too_long_is_known_by_any_providers_words() -> None:
    said = '{"error": {"code": 400, "message": "more than fits", "status": "INVALID_ARGUMENT"}}'
    error = litellm_module().ContextWindowExceededError(message=said, model="m", llm_provider="vertex_ai")
    assert failure_kind(translated(error, "pool-a")) is FailureKind.LARGER


async def role_first(exchange: Exchange) -> None:
    role = chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    await exchange.event_stream([event(role)], end=False)
    await exchange.pause(0.1)
    if exchange.body["messages"][0]["content"] == "silence":
        await exchange.pause(30)
    await exchange.chunks(ordinary_stream())


async def test_an_empty_chunk_is_no_first_token(upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["up"] = role_first
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    usage: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    stream = await backend.stream({**BODY, **usage}, timeouts=Timeouts())
    assert stream.observer.content_seen
    events = await read(stream)
    said = [json.loads(one.data)["choices"] for one in events[:-1] if one.data]
    assert "".join(choice["delta"].get("content") or "" for choices in said for choice in choices) == "Hello there"
    assert [one.usage_only for one in events] == [*[False] * (len(events) - 2), True, False]
    assert stream.observer.done
    assert stream.observer.usage.output_tokens == 5
    silent = {"messages": [{"role": "user", "content": "silence"}], "stream": True}
    with pytest.raises(BackendTimeoutError, match="first_byte_s"):
        await backend.stream(silent, timeouts=Timeouts(first_byte_s=1.0))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_tools_are_passed_on(stream: bool, upstream: MisbehavingUpstream) -> None:
    async def ordinary(exchange: Exchange) -> None:
        await (exchange.event_stream(ordinary_stream()) if stream else exchange.answer(completion()))

    upstream.behaviours["up"] = ordinary
    backend = LiteLLMBackend("pool-a", model="openai/up", base_url=upstream.base_url, api_key="sk-1")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    body = {**BODY, "tools": tools, "stream": stream}
    if stream:
        await read(await backend.stream(body, timeouts=Timeouts()))
    else:
        await backend.complete(body, timeouts=Timeouts())
    (asked,) = upstream.exchanges
    assert asked.body["tools"] == tools
    assert not [name for name in asked.body if "mcp" in name]
