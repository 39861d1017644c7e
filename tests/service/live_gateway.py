"""What the service tests share: a small engine and a handle on a running gateway."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion, ordinary_stream

from llmrouter.exceptions import LLMRouterError
from llmrouter.policy import PoolCandidates, UtilityPolicy
from llmrouter.pool import Cooldowns
from llmrouter.types import Decision, Estimates, ModelCard, Neighbour, RoutingRequest
from service.app import create_app
from service.gateway import Gateway
from service.server import GatewayThread
from service.settings import Settings

PRICE = {"input": 1.0, "cached_input": 0.5, "output": 2.0}


class FakeEngine:
    """An engine as small as its interface: the model whose name is in the prompt is best, else the first."""

    artifact_id = "fake-1"
    router_name = "knn"
    encoder = None

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        self.cards = tuple(cards)
        self.policy = UtilityPolicy(0.3)
        self.requests: list[RoutingRequest] = []

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        return [self._route(request, neighbours) for request in requests]

    def _route(self, request: RoutingRequest, neighbours: int) -> Decision | LLMRouterError:
        self.requests.append(request)
        m = len(self.cards)
        quality = np.array([0.9 if card.name in request.text else 0.5 - 0.01 * i for i, card in enumerate(self.cards)])
        estimates = Estimates(
            tuple(card.name for card in self.cards), quality, np.full(m, 0.1), np.full(m, 1e-6), np.full(m, 9.0)
        )
        try:
            decision = self.policy.choose(request, PoolCandidates(self.cards).of(request), estimates)
        except LLMRouterError as error:
            return error
        found = tuple(Neighbour(f"p{i}", 1.0 - i / 10) for i in range(neighbours))
        return Decision(decision.ranking, 1.0, decision.policy, self.router_name, self.artifact_id, neighbours=found)


@dataclass
class Live:
    """A running gateway."""

    url: str
    client: httpx.Client
    gateway: Gateway
    engine: FakeEngine
    since: float = 0.0

    def chat(self, content: Any = "Hi", *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        return self.client.post(
            "/v1/chat/completions", json={"model": "auto", "messages": messages, **body}, headers=headers
        )

    def outcome(self, response: httpx.Response) -> dict[str, Any]:
        found = self.client.get(f"/v1/outcomes/{response.headers['x-request-id']}")
        assert found.status_code == 200, found.text
        return found.json()

    def outcomes(self) -> list[Any]:
        """Return what was recorded since `renew`."""
        return self.gateway.writer.submit(lambda store: list(store.scan(self.since))).result(10)

    def renew(self) -> None:
        """Forget what happened before."""
        self.since = time.time()
        self.engine.requests.clear()
        self.gateway.cooldowns = Cooldowns()
        self.client.cookies.clear()


async def well_behaved(exchange: Exchange) -> None:
    """Answer as an upstream should."""
    if exchange.body.get("stream"):
        await exchange.event_stream(ordinary_stream())
    else:
        await exchange.answer(completion())


def start_gateway(
    stack: ExitStack,
    upstream: MisbehavingUpstream,
    folder: Path,
    *names: str,
    models: dict[str, dict[str, Any]] | None = None,
    **sections: Any,
) -> Live:
    """Start a gateway over the named models of `upstream`; it stops with `stack`."""
    pool = []
    for name in names or ("alpha",):
        entry = {"name": name, "base_url": upstream.base_url, "price": PRICE, **(models or {}).get(name, {})}
        pool.append(entry)
    tree = {"pool": pool, "log": {"store": f"sqlite:///{folder}/outcomes.db", "flush_interval_s": 0.05}}
    settings = Settings.model_validate({**tree, **sections})
    engine = FakeEngine(settings.cards)
    app = create_app(settings, engine=engine)
    running = stack.enter_context(GatewayThread(app))
    client = stack.enter_context(httpx.Client(base_url=running.url, timeout=30, trust_env=False))
    return Live(running.url, client, app.state.gateway, engine)
