"""POST /v1/route: the dry run."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.types import Decision
from service.errors import json_response
from service.routes.state import gateway_of, read_chat, require

routes = APIRouter()

_NEIGHBOURS = 5


@routes.post("/v1/route")
async def route(request: Request) -> Response:
    """Return the decision for a chat body, with estimates for every model.

    No model answers it; where a model picks the route, that one is asked.
    """
    gateway = gateway_of(request)
    principal = await require(request, "route")
    chat = await read_chat(request, gateway, principal)
    return decision_response(await gateway.decide(chat, principal=principal, neighbours=_NEIGHBOURS, dry_run=True))


def decision_response(decision: Decision) -> Response:
    """Return a decision as the answer."""
    return json_response(decision.document())
