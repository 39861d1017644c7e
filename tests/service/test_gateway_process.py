"""The gateway as a process: start, memory, mistakes at the start, drain, kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, chunk, completion, event, ordinary_stream
from gateway_process import MODELS, GatewayProcess, make_artifact, write_config
from live_gateway import well_behaved

from llmrouter.outcomes import SQLiteOutcomeStore

HEAVY = {
    "torch",
    "litellm",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "pyarrow",
    "faiss",
    "matplotlib",
    "openai",
}
MAX_RESIDENT_MB = 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def config(tmp_path: Path, trained: Path, upstream: MisbehavingUpstream) -> Path:
    for name in MODELS:
        upstream.behaviours[name] = well_behaved
    return write_config(tmp_path, upstream.base_url, trained)


def fails(config: Path, *arguments: str) -> str:
    """Run the gateway, which must refuse to start, and return what it says."""
    running = GatewayProcess(config, *arguments)
    assert running.wait() == 1, running.output
    assert "Traceback" not in running.output
    return running.output


def test_it_starts_routes_and_stops_cleanly(config: Path, tmp_path: Path) -> None:
    with GatewayProcess(config) as running, running.client() as client:
        assert client.get("/readyz").json()["artifact"].startswith("knn-")
        models = [
            running.ask(client, text).headers["x-llmrouter-model"]
            for text in ("What is 40 plus 2?", "Write the word moon backwards")
        ]
        assert models == ["alpha", "beta"], "two kinds of prompts go to two models"
        assert running.stop() == 0
        assert "stopped" in running.output
        assert "curl" in running.output
    assert len(list(SQLiteOutcomeStore(tmp_path / "outcomes.db").scan())) == 2


def test_modules_and_memory_of_a_gateway_that_has_answered(config: Path) -> None:
    script = f"""
import sys, time
started = time.perf_counter()
from service.threads import pin_threads
pin_threads()
from service.app import create_app
from service.server import GatewayThread
from service.settings import load_settings
import http.client, json, re
with GatewayThread(create_app(load_settings({str(config)!r}))) as gateway:
    ready = time.perf_counter() - started
    connection = http.client.HTTPConnection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    for stream in (True, False):
        body = {{"model": "auto", "stream": stream, "messages": [{{"role": "user", "content": "What is 1 plus 4?"}}]}}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
# Not ru_maxrss: that is inherited from the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({{"modules": sorted(sys.modules), "ready_s": ready, "resident_mb": peak}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    print(f"\ngateway: ready after {facts['ready_s']:.2f} s, {facts['resident_mb']:.0f} MB resident at most")
    assert set(facts["modules"]) & HEAVY == set()
    assert facts["resident_mb"] < MAX_RESIDENT_MB


def test_library_threads_are_pinned_by_the_command_line(config: Path) -> None:
    with GatewayProcess(config) as running, running.client() as client:
        running.ask(client, "What is 1 plus 4?")
        names = [path.read_text().strip() for path in Path(f"/proc/{running.process.pid}/task").glob("*/comm")]
        assert len(names) <= 8, names
        assert "pinned" not in running.output, "numpy was not imported before"


# Mistakes at the start


