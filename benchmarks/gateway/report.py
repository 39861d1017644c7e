"""Write the results as a page and as plots; every figure of the page is computed from the raw ones."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway import summary
from benchmarks.gateway.figures import median
from benchmarks.gateway.plots import plot
from benchmarks.gateway.summary import CLOSED, STREAMED, Row

_NOTHING = "-"
_Cells = Sequence[Mapping[str, Any]]


def write_report(folder: Path) -> list[Path]:
    """Write ``results.md`` and the plots beside ``results.json`` and ``memory.json``, whichever is there.

    Returns
    -------
    list of Path
        What was written.
    """
    results, memory = _read(folder / "results.json"), _read(folder / "memory.json")
    page = folder / "results.md"
    page.write_text(render(results, memory), encoding="utf-8")
    return [page, *([] if results is None else plot(results, folder))]


def render(results: Mapping[str, Any] | None, memory: Mapping[str, Any] | None) -> str:
    """Return the page as Markdown."""
    rows: Sequence[Row] = [] if results is None else results["rows"]
    blocks = [["# The gateway under load, beside its peers"]]
    if results is not None:
        blocks.append(_provenance(results))
    notes = {} if results is None else results["peers"].get("llmrouter", {}).get("notes", {})
    blocks.append(_targets(rows, memory, notes))
    if results is not None:
        names = [name for name, peer in results["peers"].items() if "absent" not in peer]
        blocks += [
            _peers(results),
            _closed(rows, names, results["cells"]),
            _ratios(rows, names),
            _stages(rows, names),
            *_open(rows, names, results["cells"]),
        ]
    if memory is not None:
        blocks.append(_memory(memory))
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _provenance(results: Mapping[str, Any]) -> list[str]:
    machine, pinned = results["machine"], results["pinned"]
    started = dt.datetime.fromtimestamp(results["started"], tz=dt.UTC)
    placed = (
        f"The gateway ran on core {pinned['gateway_core']} alone, upstream and load generator on core "
        f"{pinned['upstream_and_load_core']}."
        if pinned["gateway_core"] is not None
        else "Nothing was pinned to cores."
    )
    minutes = results["took_s"] / 60
    others = [row["other_cores"] for row in results["rows"] if "other_cores" in row]
    busy = f"{median(others):.2f}" if others else _NOTHING
    return [
        f"`{results['command']}`, {started:%Y-%m-%d}, {minutes:.0f} minutes, {results['rounds']} rounds.",
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; load",
        f"average at the end {machine['load_average']:.1f}. {placed}",
        f"Meanwhile all other programs together used {busy} cores (median over measurements); figures are only good",
        "where that is next to nothing.",
        "",
        "All peers are up at once and all but the one that is measured are stopped (SIGSTOP). Figures are medians over",
        "rounds of each round's own figure; ratios and differences are taken within a round and then their median.",
        "Every answer is checked: the bytes of the upstream where a peer relays them, else the content. CPU is user",
        "and system time of the peer's processes.",
        *_stalls(results.get("stalls", ())),
    ]


def _stalls(rounds: Sequence[Mapping[str, float]]) -> list[str]:
    if not rounds:
        return []
    middle, tail, worst = (median(each[name] for each in rounds) for name in ("p50_ms", "p99_ms", "max_ms"))
    first = rounds[0]
    return [
        "",
        f"The machine itself: a program on the gateway's core that only computes, {first['work_ms']:.1f} ms at a time,",
        f"{first['rate']:g} times a second, ends {middle:.2f} ms late at the median, **{tail:.1f} ms at p99** and",
        f"{worst:.0f} ms at the worst (medians over rounds). No gateway with as much to do has a better tail here.",
    ]


def _targets(rows: Sequence[Row], memory: Mapping[str, Any] | None, notes: Mapping[str, Any]) -> list[str]:
    lines = ["## Targets", "", "| what | target | measured | |", "|---|---|---|---|"]
    for target in summary.targets(rows, memory, notes):
        unit = target.unit if target.unit == "x" else f" {target.unit}".rstrip()
        measured = _NOTHING if target.value is None else f"{target.value:.3g}{unit}"
        lines.append(f"| {target.text} | {target.sign} {target.limit:g}{unit} | {measured} | **{target.verdict}** |")
    return lines


def _peers(results: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Peers",
        "",
        "| peer | what | version | answers checked by | wrong or missing |",
        "|---|---|---|---|---|",
    ]
    for name, peer in results["peers"].items():
        if "absent" in peer:
            reason = " ".join(peer["absent"].split()).replace("|", "/")
            lines.append(f"| `{name}` | {peer['description']} | **absent** | | {reason} |")
            continue
        notes = summary.switches(peer["notes"])
        what = f"{peer['description']} ({notes})" if notes else peer["description"]
        check = "bytes" if peer["exact"] else "content"
        lines.append(f"| `{name}` | {what} | {peer['version']} | {check} | {summary.errors(results['rows'], name)} |")
    return lines


def _closed(rows: Sequence[Row], names: Sequence[str], cells: _Cells) -> list[str]:
    lines = ["## Closed loop, upstream answers at once"]
    for cell in cells:
        if not cell["concurrency"]:
            continue
        what = "streams of 50 tokens" if cell["stream"] else "whole answers"
        lines += ["", f"{cell['concurrency']} connections, {what}:", ""]
        lines += ["| peer | requests/s | p50, ms | p99, ms | CPU-ms a request | requests/s per core | memory, MiB |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for name in names:
            get = _getter(rows, name, cell["name"])
            memory = get("rss_after_bytes")
            entries = [
                _number(get("achieved_rps"), 0),
                _number(get("latency_ms.p50"), 2),
                _number(get("latency_ms.p99"), 2),
                _number(get("cpu_ms_per_request"), 3),
                _number(get("rps_per_core"), 0),
                _number(None if memory is None else memory / 2**20, 0),
            ]
            lines.append(_line(f"`{name}`", entries))
    return lines


def _ratios(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    bases = [name for name in ("bare", "litellm") if name in names]
    if not bases:
        return []
    heads = [f"{what} over {base}" for what in ("requests/s per core", "streams/s per core") for base in bases]
    lines = ["## Ratios", "", _line("peer", heads), "|---" * (len(heads) + 1) + "|"]
    for name in names:
        values = [
            summary.compared(rows, name, base, cell, "rps_per_core", summary.ratio)
            for cell in (CLOSED, STREAMED)
            for base in bases
        ]
        if any(value is not None for value in values):
            lines.append(_line(f"`{name}`", [_number(value, 2, "x") for value in values]))
    return lines


def _stages(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    ours = [name for name in names if name.startswith("llmrouter")]
    cells = [cell for cell in (CLOSED, STREAMED, summary.OPEN) if any(row["cell"] == cell for row in rows)]
    found = {(name, cell): summary.stages(rows, name, cell) for name in ours for cell in cells}
    if not ours or not cells:
        return []
    columns = sorted({stage for held in found.values() for stage in held})
    lines = [
        "## Where the gateway's time goes",
        "",
        "Wall time in milliseconds, means over the requests that had the stage, as the gateway counts it itself; the",
        "overhead is what the header `x-llmrouter-overhead-ms` says, its median.",
        "",
        _line("peer", ["measurement", "overhead", *columns]),
        "|---" * (len(columns) + 3) + "|",
    ]
    for (name, cell), held in found.items():
        overhead = summary.over_rounds(rows, name, cell, "overhead_ms.p50")
        entries = [_number(overhead, 3), *(_number(held.get(stage), 3) for stage in columns)]
        lines.append(_line(f"`{name}`", [cell, *entries]))
    if not columns:
        lines += ["", "This build does not count its stages (`llmrouter_stage_seconds` in `GET /metrics`)."]
    return lines


def _open(rows: Sequence[Row], names: Sequence[str], cells: _Cells) -> Iterable[list[str]]:
    for stream in (False, True):
        chosen = [cell for cell in cells if cell["rate"] and cell["stream"] == stream]
        if not chosen:
            continue
        kind, name = ("first event of a stream", "first_byte_ms") if stream else ("whole answer", "latency_ms")
        lines = [
            f"## Open loop, {kind}: p50 / p99 in ms",
            "",
            "Constant arrivals; latency counts from the time a request was due. The upstream takes",
            f"{chosen[0]['delay_s'] * 1000:.0f} ms.",
            "",
            _line("peer", [f"{cell['rate']:g}/s" for cell in chosen]),
            "|---" * (len(chosen) + 1) + "|",
        ]
        lines += [
            _line(f"`{peer}`", [_open_entry(rows, peer, cell["name"], name) for cell in chosen]) for peer in names
        ]
        yield lines


def _open_entry(rows: Sequence[Row], peer: str, cell: str, name: str) -> str:
    get = _getter(rows, peer, cell)
    p50, p99 = get(f"{name}.p50"), get(f"{name}.p99")
    if p50 is not None and p99 is not None:
        return f"{p50:.1f} / {p99:.1f}"
    skipped = any(row["peer"] == peer and row["cell"] == cell and "skipped" in row for row in rows)
    return "saturated" if skipped else _NOTHING


def _memory(memory: Mapping[str, Any]) -> list[str]:
    samples = memory["samples"]
    growth = memory["slope_bytes_per_100k"]
    first, last = samples[0], samples[-1]
    middle = next(sample for sample in samples if sample["requests"] >= last["requests"] / 4)
    return [
        "## Memory",
        "",
        f"`{memory['command']}` (commit {memory['version']}): {memory['requests']:,} requests to `{memory['peer']}`, "
        f"{memory['streamed_share']:.0%} of them streamed, {memory['errors']} errors. Resident memory "
        f"{first['rss_bytes'] / 2**20:.0f} MiB at the start, {middle['rss_bytes'] / 2**20:.0f} MiB after a quarter, "
        f"{last['rss_bytes'] / 2**20:.0f} MiB at the end; growth after the first quarter "
        + (_NOTHING if growth is None else f"{growth / 2**20:+.2f} MiB per 100,000 requests."),
    ]


def _getter(rows: Sequence[Row], peer: str, cell: str) -> Callable[[str], float | None]:
    return lambda name: summary.over_rounds(rows, peer, cell, name)


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return _NOTHING if value is None else f"{value:,.{digits}f}{unit}"


def _line(first: str, entries: Iterable[str]) -> str:
    return f"| {' | '.join([first, *entries])} |"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
