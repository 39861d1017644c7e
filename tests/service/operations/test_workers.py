"""Several workers on one port: how they share it, and what happens when they or their supervisor end."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmrouter.exceptions import ConfigError
from service.workers import Restarts, run_workers

HERE = Path(__file__).parent
SUPERVISOR = """
import sys
from pathlib import Path
import logging
from service import workers
logging.basicConfig(level=logging.INFO)
workers._GRACE_S = 0.5
status = workers.run_workers(
    Path(sys.argv[1]), count=int(sys.argv[2]), on_ready=lambda url: print(url, flush=True), command=["small_worker"]
)
sys.exit(status)
"""
WAIT_S = 30.0


class Workers:
    """A supervisor over small workers; a context manager that leaves no process behind."""

    def __init__(self, folder: Path, count: int, *, drain_s: int = 5, **environment: str) -> None:
        config = folder / "config.yaml"
        config.write_text(
            "pool: [{name: a, backend: scripted, price: {input: 1, output: 1}}]\n"
            f"server: {{port: 0, drain_s: {drain_s}}}\n"
        )
        path = os.pathsep.join([str(HERE), str(HERE.parents[2])])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(config), str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.log: list[str] = []
        for stream, take in ((self.process.stdout, self.lines.put), (self.process.stderr, self.log.append)):
            threading.Thread(target=self._read, args=(stream, take), daemon=True).start()
        self.seen: set[int] = set()

    def __enter__(self) -> Workers:
        self.port = int(self.lines.get(timeout=WAIT_S).rstrip().rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        children = self.children()
        self.process.kill()
        self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()

    def children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def ask(self, path: str = "/") -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    @staticmethod
    def _read(stream: Any, take: Any) -> None:
        for line in stream:
            take(line)
        take("")


def eventually(condition: Any) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return value


def test_connections_spread_over_all_workers(tmp_path: Path) -> None:
    with Workers(tmp_path, 4) as workers:
        assert len(workers.children()) == 4, "ready means all of them"
        connections = [http.client.HTTPConnection("127.0.0.1", workers.port) for _ in range(64)]
        answers = []
        for connection in connections:
            connection.request("GET", "/")
            answers.append(json.loads(connection.getresponse().read()))
        shares = Counter(answer["pid"] for answer in answers)
        # Binomial: fewer than 4 of 64 would be seen once in a million runs.
        assert len(shares) == 4, shares
        assert min(shares.values()) >= 4, shares
        assert {answer["LLMROUTER_WORKER"] for answer in answers} == {"1", "2", "3", "4"}
        for connection in connections:
            connection.close()
        folders = {answer["PROMETHEUS_MULTIPROC_DIR"] for answer in answers}
        assert len(folders) == 1, "the workers' metrics meet in one folder"
        assert Path(*folders).is_dir()
        assert workers.stop() == 0
    assert not Path(*folders).exists(), "and nothing of it stays"


def test_a_dead_worker_is_replaced_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with Workers(tmp_path, 2) as workers:
        before = {child.pid for child in workers.children()}
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in {child.pid for child in workers.children()})
        answers = {workers.ask()["pid"] for _ in range(20)}
        assert victim not in answers
        after = eventually(lambda: (pids := {child.pid for child in workers.children()}) and len(pids) == 2 and pids)
        assert len(before & after) == 1
        eventually(lambda: any("ready again" in line for line in workers.log))
        eventually(lambda: {workers.ask()["pid"] for _ in range(20)} == after)
        assert workers.stop() == 0
    assert any("ended with status -9" in line for line in workers.log), workers.log


def test_requests_under_way_end_before_the_workers_do(tmp_path: Path) -> None:
    with Workers(tmp_path, 2) as workers:
        answers: list[dict[str, Any]] = []
        threads = [threading.Thread(target=lambda: answers.append(workers.ask("/slow"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert workers.stop(signal.SIGINT) == 0
        for thread in threads:
            thread.join(WAIT_S)
        assert len(answers) == 8


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with Workers(tmp_path, 1, drain_s=1, STUBBORN="1") as workers:
        children = workers.children()
        assert workers.stop() == 1
        assert not any(child.is_running() for child in children)
    assert any("did not end in time" in line for line in workers.log), workers.log


def test_workers_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with Workers(tmp_path, 2) as workers:
        children = workers.children()
        workers.process.kill()
        workers.process.wait()
        _, alive = psutil.wait_procs(children, timeout=WAIT_S)
        assert not alive


def test_hangups_reach_every_worker(tmp_path: Path) -> None:
    hangups = tmp_path / "hangups"
    hangups.touch()
    with Workers(tmp_path, 2, HANGUPS_FILE=str(hangups)) as workers:
        workers.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(hangups.read_text().split()) == 2)
        assert {int(pid) for pid in hangups.read_text().split()} == {child.pid for child in workers.children()}
        assert workers.stop() == 0


def test_a_worker_that_cannot_start_ends_them_all_at_first_and_is_tried_again_later(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    fail.touch()
    workers = Workers(tmp_path, 2, FAIL_FILE=str(fail))
    assert workers.process.wait(WAIT_S) == 1
    assert workers.lines.get(timeout=WAIT_S) == "", "it was never ready"
    fail.unlink()
    with Workers(tmp_path, 2, FAIL_FILE=str(fail)) as workers:
        fail.touch()
        os.kill(workers.children()[0].pid, signal.SIGKILL)
        eventually(lambda: sum("ended with status 3" in line for line in workers.log) >= 2)
        fail.unlink()
        eventually(lambda: any("ready again" in line for line in workers.log))
        assert workers.stop() == 0


def test_a_port_that_is_taken_is_refused_even_by_workers(tmp_path: Path) -> None:
    with Workers(tmp_path, 1) as workers:
        config = tmp_path / "config.yaml"
        with pytest.raises(ConfigError, match="in use by another program"):
            run_workers(config, port=workers.port, count=2)
        assert workers.stop() == 0
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", workers.port))


def test_waits_between_restarts_double_up_to_a_bound_and_start_again_after_a_long_run() -> None:
    restarts = Restarts(first_s=1.0, most_s=6.0, stable_s=60.0)
    assert [restarts.wait_s(0.1) for _ in range(5)] == [1.0, 2.0, 4.0, 6.0, 6.0]
    assert restarts.wait_s(61.0) == 1.0
    assert restarts.wait_s(3.0) == 2.0
