"""An engine that picks routes before it decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from llmrouter.exceptions import LLMRouterError
from llmrouter.routes._choosers import Chooser, with_picks
from llmrouter.types import Decision, RoutingRequest


class BatchEngine(Protocol):
    """Decides for several requests at once; see `llmrouter.engine.RoutingEngine.route_many`."""

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide."""
        ...


class RoutedEngine:
    """Stands in front of an engine whose policy knows the routes (see `RoutesPolicy`).

    Parameters
    ----------
    engine : callable
        Returns the engine that decides; asked for every batch, so that it may be swapped.
    chooser : Chooser, optional
        Picks where nobody has; None leaves that to those who ask (a `ModelChooser` has to be awaited).
    """

    def __init__(self, engine: Callable[[], BatchEngine], chooser: Chooser | None = None) -> None:
        self._engine = engine
        self.chooser = chooser

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Pick a route for each request, and decide; decisions say which route it was."""
        picked = list(requests) if self.chooser is None else with_picks(self.chooser, requests)
        decided = self._engine().route_many(picked, neighbours=neighbours)
        return [
            replace(result, route=request.route) if isinstance(result, Decision) else result
            for request, result in zip(picked, decided, strict=True)
        ]
