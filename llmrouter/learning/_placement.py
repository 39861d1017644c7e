"""Where a change of models would put the router: its expected curve, and who would get the traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrouter.engine import RoutingEngine
from llmrouter.evaluation import Hull, aiq, replay, sweep_weights
from llmrouter.exceptions import DataError, LLMRouterError
from llmrouter.types import FloatArray, RoutingRequest, estimate_tokens

_BATCH = 256


@dataclass(frozen=True)
class Place:
    """What one engine would do with a set of prompts, by its own estimates.

    Attributes
    ----------
    share : mapping of str to float
        Share of the prompts that each model would get under the engine's policy.
    quality, cost_usd : float
        Expected means of those choices.
    curve : tuple of (float, float)
        Vertices of the expected cost-quality curve, (US dollars a prompt, quality), over all cost weights.
    aiq : float
        Mean height of that curve over the interval of costs that both engines of a `Placement` share.
    """

    share: Mapping[str, float]
    quality: float
    cost_usd: float
    curve: tuple[tuple[float, float], ...]
    aiq: float


@dataclass(frozen=True)
class Placement:
    """The same prompts before and after a change of models.

    All qualities are the routers' own expectations; nothing was asked to check them. They are optimistic for both
    alike, and more so where estimates are wide.

    Attributes
    ----------
    prompts : int
        How many were decided.
    before, after : Place
        See `Place`.
    alone : mapping of str to (float, float)
        Model -> expected (cost, quality) if everything went to it, after the change.
    """

    prompts: int
    before: Place
    after: Place
    alone: Mapping[str, tuple[float, float]]


def placement(before: RoutingEngine, after: RoutingEngine, texts: Sequence[str]) -> Placement:
    """Return what a change of models would do to the traffic.

    Parameters
    ----------
    before, after : RoutingEngine
        Over the present pool, and over the changed one.
    texts : sequence of str
        Prompts of the recent log.

    Raises
    ------
    DataError
        If there is no prompt.
    """
    if not texts:
        raise DataError("a place on the frontier needs prompts, and there are none")
    estimates = [_estimated(engine, texts) for engine in (before, after)]
    hulls = []
    for quality, cost in estimates:
        curve = replay(
            quality,
            cost,
            quality=quality,
            cost=cost,
            weights=sweep_weights(cost),
            cheapest=int(np.lexsort((-quality.mean(axis=0), cost.mean(axis=0)))[0]),
        )
        hulls.append(curve.hull)
    low = min(float(hull.cost[0]) for hull in hulls)
    high = max(float(hull.cost[-1]) for hull in hulls)
    places = [
        _place(engine, texts, found, hull, (low, high))
        for engine, found, hull in zip((before, after), estimates, hulls, strict=True)
    ]
    quality, cost = estimates[1]
    alone = {card.name: (float(cost[:, j].mean()), float(quality[:, j].mean())) for j, card in enumerate(after.cards)}
    return Placement(len(texts), places[0], places[1], alone)


def _estimated(engine: RoutingEngine, texts: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return expected quality and cost, each (n, c), of the engine's pool."""
    quality, cost = [], []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        for estimates in engine.estimate(batch, [estimate_tokens(text) for text in batch]):
            quality.append(estimates.quality)
            cost.append(estimates.cost_usd)
    return np.array(quality), np.array(cost)


def _place(
    engine: RoutingEngine,
    texts: Sequence[str],
    estimated: tuple[FloatArray, FloatArray],
    hull: Hull,
    interval: tuple[float, float],
) -> Place:
    quality, cost = estimated
    names = [card.name for card in engine.cards]
    chosen = []
    for start in range(0, len(texts), _BATCH):
        # Dry runs: no policy counts them.
        requests = [
            RoutingRequest(text=text, prompt_tokens=estimate_tokens(text), dry_run=True)
            for text in texts[start : start + _BATCH]
        ]
        for decided in engine.route_many(requests):
            if isinstance(decided, LLMRouterError):
                raise decided
            chosen.append(names.index(decided.model))
    rows, columns = np.arange(len(texts)), np.array(chosen)
    counts = np.bincount(columns, minlength=len(names)) / len(texts)
    vertices = tuple(zip(hull.cost.tolist(), hull.quality.tolist(), strict=True))
    return Place(
        share={name: float(share) for name, share in zip(names, counts, strict=True)},
        quality=float(quality[rows, columns].mean()),
        cost_usd=float(cost[rows, columns].mean()),
        curve=vertices,
        aiq=aiq(hull, interval) if interval[1] > interval[0] else float(hull.quality[-1]),
    )
