"""Everything a client can send wrong gets its own clear error, in OpenAI's shape, and reaches no upstream."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from live_gateway import Live

Start = Callable[..., Live]

GOOD: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check the shape and return the error object."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    (key,) = response.json()
    assert key == "error"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    return error


@pytest.fixture
def gateway(live: Start) -> Live:
    """One gateway for all of them: nothing that is sent here may harm it."""
    return live("alpha", "beta", server={"max_body_bytes": 4 * 1024 * 1024})


@pytest.fixture
def untouched(upstream: MisbehavingUpstream) -> Iterator[None]:
    """Check that no model was called."""
    yield
    assert upstream.exchanges == []


RAW = {
    "truncated": b'{"model": "auto", "messages": [',
    "no JSON": b"hello",
    "single quotes": b"{'model': 'auto'}",
    "empty": b"",
    "blank": b"  \n",
    "bytes that are no UTF-8": b'{"model": "\xff\xfe"}',
    "half a character": b'{"model": "\\ud800"}',
    "NaN": b'{"model": "auto", "temperature": NaN}',
    "two objects": b"{}{}",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("path", [CHAT, "/v1/route", "/v1/feedback"])
def test_malformed_json(name: str, path: str, gateway: Live, untouched: None) -> None:
    error = error_of(gateway.client.post(path, content=RAW[name]), 400)
    assert error["code"] == "invalid_json"
    assert error["type"] == "invalid_request_error"


def test_malformed_json_says_where(gateway: Live) -> None:
    error = error_of(gateway.client.post(CHAT, content=b'{"model": "auto",\n "messages": [}'), 400)
    assert "line 2, column 15" in error["message"]


@pytest.mark.parametrize("body", ["[]", '"x"', "5", "null", "true"])
def test_json_that_is_no_object(body: str, gateway: Live) -> None:
    assert error_of(gateway.client.post(CHAT, content=body), 400)["code"] == "invalid_type"


MESSAGE = {"role": "user", "content": "Hi"}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no model": ({"model": None}, "model", "missing_required_parameter"),
    "model a number": ({"model": 5}, "model", "invalid_type"),
    "no messages": ({"messages": None}, "messages", "missing_required_parameter"),
    "messages a text": ({"messages": "Hi"}, "messages", "invalid_type"),
    "no message": ({"messages": []}, "messages", "empty_array"),
    "message a text": ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
    "no role": ({"messages": [MESSAGE, {"content": "Hi"}]}, "messages[1].role", "missing_required_parameter"),
    "role a number": ({"messages": [{"role": 1}]}, "messages[0].role", "invalid_type"),
    "content a number": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    "part a text": ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
    "text a number": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages[0].content[0].text",
        "invalid_type",
    ),
    "text missing": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", "invalid_type"),
    "temperature a text": ({"temperature": "hot"}, "temperature", "invalid_type"),
    "temperature a boolean": ({"temperature": True}, "temperature", "invalid_type"),
    "max_tokens a text": ({"max_tokens": "100"}, "max_tokens", "invalid_type"),
    "max_tokens a fraction": ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    "max_completion_tokens negative": (
        {"max_completion_tokens": -1},
        "max_completion_tokens",
        "integer_below_min_value",
    ),
    "stream a text": ({"stream": "yes"}, "stream", "invalid_type"),
    "stream a number": ({"stream": 1}, "stream", "invalid_type"),
    "stream_options a boolean": ({"stream_options": True}, "stream_options", "invalid_type"),
    "tools an object": ({"tools": {}}, "tools", "invalid_type"),
    "stop a number": ({"stop": 5}, "stop", "invalid_type"),
    "response_format a text": ({"response_format": "json"}, "response_format", "invalid_type"),
    "n 0": ({"n": 0}, "n", "integer_below_min_value"),
    "control a text": ({"llmrouter": "cheap"}, "llmrouter", "invalid_value"),
    "control unknown": ({"llmrouter": {"cost_wieght": 1}}, "llmrouter.cost_wieght", "invalid_value"),
    "weight negative": ({"llmrouter": {"cost_weight": -1}}, "llmrouter.cost_weight", "invalid_value"),
    "weight a text": ({"llmrouter": {"cost_weight": "1"}}, "llmrouter.cost_weight", "invalid_value"),
    "weight a boolean": ({"llmrouter": {"cost_weight": True}}, "llmrouter.cost_weight", "invalid_value"),
    "floor above 1": ({"llmrouter": {"quality_floor": 1.5}}, "llmrouter.quality_floor", "invalid_value"),
    "cost 0": ({"llmrouter": {"max_cost": 0}}, "llmrouter.max_cost", "invalid_value"),
    "no models": ({"llmrouter": {"models": []}}, "llmrouter.models", "invalid_value"),
    "unknown models": ({"llmrouter": {"models": ["alhpa"]}}, "models", "invalid_value"),
    "session too long": ({"llmrouter": {"session_id": "x" * 257}}, "llmrouter.session_id", "invalid_value"),
    "dry_run a number": ({"llmrouter": {"dry_run": 1}}, "llmrouter.dry_run", "invalid_value"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_fields(name: str, gateway: Live, untouched: None) -> None:
    change, param, code = WRONG[name]
    body = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    error = error_of(gateway.client.post(CHAT, json=body), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-llmrouter-cost-weight", "cheap"),
        ("x-llmrouter-cost-weight", "-1"),
        ("x-llmrouter-cost-weight", "inf"),
        ("x-llmrouter-cost-weight", ""),
        ("x-llmrouter-quality-floor", "0"),
        ("x-llmrouter-max-cost", "nan"),
        ("x-llmrouter-dry-run", "maybe"),
        ("x-llmrouter-models", "alpha,,beta"),
        ("x-llmrouter-cost-wieght", "1"),
    ],
)
def test_wrong_headers(header: str, value: str, gateway: Live) -> None:
    error = error_of(gateway.client.post(CHAT, json=GOOD, headers={header: value}), 400)
    assert error["param"] == header


def test_names_that_are_nearly_right_are_suggested(gateway: Live) -> None:
    body = {**GOOD, "llmrouter": {"models": ["alhpa"]}}
    assert "did you mean 'alpha'?" in error_of(gateway.client.post(CHAT, json=body), 400)["message"]


@pytest.mark.parametrize(
    "model", ["gpt-9", "", "router-mf-0.3", "router-knn-cheap", "router-knn--1", "router-knn-1e999", "AUTO", "alpha "]
)
def test_unknown_models(model: str, gateway: Live) -> None:
    error = error_of(gateway.client.post(CHAT, json={**GOOD, "model": model}), 404)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "auto, llmrouter/auto" in error["message"]


def test_null_is_as_good_as_absent(gateway: Live) -> None:
    nothing = dict.fromkeys(("temperature", "max_tokens", "stream", "stop", "tools", "llmrouter", "stream_options"))
    assert gateway.client.post(CHAT, json={**GOOD, **nothing}).status_code == 200


def test_no_model_can_take_it(live: Start) -> None:
    gateway = live("alpha", "beta", models={"alpha": {"capabilities": ["vision"]}})
    error = error_of(gateway.chat("Hi", tools=[{"type": "function", "function": {"name": "f"}}]), 400)
    assert error["code"] == "no_eligible_model"
    assert "alpha: lacks tools" in error["message"]
    assert "beta: lacks tools" in error["message"]


def test_a_prompt_too_long_for_every_model(live: Start) -> None:
    gateway = live("alpha", models={"alpha": {"context_window": 100}})
    error = error_of(gateway.chat("x" * 4000), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


# Sizes


def test_a_body_of_10_mb(gateway: Live, untouched: None) -> None:
    big = {**GOOD, "messages": [{"role": "user", "content": "x" * 10_000_000}]}
    error = error_of(gateway.client.post(CHAT, json=big), 413)
    assert error["code"] == "request_too_large"
    assert "4194304 bytes" in error["message"]
    assert gateway.client.get("/healthz").status_code == 200


def test_a_body_of_10_mb_without_a_length(gateway: Live) -> None:
    """Counted while it is read: the gateway never holds more than the limit."""
    error = error_of(gateway.client.post(CHAT, content=(b"x" * 100_000 for _ in range(100))), 413)
    assert error["code"] == "request_too_large"


def test_a_body_that_announces_too_much_is_refused_unread(gateway: Live) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_the_limit_is_configurable_and_exact(live: Start) -> None:
    body = json.dumps(GOOD).encode()
    gateway = live("alpha", server={"max_body_bytes": len(body)})
    assert gateway.client.post(CHAT, content=body).status_code == 200
    assert gateway.client.post(CHAT, content=body + b" ").status_code == 413


# Routes and methods


@pytest.mark.parametrize("path", ["/v1/nope", "/", "/v1/chat/completions/", "/chat/completions", "/docs"])
def test_unknown_urls(path: str, gateway: Live) -> None:
    error = error_of(gateway.client.post(path, json=GOOD), 404)
    assert error["code"] == "unknown_url"
    assert f"POST {path}" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT), ("PUT", CHAT), ("POST", "/v1/models"), ("DELETE", "/healthz")]
)
def test_wrong_methods(method: str, path: str, gateway: Live) -> None:
    response = gateway.client.request(method, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"]


def test_something_that_is_not_http(gateway: Live) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        connection.recv(4096)
    assert gateway.client.get("/healthz").status_code == 200


def test_a_fault_of_ours_says_nothing_but_the_request_id(
    live: Start, untouched: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = live()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(gateway.engine, "route_many", broken)
    response = gateway.client.post(CHAT, json=GOOD)
    error = error_of(response, 500)
    assert "secret" not in response.text
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert response.headers["x-request-id"] in caplog.text
    assert "secret detail" in caplog.text


def test_faults_of_a_backend_are_recorded(live: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = live()

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gateway.gateway.backends["alpha"], "complete", broken)
    response = gateway.client.post(CHAT, json=GOOD)
    error_of(response, 500)
    assert gateway.outcome(response)["error"] == "internal error: ZeroDivisionError"
