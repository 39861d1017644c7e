"""Kept answers over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream, completion, ordinary_stream
from live_gateway import Live

Start = Callable[..., Live]

_NUMBERS = itertools.count()


@pytest.fixture
def gateway(live: Start) -> Live:
    return live("alpha", cache={})


@pytest.fixture
def question() -> str:
    """Return a question that no test has asked: the gateway is shared."""
    return f"question {next(_NUMBERS)}"


def test_the_second_answer_is_the_first_and_costs_nothing(
    gateway: Live, upstream: MisbehavingUpstream, question: str
) -> None:
    first, second = gateway.chat(question), gateway.chat(question)
    assert first.content == second.content == completion()
    assert len(upstream.exchanges) == 1
    assert (first.headers["x-llmrouter-cache"], second.headers["x-llmrouter-cache"]) == ("miss", "hit")
    assert "age" not in first.headers
    assert int(second.headers["age"]) >= 0
    assert second.headers["content-type"] == "application/json"
    assert second.headers["x-llmrouter-model"] == "alpha"
    assert float(second.headers["x-llmrouter-cost"]) == 0
    outcome = gateway.outcome(second)
    assert (outcome["cost_usd"], outcome["served_by"], outcome["cache"]) == (0, "alpha", "hit")


@pytest.mark.parametrize("usage_asked", [True, False])
def test_a_stream_is_kept_for_streams(
    gateway: Live, upstream: MisbehavingUpstream, question: str, usage_asked: bool
) -> None:
    gateway.chat(question, stream=True)
    again = gateway.chat(question, stream=True, stream_options={"include_usage": usage_asked})
    assert again.headers["x-llmrouter-cache"] == "hit"
    assert again.headers["content-type"].startswith("text/event-stream")
    assert (b'"usage"' in again.content) == usage_asked
    if usage_asked:
        assert again.content == b"".join(ordinary_stream())
    assert len(upstream.exchanges) == 1


def test_a_stream_is_kept_for_whole_answers_and_the_other_way_round(gateway: Live, question: str) -> None:
    streamed = gateway.chat(question, stream=True)
    whole = gateway.chat(question)
    assert whole.headers["x-llmrouter-cache"] == "hit"
    message = whole.json()["choices"][0]["message"]
    assert message["content"]
    assert whole.json()["usage"]["total_tokens"] > 0
    other = f"{question}, whole first"
    gateway.chat(other)
    replayed = gateway.chat(other, stream=True)
    assert replayed.headers["x-llmrouter-cache"] == "hit"
    assert replayed.content.endswith(b"data: [DONE]\n\n")
    assert streamed.headers["x-llmrouter-cache"] == "miss"


def test_translated_endpoints_have_kept_answers_too(
    gateway: Live, upstream: MisbehavingUpstream, question: str
) -> None:
    asked = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": question}]}
    first, second = (gateway.client.post("/v1/messages", json=asked) for _ in range(2))
    assert (first.headers["x-llmrouter-cache"], second.headers["x-llmrouter-cache"]) == ("miss", "hit")
    assert first.json()["content"] == second.json()["content"]
    streamed = gateway.client.post("/v1/messages", json={**asked, "stream": True})
    assert streamed.headers["x-llmrouter-cache"] == "hit"
    assert b"message_stop" in streamed.content
    assert len(upstream.exchanges) == 1


def test_cache_control(gateway: Live, upstream: MisbehavingUpstream, question: str) -> None:
    def ask(control: str) -> str:
        response = gateway.chat(question, headers={"cache-control": control})
        return f"{response.status_code} {response.headers['x-llmrouter-cache']}"

    assert ask("no-store") == "200 bypass"
    assert ask("only-if-cached") == "504 miss"
    assert ask("no-cache") == "200 bypass"
    assert ask("only-if-cached") == "200 hit"
    assert ask("max-age=600") == "200 hit"
    assert ask("no-store") == "200 bypass"
    assert len(upstream.exchanges) == 3


def test_errors_are_not_kept(gateway: Live, upstream: MisbehavingUpstream, question: str) -> None:
    async def fails(exchange):
        await exchange.answer(b'{"error": {"message": "no"}}', status=400)

    usual = upstream.behaviours["alpha"]
    upstream.behaviours["alpha"] = fails
    assert gateway.chat(question).status_code == 400
    upstream.behaviours["alpha"] = usual
    assert gateway.chat(question).headers["x-llmrouter-cache"] == "miss"


def test_without_the_section_nothing_is_kept(live: Start, upstream: MisbehavingUpstream, question: str) -> None:
    gateway = live("alpha")
    for _ in range(2):
        assert "x-llmrouter-cache" not in gateway.chat(question).headers
    assert len(upstream.exchanges) == 2
