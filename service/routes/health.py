"""GET /healthz (the process lives) and GET /readyz (what it serves with)."""

from __future__ import annotations

import dataclasses
from typing import Any

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
    """Return the artifact, the pool with its cool-downs, and how log, limits and configuration stand.

    503 while the gateway stops: what balances the load is to send requests elsewhere.
    """
    gateway = gateway_of(request)
    log = gateway.writer.state()
    if gateway.authenticator is not None and log.trouble:
        # It names files, and whoever asks here needs no key.
        log = dataclasses.replace(log, trouble="see the gateway's own log")
    admission = gateway.admission.state()
    stopping = admission.closed or getattr(request.app.state, "stopping", False)
    reloader = getattr(request.app.state, "reloader", None)
    body: dict[str, Any] = {
        "status": "stopping" if stopping else "ready",
        "artifact": gateway.engine.artifact_id,
        "router": gateway.engine.router_name,
        "policy": gateway.engine.policy.name,
        "models": [
            {"name": name, "cooling_down_s": round(gateway.cooldowns.remaining_s(name), 3)} for name in gateway.models
        ],
        "log": {"status": "failing" if log.trouble else "ok", **dataclasses.asdict(log)},
        "requests": {"in_flight": admission.in_flight, "queued": admission.queued},
    }
    if gateway.authenticator is not None:
        body["keys"] = gateway.authenticator.state()
    if gateway.link is not None:
        body["redis"] = dataclasses.asdict(gateway.link.state())
    if gateway.learning:
        body["learning"] = {name: outline(read()) for name, read in gateway.learning.items()}
    if reloader is not None:
        body["config"] = reloader.state()
    return json_response(body, status=503 if stopping else 200)


def outline(state: Any) -> Any:
    """Return what of a state may be told to anybody: no texts of trouble, which name files, and no lists of figures."""
    if not isinstance(state, dict):
        return state
    return {
        key: ("see the gateway's own log" if value else "") if key == "trouble" else value
        for key, value in state.items()
        if isinstance(value, str | int | float | None) and key not in ("reason", "changed_by")
    }