def test_a_busy_port(config: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails(config, "--port", str(port))
    assert f"127.0.0.1:{port} is in use" in said
    assert "choose another port" in said


def test_a_config_typo(config: Path) -> None:
    config.write_text(config.read_text().replace("router:", "ruoter:"))
    said = fails(config)
    assert "ruoter: unknown key" in said
    assert "did you mean 'router'?" in said


def test_no_config_file(tmp_path: Path) -> None:
    assert "cannot read the configuration" in fails(tmp_path / "none.yaml")


def test_listening_to_the_world_without_keys(config: Path) -> None:
    said = fails(config, "--host", "0.0.0.0")
    assert "server.host" in said
    assert "allow_insecure" in said


def test_a_host_that_is_not_ours(config: Path) -> None:
    assert "server.host" in fails(config, "--host", "no-such-host.invalid")


def test_no_artifact(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    said = fails(write_config(tmp_path, upstream.base_url, tmp_path / "nothing"))
    assert "is not an artifact" in said
    assert "llmrouter train" in said


def test_a_corrupt_artifact(tmp_path: Path, trained: Path, upstream: MisbehavingUpstream) -> None:
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / "quality.safetensors").write_bytes(b"\0" * 64)
    assert "quality.safetensors" in fails(write_config(tmp_path, upstream.base_url, folder))


def test_an_artifact_with_another_encoder(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    folder = make_artifact(tmp_path, fingerprint="another-encoder-1")
    said = fails(
        write_config(tmp_path, upstream.base_url, folder, router={"artifact": str(folder), "encoder": "static"})
    )
    assert "another-encoder-1" in said
    assert "set router.encoder" in said


def test_a_log_that_cannot_be_opened(tmp_path: Path, trained: Path, upstream: MisbehavingUpstream) -> None:
    (tmp_path / "file").touch()
    log = {"store": f"sqlite:///{tmp_path}/file/outcomes.db"}
    assert "outcomes.db" in fails(write_config(tmp_path, upstream.base_url, trained, log=log))


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_are_finished(
    number: int, config: Path, tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    started = threading.Event()

    async def slowly(exchange: Exchange) -> None:
        started.set()
        if exchange.body.get("stream"):
            pieces = [event(chunk("a"))] * 10
            await exchange.event_stream([*pieces, *ordinary_stream()], pause=0.05)
        else:
            await exchange.pause(0.7)
            await exchange.answer(completion())

    for name in MODELS:
        upstream.behaviours[name] = slowly
    answers = []
    body = {"model": "alpha", "messages": [{"role": "user", "content": "x"}]}
    with GatewayProcess(config) as running:
        threads = [
            threading.Thread(
                target=lambda stream=stream: answers.append(
                    httpx.post(
                        f"{running.url}/v1/chat/completions",
                        json={**body, "stream": stream},
                        timeout=30,
                        trust_env=False,
                    )
                )
            )
            for stream in (True, False)
        ]
        for thread in threads:
            thread.start()
        assert started.wait(10)
        time.sleep(0.2)
        assert running.stop(number) == 0
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert any(b"[DONE]" in answer.content for answer in answers)
    assert any(answer.content == completion() for answer in answers)
    outcomes = list(SQLiteOutcomeStore(tmp_path / "outcomes.db").scan())
    assert sorted(outcome.status for outcome in outcomes) == ["ok", "ok"]


def test_what_does_not_end_in_time_is_cut_and_recorded(
    tmp_path: Path, trained: Path, upstream: MisbehavingUpstream
) -> None:
    async def forever(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("a"))], end=False)
        await exchange.pause(60)

    upstream.behaviours["alpha"] = forever
    config = write_config(tmp_path, upstream.base_url, trained, server={"port": 0, "drain_s": 1})
    body = {"model": "alpha", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with (
        GatewayProcess(config) as running,
        running.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        pieces = response.iter_raw()
        next(pieces)
        assert running.stop() == 0
    (outcome,) = SQLiteOutcomeStore(tmp_path / "outcomes.db").scan()
    assert (outcome.status, outcome.error) == ("cancelled", "the gateway stopped")
    assert upstream.hung_up.wait(5)


# kill -9


class Load:
    """Ask the gateway from several threads until it is gone; remember what it answered, and when."""

    def __init__(self, running: GatewayProcess) -> None:
        self.answered: list[tuple[float, str]] = []
        self.acknowledged: list[str] = []
        self._running = running
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until answers have come for that long, and some of them."""
        ends = time.monotonic() + 60
        while not (len(self.answered) > 10 and time.monotonic() - self.answered[0][0] > seconds):
            assert time.monotonic() < ends, "the gateway answers too slowly"
            time.sleep(0.01)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        number = 0
        with self._running.client() as client:
            try:
                while True:
                    number += 1
                    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}], "stream": number % 2 == 0}
                    response = client.post("/v1/chat/completions", json=body)
                    request_id = response.headers["x-request-id"]
                    self.answered.append((time.monotonic(), request_id))
                    if number % 5 == 0:
                        judged = {"request_id": request_id, "quality": 1.0}
                        assert client.post("/v1/feedback", json=judged).status_code == 202
                        self.acknowledged.append(request_id)
            except httpx.HTTPError:
                return


def kill_under_load(config: Path, database: Path, *, seconds: float) -> int:
    """Kill a gateway under load, check what is in its log, and return how many outcomes were."""
    flush_interval_s = 0.25  # the default, which the documentation states
    with GatewayProcess(config) as running:
        load = Load(running)
        load.wait(seconds)
        killed = time.monotonic()
        os.kill(running.process.pid, signal.SIGKILL)
        load.join()
    store = SQLiteOutcomeStore(database)
    try:
        stored = {outcome.request_id: outcome for outcome in store.scan()}
    finally:
        store.close()
    due = [request_id for answered, request_id in load.answered if answered < killed - flush_interval_s]
    assert due, "the load was too light to show anything"
    assert [request_id for request_id in due if request_id not in stored] == []
    # Acknowledged feedback is on disk, also where its outcome was too young to be.
    with closing(sqlite3.connect(database)) as connection:
        judged = {request_id for (request_id,) in connection.execute("SELECT request_id FROM feedback")}
    assert set(load.acknowledged) <= judged
    known = [request_id for request_id in load.acknowledged if request_id in stored]
    assert all(stored[request_id].quality == 1.0 for request_id in known)
    return len(due)


@pytest.mark.slow
def test_after_kill_9_the_log_opens_and_holds_what_it_promised(config: Path, tmp_path: Path) -> None:
    for _ in range(3):
        assert kill_under_load(config, tmp_path / "outcomes.db", seconds=0.5) > 0


@pytest.mark.soak
def test_fifty_kills(config: Path, tmp_path: Path) -> None:
    counts = [kill_under_load(config, tmp_path / "outcomes.db", seconds=0.5 + i % 7 / 5) for i in range(50)]
    print(f"\n50 kills, {sum(counts)} outcomes older than the flush interval, all there")
