"""The page of the simulation: every figure of it is computed from the file of the results."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.learning._simulation_plots import plot

TARGET_CLOSED, TARGET_EXPLORED = 0.5, 0.05
Run = Mapping[str, Any]


def write_page(path: Path) -> list[Path]:
    """Write the page and the plot beside a file of results; return what was written."""
    document = json.loads(path.read_text(encoding="utf-8"))
    page = path.with_suffix(".md")
    page.write_text(render(document), encoding="utf-8")
    return [page, *plot(document, path.with_suffix(".svg"))]


def targets(document: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return (what, target, measured, met) of what the loop must show on each data set."""
    found = []
    for name, data in document["sets"].items():
        runs = main_runs(data)
        closed = [run["share_closed"] for run in runs]
        explored = max(run["explored"] for run in runs)
        found += [
            (
                f"`{name}`: share of the distance Zero to full information, mean of {len(runs)} runs",
                f"≥ {TARGET_CLOSED:.2f}",
                f"{mean(closed):.2f} ({min(closed):.2f} to {max(closed):.2f})",
                mean(closed) >= TARGET_CLOSED,
            ),
            (
                f"`{name}`: requests spent on exploration, the most of any run",
                f"≤ {TARGET_EXPLORED:.0%}",
                f"{explored:.2%}",
                explored <= TARGET_EXPLORED,
            ),
        ]
    return found


def main_runs(data: Mapping[str, Any]) -> list[Run]:
    """Return the runs of the loop as it is by default: the router and method of the settings."""
    settings = data["reference"]["settings"]
    return [
        run
        for run in data["runs"]
        if run["strategy"] == "loop"
        and (run["settings"]["router"], run["settings"]["method"]) == (settings["router"], settings["method"])
    ]


