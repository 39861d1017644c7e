"""No request steers where the gateway goes, as whom, or what it tells an upstream of its client."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from keyed_gateway import CHAT, GENERATING, UPSTREAM_HEADER, UPSTREAM_KEY, Canary, Keyed
from live_gateway import well_behaved

from llmrouter.exceptions import BackendError
from llmrouter.pool import Timeouts

HOSTILE_HEADERS = {
    "x-api-key": "client-secret-1",
    "api-key": "client-secret-2",
    "cookie": "session=client-secret-3",
    "proxy-authorization": "Basic client-secret-4",
    "x-forwarded-for": "169.254.169.254",
    "x-forwarded-host": "evil.example",
    "x-forwarded-proto": "gopher",
    "forwarded": "for=169.254.169.254;host=evil.example",
    "x-real-ip": "169.254.169.254",
    "openai-organization": "client-secret-5",
    "openai-project": "client-secret-6",
    "x-team": "client-secret-7",
    "x-base-url": "http://evil.example",
    "x-original-url": "/admin",
    "x-http-method-override": "DELETE",
    "via": "evil.example",
    "referer": "http://evil.example",
    "user-agent": "client-secret-8",
    "accept": "client/secret-9",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GENERATING)
def test_no_header_of_a_client_goes_upstream(
    path: str, stream: bool, gateway: Keyed, upstream: MisbehavingUpstream
) -> None:
    body = {**GENERATING[path], "stream": stream}
    answer = gateway.ask("POST", path, headers=HOSTILE_HEADERS, json=body)
    assert answer.status_code == 200, answer.text
    (exchange,) = upstream.exchanges
    sent = json.dumps(exchange.headers)
    assert gateway.tokens["plain"] not in sent
    for secret in ("client-secret", "client/secret", "evil.example", "169.254", "gopher"):
        assert secret not in sent
    assert exchange.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert exchange.headers["x-team"] == UPSTREAM_HEADER
    assert exchange.headers["host"] == f"127.0.0.1:{upstream.port}"
    assert gateway.tokens["plain"] not in exchange.raw.decode()


def steering(url: str) -> dict[str, Any]:
    """Return fields by which some client library or gateway is told where to go, as whom, and whom to tell."""
    names = (
        "base_url", "api_base", "api_url", "url", "endpoint", "host", "proxy", "http_proxy", "azure_endpoint",
        "vertex_api_endpoint", "aws_bedrock_runtime_endpoint", "aws_sts_endpoint", "webhook", "callback",
        "callback_url", "langfuse_host", "gcs_path_service_account", "image", "input_file_url", "redirect",
    )  # fmt: skip
    credentials = {
        "api_key": "client-secret", "organization": "client-secret", "api_version": "2099", "api_type": "azure",
        "custom_llm_provider": "ollama", "aws_role_name": "client-secret", "aws_access_key_id": "client-secret",
        "vertex_credentials": "/etc/passwd", "azure_ad_token": "client-secret", "client": {"x": 1},
    }  # fmt: skip
    more = {
        "extra_headers": {"authorization": "client-secret"},
        "headers": {"authorization": "client-secret", "host": "evil.example"},
        "default_headers": {"authorization": "client-secret"},
        "extra_body": {"api_base": url},
        "extra_query": {"api_base": url},
        "callbacks": ["langfuse"],
        "success_callback": [url],
        "fallbacks": [{"model": "openai/x", "api_base": url}],
        "context_window_fallback_dict": {"alpha": "beta"},
        "model_list": [{"model_name": "alpha", "litellm_params": {"api_base": url}}],
        "litellm_params": {"api_base": url},
        "litellm_metadata": {"api_base": url},
        "optional_params": {"api_base": url},
        "mock_response": "mocked by the client",
        "mock_timeout": True,
        "no-log": True,
        "caching": True,
        "num_retries": 50,
        "deployment_id": "client-secret",
        "ssl_verify": False,
        "prompt_id": "x",
        "guardrails": [],
    }
    return {**dict.fromkeys(names, url), **credentials, **more}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_no_field_of_a_body_steers_the_gateway(
    path: str, gateway: Keyed, upstream: MisbehavingUpstream, canary: Canary
) -> None:
    body = {**GENERATING[path], **steering(canary.url)}
    answer = gateway.ask("POST", path, json=body)
    assert answer.status_code == 200, answer.text
    assert "mocked by the client" not in answer.text
    (exchange,) = upstream.exchanges
    assert exchange.path.startswith("/v1/")
    assert exchange.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert "client-secret" not in json.dumps(exchange.headers)
    assert exchange.body["model"] == "alpha"


@pytest.mark.parametrize("part", ["image_url", "input_audio", "file"])
def test_addresses_in_messages_are_not_visited(
    part: str, gateway: Keyed, upstream: MisbehavingUpstream, canary: Canary
) -> None:
    content = [{"type": "text", "text": "Hi"}, {"type": part, part: {"url": f"{canary.url}/x.png", "data": "AA=="}}]
    body = {"model": "alpha", "messages": [{"role": "user", "content": content}]}
    assert gateway.ask("POST", CHAT, json=body).status_code == 200
    (exchange,) = upstream.exchanges
    assert exchange.body["messages"] == body["messages"]


def test_a_redirect_of_an_upstream_is_not_followed(
    gateway: Keyed, upstream: MisbehavingUpstream, canary: Canary
) -> None:
    async def redirect(exchange: Exchange) -> None:
        await exchange.answer(b"", 307, location=f"{canary.url}/steal")

    upstream.behaviours["alpha"] = redirect
    answer = gateway.ask("POST", CHAT, json=GENERATING[CHAT])
    assert answer.status_code >= 500
    assert canary.url not in answer.text
    assert "location" not in answer.headers


# LiteLLM, the backend that takes addresses as arguments


@pytest.mark.slow
@pytest.mark.parametrize("provider", ["openai", "anthropic", "ollama", "bedrock"])
async def test_no_field_of_a_body_steers_litellm(provider: str, upstream: MisbehavingUpstream, canary: Canary) -> None:
    pytest.importorskip("litellm")
    from llmrouter.pool._litellm import LiteLLMBackend

    name = {"bedrock": "anthropic.claude-3-haiku-20240307-v1:0"}.get(provider, "some-model")
    options = {"aws_region_name": "us-east-1", "aws_access_key_id": "ours", "aws_secret_access_key": "ours"}
    backend = LiteLLMBackend(
        "alpha",
        model=f"{provider}/{name}",
        base_url=upstream.base_url,
        api_key=UPSTREAM_KEY,
        **(options if provider == "bedrock" else {}),
    )
    image = {"type": "image_url", "image_url": {"url": f"{canary.url}/x.png"}}
    timeouts = Timeouts(total_s=20)
    upstream.behaviours["some-model"] = well_behaved
    for content in ("Hi", [{"type": "text", "text": "Hi"}, image]):
        body = {"messages": [{"role": "user", "content": content}], **steering(canary.url)}
        # The upstream of these tests does not speak every provider's format; where the call goes is what counts.
        with suppress(BackendError):
            await backend.complete(body, timeouts=timeouts)
        assert upstream.exchanges, "the call reached nobody: this shows nothing"
    assert canary.visits == 0
    for exchange in upstream.exchanges:
        assert "client-secret" not in json.dumps(exchange.headers)
        assert exchange.headers["host"] == f"127.0.0.1:{upstream.port}"
