"""Searches of exact indexes on a GPU, against the time that reading the rows takes by itself."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.device import Device
from llmrouter.index import create_index, faiss_device
from llmrouter.types import FloatArray, IntArray

HELP = "exact search by torch (and FAISS, where it has a GPU) over a million and ten million rows"
_CENTRES = 4_000
_NOISE = 0.4
_CHUNK = 250_000
_CHECKED = 8
_TOLERANCE = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this part is asked."""
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp16", "fp32"], help="of the torch index")


def measure(device: Device, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every index at every number of rows and batch."""
    specs = {"torch": f"torch:device={device.name},dtype={options.dtype}"}
    number, no_faiss = faiss_device(device.name)
    if number is not None:
        specs["faiss"] = f"flat:device={device.name}"
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    rates = {
        "copy_bytes_per_s": device.copy_bytes_per_s(),
        "products_per_s": device.products_per_s(dtypes[options.dtype]),
        "fp32_products_per_s": device.products_per_s(torch.float32),
    }
    searches: list[dict[str, Any]] = []
    builds: list[dict[str, Any]] = []
    skipped: list[str] = []
    for count in options.rows:
        for name, spec in specs.items():
            if not device.time_left():
                skipped.append(f"{name}, {count:,} rows: no time was left")
                continue
            rows = made_rows(device, count, options.dimension, seed=options.seed)
            started = time.perf_counter()
            index = create_index(spec, options.dimension)
            index.add(np.arange(count), rows)
            device.wait()
            build = {"index": name, "rows": count, "build_s": time.perf_counter() - started}
            queries = made_rows(device, max(*options.batches, _CHECKED), options.dimension, seed=options.seed + 1)
            build["wrong"] = wrong_answers(device, index, rows, queries[:_CHECKED], options.k)
            build["checked"] = min(_CHECKED, len(queries))
            del rows
            builds.append(build)
            for batch in options.batches:
                if not device.time_left():
                    skipped.append(f"{name}, {count:,} rows, batch {batch}: no time was left")
                    continue
                row = _searched(device, index, queries[:batch], options, rates)
                searches.append({"index": name, "rows": count, "batch": batch, **row})
                print(f"{name}, {count:,} rows, batch {batch}: {1e3 * row['median_s']:.3f} ms", flush=True)
            del index
    return {
        "settings": {name: getattr(options, name) for name in ("dimension", "k", "dtype", "seed")},
        "rates": rates,
        "builds": builds,
        "searches": searches,
        "skipped": skipped + ([f"faiss: {no_faiss or 'not on a CPU'}"] if number is None else []),
        "wrong": sum(build["wrong"] for build in builds),
    }


def made_rows(device: Device, count: int, dimension: int, *, seed: int) -> FloatArray:
    """Return `count` unit rows around 4,000 random centres, as prompts of a few thousand kinds are; float32.

    The centres are the same whatever the seed; the noise has two fifths of a row's length.
    """
    centres = torch.from_numpy(np.random.default_rng(99).standard_normal((_CENTRES, dimension), dtype=np.float32))
    centres = centres.to(device.device)
    generator = torch.Generator(device.device).manual_seed(seed)
    rows = np.empty((count, dimension), np.float32)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        picked = torch.randint(_CENTRES, (size,), generator=generator, device=device.device)
        noise = torch.randn((size, dimension), generator=generator, device=device.device)
        part = torch.nn.functional.normalize(centres[picked] + _NOISE * noise)
        rows[start : start + size] = part.cpu().numpy()
    return rows


def wrong_answers(device: Device, index: Any, rows: FloatArray, queries: FloatArray, k: int) -> int:
    """Return how many of the k nearest of each query are not among them by double precision over all rows."""
    wanted = torch.from_numpy(queries).to(device.device).double()
    best = torch.empty((len(queries), 0), dtype=torch.float64, device=device.device)
    for start in range(0, len(rows), _CHUNK):
        part = torch.from_numpy(rows[start : start + _CHUNK]).to(device.device).double()
        best = torch.cat([best, wanted @ part.T], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    found = index.search(queries, k)
    ids: IntArray = found.ids
    true = np.einsum("qkd,qd->qk", rows[ids].astype(np.float64), queries.astype(np.float64))
    off = np.abs(true - best.cpu().numpy()) > _TOLERANCE
    off |= np.abs(true - found.similarities) > _TOLERANCE
    repeated = sum(len(row) - len(set(row.tolist())) for row in ids)
    return int(off.sum()) + repeated + len(queries) * min(k, len(rows)) - int(ids.size)


def _searched(
    device: Device, index: Any, queries: FloatArray, options: argparse.Namespace, rates: Mapping[str, float]
) -> dict[str, Any]:
    """Time searches of one batch, host to host, and what bounds them."""
    scans = [segment.structure for segment in index._state.segments if segment.structure is not None]  # noqa: SLF001
    before = sum(getattr(scan, "passes", 0) for scan in scans)
    timed: dict[str, Any] = device.seconds(lambda: index.search(queries, options.k))
    passes = sum(getattr(scan, "passes", 0) for scan in scans) - before
    count, dimension = len(index), options.dimension
    torch_scans = [scan.rows for scan in scans if hasattr(scan, "rows")]
    read = sum(rows.bytes_scanned for rows in torch_scans) or 4 * count * dimension
    rate = rates["products_per_s"] if torch_scans else rates["fp32_products_per_s"]
    floor = {
        "bytes": read,
        "memory_floor_s": read / rates["copy_bytes_per_s"],
        "product_floor_s": 2.0 * len(queries) * count * dimension / rate,
    }
    slower = max(floor["memory_floor_s"], floor["product_floor_s"])
    timed |= {**floor, "times_the_floor": timed["median_s"] / slower, "queries_per_s": len(queries) / timed["median_s"]}
    if torch_scans:
        timed["passes_per_search"] = passes / (timed["runs"] + 1)
    return timed


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    settings, rates = document["settings"], document["rates"]
    method = (
        f"The {settings['k']} nearest of unit rows of dimension {settings['dimension']} around {_CENTRES:,} random "
        f"centres (noise of {_NOISE} of their length); the torch index scans them in {settings['dtype']} and ranks by "
        "float32 rows in double precision. Times are of `index.search`, by the host's clock, queries and answers in "
        "host memory; medians. The memory floor is the bytes scanned, read once, at the rate of a copy within the "
        f"device ({rates['copy_bytes_per_s'] / 1e9:,.0f} GB/s, reads and writes counted); the product floor is that of "
        f"the same products at the rate of a large square one ({rates['products_per_s'] / 1e12:,.1f} TFLOP/s in "
        f"{settings['dtype']}, {rates['fp32_products_per_s'] / 1e12:,.1f} in fp32, which FAISS uses)."
    )
    heads = (
        "| rows | index | batch | median, ms | p90, ms | queries/s | memory floor, ms | product floor, ms "
        "| times the larger floor | passes |"
    )
    lines = ["# Exact search on a GPU", "", method, "", heads, "|---" * 10 + "|"]
    for row in document["searches"]:
        passes = f"{row['passes_per_search']:.2f}" if "passes_per_search" in row else ""
        lines.append(
            f"| {row['rows']:,} | {row['index']} | {row['batch']} | {1e3 * row['median_s']:.3f} "
            f"| {1e3 * row['p90_s']:.3f} | {row['queries_per_s']:,.0f} | {1e3 * row['memory_floor_s']:.3f} "
            f"| {1e3 * row['product_floor_s']:.3f} | {row['times_the_floor']:.1f} | {passes} |"
        )
    lines += ["", "Passes above 1 are queries whose nearest 16 bits could not tell apart, scanned again.", ""]
    for build in document["builds"]:
        lines.append(
            f"- {build['index']}, {build['rows']:,} rows: added in {build['build_s']:.1f} s; of the answers to "
            f"{build['checked']} queries, {build['wrong']} differ from double precision over all rows."
        )
    if document["skipped"]:
        lines += ["", "Not measured:", "", *(f"- {line}" for line in document["skipped"])]
    return "\n".join(lines)
