"""What every route takes from a request."""

from __future__ import annotations

import time
from typing import cast

from fastapi import Request

from service.body import read_object
from service.call import Call
from service.chat import ChatRequest, parse_chat
from service.gateway import Gateway


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves `request`."""
    return cast("Gateway", request.app.state.gateway)


async def read_chat(request: Request, gateway: Gateway) -> ChatRequest:
    """Read and check the body of a chat request.

    Raises
    ------
    APIError, UnknownModelError
        If it is wrong.
    """
    body = await read_object(request, max_bytes=gateway.settings.server.max_body_bytes)
    return parse_chat(
        body,
        request.headers,
        pool=gateway.pool,
        router_name=gateway.engine.router_name,
        settings=gateway.settings.router,
        request_id=request.state.request_id,
    )


async def begin_call(request: Request, gateway: Gateway) -> Call:
    """Read, check and decide.

    Raises
    ------
    APIError, RoutingError
        If the request is wrong, or no model can take it.
    """
    started, received = time.perf_counter(), time.time()
    chat = await read_chat(request, gateway)
    decision = await gateway.decide(chat)
    return Call(request_id=request.state.request_id, chat=chat, decision=decision, started=started, received=received)
