"""What every route takes from a request."""

from __future__ import annotations

from typing import cast

from fastapi import Request

from service.body import read_object
from service.chat import ChatRequest, parse_chat
from service.gateway import Gateway
from service.keys.principal import Principal


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves `request`."""
    return cast("Gateway", request.app.state.gateway)


async def require(request: Request, scope: str) -> Principal:
    """Return who asks.

    Raises
    ------
    APIError
        401 or 403, if the key is missing, wrong or lacks the scope.
    """
    return await gateway_of(request).principal(request.scope, scope)


async def read_chat(request: Request, gateway: Gateway, principal: Principal) -> ChatRequest:
    """Read and check the body of a chat request.

    Raises
    ------
    APIError, UnknownModelError
        If it is wrong.
    """
    server = gateway.settings.server
    body = await read_object(request, max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s)
    return parse_chat(body, request.headers, request_id=request.state.request_id, **gateway.parsing(principal))
