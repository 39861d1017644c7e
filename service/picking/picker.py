"""Picks the route of every routed request of a gateway."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import BackendError
from llmrouter.pool import CHAT, BackendResponse, Cooldowns, Timeouts
from llmrouter.routes import INSTRUCTIONS, Chooser, ClassifierChooser, EmbeddingChooser, ModelChooser, other
from llmrouter.types import RoutePick, RoutingRequest
from service.learning.judging_calls import JudgeCalls
from service.limits.refusals import LimitExceededError

if TYPE_CHECKING:
    from llmrouter.encoders import Encoder
    from service.gateway import Gateway
    from service.keys.principal import Principal
    from service.settings import Settings

logger = logging.getLogger(__name__)

ROUTER_COST = "router"
"""Kind of cost, in metrics and accounting, of what picking costs."""

_OUTPUT_TOKENS = 100


class RoutePicker:
    """Pick by similarity, by a classifier, or by asking a model.

    Parameters
    ----------
    settings : Settings
        The configuration; it has routes.
    reuse : RoutePicker, optional
        That of the configuration before: what the new one leaves as it is goes on.

    Attributes
    ----------
    chooser : Chooser or None
        Picks where requests are decided; None where a model has to be waited for.
    model : ModelChooser or None
        Asks that model.
    encoder : Encoder or None
        Of the chooser that compares texts.
    settings : Settings
        The configuration.
    cooldowns : Cooldowns
        Whether that model is asked; its failures to pick in time do not keep it from answering requests.
    """

    def __init__(self, settings: Settings, *, reuse: RoutePicker | None = None) -> None:
        self.chooser: Chooser | None = None
        self.model: ModelChooser | None = None
        self.cooldowns: Cooldowns = Cooldowns() if reuse is None else reuse.cooldowns
        self.settings = settings
        self.encoder: Encoder | None = None
        self._told: set[str] = set()
        if settings.router.picks_by.kind == "model":
            self._build_model(settings, reuse)
        else:
            self._build_chooser(settings, reuse)

    def _build_model(self, settings: Settings, reuse: RoutePicker | None) -> None:
        chooser = settings.router.picks_by
        (model,) = (model for model in settings.pool if model.name == chooser.model)
        if reuse is not None and reuse.model is not None:
            before = reuse.settings.router
            same = before.routes == settings.router.routes and before.picks_by == chooser
            if same and model in reuse.settings.pool:
                self.model = reuse.model  # with all that it remembers
                return
        given = model.timeouts
        most = chooser.timeout_s
        parameters: Mapping[str, Any] = chooser.parameters
        if model.max_tokens_field == "max_completion_tokens":
            parameters = {"max_tokens": None, "max_completion_tokens": _OUTPUT_TOKENS, **parameters}
        self.model = ModelChooser(
            [route.route for route in settings.router.routes or ()],
            _NoBackend(),
            card=model.card,
            timeouts=Timeouts(
                min(given.connect_s, most), min(given.first_byte_s, most), min(given.between_chunks_s, most), most
            ),
            window_tokens=chooser.window,
            instructions=chooser.instructions or INSTRUCTIONS,
            parameters=parameters,
            remembered=chooser.cache,
        )

    def _build_chooser(self, settings: Settings, reuse: RoutePicker | None) -> None:
        from llmrouter.encoders import cached_encoder, load_encoder
        from llmrouter.routes import read_labelled

        router, chooser = settings.router, settings.router.picks_by
        if reuse is not None and reuse.encoder is not None and _encoder_of(reuse.settings) == _encoder_of(settings):
            self.encoder = reuse.encoder
        else:
            self.encoder = cached_encoder(load_encoder(_encoder_of(settings)), router.embedding_cache)
        routes = [route.route for route in router.routes or ()]
        if chooser.kind == "embedding":
            self.chooser = EmbeddingChooser(routes, self.encoder, threshold=chooser.least, turns=chooser.turns)
            return
        labelled = None if chooser.examples_file is None else read_labelled(chooser.examples_file)
        self.chooser = ClassifierChooser(
            routes, self.encoder, labelled=labelled, threshold=chooser.least, turns=chooser.turns
        )

    async def with_route(self, gateway: Gateway, request: RoutingRequest, principal: Principal) -> RoutingRequest:
        """Return a request with the route that a model picked; the request as it is where none is asked.

        The call counts for the limits of the key, its team and the gateway while it lasts. What it costs is charged
        with the request's answer, for a dry run at once.
        """
        if self.model is None or request.route is not None:
            return request
        return replace(request, route=await self._ask(self.model, gateway, request, principal))

    async def _ask(
        self, chooser: ModelChooser, gateway: Gateway, request: RoutingRequest, principal: Principal
    ) -> RoutePick:
        name = chooser.card.name
        if not principal.allows(name):
            return other("model", f"the key may not use {name}, which picks the route", failure="not_allowed")
        if (known := chooser.recall(request.conversation)) is not None:
            return known
        if self.cooldowns.cooling(name) or gateway.cooldowns.cooling(name):
            return other("model", f"{name} cools down after failures", failure="cooling")
        expected = chooser.expected_cost_usd
        try:
            grant = await gateway.limiter.acquire(
                gateway.shared.subjects_of(principal),
                tokens=0,
                cost_usd=expected,
                request_id=f"{request.request_id}/route",
            )
        except LimitExceededError:  # the request itself is refused next, unless its model is free
            return other("model", "the limits allow no call for picking", failure="limited")
        calls = _Calls(gateway, name, request_id=request.request_id or "", purpose="route")
        began = self.cooldowns.began(name)
        try:
            pick = await chooser.pick(request.conversation, backend=calls)
        except BaseException:  # the client hung up: what was asked is likely to be paid
            self.cooldowns.released(name, began=began)
            await gateway.limiter.settle(grant, tokens=0, cost_usd=expected)
            raise
        if calls.error is not None:
            self.cooldowns.failed(name, calls.error, began=began)
        elif calls.asked:
            self.cooldowns.succeeded(name, began=began)
        else:
            self.cooldowns.released(name, began=began)
        if request.dry_run:
            await gateway.limiter.settle(grant, tokens=0, cost_usd=pick.cost_usd)
            gateway.telemetry.spent(name, ROUTER_COST, pick.cost_usd)
        else:
            await gateway.limiter.cancel(grant)
        return pick

    def note(self, pick: RoutePick) -> str:
        """Return the result of a pick in one word: ``picked``, ``other``, or why there was none (logged once)."""
        result = pick.failure or ("other" if pick.is_other else "picked")
        if pick.failure and pick.failure not in self._told:
            self._told.add(pick.failure)
            logger.warning("a route could not be picked (%s): %s; metrics count the next", pick.failure, pick.reason)
        return result


class _Calls(JudgeCalls):
    """The picking model as one request calls it; remembers whether and how it failed."""

    error: BackendError | None = None
    asked = False

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        try:
            answer = await super().complete(body, timeouts=timeouts, endpoint=endpoint)
        except BackendError as error:
            self.error = error
            raise
        self.asked = True
        return answer


class _NoBackend:
    """Stands where every call brings its own backend."""

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        raise NotImplementedError("a gateway's chooser is called with a backend")

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> Any:
        raise NotImplementedError("a gateway's chooser is called with a backend")

    async def healthy(self) -> bool:
        return True

    async def aclose(self) -> None:
        pass


def _encoder_of(settings: Settings) -> str:
    return settings.router.picks_by.encoder or settings.router.encoder or "static"
