"""Changes of the pool and its models, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.types import ModelCard
    from service.gateway import Engine
    from service.models.records import Change, Prepared

TRAINED = "training"
"""How a model is known that the artifact was trained on."""
_PER = 1000


def list_lines(engine: RoutingEngine) -> list[str]:
    """Return a table of the pool."""
    rows = [("model", "input $/M", "output $/M", "context", "known to the router", "mean quality")]
    for card in engine.cards:
        mean = engine.trained.mean_quality.get(card.name)
        rows.append(
            (
                card.name,
                f"{card.price.input:g}",
                f"{card.price.output:g}",
                "" if card.context_window is None else str(card.context_window),
                _known(card.name, engine),
                "" if mean is None else f"{mean:.3f}",
            )
        )
    return table_lines(rows)


def price_entry(card: ModelCard, engine: Engine) -> dict[str, Any]:
    """Return one model of the pool, with what the artifact knows of it."""
    trained: Any = getattr(engine, "trained", None)
    known = trained is not None and card.name in trained.models
    return {
        "name": card.name,
        "price": {"input": card.price.input, "output": card.price.output, "as_of": card.price.as_of},
        "context_window": card.context_window,
        "known": known,
        "how": how_known(card.name, trained) if known else "prior",
        "mean_quality": trained.mean_quality.get(card.name) if known else card.prior_quality,
        "mean_output_tokens": trained.mean_output_tokens.get(card.name) if known else None,
        "mean_cost_usd": trained.mean_cost_usd.get(card.name) if known else None,
    }


def change_document(prepared: Prepared, change: Change) -> dict[str, Any]:
    """Return a change as JSON."""
    document: dict[str, Any] = {
        **change.facts,
        "base_artifact": change.base_id,
        "artifact": None if change.folder is None else change.folder.name,
    }
    if prepared.plan is not None:
        document["plan"] = {
            "prompts": len(prepared.plan.questions),
            "expected_usd": prepared.plan.expected_usd,
            "most_usd": prepared.plan.most_usd,
        }
    if change.place is not None:
        document["placement"] = {
            "prompts": change.place.prompts,
            **{
                when: {
                    "share": dict(place.share),
                    "quality": place.quality,
                    "cost_usd": place.cost_usd,
                    "aiq": place.aiq,
                    "curve": [list(vertex) for vertex in place.curve],
                }
                for when, place in (("before", change.place.before), ("after", change.place.after))
            },
        }
    return document


def placement_lines(change: Change) -> list[str]:
    """Return what a change comes to, in words and tables."""
    facts = change.facts
    lines = []
    if "quality" in facts:
        error = facts.get("standard_error")
        around = "" if error is None else f" +- {error:.3f}"
        scored = f" from {facts['scored']} scored prompts" if "scored" in facts else ""
        lines.append(f"{facts['model']}: expected quality {facts['quality']:.3f}{around} on your traffic{scored}")
    lines += [f"  {line}" for line in facts.get("evidence", ())]
    if change.place is None:
        lines.append("no prompts: its place on the frontier is not known")
        return lines
    before, after = change.place.before, change.place.after
    rows = [("model", "share now", "share then", "quality alone", f"USD per {_PER} alone")]
    for name in dict.fromkeys([*before.share, *after.share]):
        alone = change.place.alone.get(name)
        rows.append(
            (
                name,
                f"{before.share[name]:.1%}" if name in before.share else "-",
                f"{after.share[name]:.1%}" if name in after.share else "-",
                "-" if alone is None else f"{alone[1]:.3f}",
                "-" if alone is None else f"{alone[0] * _PER:.4g}",
            )
        )
    lines += table_lines(rows)
    lines.append(
        f"expected over {change.place.prompts} prompts, by the router's own estimates: quality {before.quality:.3f} -> "
        f"{after.quality:.3f}, USD per {_PER} {before.cost_usd * _PER:.4g} -> {after.cost_usd * _PER:.4g}, "
        f"AIQ {before.aiq:.3f} -> {after.aiq:.3f}"
    )
    return lines


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _known(name: str, engine: RoutingEngine) -> str:
    if name not in engine.trained.models:
        return "no (prior)"
    how = how_known(name, engine.trained)
    return "yes" if how == TRAINED else f"yes ({how})"


def how_known(name: str, trained: Any) -> str:
    """Return how an artifact came to know a model: `TRAINED`, or the way it was added afterwards."""
    for change in reversed(trained.training.get("changes", [])):
        if change.get("model") == name and change.get("how"):
            return str(change["how"])
    return TRAINED
