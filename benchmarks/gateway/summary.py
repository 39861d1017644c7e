"""From raw figures to the summary: medians over rounds, ratios within rounds, targets met or missed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.gateway.figures import median
from benchmarks.gateway.plan import ANCHOR_CONCURRENCY, ANCHOR_RATE

Row = Mapping[str, Any]

FLAT_BYTES_PER_100K = 2 * 2**20
"""Growth of memory that still counts as flat: 2 MiB per 100,000 requests, far below one object a request."""

CLOSED = f"closed-{ANCHOR_CONCURRENCY}"
STREAMED = f"closed-{ANCHOR_CONCURRENCY}-stream"
OPEN = f"open-{ANCHOR_RATE:g}"

_EVERYTHING, _FIXED = "llmrouter", "llmrouter-fixed"


@dataclass(frozen=True, slots=True)
class Target:
    """Something that the figures must show.

    Attributes
    ----------
    text : str
        What, in words.
    limit : float
        The bound.
    sign : {"≥", "≤"}
        Which side of it is good.
    value : float or None
        What was measured; None where it was not.
    unit : str
        Of both.
    """

    text: str
    limit: float
    sign: Literal["≥", "≤"]
    value: float | None
    unit: str

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        if self.value is None:
            return "not measured"
        good = self.value >= self.limit if self.sign == "≥" else self.value <= self.limit
        return "met" if good else "missed"


def figure(row: Row, name: str) -> float | None:
    """Return one figure of a row by its path (e.g. ``latency_ms.p50``); None where it has none."""
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, Mapping) or value.get(key) is None:
            return None
        value = value[key]
    return float(value)


def over_rounds(rows: Iterable[Row], peer: str, cell: str, name: str) -> float | None:
    """Return the median over rounds of a figure that is itself a median, percentile or rate of one round."""
    values = [
        value
        for row in rows
        if row["peer"] == peer and row["cell"] == cell and (value := figure(row, name)) is not None
    ]
    return median(values) if values else None


def compared(
    rows: Iterable[Row], peer: str, other: str, cell: str, name: str, how: Callable[[float, float], float]
) -> float | None:
    """Return the median over rounds of `how(peer's figure, other's figure)`, both of the same round."""
    by_round: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["cell"] == cell and row["peer"] in (peer, other) and (value := figure(row, name)) is not None:
            by_round.setdefault(row["round"], {})[row["peer"]] = value
    pairs = [how(held[peer], held[other]) for held in by_round.values() if peer in held and other in held]
    return median(pairs) if pairs else None


def ratio(first: float, second: float) -> float:
    """Return first / second."""
    return first / second


def difference(first: float, second: float) -> float:
    """Return first - second."""
    return first - second


def errors(rows: Iterable[Row], peer: str) -> int:
    """Return how many answers of a peer were wrong or missing, all cells and rounds together."""
    return sum(row.get("errors", 0) for row in rows if row["peer"] == peer)


def switches(notes: Mapping[str, bool]) -> str:
    """Return what is on and off, in words."""
    return ", ".join(f"{name.replace('_', ' ')} {'on' if value else 'off'}" for name, value in notes.items())


def targets(
    rows: Sequence[Row], memory: Mapping[str, Any] | None = None, notes: Mapping[str, bool] | None = None
) -> list[Target]:
    """Return the targets with what was measured.

    Parameters
    ----------
    rows : sequence of mapping
        Raw figures.
    memory : mapping, optional
        What `benchmarks.gateway.memory.watch_memory` returned.
    notes : mapping of str to bool, optional
        What is on in the gateway that is measured: a build without keys is not to pass for one with them.
    """
    everything = f"{_EVERYTHING} ({switches(notes)})" if notes else _EVERYTHING

    def per_core(peer: str, other: str, cell: str) -> float | None:
        return compared(rows, peer, other, cell, "rps_per_core", ratio)

    def added(percentile: str) -> float | None:
        return compared(rows, _EVERYTHING, "direct", OPEN, f"latency_ms.{percentile}", difference)

    growth = (
        None if memory is None or memory["slope_bytes_per_100k"] is None else memory["slope_bytes_per_100k"] / 2**20
    )
    wrong = errors(rows, _EVERYTHING) + errors(rows, _FIXED) if rows else None
    return [
        Target(f"added p50 of {everything} at {ANCHOR_RATE:g} requests/s", 2.0, "≤", added("p50"), "ms"),
        Target(f"added p99 of {everything} at {ANCHOR_RATE:g} requests/s", 10.0, "≤", added("p99"), "ms"),
        Target(
            "requests/s per core, everything on, over LiteLLM",
            10.0,
            "≥",
            per_core(_EVERYTHING, "litellm", CLOSED),
            "x",
        ),
        Target(
            "streams/s per core, everything on, over LiteLLM",
            20.0,
            "≥",
            per_core(_EVERYTHING, "litellm", STREAMED),
            "x",
        ),
        Target(
            "requests/s per core, fixed model, over the bare pass-through",
            0.5,
            "≥",
            per_core(_FIXED, "bare", CLOSED),
            "x",
        ),
        Target(
            "requests/s per core, everything on, over the bare pass-through",
            0.35,
            "≥",
            per_core(_EVERYTHING, "bare", CLOSED),
            "x",
        ),
        Target("growth of memory per 100,000 requests", FLAT_BYTES_PER_100K / 2**20, "≤", growth, "MiB"),
        Target("wrong or missing answers of llmrouter", 0.0, "≤", wrong, ""),
    ]


def stages(rows: Iterable[Row], peer: str, cell: str) -> dict[str, float]:
    """Return milliseconds by stage, medians over rounds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["peer"] == peer and row["cell"] == cell:
            for stage, value in (row.get("stages_ms") or {}).items():
                found.setdefault(stage, []).append(value)
    return {stage: median(values) for stage, values in found.items()}
