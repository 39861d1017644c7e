"""Plots of the results: latency by rate, CPU a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway.summary import CLOSED, OPEN, STREAMED, over_rounds

_COLOURS = {
    "direct": "#7f7f7f",
    "nginx": "#2ca02c",
    "bare": "#17becf",
    "llmrouter-fixed": "#6baed6",
    "llmrouter": "#08519c",
    "portkey": "#9467bd",
    "litellm": "#d62728",
    "litellm-router": "#ff7f0e",
}


def plot(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plots, and return their paths; none where matplotlib is missing.

    Parameters
    ----------
    results : mapping
        The document of the results.
    folder : Path
        Where to.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("svg")
    # The same results are to give the same file.
    mpl.rcParams["svg.hashsalt"] = "gateway"
    names = [name for name, peer in results["peers"].items() if "absent" not in peer]
    return [_latency(results, names, folder / "latency.svg"), _cpu(results, names, folder / "cpu.svg")]


def _latency(results: Mapping[str, Any], names: Sequence[str], path: Path) -> Path:
    from matplotlib import pyplot as plt

    cells = [cell for cell in results["cells"] if cell["rate"] and not cell["stream"]]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for axis, share in zip(axes, ("p50", "p99"), strict=True):
        for name in names:
            points = [
                (cell["rate"], value)
                for cell in cells
                if (value := over_rounds(results["rows"], name, cell["name"], f"latency_ms.{share}")) is not None
            ]
            if points:
                rates, values = zip(*points, strict=True)
                axis.plot(rates, values, marker="o", markersize=3.5, label=name, color=_COLOURS.get(name))
        axis.set(xscale="log", yscale="log", xlabel="requests per second (constant arrivals)", title=share)
        axis.set_xticks([cell["rate"] for cell in cells], [f"{cell['rate']:g}" for cell in cells], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("latency, ms (the upstream takes 50)")
    ticks = [50, 60, 80, 100, 200, 500, 1000, 2000, 5000]
    low, high = axes[0].get_ylim()
    axes[0].set_yticks([tick for tick in ticks if low <= tick <= high])
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[1].legend(fontsize=8, frameon=False)
    return _save(figure, path)


def _cpu(results: Mapping[str, Any], names: Sequence[str], path: Path) -> Path:
    from matplotlib import pyplot as plt

    kinds = ((CLOSED, "whole answer"), (STREAMED, "stream of 50 tokens"), (OPEN, "open loop, 300/s"))
    figure, axes = plt.subplots(1, len(kinds), figsize=(11, 3.6), layout="constrained")
    for axis, (cell, title) in zip(axes, kinds, strict=True):
        bars = [
            (name, value)
            for name in names
            if (value := over_rounds(results["rows"], name, cell, "cpu_ms_per_request")) is not None
        ]
        if bars:
            labels, values = zip(*bars, strict=True)
            drawn = axis.barh(labels, values, color=[_COLOURS.get(label, "#555555") for label in labels])
            axis.bar_label(drawn, labels=[f" {value:.2f}" for value in values], fontsize=8)
            axis.set_xlim(min(values) / 2, max(values) * 4)
        axis.invert_yaxis()
        axis.set(xscale="log", xlabel="CPU-ms a request (log scale)", title=title)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
