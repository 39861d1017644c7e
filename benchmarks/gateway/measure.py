"""One measurement: load on a peer, what it answered, and what it used for that."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.gateway.load import LoadSpec
from benchmarks.gateway.peers import RunningPeer
from benchmarks.gateway.plan import ANCHOR_CONCURRENCY, Cell
from benchmarks.gateway.processes import ManagedProcess, fetch, free_port, pinned

_ROOT = Path(__file__).parents[2]
_WARM_UP_S = 0.5
_FIRST_WARM_UP_S = 2.0
_SETTLE_S = 0.2
_MILLISECONDS = 1000.0
_STAGE = re.compile(r'^llmrouter_stage_seconds_(sum|count)\{[^}]*stage="([^"]+)"[^}]*\} (\S+)$', re.MULTILINE)


class EchoProcess:
    """The upstream in a process of its own; a context manager.

    Parameters
    ----------
    folder : Path
        For its log.
    core : int, optional
        Where it runs.
    """

    def __init__(self, folder: Path, *, core: int | None = None) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.gateway.echo", "--port", str(self.port)]
        self._process = ManagedProcess(command, log=folder / "echo.txt", core=core, folder=_ROOT)
        self._process.wait_ready(f"http://127.0.0.1:{self.port}/stats")

    def __enter__(self) -> EchoProcess:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self._process.stop()

    def behave(self, behaviour: Mapping[str, float]) -> None:
        """Set how long answers take; see `benchmarks.gateway.echo.Behaviour`."""
        fetch(f"http://127.0.0.1:{self.port}/control", body=json.dumps(behaviour).encode(), method="PUT")

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used."""
        return self._process.usage().cpu_s

    def stats(self) -> dict[str, Any]:
        """Return what it has counted; see `benchmarks.gateway.echo.Counts`."""
        found: dict[str, Any] = json.loads(fetch(f"http://127.0.0.1:{self.port}/stats"))
        return found


class LoadProcess:
    """The load generator in a process of its own; a context manager.

    Parameters
    ----------
    core : int, optional
        Where it runs.
    """

    def __init__(self, *, core: int | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [*pinned(core), sys.executable, "-m", "benchmarks.gateway.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def __enter__(self) -> LoadProcess:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def run(self, spec: LoadSpec) -> dict[str, Any]:
        """Run, and return what `benchmarks.gateway.load.LoadRun` does."""
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(asdict(spec)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended; its error is above")
        result: dict[str, Any] = json.loads(line)
        return result


def measure(peer: RunningPeer, cell: Cell, *, load: LoadProcess, echo: EchoProcess, seed: int) -> dict[str, Any]:
    """Return one raw figure: the load's result, CPU time, memory and stages of the peer, and what else used the CPU.

    Parameters
    ----------
    peer : RunningPeer
        Not paused.
    cell : Cell
        What to do.
    load, echo
        The two ends.
    seed : int
        Of the prompts; the same for every peer of a round.
    """
    echo.behave(cell.behaviour)
    spec = LoadSpec(
        port=peer.port,
        model=peer.model,
        headers=peer.headers,
        stream=cell.stream,
        exact=peer.exact,
        concurrency=cell.concurrency,
        rate=cell.rate,
        seconds=_WARM_UP_S,
        seed=2 * seed,
    )
    load.run(spec)
    time.sleep(_SETTLE_S)  # what the gateway puts off (the log's next flush) is not to be taken for this cell's
    stages_before = read_stages(peer)
    machine_before, ends_before = machine_cpu_s(), load.cpu_s() + echo.cpu_s()
    started, before = time.perf_counter(), _usage(peer)
    result = load.run(LoadSpec(**{**asdict(spec), "seconds": cell.seconds, "seed": 2 * seed + 1}))
    time.sleep(_SETTLE_S)  # what this cell put off is its own
    after, took_s = _usage(peer), time.perf_counter() - started
    ends_s, machine_s = load.cpu_s() + echo.cpu_s() - ends_before, machine_cpu_s() - machine_before
    stages_after = read_stages(peer)
    result["spec"].pop("headers")
    gateway_s = 0.0 if before is None or after is None else after[0] - before[0]
    result["other_cores"] = max(machine_s - ends_s - gateway_s, 0.0) / took_s
    if before is not None and after is not None:
        result |= cpu_figures(after[0] - before[0], result["completed"])
        result |= {"rss_before_bytes": before[1], "rss_after_bytes": after[1]}
    result["stages_ms"] = stage_means(stages_before, stages_after)
    return result


def warm_up(peer: RunningPeer, *, load: LoadProcess) -> None:
    """Let a peer that has just started compile and cache what it will, and pause it."""
    for stream in (False, True):
        load.run(
            LoadSpec(
                port=peer.port,
                model=peer.model,
                headers=peer.headers,
                stream=stream,
                exact=peer.exact,
                concurrency=ANCHOR_CONCURRENCY,
                seconds=_FIRST_WARM_UP_S,
            )
        )
    if peer.process is not None:
        peer.process.pause()


def cpu_figures(cpu_s: float, completed: int) -> dict[str, float | None]:
    """Return CPU seconds as the figures of the tables; None where nothing was completed."""
    if not completed or cpu_s <= 0:
        return {"cpu_s": cpu_s, "cpu_ms_per_request": None, "rps_per_core": None}
    return {
        "cpu_s": cpu_s,
        "cpu_ms_per_request": cpu_s / completed * _MILLISECONDS,
        "rps_per_core": completed / cpu_s,
    }


def machine_cpu_s() -> float:
    """Return the CPU seconds that everything on this machine has used, other tenants of its processors included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def read_stages(peer: RunningPeer) -> dict[str, tuple[float, float]]:
    """Return seconds and count by stage, from the peer's metrics; empty where it has none."""
    if not peer.stages_url:
        return {}
    try:
        return parse_stages(fetch(peer.stages_url, headers=peer.headers).decode())
    except (urllib.error.HTTPError, OSError):
        return {}


def parse_stages(exposition: str) -> dict[str, tuple[float, float]]:
    """Return (sum in seconds, count) by stage out of a Prometheus exposition."""
    totals: dict[str, dict[str, float]] = {}
    for kind, stage, value in _STAGE.findall(exposition):
        held = totals.setdefault(stage, {"sum": 0.0, "count": 0.0})
        held[kind] += float(value)
    return {stage: (held["sum"], held["count"]) for stage, held in totals.items()}


def stage_means(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Return milliseconds by stage between two readings, averaged over the requests that had it."""
    means = {}
    for stage, (seconds, count) in after.items():
        earlier_s, earlier_count = before.get(stage, (0.0, 0.0))
        if count > earlier_count:
            means[stage] = (seconds - earlier_s) / (count - earlier_count) * _MILLISECONDS
    return means


def _usage(peer: RunningPeer) -> tuple[float, int] | None:
    if peer.process is None:
        return None
    usage = peer.process.usage()
    return usage.cpu_s, usage.rss_bytes
