"""Score every router on every data set: ``python -m benchmarks.quality`` (``make bench``).

Writes ``benchmarks/results/quality/<data set>-<encoder>.json``, the protocols' results beside them, a line per look
at a test split into ``benchmarks/results/test_looks.jsonl``, and the leaderboard rendered from those files into
``docs/leaderboard.md`` and ``README.md``. Data sets other than ``pocket`` are read from LLMROUTER_DATA.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.quality.protocols import PROTOCOLS
from benchmarks.quality.render import render
from benchmarks.quality.run import NO_ENCODER, run_one_protocol, run_set, say_what_is_done
from benchmarks.quality.sets import SETS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    names = [data.name for data in SETS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=names, choices=names)
    parser.add_argument("--encoders", nargs="*", help="instead of each data set's own: form, static, minilm, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2, help="processes; each uses one thread")
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write page, plot and decisions there")
    parser.add_argument("--protocols", action="store_true", help="run the protocols too")
    parser.add_argument("--only-protocols", action="store_true", help="run the protocols alone")
    parser.add_argument("--render-only", action="store_true", help="render the pages from the results that are there")
    options = parser.parse_args(arguments)
    failed = 0 if options.render_only else _run(options)
    for path in render():
        print(f"wrote {path}")
    return min(failed, 1)


def _run(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    # read by the linear algebra libraries when a process loads them: one thread each, as in the gateway
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(
        options.jobs, mp_context=multiprocessing.get_context("spawn"), initializer=say_what_is_done
    ) as pool:
        waiting: dict[Future[str], str] = {}
        for data in SETS:
            if data.name not in options.data or options.only_protocols:
                continue
            if data.folder is None:
                print(f"skipped {data.name}: LLMROUTER_DATA is not set, or holds no such folder")
                continue
            for encoder in options.encoders or data.encoders or (NO_ENCODER,):
                job = pool.submit(
                    run_set, data, encoder, seed=options.seed, resamples=options.resamples, report=options.report
                )
                waiting[job] = f"{data.name}, {encoder}"
        for (name, label), protocol in PROTOCOLS.items() if options.protocols or options.only_protocols else ():
            data = next(data for data in SETS if data.name == name)
            if name in options.data and data.folder is not None:
                job = pool.submit(run_one_protocol, data, protocol, label=label)
                waiting[job] = f"{name}, protocol {label}"
        failed = 0
        for done in as_completed(waiting):
            error = done.exception()
            failed += error is not None
            text = done.result() if error is None else f"FAILED: {error!r}"
            print(f"== {waiting[done]} ({time.perf_counter() - started:.0f} s)\n{text}", flush=True)
    print(f"all in {time.perf_counter() - started:.0f} s" + (f", {failed} failed" if failed else ""))
    return failed


if __name__ == "__main__":
    sys.exit(main())
