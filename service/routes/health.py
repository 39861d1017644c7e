"""GET /healthz (the process lives) and GET /readyz (what it serves with)."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import json_response
from service.routes.state import gateway_of

routes = APIRouter()


@routes.get("/healthz")
async def healthz() -> Response:
    """Say that the process answers."""
    return json_response({"status": "ok"})


@routes.get("/readyz")
async def readyz(request: Request) -> Response:
    """Return the artifact, the pool with its cool-downs, and the state of the outcome log."""
    gateway = gateway_of(request)
    log = gateway.writer.state()
    return json_response(
        {
            "status": "ready",
            "artifact": gateway.engine.artifact_id,
            "router": gateway.engine.router_name,
            "policy": gateway.engine.policy.name,
            "models": [
                {"name": name, "cooling_down_s": round(gateway.cooldowns.remaining_s(name), 3)} for name in gateway.pool
            ],
            "log": {"status": "failing" if log.trouble else "ok", **dataclasses.asdict(log)},
        }
    )
