"""GET /metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import APIError
from service.routes.state import gateway_of, require

routes = APIRouter()


@routes.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics of the gateway, all its workers together, in the format of Prometheus.

    Raises
    ------
    APIError
        If metrics are switched off.
    """
    await require(request, "metrics")
    telemetry = gateway_of(request).telemetry
    if not telemetry.settings.metrics.enabled:
        raise APIError("Metrics are switched off (telemetry.metrics.enabled).", status=404, code="metrics_disabled")
    body, content_type = await asyncio.to_thread(telemetry.exposition, request.headers.get("accept", ""))
    return Response(body, media_type=content_type)
