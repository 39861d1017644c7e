"""Growth exponents, the projection to a hundred million rows, and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.index.data import NOISE, QUERIES

PROJECTED_ROWS = 100_000_000
ASSUMPTIONS = (
    "the power law fitted to the measured sizes goes on, which nothing measured here shows",
    "recall stays what the kind is set to, by more effort, which the exponents contain only as far as measured",
    "all rows are in one index on one machine with enough memory; nothing is paged in during a search",
    "memory a row stays as at the largest measured size",
)


def growth(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each index and dimension measured at two or more sizes, how figures grow with the number of rows.

    Parameters
    ----------
    rows : sequence of mapping
        Results of `measure`.

    Returns
    -------
    list of dict
        ``exponents`` of median latency and build time (the slope of the least-squares line through their logarithms),
        and the projection to a hundred million rows from the largest measured size.
    """
    found = []
    for key in sorted({(row["index"], row["dimension"]) for row in rows}):
        series = sorted((row for row in rows if (row["index"], row["dimension"]) == key), key=lambda row: row["rows"])
        if len(series) < 2:
            continue
        exponents = {
            name: _slope([(row["rows"], max(row[name], 1e-9)) for row in series]) for name in ("p50_ms", "build_s")
        }
        last = series[-1]
        factor = PROJECTED_ROWS / last["rows"]
        found.append(
            {
                "index": key[0],
                "dimension": key[1],
                "measured_rows": [row["rows"] for row in series],
                "exponents": exponents,
                "projected": {
                    **{name: last[name] * factor**exponent for name, exponent in exponents.items()},
                    "memory_gib": last["bytes_per_row"] * PROJECTED_ROWS / 2**30,
                },
            }
        )
    return found


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    method = (
        f"Rows are embeddings of real prompts, each repeated with noise of {NOISE:g} of its length and made unit rows "
        f"again; queries are up to {QUERIES} prompts that are not among them, without noise. Searches are of the 100 "
        "nearest, one query at a time, on one thread; recall is against exact search by full products of the same "
        "rows. Build on one thread. Memory is what the process grew by. Each line is a process of its own."
    )
    rows = document["rows"]
    if busy := [row["other_cores"] for row in rows if "other_cores" in row]:
        method += (
            f" Meanwhile all other programs together used {median(busy):.2f} cores (median over the lines; "
            f"{max(busy):.2f} at most), which slows searches on two cores more than those on one."
        )
    lines = ["# Vector indexes as they grow", "", method, ""]
    if document.get("not_done"):
        lines += [f"Broken off: {document['not_done']} more lines were wanted.", ""]
    for dimension in sorted({row["dimension"] for row in rows}):
        part = [row for row in rows if row["dimension"] == dimension]
        lines += [f"## {dimension} dimensions ({part[0]['source']})", "", *_table(part), ""]
    if document.get("skipped"):
        lines += [f"Not installed, not measured: {', '.join(document['skipped'])}.", ""]
    if document.get("failed"):
        lines += ["Failed:", "", *(f"- {name}: {error}" for name, error in document["failed"].items()), ""]
    lines += ["## Growth and projection to 100 million rows", ""]
    if document["growth"]:
        lines += [
            "| index | d | sizes | exponent of p50 | exponent of build | p50, ms | build, h | memory, GiB |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| `{row['index']}` | {row['dimension']} | {', '.join(f'{size:,}' for size in row['measured_rows'])} "
                f"| {row['exponents']['p50_ms']:.2f} "
                f"| {row['exponents']['build_s']:.2f} | {_figure(row['projected']['p50_ms'])} "
                f"| {_figure(row['projected']['build_s'] / 3600)} | {_figure(row['projected']['memory_gib'])} |"
                for row in document["growth"]
            ),
            "",
            "The last three columns are projected, not measured. They assume that:",
            "",
            *(f"- {assumption};" for assumption in ASSUMPTIONS),
        ]
    else:
        lines += ["Needs two sizes."]
    return "\n".join(lines)


def _table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    heads = [
        "rows",
        "index",
        "recall@10",
        "recall@100",
        "p50, ms",
        "p99, ms",
        "searches/s, 1 core",
        "2 cores",
        "build, s",
    ]
    heads += ["bytes a row", "open, s", "on disk, bytes a row"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in sorted(rows, key=lambda row: row["rows"]):
        memory = "" if row["bytes_per_row"] is None else f"{row['bytes_per_row']:,.0f}"
        disk = f"{row['disk_bytes'] / row['rows']:,.0f}" if "disk_bytes" in row else ""
        lines.append(
            f"| {row['rows']:,} | `{row['index']}` | {row['recall_10']:.3f} | {row['recall_100']:.3f} "
            f"| {_figure(row['p50_ms'])} | {_figure(row['p99_ms'])} | {row['qps_1']:,.0f} "
            f"| {_figure(row.get('qps_2'))} | {_figure(row['build_s'])} | {memory} "
            f"| {_figure(row.get('open_s'))} | {disk} |"
        )
    return lines


def _figure(value: float | None) -> str:
    """Return three significant digits, without an exponent."""
    if value is None:
        return ""
    if value == 0.0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _slope(points: Sequence[tuple[float, float]]) -> float:
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
