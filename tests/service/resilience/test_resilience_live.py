"""A running gateway in front of slow and failing upstreams: second attempts, deployments, content filters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion, ordinary_stream
from live_gateway import Live

Start = Callable[..., Live]

HEDGE = {"hedge": {"enabled": True, "min_wait_s": 0.05, "max_share": 1.0}}
LONG = 60.0


async def ordinary(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        await exchange.event_stream(ordinary_stream())
    else:
        await exchange.answer(completion())


async def think(exchange: Exchange) -> None:
    await exchange.pause(LONG)


def asked(upstream: MisbehavingUpstream) -> list[str]:
    return [exchange.body["model"] for exchange in upstream.exchanges]


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_model_is_overtaken_and_its_call_cancelled(
    stream: bool, live: Start, upstream: MisbehavingUpstream
) -> None:
    gateway = live("alpha", "beta", resilience=HEDGE)
    for _ in range(20):
        assert gateway.chat(stream=stream).headers["x-llmrouter-model"] == "alpha"
    upstream.behaviours["alpha"] = think
    upstream.behaviours["beta"] = ordinary
    response = gateway.chat(stream=stream)
    assert response.status_code == 200
    assert response.headers["x-llmrouter-model"] == "beta"
    assert response.headers["x-llmrouter-fallbacks"] == "0", "slow is not failed"
    assert asked(upstream)[-2:] == ["alpha", "beta"]
    assert upstream.hung_up.wait(5), "the slow upstream stops working on it"
    outcome = gateway.outcome(response)
    assert (outcome["status"], outcome["served_by"], outcome["fallbacks"]) == ("ok", "beta", [])


@pytest.mark.parametrize("stream", [False, True])
def test_refused_content_goes_to_another_model(stream: bool, live: Start, upstream: MisbehavingUpstream) -> None:
    refusal = {"error": {"message": "no", "code": "content_filter", "innererror": {"code": "x"}}}

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(refusal).encode(), 400)

    upstream.behaviours["alpha"] = refuse
    gateway = live("alpha", "beta")
    for _ in range(4):
        assert gateway.chat(stream=stream).headers["x-llmrouter-model"] == "beta"
    assert asked(upstream) == ["alpha", "beta"] * 4, "alpha is not left alone for it"


def test_failing_upstreams_do_not_get_their_load_many_times(live: Start, upstream: MisbehavingUpstream) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(b'{"error": {"message": "down"}}', 500)

    names = ("alpha", "beta", "gamma", "delta")
    upstream.behaviours |= dict.fromkeys(names, fail)
    tight: dict[str, Any] = {"retry_budget": {"ratio": 0.2, "min_per_s": 0.0}}
    gateway = live(*names, resilience=tight)
    for _ in range(20):
        assert gateway.chat().status_code == 500
    assert len(upstream.exchanges) == 24


@pytest.mark.parametrize("stream", [False, True])
def test_another_deployment_answers_before_another_model(
    stream: bool, live: Start, upstream: MisbehavingUpstream
) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.answer(b'{"error": {"message": "down"}}', 500)

    upstream.behaviours |= {"alpha-east": fail, "alpha-west": ordinary}
    places = [{"name": name, "model": f"alpha-{name}"} for name in ("east", "west")]
    gateway = live("alpha", "beta", models={"alpha": {"deployments": places}}, resilience={"max_attempts": 3})
    for _ in range(6):
        response = gateway.chat(stream=stream)
        assert response.headers["x-llmrouter-model"] == "alpha"
        assert response.headers["x-llmrouter-fallbacks"] == "0"
        assert response.headers["x-llmrouter-deployment"] == "west"
    assert set(asked(upstream)) <= {"alpha-east", "alpha-west"}
    assert asked(upstream).count("alpha-east") <= 3, "it cools down"
