"""POST /v1/feedback: a judgement of an answer."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.outcomes import Feedback
from service.body import json_kind, read_object
from service.config_problems import nearest
from service.errors import APIError, json_response
from service.routes.state import gateway_of, require

routes = APIRouter()

LABELS = {"good": 1.0, "bad": 0.0, "correct": 1.0, "incorrect": 0.0, "up": 1.0, "down": 0.0}
"""Words for the two ends of the quality scale."""

_KEYS = ("request_id", "quality", "label", "source", "weight")
_ACCEPTED = 202
_LONGEST_TEXT = 256


@routes.post("/v1/feedback")
async def give_feedback(request: Request) -> Response:
    """Store a judgement; answered once it is on disk. The same source may judge again, the last word counts."""
    gateway = gateway_of(request)
    await require(request, "feedback")
    server = gateway.settings.server
    body = await read_object(request, max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s)
    feedback = _parse(body)
    known = await gateway.with_log(lambda store: store.feedback(feedback))
    status = "stored" if known else "pending"
    return json_response({"request_id": feedback.request_id, "status": status}, status=_ACCEPTED)


def _parse(body: dict[str, Any]) -> Feedback:
    for key in body:
        if key not in _KEYS:
            raise _bad(key, f"unknown key; allowed: {', '.join(_KEYS)}{nearest(key, _KEYS)}")
    return Feedback(
        request_id=_text(body, "request_id"),
        quality=_quality(body),
        source=_text(body, "source", default="user"),
        weight=_number(body, "weight", default=1.0),
        time=time.time(),
    )


def _quality(body: dict[str, Any]) -> float:
    quality, label = body.get("quality"), body.get("label")
    if (quality is None) == (label is None):
        raise _bad("quality", "give either 'quality' (a number in [0, 1]) or 'label'")
    if label is not None:
        if not isinstance(label, str) or label not in LABELS:
            raise _bad("label", f"must be one of {', '.join(LABELS)}; got {label!r}")
        return LABELS[label]
    value = _number(body, "quality")
    if not 0 <= value <= 1:
        raise _bad("quality", f"must be in [0, 1]; got {value!r}")
    return value


def _text(body: dict[str, Any], key: str, *, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT:
        raise _bad(key, f"must be a text of 1 to {_LONGEST_TEXT} characters; got {json_kind(value)}")
    return value


def _number(body: dict[str, Any], key: str, *, default: float | None = None) -> float:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(key, f"must be a number; got {json_kind(value)}")
    return float(value)


def _bad(param: str, message: str) -> APIError:
    return APIError(f"Invalid value for '{param}': {message}.", param=param, code="invalid_value")
