"""The supervisor of the pocket pool, with a small server in its place."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrouter.exceptions import ConfigError, LocalModelError
from service import pocket
from service.pocket import DEFAULT_PORT, PORT_VARIABLE, PocketPool, choose_port, free_port, is_free

SERVER = """
import http.server, os, signal, sys, time
port, mood = int(sys.argv[1]), sys.argv[2]
print("loading", flush=True)
if mood == "crash":
    sys.exit("no such checkpoint")
if mood == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            print("out of memory", flush=True)
            os._exit(7)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PocketPool]:
    (tmp_path / "pretend_pool.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def make(mood: str = "fine", **options: object) -> PocketPool:
        port = free_port()
        return PocketPool(port, command=["pretend_pool", str(port), mood], **options)  # type: ignore[arg-type]

    return make


def pid_of(running: PocketPool) -> int:
    assert running._process is not None
    return running._process.pid


def gone(pid: int) -> bool:
    """Return whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about in time"
        time.sleep(0.02)


def test_it_starts_says_so_and_stops(pool: Callable[..., PocketPool]) -> None:
    said: list[str] = []
    with pool(progress=said.append) as running:
        pid = pid_of(running)
        assert not is_free(running.port)
        assert not gone(pid)
    assert gone(pid)
    assert is_free(running.port)
    assert "loading the pocket models" in said[0]
    assert "ready after" in said[-1]
    running.stop()


def test_a_crash_at_the_start_shows_its_last_lines(pool: Callable[..., PocketPool]) -> None:
    with pytest.raises(LocalModelError, match=r"ended with status 1\n  loading\n  no such checkpoint"):
        pool("crash").__enter__()


def test_a_crash_later_is_logged(pool: Callable[..., PocketPool], caplog: pytest.LogCaptureFixture) -> None:
    with pool() as running:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(b"GET /crash HTTP/1.0\r\n\r\n")
        until(lambda: "ended with status 7" in caplog.text)
        assert "out of memory" in caplog.text


def test_stopping_is_not_a_crash(pool: Callable[..., PocketPool], caplog: pytest.LogCaptureFixture) -> None:
    with pool():
        pass
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_one_that_does_not_listen_is_killed(pool: Callable[..., PocketPool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "_STOP_S", 0.3)
    with pool("stubborn") as running:
        pid = pid_of(running)
    assert gone(pid)


def test_a_busy_port_is_said(pool: Callable[..., PocketPool]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=f"in use.*{PORT_VARIABLE}"):
            PocketPool(taken.getsockname()[1]).start()


def test_one_that_never_gets_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleepy_pool.py").write_text("import time\nprint('thinking', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    slow = PocketPool(free_port(), command=["sleepy_pool"], ready_timeout_s=0.5)
    with pytest.raises(LocalModelError, match="not ready within 0.5 s"):
        slow.__enter__()
    assert gone(pid_of(slow))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_it_ends_when_its_supervisor_is_killed(pool: Callable[..., PocketPool]) -> None:
    port = free_port()
    script = (
        "import time\nfrom service.pocket import PocketPool\n"
        f"pool = PocketPool({port}, command=['pretend_pool', '{port}', 'fine'])\n"
        "pool.start()\nprint(pool._process.pid, flush=True)\ntime.sleep(60)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        pid = int(supervisor.stdout.readline())
    assert not gone(pid)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    until(lambda: gone(pid))


def test_which_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT_VARIABLE, "7001")
    assert choose_port() == 7001
    monkeypatch.delenv(PORT_VARIABLE)
    monkeypatch.setattr(pocket, "is_free", lambda _port: True)
    assert choose_port() == DEFAULT_PORT
    monkeypatch.setattr(pocket, "is_free", lambda _port: False)
    assert choose_port() != DEFAULT_PORT
    for wrong in ("http", "0", "70000", "-1"):
        monkeypatch.setenv(PORT_VARIABLE, wrong)
        with pytest.raises(ConfigError, match=PORT_VARIABLE):
            choose_port()
