"""How vector indexes scale: ``python -m benchmarks.index``.

Measures recall, latency, throughput, build time and memory of our kinds of index, and of usearch, hnswlib and
scikit-learn where they are installed, each in a process of its own. Writes ``NAME.json`` and ``NAME.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.index.contenders import LARGE, OURS, PEERS, available
from benchmarks.index.data import ENCODERS, embeddings
from benchmarks.index.report import growth, page
from benchmarks.learning._result_files import provenance, write_result
from benchmarks.quality.run import RESULTS

_LARGE_ROWS = 10_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dimensions", type=int, nargs="*", default=sorted(ENCODERS), choices=sorted(ENCODERS))
    parser.add_argument("--indexes", nargs="*", default=[*OURS, *PEERS])
    parser.add_argument("--large", action="store_true", help="and 10 million rows of 256 dimensions (hours, 24 GiB)")
    parser.add_argument("--timeout-s", type=float, default=3 * 3600.0, help="for one index at one size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help="to measure on; by default the first that may be used")
    parser.add_argument("--out", type=Path, default=RESULTS / "index")
    parser.add_argument("--name", default="index", help="of the files in --out")
    parser.add_argument(
        "--resume", action="store_true", help="keep what the results in --out have of this commit, seed and command"
    )
    options = parser.parse_args(arguments)
    for dimension in options.dimensions:
        embeddings(dimension)  # once, so that the processes find them in the cache
    skipped = [name for name in options.indexes if not available(name)]
    jobs = [
        {"name": name, "dimension": dimension, "rows": rows, "seed": options.seed, "core": options.core}
        for dimension in options.dimensions
        for rows in options.sizes
        for name in options.indexes
        if name not in skipped
    ]
    if options.large:
        jobs += [
            {"name": name, "dimension": 256, "rows": _LARGE_ROWS, "seed": options.seed, "core": options.core}
            for name in LARGE
        ]
    words = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--resume"]
    document: dict[str, Any] = {
        **provenance(f"python -m benchmarks.index {shlex.join(words)}".rstrip()),
        "seed": options.seed,
        "rows": [],
        "growth": [],
        "skipped": skipped,
        "failed": {},
    }
    rows = document["rows"] = _kept(options.out / f"{options.name}.json", document) if options.resume else []
    have = {(row["index"], row["dimension"], row["rows"]) for row in rows}
    for job in jobs:
        label = f"{job['name']}, {job['rows']:,} x {job['dimension']}"
        if (job["name"], job["dimension"], job["rows"]) in have:
            continue
        measured = _run(job, options.timeout_s)
        if isinstance(measured, str):
            document["failed"][label] = measured
            print(f"{label}: {measured}", flush=True)
        else:
            rows.append(measured)
            print(f"{label}: recall@100 {measured['recall_100']:.3f}, p50 {measured['p50_ms']:.3f} ms", flush=True)
        document["growth"] = growth(rows)
        document["not_done"] = len(jobs) - len(rows) - len(document["failed"])
        # after each, so that a run broken off keeps them
        write_result(options.out, options.name, document, page(document))
    return 0


def _kept(path: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows measured so far.

    Raises
    ------
    SystemExit
        If they are not of the same command, seed and commit.
    """
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    for name, before, now in (
        ("command", earlier["command"], document["command"]),
        ("seed", earlier["seed"], document["seed"]),
        ("commit", earlier["versions"]["commit"], document["versions"]["commit"]),
    ):
        if before != now:
            raise SystemExit(f"--resume: {path} has {name} {before!r}, not {now!r}; use another --out or leave it away")
    kept: list[dict[str, Any]] = earlier["rows"]
    return kept


def _run(job: dict[str, Any], timeout_s: float) -> dict[str, Any] | str:
    """Return what a process of its own measured, or why it did not."""
    command = [sys.executable, "-m", "benchmarks.index.measure", json.dumps(job)]
    # freed arrays go back to the system, so that resident memory is what is held
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=timeout_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout_s:g} s"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()
        return f"exit status {done.returncode}: {last[-1] if last else ''}"
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    sys.exit(main())
