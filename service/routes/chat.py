"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.exceptions import BackendStatusError
from llmrouter.pool import BackendResponse, BackendStream, most_telling, usage_from_body
from service.call import Call, decimal
from service.disconnect import ClientGoneError, cancel_on_disconnect
from service.dispatch import PoolFailedError, failure_response, first_answer, upstream_body
from service.errors import CLIENT_CLOSED_REQUEST
from service.gateway import Gateway
from service.relay import RelayResponse
from service.routes.route import decision_response
from service.routes.state import begin_call, gateway_of

routes = APIRouter()

_UPSTREAM_REQUEST_ID = "x-llmrouter-upstream-request-id"
_LONGEST_QUOTE = 300


@routes.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answer a chat, streamed or whole, with the model that the router (or the client) chose."""
    gateway = gateway_of(request)
    call = await begin_call(request, gateway)
    if call.chat.control.dry_run:
        return decision_response(call.decision)
    try:
        async with cancel_on_disconnect(request.receive):
            if call.chat.stream:
                return await _streamed(gateway, call)
            return await _whole(gateway, call)
    except PoolFailedError:
        gateway.record(call, "error", error=_described(gateway, most_telling(call.failures).error))
        return failure_response(call)
    except ClientGoneError:
        gateway.record(call, "cancelled", error="the client hung up")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except asyncio.CancelledError:
        gateway.record(call, "cancelled", error="the gateway stopped")
        raise
    except Exception as error:
        gateway.record(call, "error", error=f"internal error: {type(error).__name__}")
        raise


async def _whole(gateway: Gateway, call: Call) -> Response:
    async def attempt(name: str) -> BackendResponse:
        body = upstream_body(gateway, call, name)
        return await gateway.backends[name].complete(body, timeouts=gateway.timeouts[name])

    answer = await first_answer(gateway, call, attempt)
    cost = gateway.record(call, "ok", usage=usage_from_body(answer.body))
    headers = {**_relayed(answer.headers), **call.headers()}
    if cost is not None:
        headers["x-llmrouter-cost"] = decimal(cost)
    return Response(answer.body, headers=headers)


async def _streamed(gateway: Gateway, call: Call) -> Response:
    async def attempt(name: str) -> BackendStream:
        body = upstream_body(gateway, call, name)
        return await gateway.backends[name].stream(body, timeouts=gateway.timeouts[name])

    stream = await first_answer(gateway, call, attempt)
    return RelayResponse(gateway, call, stream, headers={**_relayed(stream.headers), **call.headers()})


def _relayed(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the upstream's headers for the client; ``x-request-id`` is the gateway's own there."""
    return {_UPSTREAM_REQUEST_ID if name == "x-request-id" else name: value for name, value in headers.items()}


def _described(gateway: Gateway, error: Exception) -> str:
    """Return a failure for the log, with the beginning of what the upstream said where the log may hold that."""
    if isinstance(error, BackendStatusError) and error.body and gateway.keeps_text:
        return f"{error}: {error.body[:_LONGEST_QUOTE].decode('utf-8', 'replace')}"
    return str(error)
