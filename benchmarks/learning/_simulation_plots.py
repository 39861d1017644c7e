"""The plot of the simulation: AIQ, quality, cost and regret over the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = {
    "loop": "#08519c",
    "no-trial": "#6baed6",
    "no-gate": "#9467bd",
    "never": "#7f7f7f",
    "always": "#d62728",
    "full": "#2ca02c",
}
_NAMES = {
    "loop": "the loop",
    "no-trial": "without trial",
    "no-gate": "without gate",
    "never": "never explore",
    "always": "always explore",
    "full": "full information",
}
_LARGEST_REGRET = 1.6
_SMOOTHED = 3


def plot(document: Mapping[str, Any], path: Path) -> list[Path]:
    """Write the plot as SVG, or as what the path's ending says; return its path, or nothing without matplotlib."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return []
    mpl.rcParams["svg.hashsalt"] = "learning"  # the same results are to give the same file
    sets = document["sets"]
    figure = Figure(figsize=(15, 4.0 * len(sets)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(sets), 4, squeeze=False)
    for row, (name, data) in zip(axes, sets.items(), strict=True):
        _draw(row, name, data)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return [path]


def _draw(row: Sequence[Any], name: str, data: Mapping[str, Any]) -> None:
    settings = data["reference"]["settings"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in data["runs"]:
        if (run["settings"]["router"], run["settings"]["method"]) == (settings["router"], settings["method"]):
            groups.setdefault(run["strategy"], []).append(run)
    first = next(iter(groups.values()))[0]
    for strategy, runs in groups.items():
        style = {"color": _COLOURS[strategy], "linewidth": 2.2 if strategy == "loop" else 1.4}
        ends = np.array(runs[0]["window_ends"]) / 1000
        trained = np.concatenate([[0.0], [stage["requests"] / 1000 for stage in runs[0]["stages"]]])
        aiq = np.array(
            [
                [
                    _before(run, strategy),
                    *(stage["live_aiq"] for stage in run["stages"]),
                ]
                for run in runs
            ]
        )
        row[0].plot(trained, aiq.mean(axis=0), drawstyle="steps-post", label=_NAMES[strategy], **style)
        if len(runs) > 1:
            row[0].fill_between(
                trained, aiq.min(axis=0), aiq.max(axis=0), step="post", color=style["color"], alpha=0.12, linewidth=0
            )
        for axis, key in ((row[1], "quality"), (row[2], "cost")):
            axis.plot(ends, _smooth(np.mean([run[key] for run in runs], axis=0)), **style)
        row[3].plot(ends, np.mean([run["regret"] for run in runs], axis=0), **style)
    row[0].axhline(first["zero_aiq"], color="black", linestyle=":", linewidth=1.2, label="Zero router")
    half = (first["zero_aiq"] + first["full_aiq"]) / 2
    row[0].axhline(half, color="#2ca02c", linestyle=":", linewidth=1.2, label="half of the way")
    row[0].set(title=f"{name}: AIQ of the live router, test split")
    row[1].set(title="quality of the answers in traffic")
    cost = "US dollars a request" if data["about"]["cost"] == "usd" else "share of calls of the strong model"
    row[2].set(title=f"cost, {cost}")
    row[2].set_ylim(bottom=0)
    weight = settings["cost_weight"]
    row[3].set(title=f"cumulative regret (cost weight {weight:g})")
    # Never and always exploring leave the frame, so that the others can be told apart.
    inside = [runs[0]["regret"][-1] for strategy, runs in groups.items() if strategy not in ("never", "always")]
    row[3].set_ylim(min(0.0, min(inside) * 1.1), _LARGEST_REGRET * max(*inside, 1.0))
    for axis in row:
        axis.set_xlabel("requests, thousands")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)


def _before(run: Mapping[str, Any], strategy: str) -> float:
    """Return the AIQ before the first training."""
    return float(run["full_aiq"] if strategy == "full" else run["best_single_aiq"])


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the running mean over a few windows."""
    kernel = np.ones(_SMOOTHED)
    return np.asarray(np.convolve(values, kernel, mode="same") / np.convolve(np.ones(len(values)), kernel, mode="same"))
