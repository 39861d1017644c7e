"""The page of the gate's trials: every figure of it is computed from the file of the results."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST_WRONG, LEAST_RIGHT = 0.05, 0.8
JUDGED_AT = 50_000
"""Length of the logs for which the targets are judged."""
Row = Mapping[str, Any]


def write_gate_page(path: Path) -> Path:
    """Write the page beside a file of results and return its path."""
    page = path.with_suffix(".md")
    page.write_text(render(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    return page


def targets(document: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return (what, target, measured, met): rates of promotion at `JUDGED_AT` requests, or at the longest logs.

    A worse router counts at all lengths of the log: it must not pass at any. A rate is held to its target as it was
    measured; its exact interval stands beside it.
    """
    found = []
    for name, data in document["sets"].items():
        for design in document["designs"]:
            rows = [row for row in data["rows"] if row["design"] == design]
            worse = [row for row in rows if row["true_gain"] < 0]
            better = [row for row in rows if row["true_gain"] > 0]
            if worse:
                most = max(worse, key=lambda row: row["rate"])
                found.append(
                    (
                        f"`{name}`, {design}: a truly worse router is promoted, highest rate of all rows",
                        f"≤ {MOST_WRONG:.0%}",
                        f"{_rate(most)}, at {most['true_gain']:+.4f} and {most['requests']:,} requests",
                        most["rate"] <= MOST_WRONG,
                    )
                )
            lengths = [row["requests"] for row in better]
            if lengths:
                length = JUDGED_AT if JUDGED_AT in lengths else max(lengths)
                row = next(row for row in better if row["requests"] == length)
                found.append(
                    (
                        f"`{name}`, {design}: one better by {row['true_gain']:.4f} is promoted, {length:,} requests",
                        f"≥ {LEAST_RIGHT:.0%}",
                        _rate(row),
                        row["rate"] >= LEAST_RIGHT,
                    )
                )
    return found


def render(document: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    machine, settings = document["machine"], document["settings"]
    started = dt.datetime.fromtimestamp(document["started"], tz=dt.UTC)
    head = (
        f"`{document['command']}`, {started:%Y-%m-%d}, {document['took_s'] / 60:.0f} minutes; "
        f"{machine['architecture']}, {machine['cores']} cores (shared with other work: load average "
        f"{machine['load_average']:.1f} at the end), Python {machine['python']}; commit "
        f"{(document['commit'] or 'unknown')[:12]}."
    )
    how = (
        "Each trial draws a log with replacement from the train split, on which the true mean utility of every choice "
        f"is known, and lets `llmrouter.learning.Gate` (confidence {settings['confidence']:.0%}) compare two routers. "
        f"The live router is `{settings['router']}`, trained on every outcome of so few prompts that there is "
        "something to gain; its estimates are the gate's reward model. The new router decides like it but on randomly "
        "drawn prompts, on which it does what the same router trained on every prompt does (a gain) or what the live "
        "router likes less (a loss), until the true difference is the wanted one. How much the two disagree decides "
        "how many requests the gate needs. No test prompt is used. Intervals of rates are exact (Clopper and Pearson)."
    )
    lines = ["# How often the gate is right", "", head, "", "## Targets", "", "| what | target | measured | |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| {what} | {target} | {measured} | **{'met' if met else 'missed'}** |"
        for what, target, measured, met in targets(document)
    ]
    lines += ["", how, "", *(f"- {name}: {text}." for name, text in document["designs"].items())]
    for name, data in document["sets"].items():
        lines += [
            "",
            f"## {name}, cost weight {data['cost_weight']:g}",
            "",
            f"The live router saw {data['rows'][0]['live_prompts']} prompts.",
            "",
            "| log | true gain | disagree | requests | promoted | estimate, mean ± sd | bound below truth | explored |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['design']} | {row['true_gain']:+.4f} | {row['disagreement']:.1%} | {row['requests']:,} | "
            f"{_rate(row)} | {row['mean_gain']:+.4f} ± {row['std_gain']:.4f} | {row['true_above_low']:.1%} | "
            f"{row['explored']:.2%} |"
            for row in data["rows"]
        ]
        lines += _needed(data["rows"])
    return "\n".join(lines) + "\n"


def _needed(rows: Sequence[Row]) -> list[str]:
    """Return the table of how many requests it takes, a line for every design and gain."""
    lengths = sorted({row["requests"] for row in rows})
    about = (
        "Judged requests that find a gain of .02 in 80% of the logs at these propensities: from the whole table, with "
        "the gate's reward model and with one that was cross-fitted on every outcome of every prompt; and what the "
        "gate said where it did not promote (median; it wants 30 effective decisions too)."
    )
    lines = [
        "",
        about,
        "",
        "| log | true gain | needed | with the best model | " + " | ".join(f"said at {n:,}" for n in lengths) + " |",
        "|---" * (4 + len(lengths)) + "|",
    ]
    for design, gain in dict.fromkeys((row["design"], row["true_gain"]) for row in rows):
        mine = [row for row in rows if (row["design"], row["true_gain"]) == (design, gain)]
        said = {row["requests"]: row["needed_said"] for row in mine}
        lines.append(
            f"| {design} | {gain:+.4f} | {mine[0]['needed']:,} | {mine[0]['needed_best']:,} | "
            + " | ".join("-" if said.get(n) is None else f"{said[n]:,.0f}" for n in lengths)
            + " |"
        )
    return lines


def _rate(row: Row) -> str:
    return f"{row['promoted']}/{row['trials']} = {row['rate']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
