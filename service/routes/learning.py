"""/admin/learning: how exploration, shadow, canary and the rest of the learning loop stand; for the scope ``admin``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llmrouter.exceptions import ArtifactError, LLMRouterError
from service.errors import APIError, json_response
from service.keys import refusals
from service.keys.principal import ADMIN, Principal
from service.routes.state import gateway_of, require

if TYPE_CHECKING:
    from service.gateway import Gateway
    from service.learning.canary_trial import CanaryTrial

routes = APIRouter(prefix="/admin/learning", tags=["admin"])

_CONFLICT, _NOT_FOUND, _UNAVAILABLE = 409, 404, 503


@routes.get("")
async def learning(request: Request) -> Response:
    """Return what each part of the learning loop tells of itself."""
    gateway, _ = await _admitted(request)
    return json_response(_document(gateway))


@routes.post("/canary/rollback")
async def rollback(request: Request) -> Response:
    """Take the canary back: the live router decides for everybody again, in every replica."""
    gateway, principal = await _admitted(request)
    trial = await _trial(gateway)
    if trial.status != "rolled_back":
        await trial.end("rolled_back", reason="asked for", by=f"key {principal.key_id}")
    return json_response(_document(gateway))


@routes.post("/canary/promote")
async def promote(request: Request) -> Response:
    """Let the canary decide for everybody: the link that is ``router.artifact`` is set to it, and watched as ever."""
    gateway, principal = await _admitted(request)
    trial = await _trial(gateway)
    if trial.status == "rolled_back":
        raise APIError(
            f"The canary {trial.artifact_id} was rolled back; POST /admin/learning/canary/restart begins it anew.",
            status=_CONFLICT,
            code="canary_rolled_back",
        )
    by = f"key {principal.key_id}"
    await asyncio.to_thread(_point_to_canary, gateway, by)
    await trial.end("promoted", reason="asked for", by=by)
    reloader = getattr(request.app.state, "reloader", None)
    if reloader is not None:
        result = await reloader.reload("promotion")
        gateway = gateway_of(request)
        if not result.ok:
            raise APIError(
                f"The link is set, but the artifact does not take effect; the last good one stays: {result.error}",
                status=_CONFLICT,
                code="reload_failed",
            )
    return json_response(_document(gateway))


@routes.post("/canary/restart")
async def restart(request: Request) -> Response:
    """Begin the trial anew, with nothing counted."""
    gateway, principal = await _admitted(request)
    trial = await _trial(gateway)
    try:
        await trial.end("running", reason="asked for", by=f"key {principal.key_id}")
    except LLMRouterError as error:
        raise APIError(f"The log cannot be read: {error}", status=_UNAVAILABLE, code="store_unavailable") from error
    return json_response(_document(gateway))


async def _admitted(request: Request) -> tuple[Gateway, Principal]:
    """Return the gateway and who asks.

    Raises
    ------
    APIError
        404 where there are no keys, 401 without one, 403 for one that is not an administrator's.
    """
    gateway = gateway_of(request)
    if gateway.authenticator is None:
        raise refusals.keys_are_off()
    return gateway, await require(request, ADMIN)


async def _trial(gateway: Gateway) -> CanaryTrial:
    """Return the trial as all replicas know it now."""
    trial = None if gateway.lanes is None else gateway.lanes.trial
    if trial is None:
        raise APIError(
            "There is no canary: write learning.canary into the configuration.", status=_NOT_FOUND, code="no_canary"
        )
    await trial.refresh()
    return trial


def _point_to_canary(gateway: Gateway, by: str) -> None:
    """Set the link of the live artifact to the canary's folder, noted in the history, so that there is a way back.

    Raises
    ------
    APIError
        409 if the live artifact is no link, or lies elsewhere, or the canary's folder is damaged.
    """
    from llmrouter import artifact
    from llmrouter.learning import current_artifact, promote_artifact

    link = gateway.settings.router.artifact
    canary = gateway.settings.learning.canary
    if canary is None or link is None or not link.is_symlink():
        raise APIError(
            "router.artifact is no link that could be set: write e.g. router: {artifact: artifacts/current}, or name "
            "the canary's folder there.",
            status=_CONFLICT,
            code="not_a_link",
        )
    folder = canary.artifact.resolve()
    if link.name != artifact.CURRENT or folder.parent != link.parent.resolve():
        raise APIError(
            f"router.artifact must be {folder.parent / artifact.CURRENT} for the canary to be promoted; it is {link}.",
            status=_CONFLICT,
            code="not_a_link",
        )
    if current_artifact(folder.parent) == folder.name:
        return  # asked for twice
    try:
        promote_artifact(folder, reason=f"canary promoted by {by}")
    except ArtifactError as error:
        raise APIError(f"The canary cannot be promoted: {error}", status=_CONFLICT, code="artifact_unusable") from error
    except OSError as error:
        raise APIError(
            f"The link {link} cannot be set ({error.strerror}); give the gateway the right to write its folder.",
            status=_CONFLICT,
            code="read_only",
        ) from error


def _document(gateway: Gateway) -> dict[str, Any]:
    return {
        "object": "learning",
        "artifact": gateway.engine.artifact_id,
        "router": gateway.engine.router_name,
        "policy": gateway.engine.policy.name,
        **{name: read() for name, read in gateway.learning.items()},
    }
