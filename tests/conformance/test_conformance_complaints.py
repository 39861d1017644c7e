"""What users of other gateways complain about: one test each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conformance_behaviours import BODIES, ROLE, answering, asked, streaming, whole
from conformance_items import shows
from contracts.misbehaving_upstream import (
    USAGE,
    MisbehavingUpstream,
    chunk,
    completion,
    event,
    finish_chunk,
    ordinary_stream,
    usage_chunk,
)
from live_gateway import Live

Start = Callable[..., Live]


@pytest.fixture
def gateway(live: Start) -> Live:
    return live("alpha", "beta")


# Time to the first token


@shows("first-token-time")
def test_keep_alives_are_no_first_token(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = streaming(*[b": ping\n\n"] * 200, pause=0.02)
    gateway = live("alpha", "beta", models={"alpha": {"timeouts": {"first_byte_s": 0.3}}})
    answer = gateway.chat(stream=True)
    assert answer.headers["x-llmrouter-model"] == "beta"
    assert answer.headers["x-llmrouter-attempts"] == "alpha=timeout"
    assert upstream.hung_up.wait(5)


@shows("first-token-time")
def test_a_head_is_no_first_token(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = streaming(then="silence")
    gateway = live("alpha", "beta", models={"alpha": {"timeouts": {"first_byte_s": 0.3}}})
    assert gateway.chat(stream=True).headers["x-llmrouter-model"] == "beta"


@shows("first-token-silence")
def test_an_empty_first_chunk_is_no_first_token(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = streaming(ROLE, then="silence")
    limits = {"first_byte_s": 0.3, "between_chunks_s": 2.0}
    gateway = live("alpha", "beta", models={"alpha": {"timeouts": limits}})
    answer = gateway.chat(stream=True)
    assert answer.headers["x-llmrouter-model"] == "beta"
    assert "[DONE]" in answer.text


@shows("error-after-first-chunk")
@pytest.mark.parametrize("then", ["error", "end", "reset"])
def test_the_next_model_answers_where_nothing_was_said_yet(
    then: str, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    fault = [event({"error": {"message": "overloaded", "code": 529}})] if then == "error" else []
    upstream.behaviours["alpha"] = streaming(ROLE, *fault, pause=0.05, then="end" if fault else then)
    answer = gateway.chat(stream=True)
    assert answer.headers["x-llmrouter-model"] == "beta"
    assert "[DONE]" in answer.text


# Fallback


@shows("rate-limit-fallback")
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_rate_limit_goes_to_the_next_model(
    path: str, stream: bool, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = answering(429, retry_after="60")
    answer = gateway.client.post(path, json={"model": "auto", "stream": stream, **BODIES[path]})
    assert (answer.status_code, answer.headers["x-llmrouter-model"]) == (200, "beta")
    assert "retry-after" not in answer.headers


@shows("no-fallback")
@pytest.mark.parametrize("how", ["pinned", "one model", "configuration"])
@pytest.mark.parametrize("where", ["before", "within"])
def test_no_fallback_where_none_is_wanted(how: str, where: str, live: Start, upstream: MisbehavingUpstream) -> None:
    broken = streaming(event(chunk("Hel")), then="reset")
    upstream.behaviours["alpha"] = answering(503) if where == "before" else broken
    sections = {"resilience": {"fallback_on": [], "fallback_after_first_token": how != "configuration"}}
    gateway = live("alpha", "beta", **(sections if how == "configuration" else {}))
    body: dict[str, Any] = {"model": "alpha"} if how == "pinned" else {"model": "auto"}
    if how == "one model":
        body["llmrouter"] = {"models": ["alpha"], "resume": True}
    answer = gateway.chat(stream=True, **body)
    assert asked(upstream) == ["alpha"]
    if where == "before":
        assert answer.status_code == 503
    else:
        assert "upstream_broke_off" in answer.text
        assert "[DONE]" not in answer.text


@shows("resume")
@pytest.mark.parametrize("path", BODIES)
def test_another_model_goes_on_where_it_was_asked_for(path: str, gateway: Live, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = streaming(event(chunk("Hello")), then="reset")
    upstream.behaviours["beta"] = streaming(*ordinary_stream(" there"))
    wish = {"llmrouter": {"resume": True}}
    answer = gateway.client.post(path, json={"model": "auto", "stream": True, **BODIES[path], **wish})
    assert asked(upstream) == ["alpha", "beta"]
    assert "Hello" in answer.text
    assert " there" in answer.text
    assert "upstream_broke_off" not in answer.text
    said = upstream.exchanges[1].body["messages"]
    assert {"role": "assistant", "content": "Hello"} in said
    outcome = gateway.outcome(answer)
    assert (outcome["status"], outcome["served_by"], outcome["fallbacks"]) == ("ok", "beta", ["alpha"])
    assert outcome["overhead_cost_usd"] > 0, "what broke off was paid for too"


@shows("resume")
def test_another_model_goes_on_after_an_error_event_too(gateway: Live, upstream: MisbehavingUpstream) -> None:
    fault = event({"error": {"message": "overloaded", "code": 529}})
    upstream.behaviours["alpha"] = streaming(event(chunk("Hello")), fault, pause=0.05)
    upstream.behaviours["beta"] = streaming(*ordinary_stream(" there"))
    answer = gateway.chat(stream=True, llmrouter={"resume": True})
    assert asked(upstream) == ["alpha", "beta"]
    assert "overloaded" not in answer.text


@pytest.mark.parametrize("beta", [503, 400])
def test_an_error_event_is_shown_where_nobody_can_go_on(
    beta: int, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    fault = event({"error": {"message": "overloaded", "type": "x", "param": None, "code": 529}})
    upstream.behaviours["alpha"] = streaming(event(chunk("Hello")), fault, pause=0.05)
    upstream.behaviours["beta"] = answering(beta)
    answer = gateway.chat(stream=True, llmrouter={"resume": True})
    assert answer.content == event(chunk("Hello")) + fault
    assert gateway.outcome(answer)["status"] == "partial"


@shows("cooled-down")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_model_that_cools_down_is_not_asked(stream: bool, gateway: Live, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = answering(429, retry_after="60")
    for _ in range(5):
        assert gateway.chat(stream=stream).headers["x-llmrouter-model"] == "beta"
    assert asked(upstream) == ["alpha", *["beta"] * 5]


# Accounting


@shows("reasoning-usage", "cached-stream-usage")
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_usage_is_the_providers_own(path: str, stream: bool, gateway: Live, upstream: MisbehavingUpstream) -> None:
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 9005,
        "total_tokens": 9017,
        "completion_tokens_details": {"reasoning_tokens": 9000},
    }
    said = [event(chunk("42")), event(finish_chunk()), event(chunk(choices=[], usage=usage)), event("[DONE]")]
    upstream.behaviours["alpha"] = streaming(*said) if stream else whole(completion("42", usage=usage))
    answer = gateway.client.post(path, json={"model": "auto", "stream": stream, **BODIES[path]})
    outcome = gateway.outcome(answer)
    assert (outcome["output_tokens"], outcome["reasoning_tokens"]) == (9005, 9000), "though it said two characters"
    assert outcome["usage"] == usage
    assert outcome["cost_usd"] == pytest.approx((12 * 1.0 + 9005 * 2.0) / 1e6)
    if not stream:
        assert float(answer.headers["x-llmrouter-cost"]) == pytest.approx(outcome["cost_usd"])
    assert len(gateway.outcomes()) == 1


@shows("usage-with-choices")
@pytest.mark.parametrize("path", BODIES)
def test_usage_beside_the_last_choice_counts(path: str, gateway: Live, upstream: MisbehavingUpstream) -> None:
    last = {**finish_chunk(), "usage": USAGE}
    upstream.behaviours["alpha"] = streaming(event(chunk("Hello")), event(last), event("[DONE]"))
    answer = gateway.client.post(path, json={"model": "auto", "stream": True, **BODIES[path]})
    outcome = gateway.outcome(answer)
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (12, 5)
    assert outcome["cost_usd"] == pytest.approx(22e-6)


@shows("cached-price")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "cached",
    [
        {"prompt_tokens_details": {"cached_tokens": 90}},
        {"prompt_cache_hit_tokens": 90, "prompt_cache_miss_tokens": 10},
        {"cached_tokens": 90},
    ],
    ids=["openai", "deepseek", "moonshot"],
)
def test_cached_tokens_have_their_own_price(
    cached: dict[str, Any], stream: bool, gateway: Live, upstream: MisbehavingUpstream
) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, **cached}
    said = [event(chunk("x")), event(finish_chunk()), event({**usage_chunk(), "usage": usage}), event("[DONE]")]
    upstream.behaviours["alpha"] = streaming(*said) if stream else whole(completion(usage=usage))
    outcome = gateway.outcome(gateway.chat(stream=stream))
    assert outcome["cached_tokens"] == 90
    assert outcome["cost_usd"] == pytest.approx((10 * 1.0 + 90 * 0.5 + 10 * 2.0) / 1e6)
