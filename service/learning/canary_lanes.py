"""Which engine decides for a request: the live one, or the canary; and what the shadow is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import LLMRouterError
from llmrouter.types import Decision, RoutingRequest
from service.learning.canary_guard import CANARY
from service.learning.canary_shared import SharedOutcomes
from service.learning.canary_state import FILE_NAME, FileTrialStore, RedisTrialStore, TrialStore
from service.learning.canary_trial import CanaryTrial, WithLog, counts_in
from service.learning.shadow import EmbeddedEngine, Shadow

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.policy import Policy
    from llmrouter.types import Outcome
    from service.gateway import Engine, Gateway
    from service.learning.canary_settings import CanarySettings
    from service.redis_link import RedisLink
    from service.settings import Settings

logger = logging.getLogger(__name__)


class Lanes:
    """Stands in for the live engine where there is a canary or a shadow.

    Neither of them can harm a request: what they cannot decide the live engine decides, and an artifact that cannot be
    loaded leaves its lane empty, which `state` tells.

    Parameters
    ----------
    live : callable
        Returns the live engine; asked for every batch.
    """

    def __init__(self, live: Callable[[], Engine]) -> None:
        self._live = live
        self.canary: RoutingEngine | None = None
        self.trial: CanaryTrial | None = None
        self.shadow: Shadow | None = None
        self.canary_failures = 0
        self.canary_trouble = self.shadow_trouble = ""

    @classmethod
    def build(
        cls,
        settings: Settings,
        *,
        live: Callable[[], Engine],
        policy: Policy,
        shadow_policy: Callable[[], Policy],
        with_log: WithLog,
        link: RedisLink | None,
        reuse: Lanes | None = None,
    ) -> Lanes | None:
        """Return the lanes as configured; None where there is only the live one.

        Parameters
        ----------
        settings : Settings
            The whole configuration.
        live : callable
            Returns the live engine.
        policy : Policy
            The configured policy; the canary counts with it.
        shadow_policy : callable
            Returns another one, for the shadow to count with.
        with_log : callable
            See `Gateway.with_log`.
        link : RedisLink or None
            Through which replicas tell each other how the trial stands.
        reuse : Lanes, optional
            Those of the configuration before; a trial of the same artifact goes on.
        """
        learning = settings.learning
        if learning.canary is None and learning.shadow is None:
            return None
        lanes = cls(live)
        if learning.canary is not None:
            lanes._add_canary(settings, learning.canary, policy, with_log, link, reuse)
        if learning.shadow is not None:
            try:
                engine, shares = _second(learning.shadow.artifact, settings, shadow_policy(), live())
                lanes.shadow = Shadow(learning.shadow, engine, shares_embeddings=shares)
            except LLMRouterError as error:
                lanes.shadow_trouble = str(error)
                logger.error("there is no shadow: %s", error)
        return lanes

    def _add_canary(
        self,
        settings: Settings,
        canary: CanarySettings,
        policy: Policy,
        with_log: WithLog,
        link: RedisLink | None,
        reuse: Lanes | None,
    ) -> None:
        try:
            engine, _ = _second(canary.artifact, settings, policy, self._live())
        except LLMRouterError as error:
            self.canary_trouble = str(error)
            logger.error("there is no canary: %s", error)
            return
        self.canary = engine
        before = None if reuse is None else reuse.trial
        live_id = self._live_id
        if before is not None and before.artifact_id == engine.artifact_id and before.settings == canary:
            self.trial = before
            before.live_id, before.with_log = live_id, with_log
            return
        store: TrialStore
        if link is not None:
            store = RedisTrialStore(link)
        else:
            store = FileTrialStore(canary.state or canary.artifact.resolve().parent / FILE_NAME)
        self.trial = CanaryTrial(
            canary,
            artifact_id=engine.artifact_id,
            live_id=live_id,
            store=store,
            with_log=with_log,
            workers=counts_in(settings.server.workers),
            shared=None if link is None else SharedOutcomes(link, engine.artifact_id),
        )

    def _live_id(self) -> str:
        return self._live().artifact_id

    # As an engine

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide each request in its lane; who else is in the batch makes no difference."""
        canary, trial = self.canary, self.trial
        mine = [] if canary is None or trial is None else [i for i, one in enumerate(requests) if trial.takes(one)]
        results: dict[int, Decision | LLMRouterError] = {}
        if mine and canary is not None:
            for i, result in zip(mine, self._by_canary(canary, [requests[i] for i in mine], neighbours), strict=True):
                if isinstance(result, Decision):
                    results[i] = replace(result, lane=CANARY)
        rest = [i for i in range(len(requests)) if i not in results]
        if rest:
            decided = self._by_live([requests[i] for i in rest], neighbours)
            results.update(zip(rest, decided, strict=True))
        return [results[i] for i in range(len(requests))]

    def _by_canary(
        self, canary: RoutingEngine, requests: list[RoutingRequest], neighbours: int
    ) -> Sequence[Decision | LLMRouterError | None]:
        try:
            return canary.route_many(requests, neighbours=neighbours)
        except Exception as error:
            self.canary_failures += 1
            if self.canary_failures == 1:
                logger.warning("the canary %s failed (%r); the live engine decides", canary.artifact_id, error)
            return [None] * len(requests)

    def _by_live(self, requests: list[RoutingRequest], neighbours: int) -> list[Decision | LLMRouterError]:
        live = self._live()
        shadow = self.shadow
        if shadow is None or not shadow.shares_embeddings or not isinstance(live, EmbeddedEngine):
            return live.route_many(requests, neighbours=neighbours)
        try:
            embeddings = live.encoder.encode([request.text for request in requests])
        except LLMRouterError:
            return live.route_many(requests, neighbours=neighbours)  # it finds out which text is at fault
        shadow.remember(requests, embeddings)
        return live.route_embedded(requests, embeddings, neighbours=neighbours)

    # Around it

    def decided(self, request: RoutingRequest, decision: Decision) -> None:
        """Tell the shadow what was decided."""
        if self.shadow is not None:
            self.shadow.consider(request, decision)

    def with_shadow(self, request_id: str, decision: Decision) -> Decision:
        """Return the decision with what the shadow would have done, as far as that is known."""
        found = None if self.shadow is None else self.shadow.take(request_id)
        return decision if found is None else replace(decision, shadow=found)

    def observe(self, outcome: Outcome) -> None:
        """Tell the trial how a request ended."""
        if self.trial is not None:
            self.trial.observe(outcome)

    def canary_state(self) -> dict[str, Any] | None:
        """Return how the canary stands; None without one."""
        if self.trial is None:
            return {"status": "failing", "trouble": self.canary_trouble} if self.canary_trouble else None
        status = self.trial.status
        marks = {"running": status == "running", "rolled_back": status == "rolled_back"}
        return {**self.trial.state(), **marks, "failures": self.canary_failures}

    def shadow_state(self) -> dict[str, Any] | None:
        """Return how the shadow compares; None without one."""
        if self.shadow is None:
            return {"status": "failing", "trouble": self.shadow_trouble} if self.shadow_trouble else None
        return {"status": "ok", **self.shadow.state()}

    def start(self) -> None:
        """Start watching over the trial."""
        if self.trial is not None:
            self.trial.start()

    async def aclose(self, *, but: Lanes | None = None) -> None:
        """Stop, except for a trial that others go on with."""
        if self.trial is not None and (but is None or but.trial is not self.trial):
            await self.trial.aclose()
        if self.shadow is not None:
            await self.shadow.aclose()


