"""POST /v1/embeddings: relayed to the model that the client names, bytes unchanged."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.exceptions import UnknownModelError
from llmrouter.pool import BackendResponse, usage_from_body
from llmrouter.types import RoutingRequest, Usage
from service.body import read_object
from service.call import Call, decimal
from service.chat import ALIASES, ChatRequest
from service.control import BODY_KEY, read_control
from service.disconnect import ClientGoneError, cancel_on_disconnect
from service.dispatch import PoolFailedError, failure_response, first_answer, under_our_names
from service.endpoints import EMBEDDINGS
from service.errors import CLIENT_CLOSED_REQUEST, APIError
from service.gateway import Gateway, pinned_decision
from service.routes.state import gateway_of

routes = APIRouter()


@routes.post("/v1/embeddings")
async def create_embeddings(request: Request) -> Response:
    """Return embeddings of texts by the named model. They are not routed: vectors of two models cannot be compared."""
    gateway = gateway_of(request)
    gateway.in_flight += 1
    if gateway.link is not None:
        gateway.link.begin_request()
    try:
        call = await _begin(gateway, request)
        async with cancel_on_disconnect(request.scope, request.receive), gateway.admission.slot():
            await gateway.reservations.reserve(call)
            return await _answer(gateway, call)
    except PoolFailedError:
        gateway.finish(call, "error", error=str(call.failures[-1].error))
        return failure_response(call)
    except ClientGoneError:
        gateway.finish(call, "cancelled", error="the client hung up")
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        gateway.in_flight -= 1


async def _begin(gateway: Gateway, request: Request) -> Call:
    from service.dialects.embeddings import parse_embeddings

    started, received = time.perf_counter(), time.time()
    principal = await gateway.principal(request.scope, "inference")
    server = gateway.settings.server
    body = await read_object(request, max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s)
    control = read_control(request.headers, body.pop(BODY_KEY, None), pool=gateway.embedders)
    if control.verify is not None:
        param = f"{BODY_KEY}.verify"
        raise APIError(
            f"Invalid value for '{param}': embeddings have no text to verify.", param=param, code="invalid_value"
        )
    asked = parse_embeddings(body)
    visible = [name for name in gateway.embedders if principal.allows(name)]
    model = body["model"]
    if model not in visible:
        if model in ALIASES:
            raise APIError(
                "Embeddings are not routed: vectors of different models cannot be compared. Name one of the models "
                f"that serve them ({', '.join(visible) or 'none is configured'}).",
                param="model",
                code="invalid_value",
            )
        raise UnknownModelError(model, known=visible)
    routing = RoutingRequest(text=asked.texts[-1] if asked.texts else "", prompt_tokens=asked.prompt_tokens)
    chat = ChatRequest(
        body=body,
        original=body,
        model=model,
        pinned=model,
        control=control,
        stream=False,
        usage_asked=False,
        routing=routing,
        endpoint=EMBEDDINGS,
    )
    return Call(
        request_id=request.state.request_id,
        chat=chat,
        decision=pinned_decision(model),
        started=started,
        received=received,
        principal=principal,
    )


async def _answer(gateway: Gateway, call: Call) -> Response:
    async def attempt(name: str) -> BackendResponse:
        await gateway.reservations.reserve_model(call, name)
        return await gateway.backends[name].complete(
            call.chat.body, timeouts=gateway.timeouts[name], endpoint=EMBEDDINGS.upstream
        )

    answer = await first_answer(gateway, call, attempt)
    usage = usage_from_body(answer.body)
    if usage.output_tokens is None and usage.input_tokens is not None:  # there is no output to count
        usage = Usage(
            input_tokens=usage.input_tokens, output_tokens=0, cached_tokens=usage.cached_tokens, raw=usage.raw
        )
    cost = gateway.finish(call, "ok", usage=usage)
    headers = {**under_our_names(answer.headers), **call.headers()}
    if cost is not None:
        headers["x-llmrouter-cost"] = decimal(cost)
    return Response(answer.body, headers=headers)