def render(document: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    machine = document["machine"]
    started = dt.datetime.fromtimestamp(document["started"], tz=dt.UTC)
    head = (
        f"`{document['command']}`, {started:%Y-%m-%d}, {document['took_s'] / 60:.0f} minutes; "
        f"{machine['architecture']}, {machine['cores']} cores (shared with other work: load average "
        f"{machine['load_average']:.1f} at the end), Python {machine['python']}; commit "
        f"{(document['commit'] or 'unknown')[:12]}."
    )
    lines = ["# The learning loop on real data, played back as one-armed traffic", "", head, "", "## Targets", ""]
    lines += ["| what | target | measured | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {target} | {measured} | **{'met' if met else 'missed'}** |"
        for what, target, measured, met in targets(document)
    ]
    lines += ["", "## How", "", *_how(next(iter(document["sets"].values()))["reference"]["settings"])]
    for name, data in document["sets"].items():
        lines += ["", *_section(name, data, document["strategies"])]
    return "\n".join(lines) + "\n"


def _how(settings: Mapping[str, Any]) -> list[str]:
    parts = settings["trainings"] + 1
    early = ", ".join(f"{factor:g}" for factor in settings["early"])
    rest = (parts - sum(settings["early"])) / (parts - len(settings["early"]))
    uneven = f", of which the first parts get {early} times the mean and the others {rest:.2f} times" if early else ""
    played = (
        f"{settings['requests']:,} prompts are drawn with replacement from the train split. Of each only the answer of "
        "the model that was chosen is looked up. The gateway starts with the best single model (by quality). After "
        f"every {settings['requests'] // parts:,} requests a router is trained on the log so far "
        f"({settings['trainings']} trainings), a prompt that came several times being one row. The new router goes on "
        "trial: it decides a share of the requests that follow, as a canary does. The gate "
        f"(`llmrouter.learning.Gate`, confidence {settings['confidence']:.0%}) judges it on requests that came after "
        "its training only, and promotes it where the lower bound of its gain in utility is above 0; after "
        f"{settings['hold']} parts without that it makes room for a newer one."
    )
    explored = (
        f"Exploration: `ExplorePolicy`, method `{settings['method']}`; in all {settings['share']:.1%} of the requests"
        f"{uneven}. While a router is on trial, {settings['trial_part']:.0%} of that is its: its share of the requests "
        "is so large that it differs from the live router on so many. A request counts as explored where another model "
        "answered than the live router alone would have chosen."
    )
    measured = (
        "AIQ is on the scored prompts, which are never in the traffic, over the cost interval of the Zero router's "
        "hull. Share closed: (AIQ of the live router at the end - Zero) / (the same router trained on every outcome of "
        "every prompt of the traffic - Zero). Regret: cumulative, in units of quality, against that full-information "
        "router serving the same requests (it has seen the prompts' outcomes, which makes it a hard bar), at the cost "
        "weight of the policy. A promotion is wrong where the promoted router was truly worse on the traffic than the "
        "one before."
    )
    return [played, "", explored, "", measured]


def _section(name: str, data: Mapping[str, Any], strategies: Mapping[str, str]) -> list[str]:
    about, reference, runs = data["about"], data["reference"], data["runs"]
    singles = sorted(reference["single_model_utility"].items(), key=lambda item: -item[1])
    best = ", ".join(f"{model} {value:.3f}" for model, value in singles[:3])
    first = runs[0]
    what = (
        f"{about['traffic_prompts']:,} prompts in traffic, {about['scored_prompts']:,} scored "
        f"({about['scored_split']}), {len(about['models'])} models, cost axis `{about['cost']}`, encoder "
        f"`{about['encoder']}`; cost weight {reference['settings']['cost_weight']:g}. Mean utility of the best single "
        f"models: {best}; of an oracle {reference['oracle_utility']:.3f}. Starts with {reference['best_single']}."
    )
    levels = (
        f"AIQ: Zero {first['zero_aiq']:.4f}, full information {first['full_aiq']:.4f}, best single "
        f"{first['best_single_aiq']:.4f}."
    )
    heads = ["strategy", "router", "exploration", "runs", "AIQ", "share closed", "explored", "utility, last fifth"]
    heads += ["regret at the end", "against oracle", "promoted", "wrong"]
    lines = [f"## {name}", "", what, "", _row(heads), _row(["---"] * len(heads))]
    lines += [_row(_cells(*key, group)) for key, group in _groups(runs).items()]
    lines += ["", levels, "", *(f"- {strategy}: {text}." for strategy, text in strategies.items())]
    heads = ["requests", "on trial", "disagree", "gain estimated", "lower bound", "true gain", "promoted", "AIQ live"]
    lines += ["", f"What the gate said (loop, seed {first['seed']}):", "", _row(heads), _row(["---"] * len(heads))]
    lines += [_row(_verdict(stage)) for stage in first["stages"] if stage.get("gain") is not None]
    return lines


def _cells(strategy: str, router: str, method: str, group: Sequence[Run]) -> list[str]:
    return [
        strategy,
        f"`{router}`",
        {"always": "all", "never": "none", "full": "none"}.get(strategy, method),
        str(len(group)),
        f"{_mean(group, 'aiq'):.4f}",
        _spread(group, lambda run: run["share_closed"], "{:.2f}"),
        f"{_mean(group, 'explored'):.2%}",
        f"{mean(_last_fifth(run) for run in group):.4f}",
        f"{mean(run['regret'][-1] for run in group):,.0f}",
        f"{mean(run['regret_oracle'][-1] for run in group):,.0f}",
        f"{_mean(group, 'promotions'):.1f}",
        f"{sum(run['wrong_promotions'] for run in group)}",
    ]


def _verdict(stage: Mapping[str, Any]) -> list[str]:
    return [
        f"{stage['requests']:,}",
        f"{stage['on_trial']:.1%}",
        f"{stage['disagreement']:.1%}",
        f"{stage['gain']:+.4f}",
        f"{stage['low']:+.4f}",
        f"{stage['true_gain']:+.4f}",
        "yes" if stage["promoted"] else "no",
        f"{stage['live_aiq']:.4f}",
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _groups(runs: Sequence[Run]) -> dict[tuple[str, str, str], list[Run]]:
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        key = run["strategy"], run["settings"]["router"], run["settings"]["method"]
        groups.setdefault(key, []).append(run)
    return groups


def _mean(runs: Sequence[Run], name: str) -> float:
    return float(mean(run[name] for run in runs))


def _last_fifth(run: Run) -> float:
    values = run["utility"]
    return float(mean(values[-max(len(values) // 5, 1) :]))


def _spread(runs: Sequence[Run], of: Callable[[Run], float], form: str) -> str:
    values = [of(run) for run in runs]
    middle = form.format(mean(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"