def lanes_of(gateway: Gateway, before: Gateway | None) -> Lanes | None:
    """Return the lanes of a gateway as configured, None where there is only the live one; they can be seen then.

    Parameters
    ----------
    gateway : Gateway
        Whose engine is the live one.
    before : Gateway or None
        The gateway that it takes the place of: a trial of the same artifact goes on.
    """
    from service.picking.policy import with_routes
    from service.settings import build_policy

    lanes = Lanes.build(
        gateway.settings,
        live=lambda: gateway.engine,
        policy=gateway.deciding,
        shadow_policy=lambda: with_routes(build_policy(gateway.settings.policy), gateway.settings),
        with_log=gateway.with_log,
        link=gateway.link,
        reuse=None if before is None else before.lanes,
    )
    if lanes is not None:
        states = {"canary": lanes.canary_state, "shadow": lanes.shadow_state}
        gateway.learning.update({name: read for name, read in states.items() if read() is not None})
    return lanes


def problems_of(settings: Settings, live: Engine) -> list[str]:
    """Return what keeps the configured canary and shadow from deciding; a gateway does without them then."""
    from service.picking.policy import with_routes
    from service.settings import configured_policy

    problems = []
    for name, part in (("canary", settings.learning.canary), ("shadow", settings.learning.shadow)):
        try:
            if part is not None:
                _second(part.artifact, settings, with_routes(configured_policy(settings), settings), live)
        except LLMRouterError as error:
            problems.append(f"learning.{name}.artifact: {error}")
    return problems


def _second(path: Path, settings: Settings, policy: Policy, live: Engine) -> tuple[RoutingEngine, bool]:
    """Return another engine over the pool, and whether it has the live one's encoder.

    Raises
    ------
    LLMRouterError
        If it cannot be loaded.
    """
    from llmrouter import artifact
    from llmrouter.encoders import cached_encoder

    fingerprint = artifact.read_manifest(path)["encoder"]
    shares = live.encoder is not None and live.encoder.fingerprint == fingerprint
    engine = artifact.load(path, settings.cards, policy=policy, encoder=live.encoder if shares else None)
    if not shares:
        engine.encoder = cached_encoder(engine.encoder, settings.router.embedding_cache)
    return engine, shares
