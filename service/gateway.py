"""What the routes share: pool, engine, outcome log. Built once from the settings."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from starlette.types import Scope

from llmrouter.exceptions import LLMRouterError
from llmrouter.outcomes import Feedback, OutcomeStore
from llmrouter.policy import Policy
from llmrouter.pool import Backend, Cooldowns
from llmrouter.routes import RoutedEngine
from llmrouter.types import Decision, ModelCard, RankedModel, RoutingRequest, Usage
from service.backends import build_backends
from service.cache.kept import KeptAnswers
from service.call import Call, Status
from service.chat import ChatRequest
from service.endpoints import CHAT, Endpoint
from service.judgements import JudgementStatus
from service.keys import refusals
from service.keys.principal import ANONYMOUS, Principal
from service.loads import Loads
from service.picking.policy import with_routes
from service.reservations import Reservations
from service.resilience.state import Resilience
from service.settings import ModelSettings, Settings, build_engine, configured_policy
from service.shared import Shared
from service.upstreams import Upstreams

if TYPE_CHECKING:
    from service.keys import KeyManager
    from service.learning.answer import HeardAnswer
    from service.learning.canary_lanes import Lanes
    from service.learning.explore_ledger import LeasedLedger
    from service.learning.online import OnlineUpdater
    from service.limits.grant import Limiter
    from service.picking.picker import RoutePicker
    from service.redis_link import RedisLink
    from service.telemetry import Telemetry

T = TypeVar("T")

PINNED_POLICY = "pinned"
"""Policy of a request that names its model: nothing was decided."""

_REMEMBERED_KEYS = 1024
_LIKELY_OUTPUT_TOKENS = 256
_POLL_S = 0.05
_SETTLE_S = 2.0


class Engine(Protocol):
    """What the gateway needs of `llmrouter.engine.RoutingEngine`."""

    cards: tuple[ModelCard, ...]
    artifact_id: str
    policy: Policy
    encoder: Any

    @property
    def router_name(self) -> str:
        """Registry name of the router."""
        ...

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide for several requests at once."""
        ...


@runtime_checkable
class FollowsPrices(Protocol):
    """An engine that can decide by other prices than the configured ones."""

    def at_present(self, cards: Mapping[str, ModelCard]) -> None:
        """Decide by these cards from the next batch on; see `llmrouter.engine.RoutingEngine.at_present`."""
        ...


