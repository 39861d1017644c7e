"""A gateway process that adapts: feedback acts within seconds, survives a reload and a kill, and is told everywhere."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion
from gateway_process import MODELS, SUMS, WORDS, GatewayProcess, make_artifact, write_config

from service.keys.manager import KeyManager
from service.keys.sqlite_store import SQLiteKeyStore

WAIT_S = 30.0


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@pytest.fixture
def config(tmp_path: Path, upstream: MisbehavingUpstream) -> Path:
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(completion())

    upstream.behaviours.update(dict.fromkeys(MODELS, answer))
    return write_config(
        tmp_path,
        upstream.base_url,
        make_artifact(tmp_path / "artifacts"),
        server={"port": 0, "watch_s": 0},
        auth={"store": f"sqlite:///{tmp_path}/keys.db"},
        log={"store": f"sqlite:///{tmp_path}/outcomes.db", "flush_interval_s": 0.05},
        learning={"online": {"interval_s": 0.1, "max_influence": 1.0}, "drift": {"false_alarm_run": 500.0}},
    )


@contextmanager
def running(config: Path) -> Iterator[tuple[GatewayProcess, httpx.Client]]:
    """Start a gateway; the client has an administrator's key."""

    async def make_key() -> str:
        keys = KeyManager(SQLiteKeyStore(config.parent / "keys.db"))
        _, token = await keys.create({"name": "boss", "scopes": ["admin"]})
        await keys.aclose()
        return token

    token = asyncio.run(make_key())
    with GatewayProcess(config) as gateway, gateway.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        yield gateway, client


def judge_sums(gateway: GatewayProcess, client: httpx.Client, times: int) -> None:
    """Ask sums of the router's choice and of beta in turn, and find alpha's answers bad, beta's good."""
    for number in range(times):
        text = SUMS[number % len(SUMS)]
        body: dict[str, Any] = {"model": "beta", "messages": [{"role": "user", "content": text}]}
        answer = client.post("/v1/chat/completions", json=body) if number % 2 else gateway.ask(client, text)
        quality = 0.0 if answer.headers["x-llmrouter-model"] == "alpha" else 1.0
        body = {"request_id": answer.headers["x-request-id"], "quality": quality}
        assert client.post("/v1/feedback", json=body).status_code == 202


def online(client: httpx.Client) -> Any:
    return client.get("/readyz").json()["learning"]["online"]


def dry_run(client: httpx.Client, text: str) -> Any:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answer = client.post("/v1/route", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def dry_runs(client: httpx.Client) -> list[Any]:
    return [dry_run(client, text) for text in (*SUMS, *WORDS)]


def test_feedback_acts_and_what_was_learned_outlives_a_reload_and_a_kill(config: Path) -> None:
    with running(config) as (gateway, client):
        before = dry_runs(client)
        assert before[0]["model"] == "alpha"
        judge_sums(gateway, client, 60)
        eventually(lambda: online(client)["events"] == 60)
        eventually(lambda: dry_run(client, SUMS[3])["model"] == "beta")
        assert dry_run(client, WORDS[0])["model"] == "beta"
        learned = dry_runs(client)
        assert learned != before

        told = client.get("/admin/learning").json()
        assert told["online"]["rows"]["alpha"] >= 5
        assert told["online"]["moved"]["alpha"] < -0.1
        assert told["drift"]["models"]["alpha"]["outcomes"] == told["online"]["rows"]["alpha"]
        metrics = client.get("/metrics").text
        assert "llmrouter_online_learned_total 60" in metrics
        assert 'llmrouter_calibration_error{model="alpha"}' in metrics
        assert "llmrouter_drift_alarms_total" in metrics

        tree = yaml.safe_load(config.read_text())
        tree["policy"] = {"kind": "utility", "cost_weight": 0.0}
        config.write_text(yaml.safe_dump(tree))
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: client.get("/readyz").json()["config"]["reloads"] == 1)
        assert online(client)["events"] == 60
        assert [one["ranking"] for one in dry_runs(client)] == [one["ranking"] for one in learned]
        gateway.kill()

    with running(config) as (gateway, client):
        eventually(lambda: online(client)["status"] == "ok")
        assert online(client)["events"] == 60
        assert [one["ranking"] for one in dry_runs(client)] == [one["ranking"] for one in learned]
        assert gateway.stop() == 0
    assert (config.parent / "outcomes.db.online").exists()

    with running(config) as (gateway, client):
        eventually(lambda: online(client)["status"] == "ok")
        assert [one["ranking"] for one in dry_runs(client)] == [one["ranking"] for one in learned]


def test_without_the_section_nothing_adapts(config: Path) -> None:
    tree = yaml.safe_load(config.read_text())
    del tree["learning"]
    config.write_text(yaml.safe_dump(tree))
    with running(config) as (gateway, client):
        before = dry_runs(client)
        judge_sums(gateway, client, 20)
        assert "online" not in client.get("/readyz").json().get("learning", {})
        assert dry_runs(client) == before
    assert not (config.parent / "outcomes.db.online").exists()
