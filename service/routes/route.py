"""POST /v1/route: the dry run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.types import Decision
from service.errors import json_response
from service.routes.state import gateway_of, read_chat, require

routes = APIRouter()

_NEIGHBOURS = 5
_TRIES = 3


@routes.post("/v1/route")
async def route(request: Request) -> Response:
    """Return the decision for a chat body, with estimates for every model; where engines report loads, prices too.

    No model answers it; where a model picks the route, that one is asked.
    """
    gateway = gateway_of(request)
    principal = await require(request, "route")
    chat = await read_chat(request, gateway, principal)
    for _ in range(_TRIES):
        prices = gateway.loads.present
        decision = await gateway.decide(chat, principal=principal, neighbours=_NEIGHBOURS, dry_run=True)
        if gateway.loads.present is prices:  # else it may have followed other prices than would be shown
            break
    return decision_response(decision, gateway.loads.account())


def decision_response(decision: Decision, prices: Mapping[str, Any]) -> Response:
    """Return a decision as the answer, with the prices (`Loads.account`) that it follows, where they can move."""
    shown = {name: prices[name] for name in (ranked.model for ranked in decision.ranking) if name in prices}
    return json_response({**decision.document(), **({"prices": shown} if shown else {})})
