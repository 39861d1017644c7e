"""GET /v1/models and GET /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.exceptions import UnknownModelError
from service.chat import ALIASES
from service.errors import json_response
from service.gateway import Gateway
from service.keys.principal import Principal
from service.routes.state import gateway_of, require

routes = APIRouter()


@routes.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List the names that ``model`` may have: the aliases that route, then the pool."""
    names = _visible(gateway_of(request), await require(request, "inference"))
    return json_response({"object": "list", "data": [_entry(name, gateway_of(request)) for name in names]})


@routes.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    """Return one of them."""
    gateway = gateway_of(request)
    known = _visible(gateway, await require(request, "inference"))
    if name not in known:
        raise UnknownModelError(name, known=known)
    return json_response(_entry(name, gateway))


def _visible(gateway: Gateway, principal: Principal) -> tuple[str, ...]:
    picks_only = gateway.settings.router.picks_only
    names = [name for name in gateway.models if principal.allows(name) and name != picks_only]
    return (*ALIASES, *names)


def _entry(name: str, gateway: Gateway) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(gateway.started), "owned_by": "llmrouter"}
