"""The load generator: a process that takes a `LoadSpec` a line as JSON and answers with what it measured.

``python -m benchmarks.gateway.load``. Raw protocols over uvloop; it has to be much cheaper than what it measures.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import uvloop

from benchmarks.gateway.connection import Exchange, LoadConnection
from benchmarks.gateway.figures import summary
from benchmarks.gateway.prompts import BodyMaker
from benchmarks.gateway.schedule import OpenSchedule
from benchmarks.gateway.timers import PreciseTimers

_MOST_CONNECTIONS = 512
_LONGEST_S = 600.0
_MILLISECONDS = 1000.0


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One run.

    Attributes
    ----------
    port : int
        Of the server, on this machine.
    model : str
        What is asked for.
    headers : mapping of str to str
        Sent with every request.
    extra : mapping
        More keys of every body.
    stream, exact : bool
        See `LoadConnection`.
    concurrency : int
        Closed loop: connections, each sending its next request when the last was answered. 0 is an open loop.
    rate : float
        Open loop: requests per second.
    seconds : float
        Requests are sent for that long.
    requests : int
        Closed loop: that many instead, where above 0.
    patience_s : float
        Answers that are still missing that long after the last request was sent count as unfinished.
    seed : int
        Of the prompts, and of the requests' numbers.
    path : str
        Of the endpoint.
    """

    port: int
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    exact: bool = True
    concurrency: int = 0
    rate: float = 0.0
    seconds: float = 1.0
    requests: int = 0
    patience_s: float = 10.0
    seed: int = 0
    path: str = "/v1/chat/completions"


