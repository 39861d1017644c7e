"""Clients that send or read as slowly as they can, by the hundred: cut off in time, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, chunk, event
from crowd import Question, ask_all, echo, is_right, percentile
from fault_gateway import eventually, pool_of, stored, write_config
from gateway_process import GatewayProcess
from soak_results import record
from wire import body_of, connect, read, request

LIMIT_S = 1.0
LIMITS = {"port": 0, "header_timeout_s": LIMIT_S, "body_timeout_s": LIMIT_S, "write_timeout_s": LIMIT_S}
SLOW = 300
PER_CONNECTION = 256 * 1024
BASE, PER_READER = 48 * 1024 * 1024, 3 * 1024 * 1024
FLOOD = [event(chunk("x" * 16_000))]


class SlowCrowd:
    """Connections that send `dribble` a byte at a time, in a thread; a context manager.

    Attributes
    ----------
    connections : list of socket
        All of them, open or not.
    cut : list of float
        After how many seconds each was cut off by the gateway.
    """

    def __init__(self, url: str, count: int, begin: bytes, dribble: bytes, *, pause_s: float = 0.5) -> None:
        self.cut: list[float] = []
        self.connections = [connect(url) for _ in range(count)]
        self._begin, self._dribble, self._pause_s = begin, dribble, pause_s
        self._thread = threading.Thread(target=self._run)
        self._done = threading.Event()

    def __enter__(self) -> SlowCrowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for connection in self.connections:
            connection.close()

    def _run(self) -> None:
        began = time.monotonic()
        left = []
        for connection in self.connections:
            connection.settimeout(0)
            if self._send(connection, self._begin):
                left.append(connection)
        for i in range(len(self._dribble)):
            left = [one for one in left if self._is_open(one) and self._send(one, self._dribble[i : i + 1])]
            self.cut += [time.monotonic() - began] * (len(self.connections) - len(left) - len(self.cut))
            if not left or self._done.wait(self._pause_s):
                return

    @staticmethod
    def _send(connection: socket.socket, data: bytes) -> bool:
        try:
            connection.sendall(data)
        except OSError:
            return False
        return True

    @staticmethod
    def _is_open(connection: socket.socket) -> bool:
        try:
            while connection.recv(65536):
                pass
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def enough_files(count: int) -> None:
    """Let this process open as many sockets as a trial needs, or skip it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 200:
        pytest.skip(f"needs {count + 200} open files, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 500)), hard))


class Trial:
    """A gateway process, and what it weighs."""

    def __init__(self, running: GatewayProcess, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self.process = psutil.Process(running.process.pid)
        with running.client() as client:
            for _ in range(20):
                assert running.ask(client, "warm up").status_code == 200
        self.memory = self.process.memory_info().rss
        self.files = self.process.num_fds()

    @property
    def growth(self) -> int:
        return self.process.memory_info().rss - self.memory

    def answers_promptly(self, count: int = 40) -> list[float]:
        """Ask ordinary questions beside the slow ones, and return how long each took."""
        questions = [Question(f"ordinary {i}", stream=i % 2 == 0) for i in range(count)]
        answers = asyncio.run(ask_all(self.running.url, questions, at_once=4))
        assert all(is_right(answer) for answer in answers)
        return [answer.seconds for answer in answers]

    def is_quiet(self) -> bool:
        """Return whether all connections and requests have ended."""
        with self.running.client() as client:
            state = client.get("/readyz").json()["requests"]
        return state == {"in_flight": 0, "queued": 0} and self.process.num_fds() <= self.files + 4


@contextmanager
def trial(folder: Path, upstream: MisbehavingUpstream, **sections: Any) -> Iterator[Trial]:
    upstream.behaviours.setdefault("alpha", echo)
    config = write_config(folder, pool_of(upstream.base_url, "alpha"), server=LIMITS, **sections)
    with GatewayProcess(config) as running:
        yield Trial(running, folder)


SENDERS: dict[str, tuple[bytes, bytes]] = {
    "heads": (b"POST /v1/chat/completions HTTP/1.1\r\nx: ", b"y" * 200),
    "heads from the first byte": (b"", b"POST /v1/chat/completions" + b"y" * 200),
    "bodies": (request(length=b"100000"), b" " * 200),
    "chunks": (request(b"", b"transfer-encoding: chunked", length=None), b"1\r\n \r\n" * 50),
    "nothing": (b"", b""),
}


def slow_senders(name: str, count: int, gateway: Trial) -> dict[str, Any]:
    begin, dribble = SENDERS[name]
    with SlowCrowd(gateway.running.url, count, begin, dribble) as crowd:
        time.sleep(0.3)
        seconds = gateway.answers_promptly()
        growth = gateway.growth
        if dribble:
            assert eventually(lambda: len(crowd.cut) == count, within_s=30), f"{len(crowd.cut)} of {count} were cut"
        else:
            for connection in crowd.connections:
                connection.settimeout(LIMIT_S + 10)
                assert read(connection).closed
    assert eventually(gateway.is_quiet)
    assert growth < BASE + count * PER_CONNECTION
    return {
        "clients": count,
        "ordinary_p50_s": percentile(seconds, 0.5),
        "ordinary_max_s": max(seconds),
        "growth_bytes": growth,
        "cut_after_s": [min(crowd.cut, default=None), max(crowd.cut, default=None)],
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Return a gateway for all that send slowly: one after the other leaves it as it was."""
    with MisbehavingUpstream() as upstream, trial(tmp_path_factory.mktemp("gateway"), upstream) as gateway:
        yield gateway


@pytest.mark.parametrize("name", SENDERS)
def test_clients_that_send_slowly(name: str, shared: Trial) -> None:
    enough_files(SLOW)
    measured = slow_senders(name, SLOW if name == "heads" else SLOW // 3, shared)
    assert measured["ordinary_max_s"] < 3.0


def readers(url: str, count: int) -> list[socket.socket]:
    """Return connections that have asked for a stream and read nothing."""
    connections = []
    for i in range(count):
        connection = connect(url, receive_buffer=4096)
        connection.sendall(request(body_of(f"slow {i}", model="flood", stream=True)))
        connections.append(connection)
    return connections


def slow_readers(
    count: int, folder: Path, upstream: MisbehavingUpstream, read_some: Callable[[socket.socket], object]
) -> dict[str, Any]:
    async def flood(exchange: Exchange) -> None:
        exchange.head(200, content_type="text/event-stream", transfer_encoding="chunked")
        while not exchange.gone.is_set():
            await exchange.chunks(FLOOD, end=False)

    upstream.behaviours |= {"flood": flood, "alpha": echo}
    pool = pool_of(upstream.base_url, "alpha", "flood")
    config = write_config(folder, pool, server=LIMITS)
    with GatewayProcess(config) as running:
        gateway = Trial(running, folder)
        upstream.exchanges.clear()
        connections = readers(running.url, count)
        try:
            ends = time.monotonic() + LIMIT_S / 2
            while time.monotonic() < ends:
                for connection in connections:
                    read_some(connection)
                time.sleep(0.2)
            growth = gateway.growth
            with running.client() as client:
                began = time.perf_counter()
                body = {"model": "alpha", "messages": [{"role": "user", "content": "ordinary"}]}
                assert client.post("/v1/chat/completions", json=body).status_code == 200
                seconds = time.perf_counter() - began
            assert eventually(gateway.is_quiet, within_s=LIMIT_S + 20), "they hold neither slots nor connections"
        finally:
            for connection in connections:
                connection.close()
        assert eventually(lambda: upstream.hang_ups >= count), "their upstream calls were cancelled"
        assert running.stop() == 0
    statuses = Counter(outcome.status for outcome in stored(folder) if outcome.model == "flood")
    assert statuses == {"cancelled": count}
    assert growth < BASE + count * PER_READER
    return {"clients": count, "growth_bytes": growth, "ordinary_s": seconds}


@pytest.mark.parametrize("bytes_a_turn", [0, 1])
def test_clients_that_read_slowly(bytes_a_turn: int, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    slow_readers(20, tmp_path, upstream, lambda connection: bytes_a_turn and connection.recv(bytes_a_turn))


def test_more_connections_than_files(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """A gateway that has run out of files answers again once there are some."""
    with trial(tmp_path, upstream) as gateway:
        psutil.Process(gateway.running.process.pid).rlimit(
            psutil.RLIMIT_NOFILE, (gateway.files + 30, gateway.files + 30)
        )
        connections = []
        try:
            connections += [connect(gateway.running.url, patience_s=1) for _ in range(80)]
            time.sleep(1.0)
        finally:
            for connection in connections:
                connection.close()
        assert gateway.process.is_running()
        assert eventually(lambda: gateway.process.num_fds() <= gateway.files + 4, within_s=LIMIT_S + 10)
        gateway.answers_promptly(20)
        assert gateway.process.cpu_percent(0.5) < 60, "and it does not spin"


@pytest.mark.soak
def test_five_thousand_slow_clients(tmp_path: Path, upstream: MisbehavingUpstream, shared: Trial) -> None:
    count = int(os.environ.get("LLMROUTER_SOAK_CLIENTS", "5000"))
    enough_files(count)
    found = {name: slow_senders(name, count, shared) for name in SENDERS}
    (tmp_path / "readers").mkdir()
    found["readers"] = slow_readers(count // 50, tmp_path / "readers", upstream, lambda _: None)
    record("slow clients", found)
