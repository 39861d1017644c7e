"""GET /v1/outcomes/{request_id}."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import APIError, json_response
from service.routes.state import gateway_of, require

routes = APIRouter()


@routes.get("/v1/outcomes/{request_id}")
async def get_outcome(request: Request, request_id: str) -> Response:
    """Return what is recorded of a request: tokens, cost and latency (of streams too), and its feedback."""
    principal = await require(request, "outcomes")
    outcome = await gateway_of(request).with_log(lambda store: store.get(request_id))
    # Of somebody else's request a key is not even told that it exists.
    if outcome is None or not principal.owns(outcome.key_id):
        raise APIError(
            f"No outcome is recorded under {request_id!r}. Request ids are in the header x-request-id of answers.",
            status=404,
            param="request_id",
            code="outcome_not_found",
        )
    return json_response(outcome)
