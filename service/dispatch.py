"""Drive the failover generator: call models of the ranking until one answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from starlette.responses import Response

from llmrouter.exceptions import BackendConnectError, BackendError, BackendStatusError, BackendTimeoutError
from llmrouter.pool import FailedAttempt, FailureKind, failover, failure_kind, most_telling
from service.call import Call
from service.errors import UPSTREAM_ERROR, APIError, json_response
from service.gateway import Gateway

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BAD_GATEWAY, _GATEWAY_TIMEOUT = 502, 504
_LONGEST_TEXT = 500
_NOT_RELAYED = frozenset({"content-type", "x-request-id"})


class PoolFailedError(Exception):
    """Every model that was tried failed; `failures` of the call say how."""


async def first_answer(gateway: Gateway, call: Call, attempt: Callable[[str], Awaitable[T]]) -> T:
    """Return the first answer along the ranking, and take note of what failed before it.

    Parameters
    ----------
    gateway : Gateway
        Pool and cool-downs.
    call : Call
        Gets `failures`, `served_by` and `upstream_s`.
    attempt : callable
        Calls one model, by its pool name.

    Raises
    ------
    PoolFailedError
        If none answered.
    """
    walk = failover(
        [entry.model for entry in call.decision.eligible],
        windows=gateway.windows,
        cooling=gateway.cooldowns.cooling,
    )
    name = next(walk)
    while True:
        before = time.perf_counter()
        try:
            answer = await attempt(name)
        except BackendError as error:
            call.failures.append(FailedAttempt(name, error))
            logger.warning("request %s: %s failed: %s", call.request_id, name, error)
            if failure_kind(error) is FailureKind.NEXT:
                gateway.cooldowns.failed(name, error)
            try:
                name = walk.send(error)
            except StopIteration:
                raise PoolFailedError from error
        else:
            gateway.cooldowns.succeeded(name)
            call.served_by = name
            return answer
        finally:
            call.upstream_s += time.perf_counter() - before


def upstream_body(gateway: Gateway, call: Call, name: str) -> Mapping[str, Any]:
    """Return the body for one model; streams are asked for their usage, whether or not the client asked."""
    chat = call.chat
    if not chat.stream or chat.usage_asked or not gateway.models[name].stream_usage:
        return chat.body
    return {**chat.body, "stream_options": {**(chat.body.get("stream_options") or {}), "include_usage": True}}


def failure_response(call: Call) -> Response:
    """Return the answer when every model failed: the most telling failure, with all attempts listed.

    A single upstream error that is JSON is relayed with its own bytes.
    """
    _, error = most_telling(call.failures)
    headers = call.headers()
    attempts = _attempts(call.failures)
    if not isinstance(error, BackendStatusError):
        return _own_error(call.failures, error, headers)
    headers |= {name: value for name, value in error.headers.items() if name not in _NOT_RELAYED}
    payload = _json_object(error.body)
    if payload is None:
        text = error.body.decode("utf-8", "replace").strip()[:_LONGEST_TEXT]
        message = f"{error}: {text}" if text else str(error)
        details = {"attempts": attempts} if len(attempts) > 1 else {}
        return APIError(
            message, status=error.status, type=UPSTREAM_ERROR, code="upstream_error", headers=headers, details=details
        ).response()
    if len(attempts) == 1:
        return Response(error.body, status_code=error.status, headers=headers, media_type="application/json")
    holder = payload["error"] if isinstance(payload.get("error"), dict) else payload
    holder["attempts"] = attempts
    return json_response(payload, status=error.status, headers=headers)


def stream_error(error: BackendError) -> bytes:
    """Return the error object sent when a stream breaks off after its first byte."""
    return orjson.dumps(
        {"error": {"message": str(error), "type": UPSTREAM_ERROR, "param": None, "code": error_code(error)}}
    )


def error_code(error: BackendError) -> str:
    """Return the code for a failure that no upstream put into words."""
    if isinstance(error, BackendTimeoutError):
        return "upstream_timeout"
    return "upstream_unreachable" if isinstance(error, BackendConnectError) else "upstream_broke_off"


def _own_error(failures: Sequence[FailedAttempt], error: BackendError, headers: Mapping[str, str]) -> Response:
    status = _GATEWAY_TIMEOUT if isinstance(error, BackendTimeoutError) else _BAD_GATEWAY
    details: dict[str, Any] = {}
    message = str(error)
    if len(failures) > 1:
        message = f"Every model that was tried failed. {'. '.join(str(failed) for _, failed in failures)}."
        details["attempts"] = _attempts(failures)
    return APIError(
        message, status=status, type=UPSTREAM_ERROR, code=error_code(error), headers=headers, details=details
    ).response()


def _attempts(failures: Sequence[FailedAttempt]) -> list[dict[str, str]]:
    return [{"model": name, "error": str(error)} for name, error in failures]


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None