class Gateway:
    """The state of one gateway process under one configuration.

    Parameters
    ----------
    settings : Settings
        The configuration.
    engine : RoutingEngine, optional
        By default loaded as configured.
    backends : mapping of str to Backend, optional
        Pool name -> backend; by default built as configured. Given ones are closed with the gateway too.
    reuse : Gateway, optional
        The gateway whose place this one takes on a reload. What the new configuration does not change is taken over:
        the outcome log, counters, limits, keys, answers kept, connections.

    Attributes
    ----------
    in_flight : int
        Requests under way.
    learning : dict of str to callable
        What parts of the learning loop tell of themselves, for /readyz and /admin/learning, by their name.

    Raises
    ------
    ConfigError, ArtifactError, EncoderError, StoreError, MissingExtraError
        If the configuration cannot be put into effect.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        engine: Engine | None = None,
        backends: Mapping[str, Backend] | None = None,
        reuse: Gateway | None = None,
    ) -> None:
        self.settings = settings
        self.started: float = time.time() if reuse is None else reuse.started
        self.in_flight = 0
        self.models: Mapping[str, ModelSettings] = {model.name: model for model in settings.pool}
        self.cards: Mapping[str, ModelCard] = {model.name: model.card for model in settings.pool}
        self.pool = tuple(model.name for model in settings.answering)
        self.embedders = tuple(model.name for model in settings.pool if "embeddings" in model.endpoints)
        self.windows: Mapping[str, int | None] = {name: card.context_window for name, card in self.cards.items()}
        self.timeouts = {name: model.timeouts.timeouts() for name, model in self.models.items()}
        self.upstreams = Upstreams(self.models)
        same_policy = reuse is not None and _same_policy(reuse.settings, settings)
        self.policy: Policy = reuse.policy if reuse is not None and same_policy else configured_policy(settings)
        # What decides: the ordinary policy, and the routes around it.
        same_routes = reuse is not None and _same_routes(reuse.settings, settings)
        self.deciding: Policy = with_routes(
            self.policy, settings, reuse=reuse.deciding if reuse is not None and same_routes else None
        )
        self.engine: Engine = build_engine(settings, policy=self.deciding) if engine is None else engine
        self.picker: RoutePicker | None = None
        self.routed: RoutedEngine | None = None
        if settings.router.routes is not None:
            from service.picking.picker import RoutePicker

            self.picker = RoutePicker(settings, reuse=None if reuse is None else reuse.picker)
            self.routed = RoutedEngine(lambda: self.lanes or self.engine, self.picker.chooser)
        self.shared: Shared = Shared(
            settings, artifact_id=self.engine.artifact_id, reuse=None if reuse is None else reuse.shared
        )
        self.resilience: Resilience = self.shared.resilience
        self.backends: Mapping[str, Backend] = (
            build_backends(settings, self.shared.sessions, self.resilience) if backends is None else backends
        )
        self.shared.open()
        self.loads: Loads = Loads(
            settings.answering,
            self.shared.sessions,
            use=self._decide_at,
            reuse=None if reuse is None else reuse.loads,
        )
        self.reservations = Reservations(self.shared, self.cards, at_list_price=self.loads.names)
        self.answers = KeptAnswers(
            self.shared.cache,
            self.reservations,
            self.upstreams,
            embed=lambda text: self.engine.encoder.encode([text])[0],
        )
        # Read on every request, so taken out of the settings once.
        self.admission = self.shared.admission
        self.limiter: Limiter = self.shared.limiter
        self.authenticator = self.shared.authenticator
        self.writer = self.shared.writer
        self.telemetry: Telemetry = self.shared.telemetry
        self._signals = self.shared.signals
        self._owners = self.shared.owners
        self.learning: dict[str, Callable[[], Any]] = {}
        self.ledger: LeasedLedger | None = None
        self.lanes: Lanes | None = None
        if settings.learning.explore is not None:
            from service.learning.explore_ledger import ledger_of

            self.ledger = ledger_of(self, reuse if same_policy else None)
        if settings.learning.canary is not None or settings.learning.shadow is not None:
            from service.learning.canary_lanes import lanes_of

            self.lanes = lanes_of(self, reuse)
        self.online = self._build_online(reuse)
        self._prompts = settings.log.prompts
        self._observe = self.engine.policy.observe
        self._open_parsing = self._parsing_of(self.pool, restricted=False)
        self._parsing_by_models: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def _watch(self) -> None:
        watch = self.telemetry.watch
        watch("log", self.writer.state)
        watch("admission", self.admission.state)
        watch("in_flight", lambda: self.in_flight)
        watch("cooldowns", self.resilience.cooling_s)
        watch("breakers", self.resilience.breakers)
        watch("resilience", self.resilience.state)
        watch("limits", self.limiter.state)
        if self.link is not None:
            watch("redis", self.link.state)
        if self.shared.cache is not None:
            watch("cache", self.shared.cache.state)
        for name in ("explore", "shadow", "canary", "online", "drift"):
            if name in self.learning:
                watch(name, self.learning[name])
        if self.online is not None and self.online.monitor is not None:
            watch("calibration", self.online.calibration_errors)
        if self.loads.names:
            watch("load_ages", self.loads.ages)
            watch("load_failures", self.loads.failures)
            watch("load_in_use", self.loads.in_use)

    # The learning loop

    def _build_online(self, before: Gateway | None) -> OnlineUpdater | None:
        learning = self.settings.learning
        if learning.online is None and learning.drift is None:
            return None
        from service.learning.online import build_updater

        updater = build_updater(
            self.settings,
            self.engine,
            submit=self.writer.submit,
            swap=self._take_engine,
            before=None if before is None else before.online,
        )
        if updater is not None:
            if updater.settings.enabled:
                self.learning["online"] = updater.state
            if updater.monitor is not None:
                self.learning["drift"] = updater.drift_state
        return updater

    def _take_engine(self, engine: Engine) -> None:
        """Decide with another state of the same engine from now on; what is being decided ends with the one it has."""
        self.engine = engine

    def _decide_at(self, cards: Mapping[str, ModelCard]) -> None:
        """Decide by the cards of the moment, in every lane."""
        engines: list[Any] = [self.engine]
        if self.lanes is not None:
            engines += [self.lanes.canary, None if self.lanes.shadow is None else self.lanes.shadow.engine]
        for engine in engines:
            if isinstance(engine, FollowsPrices):
                engine.at_present(cards)

    # What routes ask

    @property
    def keys(self) -> KeyManager | None:
        """Virtual keys, where they are on."""
        return self.shared.keys

    @property
    def link(self) -> RedisLink | None:
        """The connection to Redis, where one is configured."""
        return self.shared.link

    @property
    def cooldowns(self) -> Cooldowns:
        """Which models are left alone."""
        return self.resilience.cooldowns

    @cooldowns.setter
    def cooldowns(self, cooldowns: Cooldowns) -> None:
        self.resilience.cooldowns = cooldowns

    def prompts_of(self, principal: Principal) -> str:
        """Return what the log keeps of a principal's prompts: what its key says, else what the configuration does."""
        return principal.prompts or self._prompts

    def keeps_text(self, principal: Principal) -> bool:
        """Return whether the log may hold text of its requests; what upstreams say in errors can quote them."""
        return self.prompts_of(principal) == "text"

    async def principal(self, scope: Scope, needed: str) -> Principal:
        """Return who asks.

        Raises
        ------
        APIError
            401 or 403, if the key is missing, wrong or lacks the scope.
        """
        if self.authenticator is None:
            return ANONYMOUS
        principal = await self.authenticator.of_request(scope)
        if not principal.may(needed):
            raise refusals.lacking_scope(principal, needed)
        return principal

    def parsing(self, principal: Principal) -> Mapping[str, Any]:
        """Return what `parse_request` has to know for a principal."""
        known = self._open_parsing if principal.models is None else self._parsing_by_models.get(principal.models)
        if known is None and principal.models is not None:
            names = tuple(name for name in self.pool if principal.allows(name))
            if len(self._parsing_by_models) >= _REMEMBERED_KEYS:
                self._parsing_by_models.clear()
            known = self._parsing_by_models[principal.models] = self._parsing_of(names, restricted=True)
        return {**(known or {}), "key_id": principal.key_id, "explore": principal.explore}

    def _parsing_of(self, names: tuple[str, ...], *, restricted: bool) -> Mapping[str, Any]:
        return {
            "pool": names,
            "router_name": self.engine.router_name,
            "settings": self.settings.router,
            "restricted": restricted,
            "verifiable": self.settings.learning.verify.requests,
            "conversation": self.picker is not None,
        }

    async def decide(
        self, chat: ChatRequest, *, principal: Principal = ANONYMOUS, neighbours: int = 0, dry_run: bool = False
    ) -> Decision:
        """Return the decision for a request: the engine's, or the model that the client named.

        A dry run is decided alike and counted by no policy. Where a model picks the route it is asked first, for a
        dry run, too.

        Raises
        ------
        RoutingError
            If no decision is possible.
        """
        if chat.pinned is not None:
            return pinned_decision(chat.pinned)
        routing = replace(chat.routing, dry_run=True) if dry_run else chat.routing
        if self.picker is not None and self.routed is not None:
            return await self._decide_on_route(self.picker, self.routed, routing, principal, neighbours)
        if self.lanes is None:
            return await self.shared.routing.route(self.engine, routing, neighbours=neighbours)
        decision = await self.shared.routing.route(self.lanes, routing, neighbours=neighbours)
        self.lanes.decided(routing, decision)
        return decision

    async def _decide_on_route(
        self, picker: RoutePicker, engine: RoutedEngine, routing: RoutingRequest, principal: Principal, neighbours: int
    ) -> Decision:
        routing = await picker.with_route(self, routing, principal)
        try:
            decision = await self.shared.routing.route(engine, routing, neighbours=neighbours)
        finally:
            if routing.route is not None:  # a model was asked, whatever came of the rest
                self.telemetry.picked(routing.route.name, picker.note(routing.route))
        if routing.route is None and decision.route is not None:
            self.telemetry.picked(decision.route.name, picker.note(decision.route))
        if self.lanes is not None:
            self.lanes.decided(replace(routing, route=decision.route), decision)
        return decision

    # The end of a request

    def resumes(self, call: Call) -> bool:
        """Return whether another model may go on where a stream breaks off."""
        asked = call.chat.control.resume
        allowed = self.settings.resilience.fallback_after_first_token if asked is None else asked
        return allowed and not (
            call.chat.endpoint is not CHAT and self.upstreams.serves(call.served_by, call.chat.endpoint)
        )

    def charge_broken_off(self, call: Call, name: str) -> None:
        """Count what a model costs that broke off: at least its input was read."""
        call.extra_cost["retry"] = call.extra_cost.get("retry", 0.0) + self._input_cost(call, name)

    def _input_cost(self, call: Call, name: str) -> float:
        return self.cards[name].price.cost_usd(call.chat.routing.prompt_tokens, 0)

    def listen(self, call: Call) -> HeardAnswer | None:
        """Return what takes down the answer that a call is about to get, None where nothing is to judge it."""
        return self._signals.listen(call)

    def refused(self, endpoint: Endpoint, error: LLMRouterError) -> None:
        """Count a request that was refused before any model was asked."""
        self.telemetry.refused(endpoint.name, error)

    def finish(self, call: Call, status: Status, *, usage: Usage | None = None, error: str = "") -> float | None:
        """Account for a call, once: log, metrics, limits, policy. Return its whole cost in US dollars, if known.

        Parameters
        ----------
        call : Call
            What happened.
        status : str
            See `Outcome`.
        usage : Usage, optional
            As the provider counted.
        error : str
            What went wrong.
        """
        if call.recorded:
            return None
        call.recorded = True
        before = time.perf_counter()
        for name, _ in call.abandoned:
            call.extra_cost["hedge"] = call.extra_cost.get("hedge", 0.0) + self._input_cost(call, name)
        kept = call.cache in ("hit", "semantic")
        cost: float | None = 0.0 if kept else None
        stamp = None
        if not kept and usage is not None and call.served_by:
            price = self.cards[call.served_by].price
            cost = price.cost_of(usage)
            stamp = None if cost is None else price.stamp
        total = None if cost is None else cost + sum(call.extra_cost.values())
        if call.decision.ranking:
            if self.lanes is not None:
                call.decision = self.lanes.with_shadow(call.request_id, call.decision)
            outcome = call.outcome(
                status,
                prompts=self.prompts_of(call.principal),
                usage=usage,
                cost_usd=cost,
                price_as_of=stamp,
                error=error,
            )
            self.writer.put(outcome)
            self._observe(outcome)
            if self.lanes is not None:
                self.lanes.observe(outcome)
            call.stages["record"] = time.perf_counter() - before
            self._owners.note(outcome)
            self._signals.finished(self, call, outcome)
            self.telemetry.finished(call, outcome)
        self.reservations.settle(call, usage, total, status)
        return total

    async def with_log(self, job: Callable[[OutcomeStore], T]) -> T:
        """Run `job` with the outcome store, off the event loop, after every outcome so far is stored.

        Raises
        ------
        StoreError
            If the store fails.
        """
        return await asyncio.wrap_future(self.writer.submit(job))

    async def judge(self, batch: Sequence[Feedback]) -> list[JudgementStatus]:
        """Store judgements, off the event loop; return where each is, once it is durable.

        While the store fails they are ``spooled`` to the disk, and replayed when it works again.

        Raises
        ------
        DataError
            If one of them cannot be stored.
        StoreError
            If neither store nor disk takes them.
        """
        return await asyncio.wrap_future(self.writer.judge(batch))

    async def start(self) -> None:
        """Start what runs in the background."""
        self._watch()
        self.shared.start()
        if self.ledger is not None:
            self.ledger.start()
        if self.lanes is not None:
            self.lanes.start()
        self.loads.start()
        if self.online is not None:  # the last step: it ends that of the gateway before
            await asyncio.to_thread(self.online.start)

    async def retire(self, successor: Gateway, *, within_s: float) -> None:
        """Close what the successor did not take over, once the requests under way have ended (or the time is up)."""
        await self.loads.aclose()
        await self._settled(within_s)
        for name, backend in self.backends.items():
            if successor.backends.get(name) is not backend:
                await backend.aclose()
        if self.ledger is not None and successor.ledger is not self.ledger:
            await self.ledger.aclose()
        if self.lanes is not None:
            await self.lanes.aclose(but=successor.lanes)
        await self._close_online()
        await self.shared.aclose(but=successor.shared)

    async def aclose(self) -> None:
        """Write out the log and close connections."""
        await self.loads.aclose()
        await self._settled(0.0)
        for backend in self.backends.values():
            await backend.aclose()
        if self.ledger is not None:
            await self.ledger.aclose()
        if self.lanes is not None:
            await self.lanes.aclose()
        await self._close_online()
        await self.shared.aclose()

    async def _close_online(self) -> None:
        if self.online is not None:
            await asyncio.to_thread(self.online.close)

    async def _settled(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while self.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, and nothing to wait on
            await asyncio.sleep(_POLL_S)
        await self.reservations.finished()


def _same_policy(before: Settings, now: Settings) -> bool:
    """Return whether what a policy counts goes on under another configuration."""
    same = before.policy == now.policy and before.learning.explore == now.learning.explore
    return same and _divided_alike(before, now)


def _same_routes(before: Settings, now: Settings) -> bool:
    """Return whether what the policies of routes count goes on under another configuration."""
    return before.router.routes == now.router.routes and _divided_alike(before, now)


def _divided_alike(before: Settings, now: Settings) -> bool:
    return before.redis == now.redis and before.server.workers == now.server.workers


def pinned_decision(name: str) -> Decision:
    """Return the decision of a request that names its model."""
    return Decision(ranking=(RankedModel(name, math.nan, math.nan, math.nan),), policy=PINNED_POLICY)
