"""Nothing piles up in a server of local models: memory, files, threads, requests in the engine."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from crowd_of_requests import KINDS, Crowd

sys.path.append(str(Path(__file__).parents[2] / "faults"))

from soak_results import record
from test_moe_openai_client import POOL, ROOT

MODEL = "pocket-mini"
MEGABYTE = 2**20


@pytest.fixture
def server(tmp_path):
    """A server process; all that it may say is that somebody's HTTP was none."""
    log = tmp_path / "log"
    words = ["--model", f"{MODEL}={POOL.parent / MODEL}", "--port", "0", "--device", "cpu", "--max-batch", "16"]
    with log.open("w") as stderr:  # a pipe that nobody reads would be full some day, and the server with it
        process = subprocess.Popen(
            [sys.executable, "-m", "service.moe", *words], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("serving "), log.read_text()
        yield process, line.split()[-1]
        process.terminate()
        assert process.wait(60) == 0
        assert set(log.read_text().splitlines()) == {"WARNING:  Invalid HTTP request received."}
    finally:
        process.kill()


def measured(process):
    found = psutil.Process(process.pid)
    return {
        "mb": round(found.memory_info().rss / MEGABYTE, 1),
        "files": found.num_fds(),
        "threads": found.num_threads(),
    }


def settled(url):
    """Wait until the engine has nothing left to do."""
    with httpx.Client() as client:
        for _ in range(600):
            [load] = client.get(f"{url}/load").json()["data"]
            if load["running"] == load["waiting"] == 0:
                return
            time.sleep(0.1)
    pytest.fail("requests are left in the engine")


def trial(server, *, warm_up, rounds, requests):
    """Send `warm_up` requests, then `rounds` times `requests`, and return what was found."""
    process, url = server
    crowd, begun = Crowd(url, MODEL, seed=1), time.perf_counter()
    readings = []
    for count in (warm_up, *[requests] * rounds):
        asyncio.run(crowd.send(count))
        settled(url)
        readings.append(measured(process))
    with httpx.Client() as client:
        metrics = client.get(url.removesuffix("/v1") + "/metrics").text
    ended = {
        line.split('how="')[1].split('"')[0]: int(float(line.split()[-1]))
        for line in metrics.splitlines()
        if line.startswith("llmrouter_moe_requests_total{")
    }
    assert not crowd.wrong, crowd.wrong[:5]
    assert set(crowd.counts) == set(KINDS)
    assert ended["failed"] == 0
    assert min(ended[how] for how in ("stop", "length", "tool_calls", "embedded", "cancelled")) > 0
    first, last = readings[0], readings[-1]
    assert last["threads"] <= first["threads"] + 2
    assert last["files"] <= first["files"] + 5
    return {
        "requests": warm_up + rounds * requests,
        "of_each_kind": dict(sorted(crowd.counts.items())),
        "ended": ended,
        "memory_mb": [reading["mb"] for reading in readings],
        "files": [reading["files"] for reading in readings],
        "threads": [reading["threads"] for reading in readings],
        "seconds": round(time.perf_counter() - begun, 1),
    }


@pytest.mark.skipif(not POOL.is_file(), reason="this checkout has no pocket models")
def test_some_hundred_requests_leave_nothing(server):
    found = trial(server, warm_up=120, rounds=2, requests=60)
    assert found["memory_mb"][-1] - found["memory_mb"][0] < 30


@pytest.mark.soak
def test_memory_is_flat_over_ten_thousand_requests(server):
    """Memory after the first tenth (caches are full then) against that at the end."""
    rounds = 9
    requests = int(os.environ.get("LLMROUTER_SOAK_REQUESTS", "10000")) // (rounds + 1)
    found = trial(server, warm_up=requests, rounds=rounds, requests=requests)
    record("local models, requests of every kind", found)
    assert found["memory_mb"][-1] - found["memory_mb"][0] < 20
