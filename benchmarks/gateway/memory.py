"""Watch the gateway's memory over many requests."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gateway.figures import slope
from benchmarks.gateway.load import LoadSpec
from benchmarks.gateway.measure import EchoProcess, LoadProcess
from benchmarks.gateway.peers import Peer
from benchmarks.gateway.plan import ANCHOR_CONCURRENCY
from benchmarks.gateway.run import Options, machine, start_all

SAMPLE_EVERY = 5_000
"""Requests between two readings."""

_STREAMED_SHARE = 0.2
_WARM_UP_SHARE = 0.25
_PER = 100_000


def watch_memory(options: Options, peer: Peer, *, requests: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Send `requests` to a peer, a fifth of them streamed, and return resident memory by requests.

    Parameters
    ----------
    options : Options
        Cache, source and cores.
    peer : Peer
        What is watched.
    requests : int
        How many; read every `SAMPLE_EVERY`.
    say : callable
        Gets a line of progress.

    Raises
    ------
    RuntimeError
        If the peer does not start.
    """
    gateway_core, ends_core = options.cores
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        echo = stack.enter_context(EchoProcess(folder, core=ends_core))
        load = stack.enter_context(LoadProcess(core=ends_core))
        running, absent = start_all([peer], echo, options, folder=folder, core=gateway_core, stack=stack, say=say)
        if absent:
            raise RuntimeError(f"{peer.name} did not start: {absent[peer.name]}")
        target = running[peer.name]
        assert target.process is not None  # noqa: S101 - a gateway is a process
        base = LoadSpec(
            port=target.port,
            model=target.model,
            headers=target.headers,
            exact=target.exact,
            concurrency=ANCHOR_CONCURRENCY,
        )
        sent = errors = 0
        samples.append({"requests": 0, "rss_bytes": target.process.usage().rss_bytes})
        while sent < requests:
            size = min(SAMPLE_EVERY, requests - sent)
            streamed = int(size * _STREAMED_SHARE)
            for count, stream in ((size - streamed, False), (streamed, True)):
                if count:
                    result = load.run(replace(base, requests=count, stream=stream, seed=2 * len(samples) + stream))
                    errors += result["errors"]
            sent += size
            samples.append({"requests": sent, "rss_bytes": target.process.usage().rss_bytes})
            say(f"{sent} requests: {samples[-1]['rss_bytes'] / 2**20:.1f} MiB, {errors} errors")
    return {
        "machine": machine(),
        "command": shlex.join(["python", "-m", "benchmarks.gateway", *sys.argv[1:]]),
        "peer": peer.name,
        "version": target.version,
        "notes": dict(target.notes),
        "requests": sent,
        "streamed_share": _STREAMED_SHARE,
        "errors": errors,
        "samples": samples,
        "slope_bytes_per_100k": growth(samples),
    }


def growth(samples: Sequence[dict[str, Any]]) -> float | None:
    """Return bytes per 100,000 requests over the samples after the first quarter; None for fewer than two of them."""
    last = samples[-1]["requests"]
    points = [
        (sample["requests"] / _PER, float(sample["rss_bytes"]))
        for sample in samples
        if sample["requests"] >= _WARM_UP_SHARE * last
    ]
    return slope(points) if len(points) > 1 else None
