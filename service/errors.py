"""Errors as OpenAI's clients expect them: ``{"error": {message, type, param, code}}`` with OpenAI's status codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from llmrouter.exceptions import DataError, LLMRouterError, NoEligibleModelError, StoreError, UnknownModelError
from service.endpoints import MESSAGES, Endpoint, dialect_of

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
UPSTREAM_ERROR = "upstream_error"

_OF_THE_BODY = frozenset({"content-length", "content-type"})

CLIENT_CLOSED_REQUEST = 499
"""Status of answers that nobody is left to read."""


class APIError(LLMRouterError):
    """An error that is the answer to a request.

    Parameters
    ----------
    message : str
        For the client: what is wrong and what to do.
    status : int
        HTTP status.
    type, param, code : str
        As in OpenAI's error object.
    headers : mapping of str to str, optional
        Further response headers.
    details : mapping, optional
        Further keys of the error object.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = INVALID_REQUEST,  # noqa: A002 - the wire's name
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {
            "error": {"message": message, "type": type, "param": param, "code": code, **(details or {})}
        }

    def response(self) -> Response:
        """Return the HTTP answer."""
        return json_response(self.body, status=self.status, headers=self.headers)


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `content` as JSON (NaN becomes null)."""
    return Response(
        orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type="application/json"
    )


def internal_error() -> APIError:
    """Return the answer to a fault of ours; it says nothing of the fault."""
    return APIError(
        "The gateway had an internal error. Its log has the details under the request id.",
        status=500,
        type=SERVER_ERROR,
        code="internal_error",
    )


def of_library(error: LLMRouterError) -> APIError | None:
    """Return the answer that an error of the library means, or None for a fault of ours."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, UnknownModelError):
        return APIError(str(error), status=404, param="model", code="model_not_found")
    if isinstance(error, NoEligibleModelError):
        too_long = all("context window" in reason for reason in error.reasons.values())
        return APIError(
            str(error),
            param="messages" if too_long else None,
            code="context_length_exceeded" if too_long else "no_eligible_model",
        )
    if isinstance(error, DataError):
        return APIError(str(error), code="invalid_value")
    if isinstance(error, StoreError):
        return APIError(f"The outcome log failed: {error}", status=503, type=SERVER_ERROR, code="log_unavailable")
    return None


def response_to(error: LLMRouterError, endpoint: Endpoint, request_id: str) -> Response:
    """Return the answer that an error means, in the shape of an endpoint.

    Raises
    ------
    LLMRouterError
        The same, where it is a fault of ours.
    """
    answer = of_library(error)
    if answer is None:
        raise error
    return in_shape_of(endpoint, answer.response(), request_id)


def in_shape_of(endpoint: Endpoint, response: Response, request_id: str) -> Response:
    """Return an error in the shape of an endpoint; OpenAI's own stays as it is, to the byte."""
    dialect = dialect_of(endpoint)
    if dialect is None or endpoint is not MESSAGES:
        return response
    try:
        payload = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return response
    error = payload.get("error", payload) if isinstance(payload, dict) else {}
    translated = dialect.error(
        response.status_code, error if isinstance(error, dict) else {"message": str(error)}, request_id=request_id
    )
    headers = {name: value for name, value in response.headers.items() if name not in _OF_THE_BODY}
    return json_response(translated, status=response.status_code, headers={**headers, "request-id": request_id})


def install(app: FastAPI) -> None:
    """Register the handlers that turn every error into OpenAI's shape."""
    app.add_exception_handler(LLMRouterError, _library_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _fault)


async def _library_error(_request: Request, error: Exception) -> Response:
    answer = of_library(error) if isinstance(error, LLMRouterError) else None
    if answer is None:
        raise error  # a fault of ours: logged with the request id, answered with 500
    return answer.response()


async def _fault(_request: Request, _error: Exception) -> Response:
    """Answer a fault of ours; the framework raises it again behind the answer, and the front logs it."""
    return internal_error().response()


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    where = f"{request.method} {request.url.path}"
    if status == 404:
        return APIError(f"Unknown request URL: {where}.", status=404, code="unknown_url").response()
    if status == 405:
        headers |= _all_methods(request)
        allowed = headers.get("allow") or headers.get("Allow") or "another method"
        return APIError(
            f"Method not allowed: {where}. Use {allowed}.", status=405, code="method_not_allowed", headers=headers
        ).response()
    return APIError(str(getattr(error, "detail", error)), status=status, headers=headers).response()


def _all_methods(request: Request) -> dict[str, str]:
    """Return the header that names every method of a path; the framework's names those of one route."""
    from service.routes import ALL_ROUTES

    found = {
        method
        for routes in ALL_ROUTES
        for route in routes.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return {"allow": ", ".join(sorted(found))} if found else {}


async def _validation_error(_request: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    param = ".".join(str(part) for part in first.get("loc", ())[1:]) or None
    return APIError(str(first.get("msg", "the request is invalid")), param=param, code="invalid_value").response()


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)
