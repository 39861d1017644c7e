"""Upstreams that fail: fallback along the ranking, errors relayed, streams that break, clients that hang up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import (
    Exchange,
    MisbehavingUpstream,
    chunk,
    completion,
    event,
    ordinary_stream,
)
from live_gateway import Live

from llmrouter.pool import Cooldowns

Start = Callable[..., Live]

OPENAI_ERROR = b'{"error": {"message": "no",  "type": "t", "param": "p", "code": "c", "vendor": 1}}'
OVERFLOW = b'{"error": {"message": "too long", "type": "x", "param": "messages", "code": "context_length_exceeded"}}'
SLOW = 60.0


def answering(status: int, body: bytes = OPENAI_ERROR, **headers: str) -> Callable[[Exchange], Any]:
    async def behaviour(exchange: Exchange) -> None:
        await exchange.answer(body, status, **headers)

    return behaviour


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def think(exchange: Exchange) -> None:
    await exchange.pause(SLOW)


async def cut_short(exchange: Exchange) -> None:
    exchange.head(200, content_type="application/json", content_length="1000")
    exchange.writer.write(b"{")
    await exchange.writer.drain()
    raise ConnectionError


async def early_end(exchange: Exchange) -> None:
    await exchange.event_stream([event(chunk("a")), event(chunk("b"))])


async def break_within(exchange: Exchange) -> None:
    await exchange.event_stream([event(chunk("a"))], end=False)
    await asyncio.sleep(0.05)
    exchange.reset()


async def empty_stream(exchange: Exchange) -> None:
    await exchange.event_stream([b": nothing to say\n\n"])


async def error_first(exchange: Exchange) -> None:
    await exchange.event_stream([event({"error": {"message": "overloaded", "code": 529}})])


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def asked(upstream: MisbehavingUpstream) -> list[str]:
    return [exchange.body["model"] for exchange in upstream.exchanges]


# Fallback


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "behaviour", [reset, *(answering(code) for code in (401, 404, 408, 409, 429, 500, 503))], ids=lambda b: b.__name__
)
def test_the_next_model_answers(behaviour: Any, stream: bool, live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = behaviour
    gateway = live("alpha", "beta")
    response = gateway.chat(stream=stream)
    assert response.status_code == 200
    # A kept connection that is reset may have been stale, so that one is asked once more.
    assert list(dict.fromkeys(asked(upstream))) == ["alpha", "beta"]
    assert response.headers["x-llmrouter-model"] == "beta"
    assert response.headers["x-llmrouter-fallbacks"] == "1"
    assert response.headers["x-llmrouter-attempts"] in (
        "alpha=unreachable",
        *(f"alpha={code}" for code in range(400, 600)),
    )
    outcome = gateway.outcome(response)
    assert (outcome["model"], outcome["served_by"], outcome["fallbacks"]) == ("alpha", "beta", ["alpha"])
    assert outcome["status"] == "ok"


@pytest.mark.parametrize("behaviour", [empty_stream, error_first])
def test_a_stream_that_fails_before_its_first_event_falls_back(
    behaviour: Any, live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = behaviour
    assert live("alpha", "beta").chat(stream=True).headers["x-llmrouter-model"] == "beta"


def test_a_whole_answer_that_is_cut_short_falls_back(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = cut_short
    response = live("alpha", "beta").chat()
    assert response.content == completion()
    assert response.headers["x-llmrouter-model"] == "beta"


def test_a_model_that_is_down_or_slow_falls_back(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["beta"] = think
    down = {"base_url": "http://127.0.0.1:9/v1"}
    slow = {"timeouts": {"total_s": 0.2, "first_byte_s": 0.2}}
    gateway = live("alpha", "beta", "gamma", models={"alpha": down, "beta": slow})
    for stream in (False, True):
        response = gateway.chat(stream=stream)
        assert response.headers["x-llmrouter-model"] == "gamma"
        assert response.headers["x-llmrouter-fallbacks"] == "2"


def test_a_prompt_too_long_goes_to_a_larger_window_only(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = answering(400, OVERFLOW)
    windows = {"alpha": {"context_window": 8000}, "beta": {"context_window": 4000}, "gamma": {"context_window": 32000}}
    response = live("alpha", "beta", "gamma", models=windows).chat()
    assert response.headers["x-llmrouter-model"] == "gamma"
    assert asked(upstream) == ["alpha", "gamma"]


@pytest.mark.parametrize("code", [400, 422])
def test_a_fault_of_the_request_is_relayed_at_once(code: int, live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = answering(code)
    gateway = live("alpha", "beta")
    response = gateway.chat()
    assert (response.status_code, response.content) == (code, OPENAI_ERROR)
    assert asked(upstream) == ["alpha"]
    assert gateway.outcome(response)["status"] == "error"


def test_a_failing_model_cools_down(live: Start, upstream: MisbehavingUpstream) -> None:
    now = [0.0]
    upstream.behaviours["alpha"] = answering(429, retry_after="30")
    gateway = live("alpha", "beta")
    gateway.gateway.cooldowns = Cooldowns(clock=lambda: now[0])
    for _ in range(3):
        assert gateway.chat().headers["x-llmrouter-model"] == "beta"
    assert asked(upstream) == ["alpha", "beta", "beta", "beta"]
    models = {model["name"]: model for model in gateway.client.get("/readyz").json()["models"]}
    assert (models["alpha"]["cooling_down_s"], models["beta"]["cooling_down_s"]) == (30, 0)
    now[0] = 31.0
    upstream.behaviours["alpha"] = answering(200, completion())
    assert gateway.chat().headers["x-llmrouter-model"] == "alpha"


def test_a_model_that_cools_down_is_tried_if_it_is_the_last(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = answering(429, retry_after="30")
    gateway = live("alpha", "beta")
    gateway.chat()
    upstream.behaviours["alpha"], upstream.behaviours["beta"] = answering(200, completion()), answering(500)
    assert gateway.chat().headers["x-llmrouter-model"] == "alpha"


# Nobody answers


def test_one_upstream_error_is_relayed_with_its_own_bytes(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = answering(429, retry_after="7", x_should_retry="true", www_authenticate="x")
    gateway = live("alpha")
    for stream in (False, True):
        response = gateway.chat(stream=stream)
        assert (response.status_code, response.content) == (429, OPENAI_ERROR)
        assert response.headers["retry-after"] == "7"
        assert response.headers["x-should-retry"] == "true"
        assert "www-authenticate" not in response.headers
        assert "x-llmrouter-model" not in response.headers


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"", b"\xff\xfe"])
def test_an_upstream_error_that_is_no_json_gets_our_shape(
    body: bytes, live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = answering(503, body, content_type="text/html")
    response = live().chat()
    assert response.status_code == 503
    error = error_of(response)
    assert error["code"] == "upstream_error"
    assert "alpha: the upstream answered 503" in error["message"]
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("prompts", "quoted"), [("text", True), ("hash", False), ("none", False)])
def test_what_an_upstream_says_is_kept_only_where_prompts_are(
    prompts: str, quoted: bool, live: Start, upstream: MisbehavingUpstream, tmp_path: Path
) -> None:
    quoting = {"error": {"message": "I will not say 'my secret prompt'", "code": "refused"}}

    async def quote(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream([event(chunk("a")), event(quoting)], pause=0.05)
        else:
            await exchange.answer(json.dumps(quoting).encode(), 400)

    upstream.behaviours["alpha"] = quote
    gateway = live("alpha", log={"store": f"sqlite:///{tmp_path}/log.db", "prompts": prompts})
    for stream in (False, True):
        outcome = gateway.outcome(gateway.chat("my secret prompt", stream=stream))
        assert ("my secret prompt" in outcome["error"]) is quoted
        assert ("my secret prompt" in json.dumps(outcome)) is quoted


def test_when_all_fail_the_most_telling_error_lists_all_attempts(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours |= {"alpha": answering(429, retry_after="7"), "beta": reset, "gamma": answering(401)}
    gateway = live("alpha", "beta", "gamma")
    response = gateway.chat()
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-llmrouter-fallbacks"] == "2"
    error = error_of(response)
    assert {key: error[key] for key in ("message", "type", "param", "code", "vendor")} == json.loads(OPENAI_ERROR)[
        "error"
    ]
    assert [attempt["model"] for attempt in error["attempts"]] == ["alpha", "beta", "gamma"]
    outcome = gateway.outcome(response)
    assert (outcome["status"], outcome["served_by"], outcome["fallbacks"]) == (
        "error",
        None,
        ["alpha", "beta", "gamma"],
    )


def test_everything_is_down(live: Start) -> None:
    down = {"base_url": "http://127.0.0.1:9/v1"}
    gateway = live("alpha", "beta", models={"alpha": down, "beta": down})
    for stream in (False, True):
        response = gateway.chat(stream=stream)
        assert response.status_code == 502
        error = error_of(response)
        assert error["code"] == "upstream_unreachable"
        assert "alpha: could not connect" in error["message"]
        assert "beta: could not connect" in error["message"]
        assert len(error["attempts"]) == 2


def test_everything_is_slow(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = think
    response = live("alpha", models={"alpha": {"timeouts": {"total_s": 0.2}}}).chat()
    assert response.status_code == 504
    error = error_of(response)
    assert error["code"] == "upstream_timeout"
    assert "total_s" in error["message"]
    assert upstream.hung_up.wait(5)


# Streams that break after their first event


@pytest.mark.parametrize("behaviour", [early_end, break_within])
def test_a_stream_that_breaks_off_ends_in_an_error_and_without_done(
    behaviour: Any, live: Start, upstream: MisbehavingUpstream
) -> None:
    upstream.behaviours["alpha"] = behaviour
    gateway = live("alpha", "beta")
    response = gateway.chat(stream=True)
    *relayed, last = response.content.removesuffix(b"\n\n").split(b"\n\n")
    assert relayed[0] + b"\n\n" == event(chunk("a"))
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["code"] == "upstream_broke_off"
    assert "alpha" in error["message"]
    assert b"[DONE]" not in response.content
    assert asked(upstream) == ["alpha"], "no other model can go on with half an answer"
    outcome = gateway.outcome(response)
    assert (outcome["status"], outcome["served_by"]) == ("partial", "alpha")
    assert outcome["error"]
    assert outcome["cost_usd"] is None
    assert outcome["time_to_first_token_s"] > 0


def test_a_stream_that_falls_silent(live: Start, upstream: MisbehavingUpstream) -> None:
    async def fall_silent(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("a"))], end=False)
        await exchange.pause(SLOW)

    upstream.behaviours["alpha"] = fall_silent
    gateway = live("alpha", models={"alpha": {"timeouts": {"between_chunks_s": 0.2}}})
    response = gateway.chat(stream=True)
    assert b"upstream_timeout" in response.content
    assert b"between_chunks_s" in response.content
    assert gateway.outcome(response)["status"] == "partial"
    assert upstream.hung_up.wait(5)


def test_an_error_event_of_the_upstream_is_relayed_and_recorded(live: Start, upstream: MisbehavingUpstream) -> None:
    pieces = [event(chunk("a")), event({"error": {"message": "overloaded"}})]

    async def fail_later(exchange: Exchange) -> None:
        await exchange.event_stream(pieces, pause=0.05)

    upstream.behaviours["alpha"] = fail_later
    gateway = live()
    response = gateway.chat(stream=True)
    assert response.content == b"".join(pieces)
    outcome = gateway.outcome(response)
    assert (outcome["status"], outcome["error"]) == ("partial", "the upstream sent an error: overloaded")


# Clients that hang up


def cancelled(gateway: Live) -> list[Any]:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if found := [outcome for outcome in gateway.outcomes() if outcome.status == "cancelled"]:
            return found
        time.sleep(0.02)
    return []


def test_a_client_that_hangs_up_cancels_a_whole_answer(live: Start, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = think
    gateway = live("alpha", "beta")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "auto", "messages": [{"role": "user", "content": "x"}]},
            timeout=httpx.Timeout(5, read=0.3),
            trust_env=False,
        )
    assert upstream.hung_up.wait(5), "the upstream's work is not paid for in vain"
    (outcome,) = cancelled(gateway)
    assert outcome.error == "the client hung up"
    assert asked(upstream) == ["alpha"], "and no fallback is tried"


@pytest.mark.parametrize("after", [0, 3])
def test_a_client_that_hangs_up_cancels_a_stream(after: int, live: Start, upstream: MisbehavingUpstream) -> None:
    async def endless(exchange: Exchange) -> None:
        exchange.head(200, content_type="text/event-stream", transfer_encoding="chunked")
        await exchange.chunks([event(chunk("a"))] * after, pause=0.01, end=False)
        await exchange.pause(SLOW)

    upstream.behaviours["alpha"] = endless
    gateway = live()
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream(
            "POST",
            f"{gateway.url}/v1/chat/completions",
            json=body,
            timeout=httpx.Timeout(5, read=0.3),
            trust_env=False,
        ) as response,
    ):
        response.read()
    assert upstream.hung_up.wait(5)
    (outcome,) = cancelled(gateway)
    assert outcome.served_by == ("alpha" if after else None)


def test_a_client_that_leaves_after_the_end_changes_nothing(live: Start) -> None:
    gateway = live()
    with gateway.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x"}]},
    ) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                break
    assert gateway.outcome(response)["status"] == "ok", "recorded before the client could see the end"


def test_a_slow_reader_gets_every_byte(live: Start, upstream: MisbehavingUpstream) -> None:
    pieces = [event(chunk("x" * 50_000)) for _ in range(100)] + ordinary_stream()

    async def big(exchange: Exchange) -> None:
        await exchange.event_stream(pieces)

    upstream.behaviours["alpha"] = big
    gateway = live()
    got = b""
    body = {
        "model": "auto",
        "stream": True,
        "messages": [{"role": "user", "content": "x"}],
        "stream_options": {"include_usage": True},
    }
    with gateway.client.stream("POST", "/v1/chat/completions", json=body) as response:
        for piece in response.iter_raw(65536):
            got += piece
            if len(got) < 500_000:
                time.sleep(0.01)
    assert got == b"".join(pieces)