class LoadRun:
    """Send what a specification says and count.

    Parameters
    ----------
    spec : LoadSpec
        What to do.
    """

    def __init__(self, spec: LoadSpec) -> None:
        self._spec = spec
        self._maker = BodyMaker(spec.model, stream=spec.stream, seed=spec.seed, extra=spec.extra)
        lines = [f"POST {spec.path} HTTP/1.1", f"host: 127.0.0.1:{spec.port}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in spec.headers.items()]
        self._head = ("\r\n".join(lines) + "\r\ncontent-length: %d\r\n\r\n").encode()
        self._mark = spec.seed * 1_000_000 + 1
        self._sent = 0
        self._pending = 0
        self._idle: list[LoadConnection] = []
        self._connections: set[LoadConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._backlog: deque[float] = deque()
        self._latencies: list[float] = []
        self._first_bytes: list[float] = []
        self._overheads: list[float] = []
        self._troubles: Counter[str] = Counter()
        self._last_end = 0.0
        self._ending = False
        self._until = 0.0
        self._all_sent = False
        self._finished = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        """Run, and return counts, rates in requests per second, and latencies in milliseconds."""
        spec = self._spec
        timers = PreciseTimers(asyncio.get_running_loop())
        wanted = spec.concurrency or min(int(spec.rate * 0.1) + 4, 64)
        await asyncio.gather(*(self._open() for _ in range(wanted)), return_exceptions=True)
        start = time.perf_counter()
        try:
            if spec.concurrency:
                await self._closed_loop(start)
            else:
                await self._open_loop(start, timers)
        finally:
            self._ending = True
            for connection in list(self._connections):
                connection.close()
            timers.close()
        return self._result(start)

    async def _closed_loop(self, start: float) -> None:
        self._until = float("inf") if self._spec.requests else start + self._spec.seconds
        ready, self._idle = self._idle, []
        if not ready:
            self._troubles["no connection"] += 1
            return
        for connection in ready:
            self._send_next(connection)
        await self._wait(_LONGEST_S if self._spec.requests else self._spec.seconds + self._spec.patience_s)

    async def _open_loop(self, start: float, timers: PreciseTimers) -> None:
        # The timers count in time.monotonic, measurements in time.perf_counter.
        shift = time.monotonic() - start
        schedule = OpenSchedule(self._spec.rate, self._spec.seconds, start=start)

        def arrive() -> None:
            for due in schedule.due(time.perf_counter()):
                self._arrival(due)
            following = schedule.next_time()
            if following is None:
                self._all_sent = True
                self._check_end()
            else:
                timers.call_at(following + shift, arrive)

        arrive()
        await self._wait(self._spec.seconds + self._spec.patience_s)

    async def _wait(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._finished.wait()
        except TimeoutError:
            self._ending = True
            self._troubles["unfinished"] += self._pending + len(self._backlog)

    async def _open(self) -> None:
        spec = self._spec
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: LoadConnection(self._done, self._lost, streamed=spec.stream, exact=spec.exact),
            "127.0.0.1",
            spec.port,
        )
        self._connections.add(connection)
        self._free(connection)

    def _arrival(self, due: float) -> None:
        if self._idle:
            self._send(self._idle.pop(), due)
            return
        self._backlog.append(due)
        if len(self._connections) + len(self._opening) < _MOST_CONNECTIONS:
            task = asyncio.ensure_future(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ending:
            self._troubles[f"no connection: {type(error).__name__}"] += 1
            if self._backlog:
                self._backlog.popleft()
            self._check_end()

    def _free(self, connection: LoadConnection) -> None:
        if self._backlog:
            self._send(connection, self._backlog.popleft())
        else:
            self._idle.append(connection)

    def _send_next(self, connection: LoadConnection) -> None:
        now = time.perf_counter()
        enough = self._spec.requests and self._sent >= self._spec.requests
        if now < self._until and not enough:
            self._send(connection, now)
        else:
            self._all_sent = True
            self._check_end()

    def _send(self, connection: LoadConnection, due: float) -> None:
        mark = b"%d" % self._mark
        self._mark += 1
        self._sent += 1
        self._pending += 1
        body = self._maker.body(mark)
        connection.send(self._head % len(body) + body, Exchange(mark, due))

    def _done(self, connection: LoadConnection, exchange: Exchange) -> None:
        if self._ending:
            return
        self._pending -= 1
        if exchange.trouble:
            self._troubles[exchange.trouble] += 1
        else:
            self._latencies.append(exchange.end - exchange.due)
            self._first_bytes.append(exchange.first_byte - exchange.due)
            if exchange.overhead_ms is not None:
                self._overheads.append(exchange.overhead_ms)
            self._last_end = exchange.end
        if not self._spec.concurrency:
            if connection in self._connections:
                self._free(connection)
            self._check_end()
        elif connection in self._connections:
            self._send_next(connection)
        else:
            self._replace()

    def _replace(self) -> None:
        """Open a new connection for one that broke in the closed loop."""
        task = asyncio.ensure_future(self._reopen())
        self._opening.add(task)
        task.add_done_callback(self._opened)

    async def _reopen(self) -> None:
        await self._open()
        if self._idle:
            self._send_next(self._idle.pop())

    def _lost(self, connection: LoadConnection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _check_end(self) -> None:
        if self._all_sent and not self._pending and not self._backlog:
            self._finished.set()

    def _result(self, start: float) -> dict[str, Any]:
        took = max(self._last_end - start, 1e-9) if self._latencies else 0.0
        return {
            "spec": asdict(self._spec),
            "sent": self._sent,
            "completed": len(self._latencies),
            "errors": sum(self._troubles.values()),
            "troubles": dict(self._troubles.most_common(5)),
            "seconds": took,
            "achieved_rps": len(self._latencies) / took if took else 0.0,
            "latency_ms": summary(value * _MILLISECONDS for value in self._latencies),
            "first_byte_ms": summary(value * _MILLISECONDS for value in self._first_bytes),
            "overhead_ms": summary(self._overheads),
        }


def main() -> int:
    """Take specifications from standard input until it ends."""
    # A collection in the middle of a run would show as latency of the server.
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(LoadRun(LoadSpec(**orjson.loads(line))).run())
        print(orjson.dumps(result).decode(), flush=True)
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
