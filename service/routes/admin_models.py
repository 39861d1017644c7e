"""/admin/models: the pool, taking models in, letting them go, prices; for keys with the scope ``admin``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from llmrouter.exceptions import ConfigError, UnknownModelError
from service.body import read_object
from service.errors import APIError, json_response
from service.keys import refusals
from service.keys.principal import ADMIN
from service.models.jobs import JobRunningError, ModelJobs
from service.models.overlay import Overlay, read_overlay
from service.models.settings import ModelsSettings
from service.models.show import price_entry
from service.models.states import JobFiles, shown
from service.models.wanted import DEFAULT_MAX_USD, check_body, check_price
from service.reload import Reloader
from service.routes.state import gateway_of
from service.settings import load_settings


class _PoolModel(StringConvertor):
    """A name with slashes in it, but none of the paths that have operations of their own."""

    regex = "(?!jobs(?:/|$))(?!.*/price$).+"


register_url_convertor("pool_model", _PoolModel())

routes = APIRouter(prefix="/admin/models", tags=["admin"])

_ACCEPTED = 202
_CONFLICT = 409
_MAX_BODY_BYTES = 8 * 1024 * 1024


@routes.get("")
async def list_pool(request: Request) -> Response:
    """List the models that can be routed to, with what the artifact knows of them."""
    await _admitted(request)
    engine = gateway_of(request).engine
    data = [{"object": "pool_model", **price_entry(card, engine)} for card in engine.cards]
    return json_response({"object": "list", "artifact": engine.artifact_id, "data": data})


@routes.post("")
async def add_model(request: Request) -> Response:
    """Take a model in; answered at once with the job that does it."""
    await _admitted(request)
    models, source = _configured(request)
    body = await _body(request)
    _checked(lambda: check_body(body, variables=models.variables))
    if (body.get("max_usd") or DEFAULT_MAX_USD) > models.max_usd:
        raise _bad("max_usd", f"must be at most {models.max_usd:g} (learning.models.max_usd); got {body['max_usd']!r}")
    entry, replaces = body.get("model"), body.get("replaces")
    model = entry["name"] if entry is not None else body["name"]
    action = "add" if replaces is None else "replace"
    if entry is not None:
        await _would_load(source, models, lambda overlay: overlay.with_entry(entry), new=model, known=request)
    else:
        _known(request, model)
    if replaces is not None:
        _known(request, replaces)
    return await _start(request, models, source, action, replaces or model, model, body)


@routes.get("/jobs")
async def list_jobs(request: Request) -> Response:
    """List the jobs, newest first."""
    await _admitted(request)
    models, _ = _configured(request)
    found = await asyncio.to_thread(JobFiles(models.folder / "jobs").all)
    return json_response({"object": "list", "data": [shown(state) for state in found]})


@routes.get("/jobs/{job_id}")
async def get_job(request: Request, job_id: str) -> Response:
    """Return how far a job is, and what it came to."""
    await _admitted(request)
    models, _ = _configured(request)
    state = await asyncio.to_thread(JobFiles(models.folder / "jobs").read, job_id)
    if state is None:
        raise APIError(f"There is no job {job_id[:64]!r}.", status=404, param="job_id", code="job_not_found")
    return json_response(shown(state))


@routes.put("/{name:path}/price")
async def reprice_model(request: Request, name: str) -> Response:
    """Give a model another price; answered at once with the job that does it."""
    await _admitted(request)
    models, source = _configured(request)
    price = await _body(request)
    _known(request, name)
    _checked(lambda: check_price(price))
    await _would_load(source, models, lambda overlay: overlay.with_price(name, price))
    return await _start(request, models, source, "reprice", name, name, {"price": price})


@routes.delete("/{name:pool_model}")
async def remove_model(request: Request, name: str) -> Response:
    """Let a model go; answered at once with the job that does it."""
    await _admitted(request)
    models, source = _configured(request)
    _known(request, name)
    await _would_load(source, models, lambda overlay: overlay.without(name))
    return await _start(request, models, source, "remove", name, name, {})


async def _admitted(request: Request) -> None:
    """Let administrators through, and nobody where there are no keys: a change of the pool is a change of who is paid.

    Raises
    ------
    APIError
        404 where there are no keys, 401 without one, 403 for one that is not an administrator's.
    """
    authenticator = gateway_of(request).authenticator
    if authenticator is None:
        raise refusals.keys_are_off()
    principal = await authenticator.of_request(request.scope)
    if not principal.may(ADMIN):
        raise refusals.lacking_scope(principal, ADMIN)


def _configured(request: Request) -> tuple[ModelsSettings, Path]:
    models = gateway_of(request).settings.learning.models
    reloader: Reloader | None = getattr(request.app.state, "reloader", None)
    if models is None or reloader is None:
        raise APIError(
            "This gateway's pool is changed in its configuration only: write learning: {models: {overlay: FILE}} into "
            "the file that it is served with, so that changes have a place to be kept.",
            status=404,
            code="models_not_configured",
        )
    return models, reloader.source


async def _start(
    request: Request,
    models: ModelsSettings,
    source: Path,
    action: str,
    name: str,
    model: str,
    body: Mapping[str, Any],
) -> Response:
    jobs: ModelJobs | None = getattr(request.app.state, "model_jobs", None)
    if jobs is None:
        reloader: Reloader = request.app.state.reloader
        jobs = request.app.state.model_jobs = ModelJobs(on_end=lambda: reloader.reload("models"))
    try:
        state = await jobs.start(
            models.folder, source, niceness=models.niceness, action=action, name=name, model=model, body=body
        )
    except JobRunningError as running:
        raise APIError(
            f"The job {running} changes the pool at the moment; wait for its end.",
            status=_CONFLICT,
            code="job_running",
        ) from None
    return json_response(shown(state), status=_ACCEPTED, headers={"location": f"/admin/models/jobs/{state['id']}"})


async def _would_load(
    source: Path,
    models: ModelsSettings,
    change: Callable[[Overlay], Overlay],
    *,
    new: str | None = None,
    known: Request | None = None,
) -> None:
    """Refuse what the configuration would not be right with."""
    if new is not None and known is not None and new in gateway_of(known).models:
        raise _bad("model.name", f"{new!r} is in the pool already; choose another name, or give name in place of model")
    await asyncio.to_thread(_checked, lambda: load_settings(source, overlay=change(read_overlay(models.overlay))))


def _known(request: Request, name: str) -> None:
    pool = gateway_of(request).models
    if name not in pool:
        raise UnknownModelError(name, known=tuple(pool))


def _checked(check: Callable[[], Any]) -> None:
    try:
        check()
    except ConfigError as error:
        message = str(error)
        prefix = f"{error.path}: "
        raise _bad(error.path or "model", message.removeprefix(prefix)) from error


async def _body(request: Request) -> dict[str, Any]:
    timeout_s = gateway_of(request).settings.server.body_timeout_s
    return await read_object(request, max_bytes=_MAX_BODY_BYTES, timeout_s=timeout_s)


def _bad(param: str, message: str) -> APIError:
    return APIError(f"Invalid '{param}': {message}.", param=param, code="invalid_value")
