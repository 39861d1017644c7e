"""POST /v1/chat/completions, /v1/completions, /v1/responses and /v1/messages: one way for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmrouter.exceptions import BackendStatusError, BackendStreamError, LLMRouterError
from llmrouter.pool import CALL_HEADERS, BackendResponse, BackendStream, finish_reason_in, most_telling, usage_from_body
from service.body import read_object
from service.call import UNDECIDED, Call, decimal
from service.chat import parse_request
from service.disconnect import ClientGoneError, cancel_on_disconnect
from service.dispatch import PoolFailedError, failure_response, first_answer, under_our_names
from service.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Endpoint, dialect_of
from service.errors import CLIENT_CLOSED_REQUEST, in_shape_of, json_response, response_to
from service.gateway import Gateway
from service.keys.principal import Principal
from service.relay import RelayResponse, replay_response
from service.routes.route import decision_response

_DEPLOYMENT = "x-llmrouter-deployment"
_JSON = "application/json"
_LONGEST_QUOTE = 300


class GenerationEndpoint:
    """ASGI application that answers one endpoint, streamed or whole, with the model that was chosen.

    Parameters
    ----------
    endpoint : Endpoint
        Which one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        gateway: Gateway = scope["app"].state.gateway
        request_id: str = scope["state"]["request_id"]
        gateway.in_flight += 1
        if gateway.link is not None:
            gateway.link.begin_request()
        try:
            request = Request(scope, receive)
            try:
                call = await self._begin(gateway, request, request_id)
                await self._serve(gateway, request, call, send)
            except LLMRouterError as error:
                gateway.refused(self.endpoint, error)
                await response_to(error, self.endpoint, request_id)(scope, receive, send)
        finally:
            gateway.in_flight -= 1

    async def _begin(self, gateway: Gateway, request: Request, request_id: str) -> Call:
        """Ask who it is, read the body and check it."""
        started, received = time.perf_counter(), time.time()
        principal = await gateway.principal(request.scope, "inference")
        authenticated = time.perf_counter()
        server = gateway.settings.server
        body = await read_object(request, max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s)
        read = time.perf_counter()
        chat = parse_request(
            self.endpoint,
            body,
            request.headers,
            native=gateway.upstreams.native(self.endpoint),
            request_id=request_id,
            **gateway.parsing(principal),
        )
        trace = gateway.telemetry.begin(request.headers.get("traceparent"))
        if further := gateway.telemetry.upstream_headers(trace):
            CALL_HEADERS.set(further)  # of this request's task
        stages = {"auth": authenticated - started, "parse": time.perf_counter() - read}
        return Call(
            request_id=request_id,
            chat=chat,
            decision=UNDECIDED,
            # A client that sends slowly is not the gateway's own time.
            started=started + (read - authenticated),
            received=received,
            principal=principal,
            stages=stages,
            trace=trace,
        )

    async def _serve(self, gateway: Gateway, request: Request, call: Call, send: Send) -> None:
        slot = gateway.admission.slot()
        entered = False
        try:
            try:
                async with cancel_on_disconnect(request.scope, request.receive):
                    await slot.__aenter__()
                    entered = True
                    response = await self._respond(gateway, request, call)
            except ClientGoneError:
                gateway.finish(call, "cancelled", error="the client hung up")
                response = Response(status_code=CLIENT_CLOSED_REQUEST)
            except asyncio.CancelledError:
                gateway.finish(call, "cancelled", error="the gateway stopped")
                raise
            await response(request.scope, request.receive, send)
        finally:
            if call.plan is not None and gateway.shared.cache is not None:
                gateway.shared.cache.release(call.plan)
            if entered:
                await slot.__aexit__(None, None, None)

    async def _respond(self, gateway: Gateway, request: Request, call: Call) -> Response:
        """Return the answer, or the error where models were asked in vain."""
        if (hit := await gateway.answers.replay(call, request.headers)) is not None:
            return replay_response(gateway, call, hit)
        before = time.perf_counter()
        call.decision = await gateway.decide(call.chat, principal=call.principal)
        call.count_pick()
        call.stages["route"] = time.perf_counter() - before
        if call.chat.control.dry_run:
            return decision_response(call.decision, gateway.loads.account())
        await gateway.reservations.reserve(call)
        try:
            return await (self._streamed(gateway, call) if call.chat.stream else self._whole(gateway, call))
        except PoolFailedError:
            gateway.finish(call, "error", error=_described(gateway, call.principal, most_telling(call.failures).error))
            return in_shape_of(self.endpoint, failure_response(call), call.request_id)
        except Exception as error:
            gateway.finish(call, "error", error=f"internal error: {type(error).__name__}")
            raise

    async def _whole(self, gateway: Gateway, call: Call) -> Response:
        async def attempt(name: str) -> tuple[BackendResponse, bytes]:
            path, body = gateway.upstreams.request(call, name)
            await gateway.reservations.reserve_model(call, name)
            answer = await gateway.backends[name].complete(body, timeouts=gateway.timeouts[name], endpoint=path)
            return answer, answer.body if gateway.upstreams.serves(name, self.endpoint) else self._translated(
                call, answer, name
            )

        answer, shown = await first_answer(gateway, call, attempt)
        relayed = _relayed(answer.headers, call)
        usage = usage_from_body(answer.body)
        gateway.answers.keep(call, answer.body, usage)
        call.finish_reason = finish_reason_in(answer.body)
        call.heard = gateway.listen(call)
        if call.heard is not None:
            call.heard.whole(answer.body)
        cost = gateway.finish(call, "ok", usage=usage)
        headers = {**relayed, **call.headers()}
        if shown is not answer.body or not relayed.get("content-type", "").partition(";")[0].endswith("json"):
            headers["content-type"] = _JSON  # clients parse by it
        if cost is not None:
            headers["x-llmrouter-cost"] = decimal(cost)
        return Response(shown, headers=headers)

    def _translated(self, call: Call, answer: BackendResponse, name: str) -> bytes:
        """Return a chat completion in the shape of the endpoint; an upstream that sent none has failed."""
        dialect = dialect_of(self.endpoint)
        if dialect is None:
            return answer.body
        before = time.perf_counter()
        try:
            payload = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            payload = None
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            raise BackendStreamError(f"{name}: the upstream's answer is no chat completion", model=name)
        try:
            shown = orjson.dumps(dialect.answer(payload, dict(call.chat.original), request_id=call.request_id))
        except TypeError:  # nested deeper than can be written
            raise BackendStreamError(f"{name}: the upstream's answer cannot be translated", model=name) from None
        call.stages["translate"] = time.perf_counter() - before
        return shown

    async def _streamed(self, gateway: Gateway, call: Call) -> Response:
        stream = await open_stream(gateway, call)
        return RelayResponse(
            gateway, call, stream, headers={**_relayed(stream.headers, call), **call.headers()}, reopen=open_stream
        )


