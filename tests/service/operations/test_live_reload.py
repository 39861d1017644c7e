"""The real gateway, one process and several: reload, drain and counting under load."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion
from gateway_process import MODELS, GatewayProcess, make_artifact, write_config

from llmrouter.outcomes import SQLiteOutcomeStore

WAIT_S = 30.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def config(tmp_path: Path, trained: Path, upstream: MisbehavingUpstream) -> Path:
    async def unhurried(exchange: Exchange) -> None:
        await exchange.pause(0.02)
        await exchange.answer(completion())

    upstream.behaviours.update(dict.fromkeys((*MODELS, "gamma"), unhurried))
    return write_config(tmp_path, upstream.base_url, trained, server={"port": 0, "watch_s": 0.1})


@pytest.fixture
def asking() -> Iterator[Callable[[str], Counter[int]]]:
    """Return a function that keeps asking a gateway from eight threads, and counts the statuses of its answers."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start(url: str) -> Counter[int]:
        statuses: Counter[int] = Counter()

        def keep_asking() -> None:
            body = {"model": "auto", "messages": [{"role": "user", "content": "What is 1 plus 4?"}]}
            with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
                while not stop.is_set():
                    statuses[client.post(f"{url}/v1/chat/completions", json=body).status_code] += 1

        threads.extend(threading.Thread(target=keep_asking) for _ in range(8))
        for thread in threads:
            thread.start()
        return statuses

    def finish() -> None:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)

    start.finish = finish  # type: ignore[attr-defined]
    yield start
    finish()


def change(config: Path, **sections: Any) -> None:
    """Replace the file, as editors and deployments do."""
    tree = {**yaml.safe_load(config.read_text()), **sections}
    new = config.with_suffix(".new")
    new.write_text(yaml.safe_dump(tree))
    new.rename(config)


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def models(client: httpx.Client) -> set[str]:
    return {model["id"] for model in client.get("/v1/models").json()["data"]}


def test_a_changed_file_takes_effect_under_load_and_a_wrong_one_does_not(config: Path, asking: Any) -> None:
    with GatewayProcess(config) as running, running.client() as client:
        statuses = asking(running.url)
        time.sleep(0.3)
        pool = yaml.safe_load(config.read_text())["pool"]
        change(config, pool=[*pool, {**pool[0], "name": "gamma"}])
        eventually(lambda: "gamma" in models(client))
        change(config, pool="none")
        eventually(lambda: client.get("/readyz").json()["config"]["status"] == "failing")
        assert "gamma" in models(client), "the last good one stays"
        assert "pool" in running.output
        change(config, pool=pool, policy={"kind": "utility", "cost_weight": 0.9})
        eventually(lambda: "gamma" not in models(client))
        state = client.get("/readyz").json()["config"]
        assert (state["status"], state["reloads"], state["failures"]) == ("ok", 2, 1)
        time.sleep(0.2)
        asking.finish()
        assert set(statuses) == {200}, statuses
        assert statuses[200] > 20
        assert running.stop() == 0
    logged = list(SQLiteOutcomeStore(config.parent / "outcomes.db").scan())
    assert len(logged) == statuses[200], "one log through all of it"


def test_several_workers_are_one_gateway(config: Path, asking: Any) -> None:
    change(config, server={"port": 0, "workers": 2, "watch_s": 0})
    with GatewayProcess(config) as running, running.client() as client:
        workers = psutil.Process(running.process.pid).children()
        assert len(workers) == 2
        statuses = asking(running.url)
        time.sleep(0.3)
        pool = yaml.safe_load(config.read_text())["pool"]
        change(config, pool=[*pool, {**pool[0], "name": "gamma"}])
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: running.output.count("is in effect") == 2)
        for _ in range(10):
            with running.client() as another:
                assert "gamma" in models(another)
        asking.finish()
        assert set(statuses) == {200}, statuses

        def counted() -> float:
            found = re.findall(r"^llmrouter_requests_total\{[^}]*\} (\S+)$", client.get("/metrics").text, re.MULTILINE)
            return sum(float(value) for value in found)

        eventually(lambda: counted() == statuses[200])
        assert running.stop() == 0
    _, alive = psutil.wait_procs(workers, timeout=WAIT_S)
    assert not alive
    assert len(list(SQLiteOutcomeStore(config.parent / "outcomes.db").scan())) == statuses[200]


def test_no_worker_starts_with_a_wrong_configuration(config: Path) -> None:
    change(config, server={"port": 0, "workers": 2}, router={"artifact": "/no/such/artifact"})
    running = GatewayProcess(config)
    assert running.wait() == 1, running.output
    assert "/no/such/artifact" in running.output
    assert "Traceback" not in running.output
