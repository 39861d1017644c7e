"""GET /admin/audit/{request_id}: which outcomes drove a decision; for the scope ``admin``."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeStore
from service.errors import APIError, json_response
from service.keys import refusals
from service.keys.principal import ADMIN
from service.learning.audit import audit_request
from service.log_store import open_log
from service.routes.state import gateway_of, require

if TYPE_CHECKING:
    from llmrouter.learning import Audit
    from llmrouter.types import Outcome
    from service.gateway import Gateway

routes = APIRouter(prefix="/admin/audit", tags=["admin"])

_MOST = 2000
_one_at_a_time = threading.Lock()


@routes.get("/{request_id}")
async def audit(request: Request, request_id: str) -> Response:
    """Say which outcomes are near a logged request, whose they are, and whether one source decides the choice."""
    gateway = gateway_of(request)
    if gateway.authenticator is None:
        raise refusals.keys_are_off()
    await require(request, ADMIN)
    outcome = await gateway.with_log(lambda store: store.get(request_id))
    if outcome is None:
        raise APIError(
            f"No outcome is recorded under {request_id!r}. Request ids are in the header x-request-id of answers.",
            status=404,
            param="request_id",
            code="outcome_not_found",
        )
    try:
        found = await asyncio.to_thread(_audited, gateway, outcome)
    except DataError as error:
        raise APIError(f"This request cannot be audited: {error}.", status=409, code="no_evidence") from error
    return json_response({"object": "audit", "request_id": request_id, **found.document()})


def _audited(gateway: Gateway, outcome: Outcome) -> Audit:
    """Read the log over a connection of its own: the writer's must not wait for it."""
    from llmrouter.engine import RoutingEngine

    engine = gateway.engine
    if not isinstance(engine, RoutingEngine):
        raise DataError(f"its router is no artifact's ({type(engine).__name__})")
    with _one_at_a_time:  # it reads the log and encodes prompts
        store: OutcomeStore = open_log(gateway.settings.log.store, gateway.settings.redis)
        try:
            return audit_request(store, engine, gateway.settings.learning.trust, outcome=outcome, most=_MOST)
        finally:
            store.close()
