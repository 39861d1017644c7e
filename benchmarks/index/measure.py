"""Measure one index at one size, in a process of its own: ``python -m benchmarks.index.measure JSON``."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

# read by the linear algebra libraries when they are loaded: one thread a search, as in the gateway
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np

from benchmarks.gateway.measure import machine_cpu_s
from benchmarks.index.contenders import Contender, make
from benchmarks.index.data import CHUNK, chunks, embeddings
from llmrouter.types import FloatArray, IntArray

TOP = 100
_TIE = 1e-6
_MOST_SECONDS = 10.0
_MOST_SEARCHES = 2_000


def measure(name: str, dimension: int, rows: int, *, seed: int, core: int | None = None) -> dict[str, Any]:
    """Return recall, latency, throughput, build time and memory of one contender over `rows` rows.

    Recall counts a row as found if it is as similar as the k-th nearest, so that ties do no harm. Memory is what the
    process has grown by during the build, in resident bytes (mapped files count as far as they were touched). All is
    done on `core`, by default the first; the second core is that of two threads only.
    """
    source, base, queries = embeddings(dimension)
    cores = sorted(os.sched_getaffinity(0), key=lambda number: (number != core, number))
    os.sched_setaffinity(0, cores[:1])
    others = _OtherPrograms()
    contender = make(name, dimension, rows)
    best, similar = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    built, at_first = 0.0, _resident()
    for number, chunk in enumerate(chunks(base, rows, seed=seed)):
        ids = np.arange(number * CHUNK, number * CHUNK + len(chunk))
        started = time.perf_counter()
        contender.add(ids, chunk)
        built += time.perf_counter() - started
        best, similar = _nearest(queries, chunk, ids, best, similar)
        del chunk, ids
    memory = _resident() - at_first
    facts = contender.facts()
    found = {k: [contender.search(query, k) for query in queries] for k in (10, TOP)}
    similarity = _Similarities(base, rows, seed, queries)
    result = {
        "index": name,
        "dimension": dimension,
        "rows": rows,
        "source": source,
        "build_s": built,
        "bytes_per_row": memory / rows,
        **{f"recall_{k}": similarity.recall(ids, similar[:, k - 1], k) for k, ids in found.items()},
        **facts,
    }
    result |= latency(contender, queries)
    result["qps_1"] = throughput(contender, queries, threads=1)
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:2])
        result["qps_2"] = throughput(contender, queries, threads=2)
    result["other_cores"] = others.cores()
    return result


class _OtherPrograms:
    """How busy the machine was with other things, other tenants of its processors included."""

    def __init__(self) -> None:
        self._before = self._times()

    def cores(self) -> float:
        """Return the cores that all other programs together used since the beginning."""
        clock, machine, own = (now - before for now, before in zip(self._times(), self._before, strict=True))
        return max(machine - own, 0.0) / clock

    @staticmethod
    def _times() -> tuple[float, float, float]:
        return time.perf_counter(), machine_cpu_s(), time.process_time()


class _Similarities:
    """Similarities of found rows, computed from the rows made again, chunk by chunk."""

    def __init__(self, base: FloatArray, rows: int, seed: int, queries: FloatArray) -> None:
        self._made = (base, rows, seed)
        self._queries = queries

    def recall(self, found: list[IntArray], threshold: FloatArray, k: int) -> float:
        """Return the share of the k nearest that was found."""
        base, rows, seed = self._made
        hits = np.zeros(len(found))
        for number, chunk in enumerate(chunks(base, rows, seed=seed)):
            for place, ids in enumerate(found):
                here = ids[(ids >= number * CHUNK) & (ids < number * CHUNK + len(chunk))] - number * CHUNK
                hits[place] += (chunk[here] @ self._queries[place] >= threshold[place] - _TIE).sum()
        return float(np.minimum(hits / min(k, rows), 1.0).mean())


def latency(contender: Contender, queries: FloatArray) -> dict[str, float]:
    """Return the median and 99th percentile of single searches of the `TOP` nearest, in milliseconds."""
    for query in queries[:10]:
        contender.search(query, TOP)
    taken: list[float] = []
    end = time.perf_counter() + _MOST_SECONDS
    while len(taken) < _MOST_SEARCHES and (time.perf_counter() < end or len(taken) < len(queries) // 4):
        started = time.perf_counter()
        contender.search(queries[len(taken) % len(queries)], TOP)
        taken.append(time.perf_counter() - started)
    return {
        "p50_ms": 1e3 * float(np.median(taken)),
        "p99_ms": 1e3 * float(np.quantile(taken, 0.99)),
        "searches": len(taken),
    }


def throughput(contender: Contender, queries: FloatArray, *, threads: int, seconds: float = 2.0) -> float:
    """Return searches a second of the `TOP` nearest by `threads` threads of one process."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            contender.search(queries[(number + counts[number]) % len(queries)], TOP)
            counts[number] += 1

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - started)


def _nearest(
    queries: FloatArray, rows: FloatArray, ids: IntArray, best: IntArray, similar: FloatArray
) -> tuple[IntArray, FloatArray]:
    """Return ids and similarities (q, 100) of the nearest among those so far and `rows`, by full products."""
    for at in range(0, len(rows), 100_000):
        products = queries @ rows[at : at + 100_000].T
        similar = np.concatenate([similar, products], axis=1)
        best = np.concatenate([best, np.broadcast_to(ids[at : at + 100_000], products.shape)], axis=1)
        order = np.argsort(-similar, axis=1, kind="stable")[:, :TOP]
        best, similar = np.take_along_axis(best, order, axis=1), np.take_along_axis(similar, order, axis=1)
    return best, similar


def _resident() -> int:
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- not a file
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    print(json.dumps(measure(**wanted)))
