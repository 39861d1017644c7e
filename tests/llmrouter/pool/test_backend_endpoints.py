"""Backends asked for something else than chat completions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import pytest
from contracts.backend_kit import read
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, event

from llmrouter.exceptions import BackendError, BackendStatusError, BackendStreamError, BackendTimeoutError
from llmrouter.pool import (
    COMPLETIONS,
    DONE,
    EMBEDDINGS,
    RESPONSES,
    Backend,
    FailureClass,
    LiteLLMBackend,
    OpenAIBackend,
    ScriptedBackend,
    StreamObserver,
    Timeouts,
    failure_class,
)
from llmrouter.pool._litellm_wire import litellm_module, translated

BODIES: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"model": "auto", "prompt": "Say hello there"},
    EMBEDDINGS: {"model": "auto", "input": ["one", "two"]},
    RESPONSES: {"model": "auto", "input": "Say hello there"},
}
TEXT_COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "up-1",
    "choices": [{"index": 0, "text": "Hello there", "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
EMBEDDED = {
    "object": "list",
    "model": "up-1",
    "data": [{"object": "embedding", "index": i, "embedding": [0.5, i / 2]} for i in range(2)],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "error": None,
    "model": "up-1",
    "output": [
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello there", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    },
}
ANSWERS = {COMPLETIONS: TEXT_COMPLETION, EMBEDDINGS: EMBEDDED, RESPONSES: RESPONSE}


def response_event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, "sequence_number": 1, **fields})


DELTA = response_event(
    "response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta="Hello", logprobs=[]
)
CREATED = response_event("response.created", response={**RESPONSE, "status": "in_progress", "output": []})
COMPLETED = response_event("response.completed", response=RESPONSE)
STREAMS = {
    COMPLETIONS: [event({**TEXT_COMPLETION, "usage": None}), event("[DONE]")],
    RESPONSES: [CREATED, DELTA, COMPLETED],
}


def behave(upstream: MisbehavingUpstream, endpoint: str) -> None:
    async def ordinary(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream(STREAMS[endpoint])
        else:
            await exchange.answer(json.dumps(ANSWERS[endpoint]).encode())

    upstream.behaviours["up"] = ordinary


@pytest.fixture
async def openai(upstream: MisbehavingUpstream) -> AsyncIterator[OpenAIBackend]:
    made = OpenAIBackend("pool-a", model="up", base_url=upstream.base_url)
    yield made
    await made.aclose()


def text_of(answer: dict[str, Any], endpoint: str) -> str:
    if endpoint == COMPLETIONS:
        return answer["choices"][0]["text"]
    return answer["output"][0]["content"][0]["text"]


async def check_endpoint(backend: Backend, endpoint: str) -> None:
    """Check a backend that says "Hello there", or embeds two texts."""
    answer = json.loads((await backend.complete(BODIES[endpoint], timeouts=Timeouts(), endpoint=endpoint)).body)
    if endpoint == EMBEDDINGS:
        assert [entry["index"] for entry in answer["data"]] == [0, 1]
        assert all(len(entry["embedding"]) > 1 for entry in answer["data"])
        assert answer["data"][0]["embedding"] != answer["data"][1]["embedding"]
        return
    assert text_of(answer, endpoint) == "Hello there"
    stream = await backend.stream({**BODIES[endpoint], "stream": True}, timeouts=Timeouts(), endpoint=endpoint)
    datas = [found.data for found in await read(stream) if found.data is not None]
    observer = StreamObserver()
    for data in datas:
        observer.observe(data)
    assert observer.content_seen
    assert observer.done
    assert (datas[-1] == DONE) is (endpoint != RESPONSES)


@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS, RESPONSES])
async def test_scripted(endpoint: str) -> None:
    await check_endpoint(ScriptedBackend("a", reply="Hello there"), endpoint)


async def test_a_scripted_response_spells_out_its_text() -> None:
    backend = ScriptedBackend("a", reply="Hello there")
    stream = await backend.stream(BODIES[RESPONSES], timeouts=Timeouts(), endpoint=RESPONSES)
    events = [json.loads(found.data) for found in await read(stream) if found.data is not None]
    assert [found["type"] for found in events][:2] == ["response.created", "response.output_text.delta"]
    assert "".join(found.get("delta", "") for found in events) == "Hello there"


@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS, RESPONSES])
async def test_openai(endpoint: str, openai: OpenAIBackend, upstream: MisbehavingUpstream) -> None:
    behave(upstream, endpoint)
    await check_endpoint(openai, endpoint)
    assert {exchange.path for exchange in upstream.exchanges} == {f"/v1/{endpoint}"}
    assert upstream.exchanges[0].body == {**BODIES[endpoint], "model": "up"}


async def test_the_bytes_of_a_response_are_relayed(openai: OpenAIBackend, upstream: MisbehavingUpstream) -> None:
    behave(upstream, RESPONSES)
    stream = await openai.stream({**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(), endpoint=RESPONSES)
    assert b"".join(found.raw for found in await read(stream)) == b"".join(STREAMS[RESPONSES])


@pytest.mark.parametrize("end", ["response.completed", "response.incomplete", "response.failed"])
async def test_a_response_ends_in_its_own_event(end: str, openai: OpenAIBackend, upstream: MisbehavingUpstream) -> None:
    pieces = [CREATED, DELTA, response_event(end, response={**RESPONSE, "error": None})]

    async def kept_open(exchange: Exchange) -> None:
        await exchange.event_stream(pieces, pause=0.05, end=False)
        await exchange.pause(30)

    upstream.behaviours["up"] = kept_open
    stream = await openai.stream({**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(), endpoint=RESPONSES)
    assert b"".join(found.raw for found in await read(stream)) == b"".join(pieces)


async def test_a_response_that_just_ends_is_broken(openai: OpenAIBackend, upstream: MisbehavingUpstream) -> None:
    async def early_end(exchange: Exchange) -> None:
        await exchange.event_stream([CREATED, DELTA])

    upstream.behaviours["up"] = early_end
    stream = await openai.stream({**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(), endpoint=RESPONSES)
    with pytest.raises(BackendStreamError, match="middle of an answer"):
        await read(stream)


@pytest.mark.parametrize("end", ["end", "silence", "response.failed"])
async def test_a_response_that_says_nothing_may_fall_back(
    end: str, openai: OpenAIBackend, upstream: MisbehavingUpstream
) -> None:
    started = [
        CREATED,
        response_event("response.in_progress", response=RESPONSE),
        response_event("response.output_item.added", item={"type": "reasoning", "id": "rs_1"}),
    ]
    failed = [response_event(end, response={**RESPONSE, "error": None})] if end == "response.failed" else []

    async def say_nothing(exchange: Exchange) -> None:
        await exchange.event_stream([*started, *failed], pause=0.02, end=end != "silence")
        if end == "silence":
            await exchange.pause(30)

    upstream.behaviours["up"] = say_nothing
    with pytest.raises(BackendError) as caught:
        await openai.stream(
            {**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(first_byte_s=0.4), endpoint=RESPONSES
        )
    expected = {"end": BackendStreamError, "silence": BackendTimeoutError, "response.failed": BackendStatusError}
    assert type(caught.value) is expected[end]


async def test_a_response_that_calls_a_tool_has_begun(openai: OpenAIBackend, upstream: MisbehavingUpstream) -> None:
    """A search may take long: only the pause between two events is limited from then on."""
    called = [CREATED, response_event("response.output_item.added", item={"type": "web_search_call", "id": "ws_1"})]

    async def search(exchange: Exchange) -> None:
        await exchange.event_stream(called, end=False)
        await exchange.pause(0.4)
        await exchange.chunks([DELTA, COMPLETED])

    upstream.behaviours["up"] = search
    stream = await openai.stream(
        {**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(first_byte_s=0.2), endpoint=RESPONSES
    )
    assert b"".join(found.raw for found in await read(stream)) == b"".join([*called, DELTA, COMPLETED])


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (response_event("error", code="rate_limit_exceeded", message="slow down", param="p"), ("slow down", "p")),
        (
            response_event(
                "response.failed", response={**RESPONSE, "error": {"code": "rate_limit_exceeded", "message": "no"}}
            ),
            ("no", None),
        ),
    ],
    ids=["error", "failed"],
)
async def test_an_error_event_becomes_an_error_object(
    first: bytes, said: tuple[str, str | None], openai: OpenAIBackend, upstream: MisbehavingUpstream
) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.event_stream([CREATED, first])

    upstream.behaviours["up"] = fail
    with pytest.raises(BackendStatusError) as caught:
        await openai.stream({**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(), endpoint=RESPONSES)
    message, param = said
    error = {"message": message, "type": "upstream_error", "param": param, "code": "rate_limit_exceeded"}
    assert json.loads(caught.value.body) == {"error": error}
    assert caught.value.status == 429


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (response_event("error", code="server_error", message="no", param=None), FailureClass.SERVER_ERROR),
        (response_event("error", code="rate_limit_exceeded", message="no"), FailureClass.RATE_LIMIT),
        (
            response_event("response.failed", response={**RESPONSE, "error": {"code": "server_error", "message": "x"}}),
            FailureClass.SERVER_ERROR,
        ),
    ],
)
async def test_a_response_that_fails_at_once_may_fall_back(
    first: bytes, found: FailureClass, openai: OpenAIBackend, upstream: MisbehavingUpstream
) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.event_stream([first])

    upstream.behaviours["up"] = fail
    with pytest.raises(BackendStatusError) as caught:
        await openai.stream({**BODIES[RESPONSES], "stream": True}, timeouts=Timeouts(), endpoint=RESPONSES)
    assert failure_class(caught.value) is found


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        (RESPONSES, {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "x"}}),
        (EMBEDDINGS, {"error": {"message": "overloaded", "code": 503}}),
        (COMPLETIONS, {"error": {"message": "overloaded"}}),
    ],
)
async def test_an_error_under_status_200_is_one(
    endpoint: str, answer: dict[str, Any], openai: OpenAIBackend, upstream: MisbehavingUpstream
) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(answer).encode())

    upstream.behaviours["up"] = fail
    with pytest.raises(BackendStatusError) as caught:
        await openai.complete(BODIES[endpoint], timeouts=Timeouts(), endpoint=endpoint)
    assert caught.value.status in (502, 503)


@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS])
async def test_what_is_no_answer_under_status_200(
    endpoint: str, openai: OpenAIBackend, upstream: MisbehavingUpstream
) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.answer(b"<html>Please log in</html>", content_type="text/html")

    upstream.behaviours["up"] = page
    with pytest.raises(BackendStreamError, match="no answer"):
        await openai.complete(BODIES[endpoint], timeouts=Timeouts(), endpoint=endpoint)


# LiteLLM

responses_by_litellm = pytest.param(
    RESPONSES, marks=pytest.mark.skipif(find_spec("mcp") is None, reason="LiteLLM's responses need the package mcp")
)
needs_litellm = pytest.mark.skipif(find_spec("litellm") is None, reason="the extra litellm is not installed")


@needs_litellm
@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS, responses_by_litellm])
async def test_litellm(endpoint: str, upstream: MisbehavingUpstream) -> None:
    behave(upstream, endpoint)
    model = "text-completion-openai/up" if endpoint == COMPLETIONS else "openai/up"
    await check_endpoint(LiteLLMBackend("a", model=model, base_url=upstream.base_url, api_key="sk-1"), endpoint)
    assert {exchange.path for exchange in upstream.exchanges} == {f"/v1/{endpoint}"}


@needs_litellm
@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS, responses_by_litellm])
async def test_litellm_takes_no_address_or_key_from_a_request(endpoint: str, upstream: MisbehavingUpstream) -> None:
    behave(upstream, endpoint)
    model = "text-completion-openai/up" if endpoint == COMPLETIONS else "openai/up"
    backend = LiteLLMBackend("a", model=model, base_url=upstream.base_url, api_key="sk-1")
    hostile = {"api_base": "http://127.0.0.1:1/v1", "api_key": "sk-other", "mock_response": "fooled", "vendor": 1}
    await backend.complete({**BODIES[endpoint], **hostile}, timeouts=Timeouts(), endpoint=endpoint)
    (asked,) = upstream.exchanges
    assert asked.headers["authorization"] == "Bearer sk-1"
    assert asked.body["vendor"] == 1


@needs_litellm
async def test_litellm_knows_no_other_endpoint() -> None:
    with pytest.raises(BackendError, match="audio/speech"):
        await LiteLLMBackend("a", model="openai/up").complete({}, timeouts=Timeouts(), endpoint="audio/speech")


@needs_litellm
async def test_litellms_responses_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LiteLLMBackend("a", model="openai/up")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BackendError, match="pip install mcp"):
        await backend.complete(BODIES[RESPONSES], timeouts=Timeouts(), endpoint=RESPONSES)


@needs_litellm
def test_litellms_content_policy_error_is_a_content_filter() -> None:
    error = litellm_module().ContentPolicyViolationError(message="no", model="m", llm_provider="openai")
    assert failure_class(translated(error, "a")) is FailureClass.CONTENT_FILTER
