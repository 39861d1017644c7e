"""A model's quality drops; with and without online adaptation.

``python -m benchmarks.learning drift --data DIR --out DIR``

Playback of a full-information table as one-armed traffic: every prompt is asked once, only the chosen model's answer is
judged. After 500 requests the most used model gets much worse at the 40% of the prompts nearest to one drawn at random
(``worse``), or a little used one gets much better there (``better``), or nothing happens (``none``). Scored on prompts
that are never asked: mean utility of the router as it was trained, of the same router with online adaptation, and of
one that knows the change the moment it happens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning._drift_playback import Course, Kind, Playback, Scenario
from benchmarks.learning._population import Population, load_population
from benchmarks.learning._result_files import provenance, write_result
from llmrouter.encoders import Encoder, load_encoder
from llmrouter.evaluation._provenance import log_test_look
from llmrouter.learning import OnlineParameters
from llmrouter.learning._online import Method
from llmrouter.types import FloatArray

NAME = "drift"
DATA, ENCODER = "routerbench_subset", "form"
LOOKS = Path(__file__).parents[1] / "results" / "test_looks.jsonl"
Alarms = list[tuple[int, str, str]]
KINDS: tuple[Kind, ...] = ("worse", "better", "none")
ROUTERS: dict[str, tuple[Method, ...]] = {
    "stack": ("residuals",),
    "ridge": ("residuals",),
    "knn": ("residuals", "partial_fit"),
}
"""Router -> the methods of online adaptation that are compared."""
AFTER = (100, 200, 400, 900)
"""Requests after the change at which the gain is told."""


def run(
    population: Population, encoder: Encoder, *, routers: Sequence[str], seeds: int, before: int, after: int
) -> list[dict[str, Any]]:
    """Return a row for each router, method and kind of change, over all seeds."""
    rows = []
    for spec in routers:
        courses: dict[tuple[str, Kind], list[Course]] = {}
        frozen: dict[Kind, list[Alarms]] = {kind: [] for kind in KINDS}
        for seed in range(seeds):
            like: Playback | None = None
            for kind in KINDS:
                scenario = Scenario(kind=kind, before=before, after=after)
                like = Playback(population, encoder, spec=spec, scenario=scenario, seed=seed, like=like)
                frozen[kind].append(like.alarms_as_trained())
                for method in ROUTERS.get(spec, ("residuals",)):
                    course = like.run(OnlineParameters(method=method))
                    courses.setdefault((method, kind), []).append(course)
        rows += [_row(spec, method, kind, found, frozen[kind]) for (method, kind), found in courses.items()]
    return rows


def _row(spec: str, method: str, kind: Kind, courses: Sequence[Course], frozen_alarms: list[Alarms]) -> dict[str, Any]:
    requests = courses[0].requests
    frozen, adapted, informed = (
        np.mean([getattr(course, name) for course in courses], axis=0) for name in ("frozen", "adapted", "informed")
    )
    spread = np.std([course.adapted - course.frozen for course in courses], axis=0, ddof=1 if len(courses) > 1 else 0)
    changed = requests > 0
    step = np.diff(requests, prepend=requests[0] - (requests[1] - requests[0]))
    lost = {
        name: float(((informed - values) * step)[changed].sum())
        for name, values in (("frozen", frozen), ("adapted", adapted))
    }
    changed_model = [course.changed for course in courses]
    return {
        "router": spec,
        "method": method,
        "kind": kind,
        "requests": requests.tolist(),
        "frozen": frozen.tolist(),
        "adapted": adapted.tolist(),
        "informed": informed.tolist(),
        "gain_std_error": (spread / np.sqrt(len(courses))).tolist(),
        "regret": lost,
        "alarms": {
            "adapted": _alarms([course.alarms for course in courses], changed_model, kind),
            "frozen": _alarms(frozen_alarms, changed_model, kind),
        },
    }


def _alarms(found: Sequence[Alarms], changed: Sequence[str], kind: Kind) -> dict[str, Any]:
    """Return after how many requests each change was told, None where it was not, and the number of other alarms."""
    right = [
        [at for at, model, side in alarms if at > 0 and model == name and side == kind]
        for alarms, name in zip(found, changed, strict=True)
    ]
    return {
        "delay": [hits[0] if hits else None for hits in right] if kind != "none" else [],
        "others": sum(len(alarms) - len(hits) for alarms, hits in zip(found, right, strict=True)),
    }


def page(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    scenario, about = document["scenario"], document["about"]
    what = (
        f"{about['data']}: {scenario['before']} requests before the change and {scenario['after']} after it, each "
        f"prompt once; {scenario['explore']:.0%} explored, cost weight {scenario['cost_weight']:g}, "
        f"{document['seeds']} seeds. Mean utility on {about['scored_prompts']} prompts that are never asked "
        f"(split {about['scored_split']})."
    )
    words = (
        "Gain: utility with online adaptation less utility of the router as trained, after so many requests since the "
        "change. Possible: the same for a router that knows the change at once. Regret: utility lost against that one, "
        "summed over the requests after the change. Alarms of the drift monitor: requests after the "
        "change, median of those that told it; with adaptation it rings only where that does not keep up."
    )
    lines = [
        "# Drift",
        "",
        what,
        "",
        words,
        "",
        "| router | method | change | "
        + " | ".join(f"gain at {n}" for n in AFTER)
        + " | possible | regret as trained | regret adapted | alarm as trained | alarm adapted |",
        "|---" * (8 + len(AFTER)) + "|",
    ]
    for row in document["rows"]:
        requests, gain = np.array(row["requests"]), np.array(row["adapted"]) - np.array(row["frozen"])
        cells = [f"{gain[np.flatnonzero(requests == n)[0]]:+.3f}" if n in requests else "" for n in AFTER]
        possible = row["informed"][-1] - row["frozen"][-1]
        lines.append(
            f"| {row['router']} | {row['method']} | {row['kind']} | {' | '.join(cells)} | {possible:+.3f} | "
            f"{row['regret']['frozen']:.0f} | {row['regret']['adapted']:.0f} | "
            f"{_alarm_cell(row['alarms']['frozen'])} | {_alarm_cell(row['alarms']['adapted'])} |"
        )
    lines += ["", "![Utility over time](drift.png)", ""]
    return "\n".join(lines)


def _alarm_cell(alarms: dict[str, Any]) -> str:
    delays = [delay for delay in alarms["delay"] if delay is not None]
    told = f"after {np.median(delays):.0f} ({len(delays)} of {len(alarms['delay'])})" if delays else "none"
    return f"{told}; {alarms['others']} others" if alarms["others"] else told


def plot(document: dict[str, Any], path: Path) -> None:
    """Draw utility over time for each router, where a model gets worse and where nothing changes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in document["rows"] if row["kind"] in ("worse", "none") and row["method"] == "residuals"]
    routers = list(dict.fromkeys(row["router"] for row in rows))
    figure, axes = plt.subplots(
        2, len(routers), figsize=(4.2 * len(routers), 6.4), sharex=True, sharey=True, squeeze=False
    )
    for row in rows:
        axis = axes[int(row["kind"] == "none"), routers.index(row["router"])]
        x, adapted = np.array(row["requests"]), np.array(row["adapted"])
        error: FloatArray = 2 * np.array(row["gain_std_error"])
        axis.plot(x, row["informed"], color="0.6", linestyle=":", label="knows the change at once")
        axis.plot(x, row["frozen"], color="#b2182b", label="as trained")
        axis.plot(x, adapted, color="#2166ac", label="online adaptation (band: 2 standard errors of the gain)")
        axis.fill_between(x, adapted - error, adapted + error, color="#2166ac", alpha=0.15, linewidth=0)
        axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.set_title(
            f"{row['router']}, {'a model gets worse' if row['kind'] == 'worse' else 'nothing changes'}", fontsize=10
        )
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("requests since the change")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean utility")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning drift", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds routerbench_subset")
    parser.add_argument("--out", type=Path, required=True, help="folder for drift.json, drift.md and drift.png")
    parser.add_argument("--routers", nargs="+", default=list(ROUTERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--inner", action="store_true", help="score on a part of the train split, not on the test split"
    )
    options = parser.parse_args(arguments)
    population = load_population(options.data, DATA, encoder=ENCODER, inner=0 if options.inner else None)
    scenario = Scenario(before=400, after=700) if options.inner else Scenario(before=500, after=900)
    if not options.inner:
        settings = {"routers": options.routers, "seeds": options.seeds}
        log_test_look(LOOKS, {"protocol": "drift", "data": DATA, **settings})
    rows = run(
        population,
        load_encoder(ENCODER),
        routers=options.routers,
        seeds=options.seeds,
        before=scenario.before,
        after=scenario.after,
    )
    given = f"--routers {' '.join(options.routers)} --seeds {options.seeds}{' --inner' if options.inner else ''}"
    document = {
        **provenance(f"python -m benchmarks.learning drift --data DIR --out DIR {given}"),
        "about": population.about,
        "scenario": asdict(scenario),
        "parameters": asdict(OnlineParameters()),
        "seeds": options.seeds,
        "rows": rows,
    }
    write_result(options.out, NAME, document, page(document))
    plot(document, options.out / f"{NAME}.png")
    return 0
