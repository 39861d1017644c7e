"""Run the benchmark: all peers up, one running at a time, rounds interleaved cell by cell."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway.measure import EchoProcess, LoadProcess, measure, warm_up
from benchmarks.gateway.peers import Peer, PeerAbsentError, PeerPlace, RunningPeer
from benchmarks.gateway.plan import Cell
from benchmarks.gateway.processes import StartError, pinned
from benchmarks.gateway.stalls import measure_stalls

_SATURATED = 0.9
_LATE_S = 1.0
_Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How the benchmark is run.

    Attributes
    ----------
    peers : tuple of Peer
        In the order of the tables.
    cells : tuple of Cell
        Of every round.
    rounds : int
        How often everything is measured.
    cache, source : Path
        See `PeerPlace`.
    pin : bool
        The gateway on one core, upstream and load generator on another.
    install : bool
        Whether missing peers may be installed.
    """

    peers: tuple[Peer, ...]
    cells: tuple[Cell, ...]
    rounds: int
    cache: Path
    source: Path
    pin: bool = True
    install: bool = True

    @property
    def cores(self) -> tuple[int | None, int | None]:
        """Cores of the gateway and of the two ends; None where nothing is pinned."""
        available = sorted(os.sched_getaffinity(0))
        if not self.pin or len(available) < 2 or not pinned(available[0]):
            return None, None
        return available[0], available[1]


def run(options: Options, *, say: _Say) -> dict[str, Any]:
    """Measure everything, and return the document of the results without its summary.

    Parameters
    ----------
    options : Options
        What to do.
    say : callable
        Gets a line of progress.
    """
    started = time.time()
    gateway_core, ends_core = options.cores
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as place, ExitStack() as stack:
        folder = Path(place)
        echo = stack.enter_context(EchoProcess(folder, core=ends_core))
        load = stack.enter_context(LoadProcess(core=ends_core))
        running, absent = start_all(
            options.peers, echo, options, folder=folder, core=gateway_core, stack=stack, say=say
        )
        for name, peer in running.items():
            say(f"warming up {name}")
            warm_up(peer, load=load)
        stalls = []
        for number in range(options.rounds):
            stalls.append(measure_stalls(gateway_core))
            say(f"round {number + 1} the machine itself: p99 {stalls[-1]['p99_ms']:.2f} ms")
            rows += _round(number, running, options.cells, load=load, echo=echo, say=say)
        upstream = echo.stats()
    return {
        "machine": machine(),
        "command": shlex.join(["python", "-m", "benchmarks.gateway", *sys.argv[1:]]),
        "started": started,
        "took_s": time.time() - started,
        "pinned": {"gateway_core": gateway_core, "upstream_and_load_core": ends_core},
        "rounds": options.rounds,
        "cells": [cell.document() for cell in options.cells],
        "peers": {
            peer.name: {
                "description": peer.description,
                **_described(running.get(peer.name), absent.get(peer.name)),
            }
            for peer in options.peers
        },
        "upstream": upstream,
        "stalls": stalls,
        "rows": rows,
    }


def start_all(
    peers: Sequence[Peer],
    echo: EchoProcess,
    options: Options,
    *,
    folder: Path,
    core: int | None,
    stack: ExitStack,
    say: _Say,
) -> tuple[dict[str, RunningPeer], dict[str, str]]:
    """Start every peer; return those that run and, for those that do not, the reasons."""
    running: dict[str, RunningPeer] = {}
    absent: dict[str, str] = {}
    for peer in peers:
        place = PeerPlace(
            upstream_port=echo.port,
            folder=folder / peer.name,
            cache=options.cache,
            source=options.source,
            core=core,
            install=options.install,
        )
        place.folder.mkdir()
        say(f"starting {peer.name}")
        try:
            started = peer.start(place)
        except (PeerAbsentError, StartError) as error:
            absent[peer.name] = str(error)
            say(f"  absent: {error}")
            continue
        if started.process is not None:
            stack.callback(started.process.stop)
        running[peer.name] = started
    return running, absent


def _round(
    number: int,
    running: dict[str, RunningPeer],
    cells: Sequence[Cell],
    *,
    load: LoadProcess,
    echo: EchoProcess,
    say: _Say,
) -> list[dict[str, Any]]:
    rows = []
    saturated: dict[tuple[str, bool], float] = {}
    names = list(running)
    for position, cell in enumerate(cells):
        # Another one begins each time, so that drift of the machine does not always meet the same peer.
        turn = (number + position) % len(names)
        for name in names[turn:] + names[:turn]:
            limit = saturated.get((name, cell.stream))
            if cell.rate and limit is not None:
                row: dict[str, Any] = {"skipped": f"saturated at {limit:g} requests/s"}
            else:
                row = _with_peer(running[name], cell, load=load, echo=echo, seed=1 + number * len(cells) + position)
                say(f"round {number + 1} {cell.name} {name}: {_in_words(row)}")
                if cell.rate and saturates(row, cell):
                    saturated[name, cell.stream] = cell.rate
            rows.append({"round": number, "cell": cell.name, "peer": name, **row})
    return rows


def saturates(row: Mapping[str, Any], cell: Cell) -> bool:
    """Return whether a peer fell so far behind an open loop that higher rates need not be tried."""
    return bool(row["completed"] < _SATURATED * row["sent"] or row["seconds"] > cell.seconds / _SATURATED + _LATE_S)


def _with_peer(peer: RunningPeer, cell: Cell, *, load: LoadProcess, echo: EchoProcess, seed: int) -> dict[str, Any]:
    if peer.process is not None:
        peer.process.resume()
    try:
        return measure(peer, cell, load=load, echo=echo, seed=seed)
    finally:
        if peer.process is not None:
            peer.process.pause()


def _described(peer: RunningPeer | None, reason: str | None) -> dict[str, Any]:
    if peer is None:
        return {"absent": reason}
    return {"version": peer.version, "exact": peer.exact, "notes": dict(peer.notes)}


def _in_words(row: dict[str, Any]) -> str:
    latency = row["latency_ms"]
    cpu = row.get("cpu_ms_per_request")
    words = [f"{row['achieved_rps']:.0f}/s"]
    if latency["count"]:
        words.append(f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms")
    if cpu is not None:
        words.append(f"CPU {cpu:.3f} ms")
    if row["errors"]:
        words.append(f"{row['errors']} errors: {row['troubles']}")
    return ", ".join(words)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, without the machine's name."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
