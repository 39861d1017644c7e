"""What the machine itself adds: a program that only computes, as often as requests come, and looks at the clock.

A virtual core that sleeps between two pieces of work may get its turn late, and a loaded host may take it away. No
gateway on such a machine can have a better tail than this program, so the tail of this program stands beside theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.gateway.figures import median, percentile
from benchmarks.gateway.plan import ANCHOR_RATE

WORK_S = 0.001
"""Computing for each request."""

_SECONDS = 4.0
_TRIAL, _TRIALS = 50_000, 20
_MILLISECONDS = 1000.0


def measure_stalls(core: int | None, *, seconds: float = _SECONDS, rate: float = ANCHOR_RATE) -> dict[str, Any]:
    """Run the program on a core, and return by how much its work ended late, in milliseconds.

    Parameters
    ----------
    core : int or None
        Where; None leaves it to the system.
    seconds : float
        Length.
    rate : float
        Pieces of work per second.

    Returns
    -------
    dict
        ``rate``, ``work_ms`` and the quantiles ``p50_ms``, ``p99_ms`` and ``max_ms`` of the time from when a piece of
        work was due to its end, less the median time that the work takes.
    """
    command = [sys.executable, "-m", "benchmarks.gateway.stalls", f"--seconds={seconds}", f"--rate={rate}"]
    if core is not None:
        command.append(f"--core={core}")
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10 * seconds + 60)  # noqa: S603
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _compute(steps: int) -> int:
    total = 0
    for step in range(steps):
        total += step
    return total


def _observe(rate: float, seconds: float) -> dict[str, Any]:
    trials: list[float] = []
    for _ in range(_TRIALS):
        before = time.perf_counter()
        _compute(_TRIAL)
        trials.append(time.perf_counter() - before)
    steps = max(int(WORK_S * _TRIAL / min(trials)), 1)
    ends: list[float] = []
    durations: list[float] = []
    start = time.perf_counter()
    for number in range(max(int(rate * seconds), 1)):
        due = start + number / rate
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)  # the gap between two pieces of work is what is measured
        began = time.perf_counter()
        _compute(steps)
        ended = time.perf_counter()
        ends.append(ended - due)
        durations.append(ended - began)
    usual = median(durations)
    late = sorted((end - usual) * _MILLISECONDS for end in ends)
    return {
        "rate": rate,
        "work_ms": usual * _MILLISECONDS,
        "p50_ms": percentile(late, 0.5),
        "p99_ms": percentile(late, 0.99),
        "max_ms": late[-1],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.stalls", description=__doc__)
    parser.add_argument("--core", type=int, metavar="N", help="default: wherever the system puts it")
    parser.add_argument("--rate", type=float, default=ANCHOR_RATE, metavar="R", help="pieces of work per second")
    parser.add_argument("--seconds", type=float, default=_SECONDS, metavar="S")
    options = parser.parse_args(arguments)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    print(json.dumps(_observe(options.rate, options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