async def open_stream(gateway: Gateway, call: Call) -> BackendStream:
    """Return the stream of the first model that begins to answer.

    Raises
    ------
    PoolFailedError
        If none does.
    """

    async def attempt(name: str) -> BackendStream:
        path, body = gateway.upstreams.request(call, name)
        await gateway.reservations.reserve_model(call, name)
        return await gateway.backends[name].stream(body, timeouts=gateway.timeouts[name], endpoint=path)

    return await first_answer(gateway, call, attempt)


def _relayed(headers: Mapping[str, str], call: Call) -> dict[str, str]:
    """Return the upstream's headers for the client."""
    kept = under_our_names(headers)
    call.deployment = kept.pop(_DEPLOYMENT, "")
    if call.chat.endpoint is MESSAGES:
        kept["request-id"] = call.request_id  # where Anthropic's clients look for it
    return kept


def _described(gateway: Gateway, principal: Principal, error: Exception) -> str:
    """Return a failure for the log, with the beginning of what the upstream said where the log may hold that."""
    if isinstance(error, BackendStatusError) and error.body and gateway.keeps_text(principal):
        return f"{error}: {error.body[:_LONGEST_QUOTE].decode('utf-8', 'replace')}"
    return str(error)


class TokenCountEndpoint:
    """ASGI application for POST /v1/messages/count_tokens: an estimate, no model is asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        gateway: Gateway = scope["app"].state.gateway
        request_id: str = scope["state"]["request_id"]
        try:
            await gateway.principal(scope, "inference")
            server = gateway.settings.server
            body = await read_object(
                Request(scope, receive), max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s
            )
            from service.dialects.messages import count_tokens

            response = json_response(count_tokens(body))
        except LLMRouterError as error:
            response = response_to(error, MESSAGES, request_id)
        await response(scope, receive, send)


GENERATING: dict[str, GenerationEndpoint] = {
    endpoint.url: GenerationEndpoint(endpoint) for endpoint in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)
}
"""The endpoints by their path."""
