from __future__ import annotations

import json

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.limits.grant import as_duration
from service.limits.local import LocalLimiter
from service.limits.refusals import LimitExceededError
from service.limits.settings import Limits
from service.limits.subjects import Subject

NOON = 1_700_000_000.0


async def refusal(limits, *, kind="key", tokens=10, cost=0.01, before=1):
    limiter = LocalLimiter(clock=lambda: NOON)
    who = (Subject(kind, "alice", limits),)
    for _ in range(before):
        await limiter.acquire(who, tokens=tokens, cost_usd=cost)
    with pytest.raises(LimitExceededError) as caught:
        await limiter.acquire(who, tokens=tokens, cost_usd=cost)
    return caught.value


async def test_requests():
    error = await refusal(Limits(rpm=2), before=2)
    assert (error.status, error.body["error"]) == (
        429,
        {
            "message": "Rate limit reached for key 'alice' on requests per min (RPM): Limit 2, Used 2, Requested 1. "
            "Please try again in 30s.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        },
    )
    assert error.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "retry-after": "30",
        "retry-after-ms": "30000",
    }


async def test_tokens():
    error = await refusal(Limits(tpm=100), kind="model", tokens=60)
    assert error.body["error"]["type"] == "tokens"
    assert "model 'alice' on tokens per min (TPM): Limit 100, Used 60, Requested 60." in str(error)
    assert error.headers["retry-after-ms"] == "12000"


async def test_a_request_that_can_never_pass_is_not_to_be_repeated():
    error = await refusal(Limits(tpm=100), tokens=101, before=0)
    assert "Request too large" in str(error)
    assert error.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.headers


async def test_concurrency():
    error = await refusal(Limits(concurrency=1), kind="team")
    assert str(error).startswith("Too many requests at the same time for team 'alice': Limit 1, Under way 1.")
    assert (error.body["error"]["code"], error.headers["retry-after"]) == ("rate_limit_exceeded", "1")


async def test_budget():
    error = await refusal(Limits(budget_usd=0, budget_period="week"), kind="gateway", before=0)
    assert str(error) == (
        "The budget of the gateway is used up: Limit 0.00 USD per week, Spent 0.00 USD. "
        "It is renewed at 2023-11-20T00:00:00Z."
    )
    assert (error.body["error"]["type"], error.body["error"]["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error.headers == {"x-should-retry": "false"}


async def test_a_budget_that_may_be_used_up_by_requests_under_way_is_worth_another_try():
    error = await refusal(Limits(budget_usd=0.15, budget_period="total"))
    assert "Limit 0.15 USD in total, Spent 0.00 USD, Reserved 0.10 USD" in str(error)
    assert (error.body["error"]["code"], error.headers["retry-after"]) == ("rate_limit_exceeded", "1")


async def test_the_official_client_retries_what_makes_sense_and_nothing_else():
    attempts = []
    errors = {
        "spent": await refusal(Limits(budget_usd=0), before=0),
        "busy": await refusal(Limits(rpm=60_000, concurrency=1)),
    }
    errors["busy"].headers["retry-after-ms"] = "1"

    def answer(request):
        name = json.loads(request.content)["model"]
        attempts.append(name)
        return httpx.Response(429, headers=errors[name].headers, json=errors[name].body)

    client = openai.AsyncOpenAI(
        api_key="x", http_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)), base_url="http://gateway/v1"
    )
    for name in errors:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
    assert attempts == ["spent", "busy", "busy", "busy"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-3, "0s"), (0.02, "20ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m0s"), (360, "6m0s"), (3601, "1h0m1s")],
)
def test_durations_are_written_as_openai_does(seconds, text):
    assert as_duration(seconds) == text


@given(st.floats(0, 1e5))
def test_durations_are_never_shorter_than_the_wait(seconds):
    text, total = as_duration(seconds), 0.0
    if text.endswith("ms"):
        total = float(text[:-2]) / 1000
    else:
        for unit, weight in (("h", 3600), ("m", 60), ("s", 1)):
            head, found, rest = text.partition(unit)
            if found:
                total, text = total + float(head) * weight, rest
    assert total == pytest.approx(seconds, abs=0.0011 + 1e-6 * seconds)
