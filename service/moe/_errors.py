"""Errors in OpenAI's JSON shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import orjson
from starlette.responses import Response

from llmrouter.exceptions import (
    ContextLengthError,
    EngineStoppedError,
    GenerationRequestError,
    LLMRouterError,
    QueueFullError,
    UnknownModelError,
)


class APIError(Exception):
    """An answer that is an error.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        What is wrong, with the remedy.
    type : str
        OpenAI's error type, e.g. ``invalid_request_error``.
    param : str or None
        The field of the request.
    code : str or None
        OpenAI's error code, e.g. ``model_not_found``.
    headers : mapping, optional
        Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 -- the field's name on the wire
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return the HTTP response."""
        return Response(
            orjson.dumps(self.body), status_code=self.status, headers=self.headers, media_type="application/json"
        )


def api_error(error: LLMRouterError) -> APIError:
    """Translate an error of the library."""
    message = str(error)
    match error:
        case UnknownModelError():
            return APIError(404, message, param="model", code="model_not_found")
        case ContextLengthError():
            return APIError(400, message, param=error.param, code="context_length_exceeded")
        case GenerationRequestError():
            return APIError(400, message, param=error.param)
        case QueueFullError():
            headers = {"retry-after": str(math.ceil(error.retry_after_s))}
            return APIError(429, message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)
        case EngineStoppedError():
            return APIError(503, message, type="server_error", code="service_unavailable")
        case _:
            return APIError(500, message, type="server_error", code="generation_failed")
