"""A running gateway: what it exports and logs of real requests."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from live_gateway import Live
from prometheus_client.parser import text_string_to_metric_families

PROMPT = "the launch code is 8812-ZEBRA"

LiveGateway = Callable[..., Live]


def _samples(gateway: Live) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = gateway.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name.removeprefix("llmrouter_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def _difference(gateway: Live, act: Callable[[], object]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    before = _samples(gateway)
    act()
    after = _samples(gateway)
    return {key: number - before.get(key, 0.0) for key, number in after.items() if number != before.get(key, 0.0)}


def _key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset((label.rstrip("_"), text) for label, text in labels.items())


def test_requests_are_counted(live: LiveGateway) -> None:
    gateway = live("alpha", "beta")
    changed = _difference(gateway, lambda: gateway.chat("alpha: hi"))
    assert changed[_key("requests_total", endpoint="chat", model="alpha", status="ok", stream="false")] == 1
    assert changed[_key("decisions_total", policy="utility", model="alpha")] == 1
    assert changed[_key("upstream_attempts_total", model="alpha", result="ok")] == 1
    assert changed[_key("tokens_total", model="alpha", kind="input")] > 0
    assert changed[_key("cost_usd_total", model="alpha", kind="answer")] > 0
    assert changed[_key("overhead_seconds_count")] == 1
    assert changed[_key("stage_seconds_count", stage="route")] == 1


def test_streams_are_counted(live: LiveGateway) -> None:
    gateway = live("alpha", "beta")
    changed = _difference(gateway, lambda: gateway.chat("beta: hi", stream=True))
    assert changed[_key("requests_total", endpoint="chat", model="beta", status="ok", stream="true")] == 1
    assert changed[_key("time_to_first_token_seconds_count", model="beta")] == 1


def test_fallbacks_are_counted(live: LiveGateway, upstream: MisbehavingUpstream) -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.answer({"error": {"message": "no"}}, status=500)

    gateway = live("alpha", "beta")
    upstream.behaviours["alpha"] = broken
    changed = _difference(gateway, lambda: gateway.chat("alpha: hi"))
    assert changed[_key("fallbacks_total", from_="alpha", to="beta", reason="server_error")] == 1
    assert changed[_key("upstream_attempts_total", model="beta", result="ok")] == 1


def test_refused_requests_are_counted_and_open_no_series(live: LiveGateway) -> None:
    gateway = live("alpha", "beta")
    gateway.chat("hi", model="made-up")
    changed = _difference(gateway, lambda: [gateway.chat("hi", model=f"made-up-{i}") for i in range(20)])
    assert changed[_key("http_errors_total", endpoint="chat", code="404")] == 20
    assert not [labels for _, labels in changed if "made-up" in str(labels)]


def test_state_is_read(live: LiveGateway) -> None:
    gateway = live("alpha", "beta")
    gateway.chat("hi")
    gateway.outcomes()
    found = _samples(gateway)
    assert found[_key("outcome_log_written_total")] >= 1
    assert found[_key("breaker_state", model="alpha")] == 0
    assert found[_key("cooling", model="beta")] == 0
    assert found[_key("admission_queued")] == 0
    assert found[_key("telemetry_errors_total")] == 0


def test_no_prompt_is_in_metrics_or_logs(live: LiveGateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway = live("alpha", telemetry={"logs": {"access": True}})
    with caplog.at_level(logging.DEBUG):
        gateway.chat(PROMPT)
        gateway.chat(PROMPT, stream=True)
        gateway.chat(PROMPT, model="made-up")
        gateway.chat(PROMPT, temperature="hot")
    lines = [vars(record).get("fields", {}) for record in caplog.records if record.name == "llmrouter.access"]
    assert [line["status"] for line in lines] == ["ok", "ok", "refused", "refused"]
    assert "ZEBRA" not in gateway.client.get("/metrics").text
    assert "ZEBRA" not in caplog.text
    assert not any("ZEBRA" in str(vars(record)) for record in caplog.records if record.name.startswith("llmrouter"))


def test_metrics_can_be_switched_off(live: LiveGateway) -> None:
    gateway = live("alpha", telemetry={"metrics": {"enabled": False}})
    answer = gateway.client.get("/metrics")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "metrics_disabled")
