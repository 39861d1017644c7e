"""SIGTERM and reloads under load: every request is answered whole, or refused with the time to come again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gateway_process
import pytest
import yaml
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from crowd import Answer, Question, is_right, keep_asking, pieces, text_of, whole
from fault_gateway import pool_of, stored, write_config
from gateway_process import GatewayProcess
from soak_results import record
from wire import body_of, connect, read, request

CLIENTS = 64
LOAD_S = 0.8
# Nobody listens any more: the request was never sent.
NOT_TAKEN = "ClientConnectorError"


async def unhurried(exchange: Exchange) -> None:
    """Answer rightly, in about a third of a second."""
    text = text_of(exchange)
    if exchange.body.get("stream"):
        await exchange.event_stream(pieces(text), pause=0.06)
    else:
        await exchange.pause(0.3)
        await exchange.answer(whole(text))


def question(number: int) -> Question:
    return Question(f"number {number} of many", stream=number % 2 == 0)


async def load_until(
    running: GatewayProcess, act: Callable[[], Awaitable[None]], *, reuse: bool = True
) -> list[Answer]:
    """Let 64 clients ask, do something after a while, and return all answers once it is done."""
    enough = asyncio.Event()
    asking = asyncio.create_task(keep_asking(running.url, question, at_once=CLIENTS, until=enough, reuse=reuse))
    await asyncio.sleep(LOAD_S)
    await act()
    enough.set()
    return await asking


def kind_of(answer: Answer) -> str:
    """Return how a request ended: right, refused, not taken, or wrong in some way."""
    if is_right(answer):
        return "right"
    if answer.status == 503 and not answer.trouble and int(answer.headers["retry-after"]) >= 1:
        return "refused" if json.loads(answer.body)["error"]["code"] == "overloaded" else "wrong"
    if answer.status == 0 and answer.trouble == NOT_TAKEN:
        return "not taken"
    return "wrong"


def check_accounts(answers: list[Answer], folder: Path) -> Counter[str]:
    """Check that no answer was wrong or cut off, and that the log holds each right one, once."""
    kinds = Counter(kind_of(answer) for answer in answers)
    assert not kinds["wrong"], next(answer for answer in answers if kind_of(answer) == "wrong")
    recorded = Counter(outcome.request_id for outcome in stored(folder))
    assert set(recorded.values()) == {1}
    right = {answer.request_id for answer in answers if kind_of(answer) == "right"}
    refused = {answer.request_id for answer in answers if kind_of(answer) == "refused"}
    assert right <= set(recorded)
    assert not refused & set(recorded)
    assert {outcome.status for outcome in stored(folder)} == {"ok"}
    assert set(recorded) == right, "and nothing was carried out that nobody got"
    return kinds


def config_for(folder: Path, upstream: MisbehavingUpstream, workers: int = 1, **server: Any) -> Path:
    upstream.behaviours |= {"alpha": unhurried, "beta": unhurried}
    return write_config(
        folder,
        pool_of(upstream.base_url, "alpha", "beta"),
        server={"port": 0, "workers": workers, "drain_s": 10, **server},
    )


@pytest.mark.parametrize(("workers", "reuse"), [(1, True), (2, False)])
def test_stop_under_load(workers: int, reuse: bool, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    took = 0.0
    with GatewayProcess(config_for(tmp_path, upstream, workers)) as running:

        async def stop() -> None:
            nonlocal took
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(running.process.wait, 30)
            took = time.monotonic() - began

        answers = asyncio.run(load_until(running, stop, reuse=reuse))
        assert running.wait() == 0, running.output[-2000:]
    kinds = check_accounts(answers, tmp_path)
    assert kinds["right"] > CLIENTS
    assert took < 5, "it waits for no more than what is under way"


def test_a_stream_that_outlasts_the_first_moments(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """Its head has promised that the connection can be used again: what is asked then is refused, not cut off."""

    async def long(exchange: Exchange) -> None:
        await exchange.event_stream(pieces(text_of(exchange)), pause=0.4)

    config = config_for(tmp_path, upstream)
    upstream.behaviours |= {"alpha": long}
    with GatewayProcess(config) as running, connect(running.url) as connection:
        connection.sendall(request(body_of("one two three", stream=True)))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        running.process.send_signal(signal.SIGTERM)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += connection.recv(65536)
        connection.sendall(request(body_of("another")))
        refused = read(connection)
        assert refused.statuses == [503], refused
        assert b"connection: close" in refused.data
        assert b"retry-after: " in refused.data
        assert running.wait() == 0


def edit(config: Path, **sections: Any) -> None:
    """Write a changed configuration as editors do: beside it, then in its place."""
    tree = yaml.safe_load(config.read_text()) | sections
    new = config.with_suffix(".new")
    new.write_text(yaml.safe_dump(tree))
    new.replace(config)


def check_nothing_failed(answers: list[Answer], folder: Path) -> None:
    kinds = check_accounts(answers, folder)
    assert set(kinds) == {"right"}


async def until_reloaded(running: GatewayProcess, times: int) -> None:
    ends = time.monotonic() + 20
    while running.output.count(" is in effect (") < times:
        assert time.monotonic() < ends, running.output[-2000:]
        await asyncio.sleep(0.05)


RELOADS: dict[str, list[dict[str, Any]]] = {
    "policy and limits": [
        {"policy": {"kind": "utility", "cost_weight": 0.1}},
        {
            "policy": {"kind": "utility", "cost_weight": 0.9},
            "limits": {"state": "memory://", "gateway": {"rpm": 10**6}},
        },
        {"limits": {"state": "memory://"}},
    ],
    "others": [
        {"resilience": {"max_attempts": 2}, "limits": {"state": "memory://", "admission": {"max_in_flight": 500}}},
        {"resilience": {"max_attempts": 3}, "telemetry": {"metrics": {"enabled": False}}},
        {"cache": {"ttl_s": 5.0}},
    ],
}


@pytest.mark.parametrize("what", RELOADS)
def test_reload_under_load(what: str, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    config = config_for(tmp_path, upstream, watch_s=0.0)
    with GatewayProcess(config) as running:

        async def reload() -> None:
            for i, sections in enumerate(RELOADS[what]):
                edit(config, **sections)
                running.process.send_signal(signal.SIGHUP)
                await until_reloaded(running, i + 1)
                await asyncio.sleep(0.3)

        answers = asyncio.run(load_until(running, reload))
        assert running.stop() == 0
    check_nothing_failed(answers, tmp_path)


def test_a_model_that_is_taken_out_under_load(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """What is under way with it ends; what comes after goes to the others."""
    config = config_for(tmp_path, upstream, watch_s=0.2)
    with GatewayProcess(config) as running:

        async def shrink() -> None:
            edit(config, pool=pool_of(upstream.base_url, "beta"))
            await until_reloaded(running, 1)
            upstream.exchanges.clear()
            await asyncio.sleep(0.5)

        answers = asyncio.run(load_until(running, shrink))
        assert running.stop() == 0
    check_nothing_failed(answers, tmp_path)
    assert {exchange.body["model"] for exchange in upstream.exchanges[CLIENTS:]} == {"beta"}


def test_another_artifact_under_load(
    tmp_path: Path, upstream: MisbehavingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link to the artifact is turned to another one while requests are routed with the first."""
    old = gateway_process.make_artifact(tmp_path / "one")
    monkeypatch.setattr(gateway_process, "SUMS", tuple(f"How much is {i} times {i + 2}?" for i in range(20)))
    new = gateway_process.make_artifact(tmp_path / "two")
    current = tmp_path / "current"
    current.symlink_to(old)
    config = config_for(tmp_path, upstream, watch_s=0.2)
    edit(config, router={"artifact": str(current)})
    with GatewayProcess(config) as running:

        async def turn() -> None:
            beside = tmp_path / "beside"
            beside.symlink_to(new)
            beside.replace(current)
            await until_reloaded(running, 1)
            await asyncio.sleep(0.5)

        answers = asyncio.run(load_until(running, turn))
        assert running.stop() == 0
    check_nothing_failed(answers, tmp_path)
    used = {outcome.artifact_id for outcome in stored(tmp_path)}
    assert used == {old.name, new.name}


