"""The shadow: a second engine decides what was decided already; nothing waits for it, and nothing is done about it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from llmrouter.exceptions import LLMRouterError
from llmrouter.policy import uniform_of
from llmrouter.types import Decision, FloatArray, RankedModel, RoutingRequest
from service.batcher import Routing

if TYPE_CHECKING:
    from service.learning.shadow_settings import ShadowSettings

logger = logging.getLogger(__name__)

_MOST_PENDING = 256
_REMEMBERED = 10_000
# A turn of the event loop is held up for no longer than this by decisions that nobody waits for.
_LONGEST_TURN_S = 0.001


@runtime_checkable
class EmbeddedEngine(Protocol):
    """What the shadow needs of `llmrouter.engine.RoutingEngine`."""

    artifact_id: str

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide for several requests at once."""
        ...

    def route_embedded(
        self, requests: Sequence[RoutingRequest], embeddings: FloatArray, *, neighbours: int = 0
    ) -> list[Decision | LLMRouterError]:
        """Decide for requests whose embeddings are known."""
        ...


class Shadow:
    """Decides after the fact, between turns of the event loop or in a thread, and compares.

    Parameters
    ----------
    settings : ShadowSettings
        The share.
    engine : RoutingEngine
        With a policy of its own, which counts what the shadow decides and nothing else.
    shares_embeddings : bool
        Whether it has the encoder of the engine that decides.
    """

    def __init__(self, settings: ShadowSettings, engine: EmbeddedEngine, *, shares_embeddings: bool) -> None:
        self.settings = settings
        self.engine = engine
        self.shares_embeddings = shares_embeddings
        self._routing = Routing("shadow", longest_turn_s=_LONGEST_TURN_S)
        self._tasks: set[asyncio.Task[None]] = set()
        self._embeddings: OrderedDict[str, FloatArray] = OrderedDict()
        self._decisions: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._decided = self._disagreed = self._failed = self._skipped = 0
        self._quality = self._cost = 0.0

    # While the live engine decides: any thread

    def remember(self, requests: Sequence[RoutingRequest], embeddings: FloatArray) -> None:
        """Keep the embeddings of requests that `consider` will be told of."""
        for request, embedding in zip(requests, embeddings, strict=True):
            if request.request_id and not request.dry_run and self._concerns(request):
                self._embeddings[request.request_id] = embedding
        while len(self._embeddings) > _REMEMBERED:
            self._embeddings.popitem(last=False)

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide, with the embeddings that are known already."""
        known = [self._embeddings.pop(request.request_id or "", None) for request in requests]
        found = [embedding for embedding in known if embedding is not None]
        if len(found) == len(requests):
            return self.engine.route_embedded(requests, np.stack(found), neighbours=neighbours)
        return self.engine.route_many(requests, neighbours=neighbours)

    # After it: the event loop

    def consider(self, request: RoutingRequest, decision: Decision) -> None:
        """Decide later what has just been decided; returns at once and never raises."""
        if request.dry_run or not request.request_id or not self._concerns(request):
            return
        if len(self._tasks) >= _MOST_PENDING:
            self._skipped += 1
            self._embeddings.pop(request.request_id, None)
            return
        task = asyncio.get_running_loop().create_task(self._compare(request, decision), name="shadow")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def take(self, request_id: str) -> Mapping[str, Any] | None:
        """Return what the shadow would have done with a request, once; None where it did not decide (yet)."""
        return self._decisions.pop(request_id, None)

    def state(self) -> dict[str, Any]:
        """Return what was compared so far; the differences are means, the shadow's less the live one's.

        Both by the shadow's own estimates: what it expects to gain in quality, and to pay more, for a request.
        """
        compared = max(self._decided, 1)
        return {
            "artifact": self.engine.artifact_id,
            "share": self.settings.share,
            "decisions": self._decided,
            "disagreements": self._disagreed,
            "failures": self._failed,
            "skipped": self._skipped,
            "quality_difference": self._quality / compared,
            "cost_difference_usd": self._cost / compared,
        }

    async def aclose(self) -> None:
        """Stop deciding."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await asyncio.to_thread(self._routing.close)

    def _concerns(self, request: RoutingRequest) -> bool:
        share = self.settings.share
        return share >= 1.0 or uniform_of("shadow", 0, request.request_id or "") < share

    async def _compare(self, request: RoutingRequest, decision: Decision) -> None:
        try:
            mine = await self._routing.route(self, request)
        except Exception as error:
            self._fail(error)
            return
        # Where chance chose, what the estimates had chosen comes second.
        live = decision.ranking[1 if decision.explored and len(decision.ranking) > 1 else 0].model
        first = mine.ranking[0]
        other = next((entry for entry in mine.ranking if entry.model == live), first)
        self._decided += 1
        self._disagreed += first.model != live
        self._quality += _finite(first.expected_quality - other.expected_quality)
        self._cost += _finite(first.expected_cost_usd - other.expected_cost_usd)
        self._decisions[request.request_id or ""] = _recorded(mine.artifact_id, first)
        while len(self._decisions) > _REMEMBERED:
            self._decisions.popitem(last=False)

    def _fail(self, error: Exception) -> None:
        self._failed += 1
        if self._failed == 1:
            logger.warning("the shadow %s failed (%r); further failures are counted", self.engine.artifact_id, error)


def _recorded(artifact_id: str, first: RankedModel) -> Mapping[str, Any]:
    return {
        "artifact_id": artifact_id,
        "model": first.model,
        "expected_quality": first.expected_quality,
        "expected_cost_usd": first.expected_cost_usd,
    }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
