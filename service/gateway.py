"""What the routes share: pool, engine, outcome log. Built once from the settings."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llmrouter import registry
from llmrouter.outcomes import OutcomeStore, open_store
from llmrouter.policy import Policy
from llmrouter.pool import Backend, Cooldowns, HTTPSessions
from llmrouter.types import Decision, ModelCard, RankedModel, RoutingRequest, Usage
from service.call import Call, Status, cost_of
from service.chat import ChatRequest
from service.outcome_writer import OutcomeWriter
from service.settings import LogSettings, ModelSettings, Settings, build_engine
from service.spool import Spool

logger = logging.getLogger(__name__)

T = TypeVar("T")

PINNED_POLICY = "pinned"
"""Policy of a request that names its model: nothing was decided."""

_SQLITE_SCHEME = "sqlite:///"
_ROUTING_THREADS = 2


class Engine(Protocol):
    """What the gateway needs of `llmrouter.engine.RoutingEngine`."""

    cards: tuple[ModelCard, ...]
    artifact_id: str
    policy: Policy

    @property
    def router_name(self) -> str:
        """Registry name of the router."""
        ...

    def route(self, request: RoutingRequest, *, neighbours: int = 0) -> Decision:
        """Decide."""
        ...


class Gateway:
    """The state of one gateway process.

    Parameters
    ----------
    settings : Settings
        The configuration.
    engine : RoutingEngine, optional
        By default loaded as configured.
    backends : mapping of str to Backend, optional
        Pool name -> backend; by default built as configured. Given ones are closed with the gateway too.

    Raises
    ------
    ConfigError, ArtifactError, EncoderError, StoreError, MissingExtraError
        If the configuration cannot be put into effect.
    """

    def __init__(
        self, settings: Settings, *, engine: Engine | None = None, backends: Mapping[str, Backend] | None = None
    ) -> None:
        self.settings = settings
        self.models: Mapping[str, ModelSettings] = {model.name: model for model in settings.pool}
        self.cards: Mapping[str, ModelCard] = {card.name: card for card in settings.cards}
        self.pool = tuple(self.cards)
        self.windows = {name: card.context_window for name, card in self.cards.items()}
        self.timeouts = {name: model.timeouts.timeouts() for name, model in self.models.items()}
        self.engine: Engine = build_engine(settings) if engine is None else engine
        self._sessions = HTTPSessions()
        self.backends = build_backends(settings, self._sessions) if backends is None else backends
        self.cooldowns = Cooldowns()
        self.started = time.time()
        self.writer = OutcomeWriter(
            open_store(settings.log.store),
            spool=Spool(spool_path(settings.log)),
            flush_interval_s=settings.log.flush_interval_s,
            max_queue=settings.log.max_queue,
        )
        # Routing takes about a millisecond, but a large index or a long prompt takes more, and the event loop must
        # not wait for it. NumPy and the tokenizer release the interpreter lock while they work.
        self._threads = ThreadPoolExecutor(_ROUTING_THREADS, thread_name_prefix="routing")

    async def decide(self, chat: ChatRequest, *, neighbours: int = 0, dry_run: bool = False) -> Decision:
        """Return the decision for a request: the engine's, or the model that the client named.

        A dry run is decided alike and counted by no policy.

        Raises
        ------
        RoutingError
            If no decision is possible.
        """
        if chat.pinned is not None:
            entry = RankedModel(chat.pinned, math.nan, math.nan, math.nan)
            return Decision(ranking=(entry,), policy=PINNED_POLICY)
        loop = asyncio.get_running_loop()
        routing = replace(chat.routing, dry_run=True) if dry_run else chat.routing
        return await loop.run_in_executor(self._threads, self._route, routing, neighbours)

    def record(self, call: Call, status: Status, *, usage: Usage | None = None, error: str = "") -> float | None:
        """Hand the outcome of a call to the log, and return its cost in US dollars where that is known.

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
        cost = cost_of(usage, self.cards[call.served_by]) if usage and call.served_by else None
        prompts = self.settings.log.prompts
        outcome = call.outcome(status, prompts=prompts, usage=usage, cost_usd=cost, error=error)
        self.writer.put(outcome)
        self.engine.policy.observe(outcome)
        return cost

    @property
    def keeps_text(self) -> bool:
        """Whether the log may hold text of requests; what upstreams say in errors can quote them."""
        return self.settings.log.prompts == "text"

    async def with_log(self, job: Callable[[OutcomeStore], T]) -> T:
        """Run `job` with the outcome store, off the event loop, after every outcome so far is stored.

        Raises
        ------
        StoreError
            If the store fails.
        """
        return await asyncio.wrap_future(self.writer.submit(job))

    def start(self) -> None:
        """Start what runs in the background."""
        self.writer.start()

    async def aclose(self) -> None:
        """Write out the log and close connections."""
        for backend in self.backends.values():
            await backend.aclose()
        await self._sessions.aclose()
        await asyncio.to_thread(self.writer.close)
        self._threads.shutdown(wait=False)

    def _route(self, request: RoutingRequest, neighbours: int) -> Decision:
        return self.engine.route(request, neighbours=neighbours)


def build_backends(settings: Settings, sessions: HTTPSessions) -> dict[str, Backend]:
    """Construct the backend of every model of the pool.

    Raises
    ------
    ConfigError
        If a backend refuses its parameters.
    """
    return {model.name: _build_backend(model, sessions) for model in settings.pool}


def spool_path(log: LogSettings) -> Path:
    """Return where outcomes go while the store cannot take them: beside a SQLite file, else the working directory."""
    if log.spool is not None:
        return log.spool
    name = log.store.removeprefix(_SQLITE_SCHEME) if log.store.startswith(_SQLITE_SCHEME) else "outcomes"
    return Path(f"{name}.spool.jsonl")


def _build_backend(model: ModelSettings, sessions: HTTPSessions) -> Backend:
    parameters: dict[str, Any] = {"name": model.name, "model": model.model or model.name}
    if model.base_url is not None:
        parameters["base_url"] = model.base_url
    if model.api_key is not None:
        parameters["api_key"] = model.api_key.get_secret_value()
    if model.headers:
        parameters["headers"] = {key: value.get_secret_value() for key, value in model.headers.items()}
    if model.backend == "openai":
        parameters["sessions"] = sessions
    backend: Backend = registry.create("backend", model.backend, **parameters, **model.options)
    return backend
