"""What the routes share: pool, engine, outcome log. Built once from the settings."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.datastructures import Headers
from starlette.types import Scope

from llmrouter import registry
from llmrouter.exceptions import LLMRouterError
from llmrouter.outcomes import Feedback, OutcomeStore
from llmrouter.policy import Policy
from llmrouter.pool import Backend, Cooldowns, HTTPSessions
from llmrouter.types import Decision, ModelCard, RankedModel, RoutingRequest, Usage
from service.call import Call, Status
from service.chat import ChatRequest
from service.control import BODY_KEY
from service.dialects import without_cache_control
from service.endpoints import CHAT, MESSAGES, RESPONSES, Endpoint
from service.judgements import JudgementStatus
from service.keys import refusals
from service.keys.principal import ANONYMOUS, Principal
from service.limits.refusals import LimitExceededError
from service.resilience.settings import DeploymentSettings
from service.resilience.state import LocalLimitError, Resilience
from service.settings import ModelSettings, Settings, build_engine, configured_policy
from service.shared import Shared

if TYPE_CHECKING:
    from service.cache import Hit, StreamRecorder
    from service.keys import KeyManager
    from service.learning.answer import HeardAnswer
    from service.learning.canary_lanes import Lanes
    from service.learning.explore_ledger import LeasedLedger
    from service.learning.online import OnlineUpdater
    from service.redis_link import RedisLink

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
        self.pool = tuple(model.name for model in settings.pool if model.generates)
        self.embedders = tuple(model.name for model in settings.pool if "embeddings" in model.endpoints)
        self.windows: Mapping[str, int | None] = {name: card.context_window for name, card in self.cards.items()}
        self.timeouts = {name: model.timeouts.timeouts() for name, model in self.models.items()}
        self._natives: dict[str, tuple[str, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        same_policy = reuse is not None and _same_policy(reuse.settings, settings)
        self.policy: Policy = reuse.policy if reuse is not None and same_policy else configured_policy(settings)
        self.engine: Engine = build_engine(settings, policy=self.policy) if engine is None else engine
        self.shared: Shared = Shared(
            settings, artifact_id=self.engine.artifact_id, reuse=None if reuse is None else reuse.shared
        )
        self.resilience: Resilience = self.shared.resilience
        self.backends = (
            build_backends(settings, self.shared.sessions, self.resilience) if backends is None else backends
        )
        self.shared.open()
        # Read on every request, so taken out of the settings once.
        self.admission = self.shared.admission
        self.limiter = self.shared.limiter
        self.authenticator = self.shared.authenticator
        self.writer = self.shared.writer
        self.telemetry = self.shared.telemetry
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
        }

    def native(self, endpoint: Endpoint) -> tuple[str, ...]:
        """Return the models whose upstreams serve an endpoint themselves."""
        found = self._natives.get(endpoint.name)
        if found is None:
            found = tuple(name for name, model in self.models.items() if endpoint.name in model.endpoints)
            self._natives[endpoint.name] = found
        return found

    def serves(self, name: str | None, endpoint: Endpoint) -> bool:
        """Return whether the upstream of a model serves an endpoint itself; all that generate serve chat."""
        return endpoint is CHAT or name in self.native(endpoint)

    def upstream_request(self, call: Call, name: str) -> tuple[str, Mapping[str, Any]]:
        """Return path and body for one model; streams are asked for their usage, whether or not the client asked."""
        chat = call.chat
        native = self.serves(name, chat.endpoint)
        path = chat.endpoint.upstream if native else CHAT.upstream
        body = chat.original if native and chat.endpoint is not CHAT else chat.body
        model = self.models[name]
        if chat.endpoint is MESSAGES and not model.cache_control:
            body = without_cache_control(body)
        if model.max_tokens_field is not None and path == CHAT.upstream:
            body = with_limit_as(body, model.max_tokens_field)
        ask = chat.stream and path != RESPONSES.upstream and model.stream_usage
        if not ask or (chat.usage_asked and native):
            return path, body
        return path, {**body, "stream_options": {**(body.get("stream_options") or {}), "include_usage": True}}

    async def decide(self, chat: ChatRequest, *, neighbours: int = 0, dry_run: bool = False) -> Decision:
        """Return the decision for a request: the engine's, or the model that the client named.

        A dry run is decided alike and counted by no policy.

        Raises
        ------
        RoutingError
            If no decision is possible.
        """
        if chat.pinned is not None:
            return pinned_decision(chat.pinned)
        routing = replace(chat.routing, dry_run=True) if dry_run else chat.routing
        if self.lanes is None:
            return await self.shared.routing.route(self.engine, routing, neighbours=neighbours)
        decision = await self.shared.routing.route(self.lanes, routing, neighbours=neighbours)
        self.lanes.decided(routing, decision)
        return decision

    # Limits

    async def reserve(self, call: Call) -> None:
        """Set aside what the request may use of the limits of its key, its team and the gateway.

        Raises
        ------
        LimitExceededError
            If one of them does not allow it.
        """
        subjects = self.shared.subjects_of(call.principal)
        if not subjects:
            return
        before = time.perf_counter()
        tokens, dollars = self._reserved_amounts(call)
        call.grant = await self.limiter.acquire(subjects, tokens=tokens, cost_usd=dollars, request_id=call.request_id)
        call.stages["limits"] = time.perf_counter() - before

    async def reserve_model(self, call: Call, name: str) -> None:
        """Set aside what the call of a model may use of that model's own limits.

        Raises
        ------
        LocalLimitError
            If they do not allow it; the next model is tried.
        """
        subjects = self.shared.subjects.of_model(name)
        if not subjects:
            return
        tokens, dollars = self._reserved_amounts(call, name)
        try:
            grant = await self.limiter.acquire(
                subjects, tokens=tokens, cost_usd=dollars, request_id=f"{call.request_id}/{name}"
            )
        except LimitExceededError as error:
            self.telemetry.limited(error.kind, error.dimension)
            raise LocalLimitError.of(error, model=name) from error
        call.model_grants.append((name, grant))

    def _reserved_amounts(self, call: Call, name: str | None = None) -> tuple[int, float]:
        routing = call.chat.routing
        chosen = call.decision.model if name is None else name
        card = self.cards[chosen]
        output = routing.max_output_tokens
        tokens = routing.prompt_tokens + (output or 0)
        bound = card.price.cost_usd(routing.prompt_tokens, _LIKELY_OUTPUT_TOKENS if output is None else output)
        expected = next((e.expected_cost_usd for e in call.decision.ranking if e.model == chosen), math.nan)
        return tokens, bound if math.isnan(expected) else max(expected, bound if output else 0.0)

    # Answers kept

    async def replay(self, call: Call, headers: Headers) -> Hit | None:
        """Return a kept answer to the same question, where there is one and the request allows it."""
        cache = self.shared.cache
        if cache is None or call.chat.control.dry_run or not call.chat.translatable:
            return None
        before = time.perf_counter()
        principal = call.principal
        plan = cache.plan(
            call.endpoint,
            {**call.chat.body, BODY_KEY: call.chat.control.answer_relevant()},
            headers,
            key_id=principal.key_id,
            team=principal.team,
            models=principal.models,
        )
        if plan is None:
            call.cache = "bypass"
            return None
        call.plan = plan
        question = plan.question if plan.may_read else None
        embedding = None if question is None else await asyncio.to_thread(self._embed, question)
        hit: Hit | None = await cache.lookup(plan, text=plan.question, embedding=embedding)
        call.cache = ("semantic" if hit.semantic else "hit") if hit else ("miss" if plan.may_read else "bypass")
        if hit is not None:
            call.served_by = hit.entry.served_by
            call.decision = Decision(
                ranking=(RankedModel(hit.entry.served_by, math.nan, math.nan, 0.0),), policy="cache"
            )
            await self.reserve(call)
        call.stages["cache"] = time.perf_counter() - before
        return hit

    def keep(self, call: Call, answer: bytes, usage: Usage) -> None:
        """Keep a whole answer of the upstream for the same question."""
        if self.shared.cache is not None and call.plan is not None and self._cacheable(call):
            self.shared.cache.store_answer(call.plan, answer, served_by=call.served_by or "", usage=usage.raw)

    def recorder(self, call: Call) -> StreamRecorder | None:
        """Return what takes down a stream that may be kept."""
        if self.shared.cache is None or call.plan is None or not self._cacheable(call):
            return None
        return self.shared.cache.recorder(call.plan)

    def keep_stream(self, call: Call, recorder: StreamRecorder, usage: Usage) -> None:
        """Keep a stream that came to its end."""
        if self.shared.cache is not None and call.plan is not None:
            self.shared.cache.store_stream(call.plan, recorder, served_by=call.served_by or "", usage=usage.raw)

    def _cacheable(self, call: Call) -> bool:
        return call.chat.endpoint is CHAT or not self.serves(call.served_by, call.chat.endpoint)

    def _embed(self, text: str) -> Any:
        return self.engine.encoder.encode([text])[0]

    # The end of a request

    def resumes(self, call: Call) -> bool:
        """Return whether another model may go on where a stream breaks off."""
        asked = call.chat.control.resume
        allowed = self.settings.resilience.fallback_after_first_token if asked is None else asked
        return allowed and not (call.chat.endpoint is not CHAT and self.serves(call.served_by, call.chat.endpoint))

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
        self._settle(call, usage, total, status)
        return total

    def _settle(self, call: Call, usage: Usage | None, cost: float | None, status: Status) -> None:
        """Give back what was set aside and not used."""
        if call.grant is None and not call.model_grants:
            return
        if call.cache in ("hit", "semantic") or status == "error" or not call.asked:
            used: tuple[int | None, float | None] = (0, cost or 0.0)
        else:
            used = (_total_tokens(usage), cost)
        self._spawn(self._settle_all(call, used))

    async def _settle_all(self, call: Call, used: tuple[int | None, float | None]) -> None:
        tokens, cost = used
        if call.grant is not None:
            await self.limiter.settle(call.grant, tokens=tokens, cost_usd=cost)
        answered = False
        for name, grant in reversed(call.model_grants):
            if name == call.served_by and not answered:
                answered = True
                await self.limiter.settle(grant, tokens=tokens, cost_usd=cost)
            elif any(name == other for other, _ in call.abandoned):
                # It may have answered half: what was set aside is taken for used.
                await self.limiter.settle(grant, tokens=None, cost_usd=None)
            else:
                await self.limiter.cancel(grant)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        if self.online is not None:  # the last step: it ends that of the gateway before
            await asyncio.to_thread(self.online.start)

    async def retire(self, successor: Gateway, *, within_s: float) -> None:
        """Close what the successor did not take over, once the requests under way have ended (or the time is up)."""
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
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SETTLE_S)


def _same_policy(before: Settings, now: Settings) -> bool:
    """Return whether what a policy counts goes on under another configuration."""
    divided = before.redis == now.redis and before.server.workers == now.server.workers
    return before.policy == now.policy and before.learning.explore == now.learning.explore and divided


def with_limit_as(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the body with its limit on output tokens under the name that the upstream knows."""
    other = "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"
    if body.get(other) is None:
        return body
    renamed = {key: value for key, value in body.items() if key != other}
    renamed.setdefault(field, body[other])
    return renamed


