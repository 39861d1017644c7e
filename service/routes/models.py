"""GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.exceptions import UnknownModelError
from service.chat import ALIASES
from service.errors import json_response
from service.gateway import Gateway
from service.routes.state import gateway_of

routes = APIRouter()


@routes.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List the names that ``model`` may have: the aliases that route, then the pool."""
    gateway = gateway_of(request)
    return json_response({"object": "list", "data": [_entry(name, gateway) for name in (*ALIASES, *gateway.pool)]})


@routes.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    """Return one of them."""
    gateway = gateway_of(request)
    known = (*ALIASES, *gateway.pool)
    if name not in known:
        raise UnknownModelError(name, known=known)
    return json_response(_entry(name, gateway))


def _entry(name: str, gateway: Gateway) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(gateway.started), "owned_by": "llmrouter"}
