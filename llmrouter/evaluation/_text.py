"""The result as a plain-text table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmrouter.evaluation._format import cost_display, difference, findings, headline, number, share
from llmrouter.evaluation._result import EvaluationResult, RouterResult


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a header: the first column left-aligned, the others right-aligned, two spaces between."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def format_result(result: EvaluationResult) -> str:
    """Return the whole result as text: what was compared, the table of routers, findings and notes."""
    display = cost_display(result)
    low, high = result.cost_interval
    level = f"{100 * result.settings['level']:g}%"
    header = ["router", "AIQ", f"minus zero [{level}]", f"minus best-single [{level}]", "AIQ (code)", "QNC", "peak"]
    header += ["at cost", "fit s", "us/prompt"]
    rows = [_row(router, result) for router in result.routers.values()]
    lines = [
        headline(result),
        f"{display.title}. AIQ over {display.text(low)} to {display.text(high)}, the Zero router's range.",
        f"On train, best single model: {result.best_single}; cheapest: {result.cheapest}; dearest: {result.dearest}.",
        "",
        format_table(header, rows),
        "",
        *findings(result),
        *_chosen(result),
        *(f"note: {note}" for note in _all_notes(result)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(router: RouterResult, result: EvaluationResult) -> list[str]:
    intervals = router.intervals
    return [
        router.name,
        number(router.aiq),
        difference(intervals.get("aiq_minus_zero")),
        difference(intervals.get("aiq_minus_best_single")),
        number(router.aiq_code),
        share(router.qnc),
        number(router.peak_quality),
        cost_display(result).text(router.peak_cost),
        number(router.fit_s, digits=2),
        number(router.decide_us, digits=0),
    ]


def _chosen(result: EvaluationResult) -> list[str]:
    """Return what tuning chose, one line a tuned router."""
    lines = []
    for name, router in result.routers.items():
        if router.tuning and router.parameters:
            chosen = ", ".join(f"{key}={_plain(value)}" for key, value in router.parameters.items())
            lines.append(f"{name} was tuned on train: {chosen}.")
    return lines


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _all_notes(result: EvaluationResult) -> list[str]:
    """Return the notes of the comparison, then those shared by all routers; QNC's "never" is in the table already."""
    shared = [
        note
        for note in dict.fromkeys(note for router in result.routers.values() for note in router.notes)
        if all(note in router.notes for router in result.routers.values())
    ]
    return [*result.notes, *shared]
