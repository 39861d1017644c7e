"""POST /v1/feedback: judgements of answers, one or many."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.outcomes import Feedback
from service.body import json_kind, read_object
from service.config_problems import nearest
from service.errors import APIError, json_response
from service.gateway import Gateway
from service.keys.principal import TRUSTED_FEEDBACK, Principal
from service.routes.state import gateway_of, require

routes = APIRouter()

LABELS = {"good": 1.0, "bad": 0.0, "correct": 1.0, "incorrect": 0.0, "up": 1.0, "down": 0.0}
"""Words for the two ends of the quality scale."""

THUMBS = {"up": 1.0, "down": 0.0, True: 1.0, False: 0.0}
"""What ``thumbs`` may be."""

RESERVED = ("verifier:", "judge:", "implicit:")
"""What sources of the gateway's own signals begin with; others may use them with the scope ``feedback:trusted``."""

MOST, HEAVIEST = 1000, 10.0
"""Judgements in one request; the largest weight."""

DEFAULT_SCALE, SCALES = 5, (2, 3, 4, 5, 6, 7, 10, 100)
"""The best rating where ``scale`` does not say it, and what that may be; 1 is always the worst."""

_MEASURES = ("quality", "score", "label", "rating", "thumbs")
_KEYS = ("request_id", *_MEASURES, "scale", "source", "weight")
_BATCH = "feedback"
_ACCEPTED, _FORBIDDEN = 202, 403
_LONGEST_TEXT = 256


@routes.post("/v1/feedback")
async def give_feedback(request: Request) -> Response:
    """Store judgements; answered once they are on disk. The same source may judge again, the last word counts."""
    gateway = gateway_of(request)
    principal = await require(request, "feedback")
    server = gateway.settings.server
    body = await read_object(request, max_bytes=server.max_body_bytes, timeout_s=server.body_timeout_s)
    batch = _batch_of(body)
    now = time.time()
    if batch is None:
        judgements = [_parse(body, principal, now)]
    else:
        judgements = [_parse_item(item, i, principal, now) for i, item in enumerate(batch)]
    await _check_owners(gateway, principal, judgements, batched=batch is not None)
    statuses = await gateway.judge(judgements)
    for _ in statuses:
        gateway.telemetry.signal("feedback", "stored")
    results = [
        {"request_id": judgement.request_id, "status": status}
        for judgement, status in zip(judgements, statuses, strict=True)
    ]
    return json_response(results[0] if batch is None else {"results": results}, status=_ACCEPTED)


async def _check_owners(
    gateway: Gateway, principal: Principal, judgements: Sequence[Feedback], *, batched: bool
) -> None:
    """Refuse judgements of other people's requests; nothing of a batch is stored then.

    What is unknown yet is let through: nobody but who asked can know its id.

    Raises
    ------
    APIError
        403, if one of the requests belongs to another key and another team.
    StoreError
        If the log has to be asked and does not answer.
    """
    if principal.reads_all:
        return
    owners = {judgement.request_id: gateway.shared.owners.of(judgement.request_id) for judgement in judgements}
    unknown = [request_id for request_id, owner in owners.items() if owner is None]
    if unknown:
        logged = await gateway.with_log(lambda store: [store.get(request_id) for request_id in unknown])
        owners |= {outcome.request_id: (outcome.key_id, outcome.team) for outcome in logged if outcome is not None}
    for i, judgement in enumerate(judgements):
        owner = owners[judgement.request_id]
        if owner is not None and not principal.may_judge(*owner):
            gateway.telemetry.signal("feedback", "refused")
            raise APIError(
                f"The request {judgement.request_id!r} was made with another key: its answer is judged with that key, "
                "one of its team, or one with the scope admin.",
                status=_FORBIDDEN,
                param=f"{_BATCH}[{i}].request_id" if batched else "request_id",
                code="not_your_request",
            )


