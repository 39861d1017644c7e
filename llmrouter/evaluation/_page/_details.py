"""The last sections: operating points, models, the routers' parameters, and how all was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from llmrouter.evaluation._format import FEW, contenders, cost_display, headline, number, share, short_name
from llmrouter.evaluation._page._html import bullets, folded, table
from llmrouter.evaluation._page._leaderboard import KINDS
from llmrouter.evaluation._result import EvaluationResult, RouterResult


def operating_points(result: EvaluationResult) -> str:
    """Return one folded table for each deployable router: what some cost weights cost, achieve, and use."""
    display = cost_display(result)
    parts = []
    for router in contenders(result):
        rows = []
        for point in router.operating_points:
            used = sorted(point.shares.items(), key=lambda entry: -entry[1])
            shares = ", ".join(f"{short_name(model)} {share(part)}" for model, part in used if part > 0)
            rows.append(
                [
                    _weight(point.cost_weight),
                    number(point.quality),
                    escape(display.text(point.cost)),
                    escape(shares),
                ]
            )
        header = ["Cost weight", "Quality", "Cost", "Share of the prompts"]
        if rows:
            parts.append(folded(escape(router.name), table(header, rows, prose=True)))
    if not parts:
        return ""
    if len(parts) > FEW:
        parts = [*parts[:FEW], folded(f"{len(parts) - FEW} more", "".join(parts[FEW:]))]
    return (
        "<p>The cost weight is what the policy and the gateway are configured with: utility is quality minus the "
        "weight times cost by reference cost.</p>" + "".join(parts)
    )


def _weight(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3g}" if math.isfinite(value) else "all to the cheapest"


def models_table(result: EvaluationResult) -> str:
    """Return the single models, the best first."""
    display = cost_display(result)
    order = sorted(range(len(result.models)), key=lambda column: -result.model_quality[column])
    trained = result.train_quality_mean
    roles: dict[str, list[str]] = {}
    for name, role in ((result.best_single, "best"), (result.cheapest, "cheapest"), (result.dearest, "dearest")):
        roles.setdefault(name, []).append(role)
    rows = []
    for column in order:
        name = result.models[column]
        role = f" <small>{' and '.join(roles[name])} by train</small>" if name in roles else ""
        rows.append(
            [
                escape(name) + role,
                number(float(result.model_quality[column])),
                number(math.nan if trained is None else float(trained[column])),
                escape(display.text(float(result.model_cost[column]))),
            ]
        )
    return table(["Model", "Mean quality", "on train", "Mean cost"], rows)


def provenance(result: EvaluationResult) -> str:
    """Return where the data and the figures come from, the parameters of each router, and the notes."""
    facts: dict[str, Any] = {
        "data": headline(result),
        "data sha256": result.data["sha256"],
        "cost unit": result.cost_unit,
        "reference cost": f"{result.reference_cost:.6g}" if result.reference_cost > 0 else "none: all is free",
        **result.settings,
        **{name: value for name, value in result.versions.items() if value is not None},
    }
    listed = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    told: dict[str, list[str]] = {}
    for router in result.routers.values():
        for note in router.notes:
            told.setdefault(note, []).append(router.name)
    notes = [escape(note) for note in result.notes]
    for note, names in told.items():
        who = "" if len(names) == len(result.routers) else f"{', '.join(names)}: "
        notes.append(escape(who + note))
    return f"<dl>{listed}</dl>{bullets(notes)}{_parameters(result)}"


def _parameters(result: EvaluationResult) -> str:
    rows = [
        [
            escape(router.name),
            KINDS[router.kind][0],
            escape(router.cost_from or "-"),
            escape(_plain(router.parameters) or "defaults"),
        ]
        for router in contenders(result)
    ]
    tuned = [_tuning(router) for router in contenders(result) if router.tuning]
    if not rows:
        return ""
    header = ["Name", "Kind", "Cost learned from", "Parameters"]
    return folded("Parameters of every router", table(header, rows, prose=True)) + "".join(tuned)


def _tuning(router: RouterResult) -> str:
    listed = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_short(value))}</dd>" for name, value in router.tuning.items()
    )
    return folded(f"How {escape(router.name)} was tuned, on train alone", f"<dl>{listed}</dl>")


def _short(value: Any, *, most: int = 1500) -> str:
    text = _plain(value) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
