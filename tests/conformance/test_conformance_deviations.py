"""Where other gateways deviate from the API that they stand for, and what is to be there instead: one test each."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
from conformance_behaviours import ASK, BODIES, LONG, answering, asked, streaming, whole
from conformance_items import shows
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


@pytest.fixture
def gateway(live: Start) -> Live:
    return live("alpha", "beta")


@pytest.fixture
def client(gateway: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=30) as made:
        yield made


# Errors

WORDS = [
    (400, "context_length_exceeded", openai.BadRequestError),
    (404, "model_not_found", openai.NotFoundError),
    (429, "rate_limit_exceeded", openai.RateLimitError),
    (401, "invalid_api_key", openai.AuthenticationError),
    (429, "insufficient_quota", openai.RateLimitError),
    (400, "content_policy_violation", openai.BadRequestError),
]


@shows("error-words")
@pytest.mark.parametrize(("status", "code", "error"), WORDS, ids=[code for _, code, _ in WORDS])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_upstreams_error_keeps_its_words(
    status: int,
    code: str,
    error: type[openai.APIStatusError],
    stream: bool,
    client: openai.OpenAI,
    upstream: MisbehavingUpstream,
) -> None:
    said = {"message": "As the provider puts it.", "type": "its_type", "param": "messages.[0]", "code": code}
    upstream.behaviours["alpha"] = answering(status, {"error": said})
    with pytest.raises(error) as caught:
        client.chat.completions.create(model="alpha", stream=stream, **ASK)
    assert caught.value.status_code == status
    assert caught.value.body == said
    assert caught.value.code == code
    assert "As the provider puts it." in caught.value.message


@shows("error-words")
def test_when_every_model_fails_the_most_telling_error_keeps_its_words(
    client: openai.OpenAI, upstream: MisbehavingUpstream
) -> None:
    said = {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    upstream.behaviours |= {"alpha": answering(429, {"error": said}), "beta": answering(401)}
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="auto", **ASK)
    body = caught.value.body
    assert isinstance(body, dict)
    assert {key: body[key] for key in said} == said
    assert [attempt["model"] for attempt in body["attempts"]] == ["alpha", "beta"]


@shows("retry-after")
@pytest.mark.parametrize(
    ("headers", "least_s"), [({"retry_after_ms": "300"}, 0.3), ({"retry_after": "1"}, 1.0)], ids=["ms", "s"]
)
def test_a_client_waits_as_the_upstream_tells_it(
    headers: dict[str, str], least_s: float, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    async def busy_once(exchange: Exchange) -> None:
        await (answering(429, **headers)(exchange) if len(upstream.exchanges) == 1 else exchange.answer(completion()))

    upstream.behaviours["alpha"] = busy_once
    before = time.monotonic()
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=1) as patient:
        assert patient.chat.completions.create(model="alpha", **ASK).choices
    assert time.monotonic() - before >= least_s
    assert len(upstream.exchanges) == 2


@shows("retry-after")
@pytest.mark.parametrize(
    ("status", "should", "calls"), [(429, "false", 1), (400, "true", 2)], ids=["not again", "again"]
)
def test_a_client_tries_again_as_the_upstream_tells_it(
    status: int, should: str, calls: int, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = answering(status, x_should_retry=should, retry_after_ms="1")
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=1) as patient,
        pytest.raises(openai.APIStatusError),
    ):
        patient.chat.completions.create(model="alpha", **ASK)
    assert len(upstream.exchanges) == calls


@shows("client-retries")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504])
def test_what_clients_try_again(status: int, gateway: Live, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = answering(status, retry_after_ms="1")
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=2) as patient,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        patient.chat.completions.create(model="alpha", **ASK)
    assert caught.value.status_code == status
    assert len(upstream.exchanges) == (3 if status in (408, 409, 429) or status >= 500 else 1)


@shows("unknown-model")
@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_model(path: str, gateway: Live, upstream: MisbehavingUpstream) -> None:
    answer = gateway.client.post(path, json={"model": "gpt-99", **BODIES[path]})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "gpt-99" in error["message"]
    assert upstream.exchanges == []


@shows("bad-key")
@pytest.mark.parametrize("path", BODIES)
def test_a_wrong_key(path: str, live: Start, upstream: MisbehavingUpstream, tmp_path_factory: Any) -> None:
    gateway = live("alpha", auth={"store": f"sqlite:///{tmp_path_factory.getbasetemp()}/conformance-keys.db"})
    answer = gateway.client.post(path, json=BODIES[path], headers={"authorization": "Bearer sk-wrong"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-wrong", max_retries=0).models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=gateway.url, api_key="sk-wrong", max_retries=0).messages.create(
            model="auto", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
        )
    assert upstream.exchanges == []


@shows("anthropic-errors")
@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.RequestTooLargeError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (503, "overloaded_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.OverloadedError),
    ],
)
def test_anthropics_errors(
    status: int, kind: str, error: type[anthropic.APIStatusError], gateway: Live, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = answering(status, retry_after="3")
    client = anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0)
    with pytest.raises(error) as caught:
        client.messages.create(model="alpha", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert (body["error"]["message"], body["error"]["code"], body["error"]["param"]) == ("no", "c", "p")
    assert caught.value.request_id == body["request_id"] == caught.value.response.headers["x-request-id"]
    assert caught.value.response.headers["retry-after"] == "3"


# Headers


@shows("request-id")
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("status", [200, 429])
def test_request_ids(path: str, status: int, gateway: Live, upstream: MisbehavingUpstream) -> None:
    good = whole(completion(), x_request_id="req_theirs")
    upstream.behaviours["alpha"] = good if status == 200 else answering(429, x_request_id="req_theirs")
    answer = gateway.client.post(path, json={"model": "alpha", **BODIES[path]}, headers={"x-request-id": "mine"})
    assert answer.status_code == status
    ids = answer.headers.get_list("x-request-id")
    assert len(ids) == 1
    assert ids[0].startswith("req_")
    assert ids[0] != "req_theirs"
    assert answer.headers["x-llmrouter-upstream-request-id"] == "req_theirs"
    assert gateway.outcome(answer)["status"] == ("ok" if status == 200 else "error")


@shows("request-id")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/healthz"),
        ("GET", "/nowhere"),
        ("PUT", "/v1/chat/completions"),
        ("GET", "/v1/messages"),
    ],
)
def test_every_answer_has_a_request_id(method: str, path: str, gateway: Live) -> None:
    assert gateway.client.request(method, path).headers["x-request-id"].startswith("req_")


@shows("processing-ms")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_openais_headers_keep_their_names(stream: bool, gateway: Live, upstream: MisbehavingUpstream) -> None:
    headers = {"openai-processing-ms": "12", "openai-version": "2020-10-01", "x-ratelimit-remaining-tokens": "149984"}

    async def send(exchange: Exchange) -> None:
        given = {name.replace("-", "_"): value for name, value in headers.items()}
        if stream:
            exchange.head(200, content_type="text/event-stream", transfer_encoding="chunked", **given)
            await exchange.chunks(ordinary_stream())
        else:
            await exchange.answer(completion(), **given)

    upstream.behaviours["alpha"] = send
    answer = gateway.chat(stream=stream)
    assert {name: answer.headers.get(name) for name in headers} == headers


@shows("rate-limit-headers")
def test_the_gateways_own_limits_are_told_in_openais_headers(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", limits={"gateway": {"rpm": 3, "tpm": 100_000}, "state": "memory://"})
    answers = [gateway.chat() for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    first, last = answers[0].headers, answers[3].headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("3", "2")
    assert first["x-ratelimit-limit-tokens"] == "100000"
    assert last["x-ratelimit-remaining-requests"] == "0"
    for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"):
        assert first[name].endswith("s")
        assert first[name].removesuffix("s").replace("m", "").replace(".", "").isdecimal()
    assert 0 < int(last["retry-after"]) <= 60
    assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
    assert len(upstream.exchanges) == 3


@shows("models-shape", "object-field")
def test_the_list_of_models(gateway: Live) -> None:
    listed = gateway.client.get("/v1/models").json()
    assert list(listed) == ["object", "data"]
    assert listed["object"] == "list"
    for model in listed["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert model["object"] == "model"
        assert isinstance(model["created"], int)


# Bodies


@shows("chunk-fields", "object-field")
def test_chunks_keep_their_fields(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    first = chunk("Hi", created=1234567890, system_fingerprint="fp", vendor={"kept": 1})
    first["choices"][0]["delta"]["vendor_delta"] = True
    upstream.behaviours["alpha"] = streaming(event(first), event(finish_chunk()), event("[DONE]"))
    raw = client.chat.completions.with_raw_response.create(model="auto", stream=True, **ASK)
    line = next(raw.http_response.iter_lines())
    assert json.loads(line.removeprefix("data: ")) == first, "finish_reason: null among it"
    got = next(iter(client.chat.completions.create(model="auto", stream=True, **ASK)))
    assert (got.created, got.object, got.system_fingerprint) == (1234567890, "chat.completion.chunk", "fp")
    assert got.model_extra == {"vendor": {"kept": 1}}
    assert got.choices[0].finish_reason is None
    assert got.choices[0].delta.model_extra == {"vendor_delta": True}


@shows("message-fields", "object-field")
def test_a_message_keeps_vendors_fields_in_their_place(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm", "citations": ["x"]}
    body = completion(choices=[{"index": 0, "message": message, "finish_reason": "stop", "stop_reason": 128001}])
    upstream.behaviours["alpha"] = whole(body)
    answer = client.chat.completions.create(model="auto", **ASK)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.model_extra == {"reasoning_content": "Hm", "citations": ["x"]}
    assert answer.choices[0].model_extra == {"stop_reason": 128001}
    assert answer.model_extra == {"vendor_field": {"kept": True}}


@shows("body-model")
@pytest.mark.parametrize("model", ["auto", "alpha"])
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_body_names_the_upstreams_model_and_the_header_the_pools(
    model: str, path: str, stream: bool, gateway: Live
) -> None:
    answer = gateway.client.post(path, json={"model": model, "stream": stream, **BODIES[path]})
    assert answer.headers["x-llmrouter-model"] == "alpha"
    if not stream:
        assert answer.json()["model"] == "up-1"
    else:
        assert '"up-1"' in answer.text
        assert '"alpha"' not in answer.text


@shows("usage-hidden")
def test_usage_is_asked_for_and_hidden(client: openai.OpenAI, gateway: Live, upstream: MisbehavingUpstream) -> None:
    chunks = list(client.chat.completions.create(model="auto", stream=True, **ASK))
    assert upstream.exchanges[0].body["stream_options"] == {"include_usage": True}
    assert all(one.choices and one.usage is None for one in chunks)
    *chunks, last = client.chat.completions.create(
        model="auto", stream=True, stream_options={"include_usage": True}, **ASK
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 17
    assert [outcome.output_tokens for outcome in gateway.outcomes()] == [5, 5]


@shows("unknown-fields")
@pytest.mark.parametrize("path", BODIES)
def test_unknown_fields_go_upstream(path: str, gateway: Live, upstream: MisbehavingUpstream) -> None:
    unknown = {"vendor_field": {"kept": [1, None, 1.5]}, "provider": {"order": ["x"]}, "chat_template_kwargs": {"a": 1}}
    answer = gateway.client.post(path, json={"model": "auto", **BODIES[path], **unknown})
    assert answer.status_code == 200
    assert {name: upstream.exchanges[0].body.get(name) for name in unknown} == unknown


@shows("unknown-fields")
def test_unknown_fields_within_messages_and_tools_go_upstream(live: Start, upstream: MisbehavingUpstream) -> None:
    messages = [
        {"role": "system", "content": "Be brief", "vendor": 1},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}, {"type": "x"}],
        },
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}, "vendor": 1}}, {"type": "vendor_tool"}]
    gateway = live("alpha", models={"alpha": {"capabilities": ["tools"]}})
    answer = gateway.client.post("/v1/chat/completions", json={"model": "auto", "messages": messages, "tools": tools})
    assert answer.status_code == 200
    assert upstream.exchanges[0].body == {"model": "alpha", "messages": messages, "tools": tools}


FORMATS: dict[str, Any] = {
    "text": {"type": "text"},
    "json_object": {"type": "json_object"},
    "json_schema": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}},
    "bare schema": {"type": "json_schema", "json_schema": {"name": "s"}},
    "references": {
        "type": "json_schema",
        "json_schema": {"name": "s", "schema": {"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}},
    },
    "a vendor's": {"type": "regex", "pattern": "a+"},
    "grammar": {"type": "grammar", "grammar": "root ::= 'a'"},
}


@shows("response-format")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("model", ["auto", "alpha"])
def test_a_response_format_is_passed_on(name: str, model: str, live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", models={"alpha": {"capabilities": ["json_schema"]}})
    assert gateway.chat(model=model, response_format=FORMATS[name]).status_code == 200
    assert upstream.exchanges[0].body["response_format"] == FORMATS[name]


# Streams that fail


@shows("error-midstream", "partial-recorded")
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("then", ["end", "reset", "error"])
def test_a_stream_that_fails_says_so_and_is_recorded(
    path: str, then: str, live: Start, upstream: MisbehavingUpstream
) -> None:
    said = [event(chunk("Hel")), event(chunk("lo"))]
    fault = [event({"error": {"message": "overloaded", "code": "server_overloaded"}})] if then == "error" else []
    upstream.behaviours["alpha"] = streaming(*said, *fault, pause=0.05, then="end" if fault else then)
    gateway = live("alpha", "beta")
    answer = gateway.client.post(path, json={"model": "auto", "stream": True, **BODIES[path]})
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    assert "message_stop" not in answer.text
    assert "response.completed" not in answer.text
    assert ("server_overloaded" if fault and path != "/v1/responses" else "error") in answer.text
    outcome = gateway.outcome(answer)
    assert (outcome["status"], outcome["served_by"]) == ("partial", "alpha")
    assert outcome["cost_usd"] is None, "unknown, not zero"
    assert asked(upstream) == ["alpha"]


@shows("error-midstream")
def test_a_failed_stream_raises_in_the_client(client: openai.OpenAI, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = streaming(event(chunk("Hello")), then="reset")
    stream = client.chat.completions.create(model="auto", stream=True, **ASK)
    got = [next(stream).choices[0].delta.content]
    with pytest.raises(openai.APIError, match="alpha: the upstream broke off"):
        got += [one.choices[0].delta.content for one in stream]
    assert got == ["Hello"]


@shows("hang-up")
@pytest.mark.parametrize("path", [*BODIES, "/v1/embeddings"])
def test_a_client_that_hangs_up_cancels_a_whole_answer(path: str, live: Start, upstream: MisbehavingUpstream) -> None:
    async def think(exchange: Exchange) -> None:
        await exchange.pause(LONG)

    upstream.behaviours["alpha"] = think
    gateway = live("alpha", models={"alpha": {"endpoints": ["chat", "embeddings"]}})
    body = {"model": "alpha", **BODIES.get(path, {"input": "Hi"})}
    hang_up(gateway, path, body, upstream)
    assert upstream.hung_up.wait(10)
    assert recorded_as(gateway, "cancelled")


@shows("hang-up")
@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_hangs_up_cancels_a_stream(path: str, gateway: Live, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = streaming(event(chunk("a")), then="silence")
    hang_up(gateway, path, {"model": "auto", "stream": True, **BODIES[path]}, upstream)
    assert upstream.hung_up.wait(10)
    assert recorded_as(gateway, "cancelled")


def hang_up(gateway: Live, path: str, body: dict[str, Any], upstream: MisbehavingUpstream) -> None:
    """Ask, and close the connection as soon as the upstream has been asked; of a stream, after its beginning."""
    address = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    if body.get("stream"):
        with connection.getresponse() as answer:
            assert answer.read(1)
            connection.close()
        return
    ends = time.monotonic() + 10
    while not asked(upstream):
        assert time.monotonic() < ends, "the upstream was not asked"
        time.sleep(0.01)
    connection.close()


def recorded_as(gateway: Live, status: str) -> bool:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if [outcome.status for outcome in gateway.outcomes()] == [status]:
            return True
        time.sleep(0.02)
    return False