def _batch_of(body: dict[str, Any]) -> list[Any] | None:
    if _BATCH not in body:
        return None
    if len(body) > 1:
        other = next(key for key in body if key != _BATCH)
        raise _bad(other, f"stands beside '{_BATCH}'; put it into each of the judgements")
    batch = body[_BATCH]
    if not isinstance(batch, list) or not 0 < len(batch) <= MOST:
        raise _bad(_BATCH, f"must be a list of 1 to {MOST} judgements")
    return batch


def _parse_item(item: Any, i: int, principal: Principal, now: float) -> Feedback:
    place = f"{_BATCH}[{i}]"
    if not isinstance(item, dict):
        raise _bad(place, f"must be an object; got {json_kind(item)}")
    return _parse(item, principal, now, place=f"{place}.")


def _parse(body: dict[str, Any], principal: Principal, now: float, *, place: str = "") -> Feedback:
    for key in body:
        if key not in _KEYS:
            raise _bad(place + key, f"unknown key; allowed: {', '.join(_KEYS)}{nearest(key, _KEYS)}")
    return Feedback(
        request_id=_text(body, "request_id", place),
        quality=_quality(body, place),
        source=_source(body, principal, place),
        weight=_weight(body, place),
        time=now,
        by=principal.key_id or "",
    )


def _source(body: dict[str, Any], principal: Principal, place: str) -> str:
    source = _text(body, "source", place, default="user")
    if source.startswith(RESERVED) and not principal.may(TRUSTED_FEEDBACK):
        raise APIError(
            f"The source {source!r} is the gateway's own: choose one that begins with none of {', '.join(RESERVED)} or "
            f"use a key with the scope {TRUSTED_FEEDBACK}.",
            status=_FORBIDDEN,
            param=f"{place}source",
            code="reserved_source",
        )
    return source


def _weight(body: dict[str, Any], place: str) -> float:
    weight = _number(body, "weight", place, default=1.0)
    if not 0 < weight <= HEAVIEST:
        raise _bad(f"{place}weight", f"must be above 0 and at most {HEAVIEST:g}; got {weight!r}")
    return weight


def _quality(body: dict[str, Any], place: str) -> float:
    given = [name for name in _MEASURES if body.get(name) is not None]
    if len(given) != 1:
        raise _bad(f"{place}quality", f"give one of {', '.join(_MEASURES)}; got {', '.join(given) or 'none'}")
    (name,) = given
    if body.get("scale") is not None and name != "rating":
        raise _bad(f"{place}scale", "belongs to a 'rating'")
    value = body[name]
    if name == "label":
        if not isinstance(value, str) or value not in LABELS:
            raise _bad(f"{place}label", f"must be one of {', '.join(LABELS)}; got {value!r}")
        return LABELS[value]
    if name == "thumbs":
        if not isinstance(value, str | bool) or value not in THUMBS:
            raise _bad(f"{place}thumbs", f"must be 'up', 'down', true or false; got {value!r}")
        return THUMBS[value]
    if name == "rating":
        return _rating(body, place)
    number = _number(body, name, place)
    if not 0 <= number <= 1:
        raise _bad(place + name, f"must be in [0, 1]; got {number!r}")
    return number


def _rating(body: dict[str, Any], place: str) -> float:
    scale = body.get("scale")
    best = DEFAULT_SCALE if scale is None else scale
    if isinstance(best, bool) or not isinstance(best, int) or best not in SCALES:
        raise _bad(f"{place}scale", f"must be the best rating, one of {', '.join(map(str, SCALES))}; got {best!r}")
    rating = _number(body, "rating", place)
    if not 1 <= rating <= best:
        raise _bad(f"{place}rating", f"must be from 1 to {best}; got {rating!r}")
    return (rating - 1) / (best - 1)


def _text(body: dict[str, Any], key: str, place: str, *, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT:
        raise _bad(place + key, f"must be a text of 1 to {_LONGEST_TEXT} characters; got {json_kind(value)}")
    return value


def _number(body: dict[str, Any], key: str, place: str, *, default: float | None = None) -> float:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(place + key, f"must be a number; got {json_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return number


def _bad(param: str, message: str) -> APIError:
    return APIError(f"Invalid value for '{param}': {message}.", param=param, code="invalid_value")
