"""Request bodies: read under a limit, parsed from the raw bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request

from service.errors import CLIENT_CLOSED_REQUEST, APIError

_DEEPEST = 200


async def read_object(request: Request, *, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """Read the body and return the JSON object that it holds.

    Raises
    ------
    APIError
        413 for a body over `max_bytes` (found as early as possible), 408 for one that takes longer than `timeout_s`,
        400 for anything but a JSON object.
    """
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _read(request, max_bytes)
    except TimeoutError:
        raise APIError(
            f"The request body did not arrive within {timeout_s:g} s (server.body_timeout_s).",
            status=408,
            code="request_timeout",
            headers={"connection": "close"},
        ) from None
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        what = f"{error.msg} (line {error.lineno}, column {error.colno})" if raw.strip() else "it is empty"
        raise APIError(f"The request body is not valid JSON: {what}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise APIError(f"The request body must be a JSON object, not {json_kind(body)}.", code="invalid_type")
    if raw.count(b"[") + raw.count(b"{") > _DEEPEST:
        _check_depth(body)
    return body


def json_kind(value: object) -> str:
    """Return what JSON calls the type of `value`, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _check_depth(body: dict[str, Any]) -> None:
    """Refuse what can be read and not written again."""
    try:
        orjson.dumps([[[[[[[[body]]]]]]]])  # some levels more are added on the way upstream
    except TypeError:
        raise APIError(
            f"The request body is nested too deeply: at most {_DEEPEST} levels.", code="invalid_json"
        ) from None


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    pieces = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] != "http.request":
            # Nobody is left to read this.
            raise APIError(
                "The client hung up before the request body had arrived.",
                status=CLIENT_CLOSED_REQUEST,
                code="client_closed_request",
            )
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(max_bytes: int) -> APIError:
    return APIError(
        f"The request body is larger than {max_bytes} bytes, the limit of this gateway (server.max_body_bytes).",
        status=413,
        code="request_too_large",
        headers={"connection": "close"},
    )
