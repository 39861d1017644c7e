"""Chat completions over HTTP: what goes upstream, what comes back, what is recorded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable

import httpx
import pytest
from contracts.misbehaving_upstream import (
    USAGE,
    Exchange,
    MisbehavingUpstream,
    chunk,
    completion,
    event,
    finish_chunk,
    ordinary_stream,
    usage_chunk,
)
from live_gateway import Live

from llmrouter.exceptions import StoreError

Start = Callable[..., Live]

COST_USD = (12 * 1.0 + 5 * 2.0) / 1e6


def test_a_whole_answer(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", "beta")
    before = time.time()
    response = gateway.chat("What is 1 + 1?", temperature=0.5, vendor_field={"kept": [1]})
    assert response.status_code == 200
    assert response.content == completion(), "the upstream's own bytes"
    assert response.headers["content-type"] == "application/json"
    (asked,) = upstream.exchanges
    assert asked.body == {
        "model": "alpha",
        "messages": [{"role": "user", "content": "What is 1 + 1?"}],
        "temperature": 0.5,
        "vendor_field": {"kept": [1]},
    }
    headers = {name: value for name, value in response.headers.items() if name.startswith("x-llmrouter-")}
    assert float(headers.pop("x-llmrouter-overhead-ms")) >= 0
    assert float(headers.pop("x-llmrouter-cost")) == pytest.approx(COST_USD)
    assert headers == {
        "x-llmrouter-model": "alpha",
        "x-llmrouter-router": "knn",
        "x-llmrouter-policy": "utility(0.3)",
        "x-llmrouter-artifact": "fake-1",
        "x-llmrouter-fallbacks": "0",
        "x-llmrouter-expected-quality": "0.5000",
        "x-llmrouter-expected-cost": "0.000001",
    }
    outcome = gateway.outcome(response)
    assert before <= outcome.pop("time") <= time.time()
    assert 0 < outcome.pop("latency_s") < 30
    assert outcome.pop("cost_usd") == pytest.approx(COST_USD)
    beta = {"quality": 0.49, "standard_error": 0.1, "cost_usd": 1e-6, "propensity": 0.0}
    assert outcome.pop("candidates")["beta"] == beta
    expected = {
        "request_id": response.headers["x-request-id"],
        "model": "alpha",
        "served_by": "alpha",
        "router": "knn",
        "artifact_id": "fake-1",
        "policy": "utility(0.3)",
        "propensity": 1.0,
        "prompt": "What is 1 + 1?",
        "prompt_sha256": hashlib.sha256(b"What is 1 + 1?").hexdigest(),
        "explored": False,
        "lane": "",
        "quality_by": [],
        "finish_reason": "stop",
        "fallbacks": [],
        "status": "ok",
        "input_tokens": 12,
        "output_tokens": 5,
        "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
        "price_as_of": "config",
        "endpoint": "chat",
        "stream": False,
        "cache": "",
        "attempts": [],
    }
    assert {key: value for key, value in outcome.items() if value is not None} == expected


def test_two_prompts_go_to_two_models(live: Start) -> None:
    gateway = live("alpha", "beta")
    assert gateway.chat("one for alpha").headers["x-llmrouter-model"] == "alpha"
    assert gateway.chat("one for beta").headers["x-llmrouter-model"] == "beta"


def test_a_streamed_answer_is_relayed_and_its_extra_usage_hidden(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live()
    response = gateway.chat(stream=True)
    hidden = [piece for piece in ordinary_stream() if piece != event(usage_chunk())]
    assert response.content == b"".join(hidden)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "x-llmrouter-cost" not in response.headers
    assert "content-length" not in response.headers
    assert upstream.exchanges[0].body["stream_options"] == {"include_usage": True}
    outcome = gateway.outcome(response)
    assert outcome["status"] == "ok"
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (12, 5)
    assert outcome["cost_usd"] == pytest.approx(COST_USD)
    assert 0 < outcome["time_to_first_token_s"] <= outcome["latency_s"]


def test_usage_that_was_asked_for_is_shown(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live()
    response = gateway.chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert response.content == b"".join(ordinary_stream())
    assert upstream.exchanges[0].body["stream_options"] == {"include_usage": True, "include_obfuscation": False}


def test_other_stream_options_are_kept_when_usage_is_added(live: Start, upstream: MisbehavingUpstream) -> None:
    live().chat(stream=True, stream_options={"include_obfuscation": False})
    assert upstream.exchanges[0].body["stream_options"] == {"include_usage": True, "include_obfuscation": False}


def test_an_upstream_without_stream_usage_is_not_asked_for_it(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", models={"alpha": {"stream_usage": False}})
    assert gateway.chat(stream=True).status_code == 200
    assert "stream_options" not in upstream.exchanges[0].body


@pytest.mark.parametrize("size", [1, 3, 50])
def test_hiding_the_usage_chunk_works_for_any_chunking(size: int, live: Start, upstream: MisbehavingUpstream) -> None:
    pieces = [event(chunk("é漢🙂"), "\r\n"), event(finish_chunk()), event(usage_chunk(), "\r\n"), event("[DONE]")]
    whole = b": ping\n\n" + b"".join(pieces)

    async def odd(exchange: Exchange) -> None:
        await exchange.event_stream([whole[i : i + size] for i in range(0, len(whole), size)])

    upstream.behaviours["alpha"] = odd
    assert live().chat(stream=True).content == whole.replace(pieces[2], b"")


def test_usage_in_the_last_content_chunk_is_counted_and_relayed(live: Start, upstream: MisbehavingUpstream) -> None:
    pieces = [event(chunk("a")), event({**finish_chunk(), "usage": USAGE}), event("[DONE]")]

    async def send(exchange: Exchange) -> None:
        await exchange.event_stream(pieces)

    upstream.behaviours["alpha"] = send
    gateway = live()
    response = gateway.chat(stream=True)
    assert response.content == b"".join(pieces)
    assert gateway.outcome(response)["output_tokens"] == 5


def test_cached_and_reasoning_tokens(live: Start, upstream: MisbehavingUpstream) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 80},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }

    async def send(exchange: Exchange) -> None:
        await exchange.answer(completion(usage=usage))

    upstream.behaviours["alpha"] = send
    gateway = live()
    outcome = gateway.outcome(gateway.chat())
    assert (outcome["cached_tokens"], outcome["reasoning_tokens"]) == (80, 30)
    assert outcome["cost_usd"] == pytest.approx((20 * 1.0 + 80 * 0.5 + 50 * 2.0) / 1e6)


def test_an_answer_without_usage_has_no_cost(live: Start, upstream: MisbehavingUpstream) -> None:
    async def send(exchange: Exchange) -> None:
        await exchange.answer(completion(usage=None))

    upstream.behaviours["alpha"] = send
    gateway = live()
    response = gateway.chat()
    assert "x-llmrouter-cost" not in response.headers
    assert gateway.outcome(response)["cost_usd"] is None


def test_upstream_headers_are_relayed_and_ids_kept_apart(live: Start, upstream: MisbehavingUpstream) -> None:
    async def send(exchange: Exchange) -> None:
        await exchange.answer(
            completion(), x_request_id="theirs", openai_processing_ms="5", set_cookie="a=b", server="x"
        )

    upstream.behaviours["alpha"] = send
    headers = live().chat().headers
    assert headers["x-llmrouter-upstream-request-id"] == "theirs"
    assert headers["x-request-id"].startswith("req_")
    assert len(headers.get_list("x-request-id")) == 1
    assert headers["openai-processing-ms"] == "5"
    assert "set-cookie" not in headers
    assert "server" not in headers


# What `model` may be


def test_a_pool_name_bypasses_the_router_and_has_no_fallback(live: Start, upstream: MisbehavingUpstream) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(b"{}", 500)

    upstream.behaviours["beta"] = refuse
    gateway = live("alpha", "beta", "gamma")
    response = gateway.chat(model="gamma")
    assert response.headers["x-llmrouter-model"] == "gamma"
    assert response.headers["x-llmrouter-policy"] == "pinned"
    assert "x-llmrouter-expected-quality" not in response.headers
    assert gateway.engine.requests == []
    assert gateway.outcome(response)["candidates"] == {}
    assert gateway.chat(model="beta").status_code == 500
    assert [exchange.body["model"] for exchange in upstream.exchanges] == ["gamma", "beta"]


def test_the_upstream_may_call_it_otherwise(live: Start, upstream: MisbehavingUpstream) -> None:
    async def send(exchange: Exchange) -> None:
        await exchange.answer(completion())

    upstream.behaviours["vendor-name-2026"] = send
    gateway = live("alpha", models={"alpha": {"model": "vendor-name-2026"}})
    response = gateway.chat()
    assert response.json()["model"] == "up-1", "the body says what the upstream said"
    assert response.headers["x-llmrouter-model"] == "alpha", "the header says what the pool says"


@pytest.mark.parametrize(
    ("model", "weight"),
    [
        ("auto", None),
        ("llmrouter/auto", None),
        ("router-knn-0.25", 0.25),
        ("router-knn-2", 2.0),
        ("router-knn-1e-3", 0.001),
    ],
)
def test_names_that_ask_for_routing(model: str, weight: float | None, live: Start) -> None:
    gateway = live()
    assert gateway.chat(model=model).status_code == 200
    assert gateway.engine.requests[0].preference.cost_weight == weight


# Control


def test_control_by_header(live: Start) -> None:
    gateway = live("alpha", "beta")
    response = gateway.chat(
        headers={
            "x-llmrouter-cost-weight": "0.7",
            "x-llmrouter-quality-floor": "0.9",
            "x-llmrouter-max-cost": "0.01",
            "x-llmrouter-models": "beta , alpha",
            "x-llmrouter-session-id": "s1",
        }
    )
    (request,) = gateway.engine.requests
    preference = request.preference
    assert (preference.cost_weight, preference.quality_floor, preference.max_cost_usd) == (0.7, 0.9, 0.01)
    assert request.allowed_models == ("beta", "alpha")
    assert gateway.outcome(response)["conversation_id"] == "s1"


def test_control_by_body_goes_before_headers_and_never_upstream(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", "beta")
    gateway.chat(
        model="router-knn-0.5",
        llmrouter={"max_cost": 1, "models": ["beta"], "session_id": None},
        headers={"x-llmrouter-cost-weight": "0.7", "x-llmrouter-max-cost": "2"},
    )
    (request,) = gateway.engine.requests
    assert request.preference.cost_weight == 0.5, "the alias goes before the header"
    assert request.preference.max_cost_usd == 1
    assert "llmrouter" not in upstream.exchanges[0].body
    assert upstream.exchanges[0].body["model"] == "beta"


@pytest.mark.parametrize("how", [{"headers": {"x-llmrouter-dry-run": "true"}}, {"llmrouter": {"dry_run": True}}])
def test_a_dry_run_calls_nobody(how: dict[str, dict[str, str]], live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", "beta")
    decision = gateway.chat("for beta", **how).json()
    assert decision["model"] == "beta"
    assert upstream.exchanges == []
    assert gateway.outcomes() == []


def test_the_route_endpoint_has_the_pinned_shape(live: Start, upstream: MisbehavingUpstream) -> None:
    gateway = live("alpha", "beta")
    body = {"model": "auto", "messages": [{"role": "user", "content": "for beta"}], "llmrouter": {"models": ["beta"]}}
    response = gateway.client.post("/v1/route", json=body)
    decision = response.json()
    assert set(decision) == {"model", "ranking", "propensity", "policy", "artifact_id", "neighbours"}
    assert decision["model"] == "beta"
    assert decision["ranking"][0] == {
        "model": "beta",
        "expected_quality": 0.9,
        "standard_error": 0.1,
        "expected_cost_usd": 1e-6,
        "eligible": True,
        "reason": "",
        "propensity": 1.0,
    }
    assert not decision["ranking"][1]["eligible"]
    assert decision["ranking"][1]["reason"] == "not among the allowed models"
    assert decision["neighbours"][0] == {"prompt_id": "p0", "similarity": 1.0}
    assert upstream.exchanges == []


def test_the_route_endpoint_for_a_pool_name(live: Start) -> None:
    gateway = live("alpha")
    body = {"model": "alpha", "messages": [{"role": "user", "content": "x"}]}
    decision = gateway.client.post("/v1/route", json=body).json()
    assert decision["policy"] == "pinned"
    assert decision["ranking"][0]["expected_quality"] is None


# What the router is told


def test_needs_and_sizes_are_read_from_the_body(live: Start) -> None:
    everything = ["tools", "vision", "audio", "json_schema", "logprobs"]
    gateway = live("alpha", models={"alpha": {"capabilities": everything}})
    content = [
        {"type": "text", "text": "x" * 40},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}
    gateway.chat(content, tools=tools, response_format=schema, logprobs=True, max_completion_tokens=50, max_tokens=9)
    gateway.chat("x", response_format={"type": "json_object"})
    rich, plain = gateway.engine.requests
    assert {need.value for need in rich.needs} == set(everything)
    assert rich.text == "x" * 40
    assert rich.prompt_tokens >= 10
    assert rich.max_output_tokens == 50
    assert {need.value for need in plain.needs} == {"json_mode"}


def test_the_configured_text_is_read(live: Start) -> None:
    gateway = live("alpha", router={"text": "system_and_last_turns", "turns": 1})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    gateway.chat(messages=messages)
    assert gateway.engine.requests[0].text == "Be brief.\n\nHi"


@pytest.mark.parametrize(
    ("prompts", "text", "digest"),
    [("text", "Hi", True), ("hash", None, True), ("none", None, False)],
)
def test_what_is_kept_of_prompts(prompts: str, text: str | None, digest: bool, live: Start, tmp_path: object) -> None:
    gateway = live("alpha", log={"store": f"sqlite:///{tmp_path}/log.db", "prompts": prompts})
    outcome = gateway.outcome(gateway.chat("Hi"))
    assert outcome["prompt"] == text
    assert (outcome["prompt_sha256"] is not None) is digest


# Other endpoints


def test_models(live: Start) -> None:
    client = live("alpha", "org/beta").client
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["auto", "llmrouter/auto", "alpha", "org/beta"]
    assert set(listed["data"][0]) == {"id", "object", "created", "owned_by"}
    for name in ("auto", "llmrouter/auto", "org/beta"):
        assert client.get(f"/v1/models/{name}").json()["id"] == name
    missing = client.get("/v1/models/nope")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_health_and_readiness(live: Start) -> None:
    gateway = live("alpha", "beta")
    gateway.chat()
    assert gateway.client.get("/healthz").json() == {"status": "ok"}
    gateway.outcomes()
    ready = gateway.client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert (ready["artifact"], ready["router"], ready["policy"]) == ("fake-1", "knn", "utility(0.3)")
    assert [model["name"] for model in ready["models"]] == ["alpha", "beta"]
    assert ready["log"]["status"] == "ok"
    assert ready["log"]["queued"] == 0
    assert ready["log"]["written"] >= 1


def test_feedback_is_joined_to_its_outcome(live: Start) -> None:
    gateway = live()
    request_id = gateway.chat().headers["x-request-id"]
    judged = {"request_id": request_id, "quality": 0.8, "source": "judge", "weight": 2}
    for _ in range(2):  # idempotent
        response = gateway.client.post("/v1/feedback", json=judged)
        assert response.status_code == 202
        assert response.json() == {"request_id": request_id, "status": "stored"}
    outcome = gateway.client.get(f"/v1/outcomes/{request_id}").json()
    assert (outcome["quality"], outcome["quality_source"], outcome["quality_weight"]) == (0.8, "judge", 2.0)


def test_feedback_by_label_and_before_its_outcome(live: Start) -> None:
    gateway = live()
    response = gateway.client.post("/v1/feedback", json={"request_id": "req_later", "label": "good"})
    assert (response.status_code, response.json()["status"]) == (202, "pending")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"quality": 1.1}, "quality"),
        ({"quality": "high"}, "quality"),
        ({"quality": None}, "quality"),
        ({"label": "good"}, "quality"),
        ({"quality": None, "label": "splendid"}, "label"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": 5}, "request_id"),
        ({"source": ""}, "source"),
        ({"weight": True}, "weight"),
        ({"weight": 0}, "weight"),
        ({"qualty": 1}, "qualty"),
    ],
)
def test_wrong_feedback(change: dict[str, object], param: str | None, live: Start) -> None:
    body = {"request_id": "req_1", "quality": 1.0, **change}
    response = live().client.post("/v1/feedback", json={key: value for key, value in body.items() if value is not None})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_feedback_is_not_acknowledged_when_it_cannot_be_stored(live: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise StoreError("the disk is full")

    def unwritable(*_: object) -> None:
        raise OSError("the disk is full")

    gateway = live()
    monkeypatch.setattr(gateway.gateway.writer._store, "feedback_many", full)
    monkeypatch.setattr(gateway.gateway.writer._spool, "append", unwritable)
    response = gateway.client.post("/v1/feedback", json={"request_id": "req_1", "quality": 1})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "log_unavailable"
    assert "the disk is full" in response.json()["error"]["message"]
    assert gateway.chat().status_code == 200, "answers do not depend on the log"
    monkeypatch.undo()
    response = gateway.client.post("/v1/feedback", json={"request_id": "req_1", "quality": 1})
    assert response.status_code == 202, "and then it is taken again"


def test_feedback_waits_on_disk_while_the_store_fails(live: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bool:
        raise StoreError("away")

    gateway = live()
    request_id = gateway.chat().headers["x-request-id"]
    with monkeypatch.context() as patch:
        patch.setattr(gateway.gateway.writer._store, "feedback_many", away)
        response = gateway.client.post("/v1/feedback", json={"request_id": request_id, "quality": 0.25})
        assert (response.status_code, response.json()["status"]) == (202, "spooled")
        assert request_id.encode() in gateway.gateway.writer._spool.path.read_bytes()
    ends = time.monotonic() + 10
    while gateway.gateway.writer._spool.exists() and time.monotonic() < ends:
        time.sleep(0.02)
    assert gateway.client.get(f"/v1/outcomes/{request_id}").json()["quality"] == 0.25


def test_an_unknown_outcome(live: Start) -> None:
    response = live().client.get("/v1/outcomes/req_nope")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "outcome_not_found"


def test_the_openapi_document_is_there(live: Start) -> None:
    paths = live().client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/models", "/v1/route", "/v1/feedback", "/healthz", "/readyz"} <= set(paths)


def test_concurrent_requests_do_not_mix(live: Start, upstream: MisbehavingUpstream) -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.pause(0.01)
        await exchange.answer(completion(exchange.body["messages"][0]["content"]))

    upstream.behaviours["alpha"] = echo
    gateway = live()

    async def ask_all() -> list[str]:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client:
            bodies = [{"model": "auto", "messages": [{"role": "user", "content": f"n{i}"}]} for i in range(60)]
            answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for body in bodies))
        return [json.loads(answer.content)["choices"][0]["message"]["content"] for answer in answers]

    assert asyncio.run(ask_all()) == [f"n{i}" for i in range(60)]
    assert len(gateway.outcomes()) == 60