def pinned_decision(name: str) -> Decision:
    """Return the decision of a request that names its model."""
    return Decision(ranking=(RankedModel(name, math.nan, math.nan, math.nan),), policy=PINNED_POLICY)


def _total_tokens(usage: Usage | None) -> int | None:
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return usage.input_tokens + usage.output_tokens


def build_backends(settings: Settings, sessions: HTTPSessions, resilience: Resilience) -> dict[str, Backend]:
    """Construct the backend of every model of the pool.

    Raises
    ------
    ConfigError
        If a backend refuses its parameters.
    """
    return {model.name: _build_model(model, sessions, resilience) for model in settings.pool}


def _build_model(model: ModelSettings, sessions: HTTPSessions, resilience: Resilience) -> Backend:
    if not model.deployments:
        return _build_backend(model, model, sessions)
    return resilience.balanced(
        model.name, [(deployment, _build_backend(model, deployment, sessions)) for deployment in model.deployments]
    )


def _build_backend(model: ModelSettings, place: ModelSettings | DeploymentSettings, sessions: HTTPSessions) -> Backend:
    kind = place.backend or model.backend
    base_url, api_key = place.base_url or model.base_url, place.api_key or model.api_key
    headers = place.headers or model.headers
    parameters: dict[str, Any] = {"name": model.name, "model": place.model or model.model or model.name}
    if base_url is not None:
        parameters["base_url"] = base_url
    if api_key is not None:
        parameters["api_key"] = api_key.get_secret_value()
    if headers:
        parameters["headers"] = {key: value.get_secret_value() for key, value in headers.items()}
    if kind == "openai":
        parameters["sessions"] = sessions
    backend: Backend = registry.create("backend", kind, **parameters, **{**model.options, **place.options})
    return backend