def test_a_broken_configuration_under_load(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    config = config_for(tmp_path, upstream, watch_s=0.2)
    with GatewayProcess(config) as running, running.client() as client:

        async def break_it() -> None:
            edit(config, pool=[{"name": "alpha", "nonsense": 1}])
            ends = time.monotonic() + 20
            while "was NOT reloaded" not in running.output:
                assert time.monotonic() < ends
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)

        answers = asyncio.run(load_until(running, break_it))
        assert client.get("/readyz").json()["config"]["status"] == "failing"
        assert running.stop() == 0
    check_nothing_failed(answers, tmp_path)


def test_reload_of_all_workers_under_load(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    config = config_for(tmp_path, upstream, workers=2, watch_s=0.0)
    with GatewayProcess(config) as running:

        async def reload() -> None:
            for i in range(2):
                edit(config, policy={"kind": "utility", "cost_weight": 0.1 + 0.5 * i})
                running.process.send_signal(signal.SIGHUP)
                await until_reloaded(running, 2 * (i + 1))

        answers = asyncio.run(load_until(running, reload))
        assert running.stop() == 0
    check_nothing_failed(answers, tmp_path)


def test_a_worker_that_is_killed_under_load(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """Its requests are lost, no others, and it comes again."""
    with GatewayProcess(config_for(tmp_path, upstream, workers=2)) as running:
        (victim, _) = workers_of(running.process.pid)

        async def kill() -> None:
            os.kill(victim, signal.SIGKILL)
            ends = time.monotonic() + 20
            while "is ready again" not in running.output:
                assert time.monotonic() < ends
                await asyncio.sleep(0.05)

        answers = asyncio.run(load_until(running, kill))
        assert running.stop() == 0
    kinds = Counter(kind_of(answer) for answer in answers)
    wrong = [answer for answer in answers if kind_of(answer) == "wrong"]
    assert all(answer.trouble for answer in wrong), "cut off, and seen to be"
    assert kinds["wrong"] + kinds["not taken"] <= 2 * CLIENTS
    assert kinds["right"] > CLIENTS


def workers_of(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]


@pytest.mark.soak
def test_thirty_stops(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    total: Counter[str] = Counter()
    stops = int(os.environ.get("LLMROUTER_SOAK_STOPS", "30"))
    for i in range(stops):
        folder = tmp_path / str(i)
        folder.mkdir()
        with GatewayProcess(config_for(folder, upstream, 1 + i % 2)) as running:

            async def stop(process: Any = running.process) -> None:
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 30)

            answers = asyncio.run(load_until(running, stop, reuse=i % 3 > 0))
            assert running.wait() == 0
        total += check_accounts(answers, folder)
    record("stops under load", {"stops": stops, "clients": CLIENTS, **total})
