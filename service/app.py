"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import Route

from llmrouter import __version__
from llmrouter.pool import Backend
from service import errors, openapi
from service.front import Front
from service.gateway import Engine, Gateway
from service.routes import ALL_ROUTES, SHORTCUTS
from service.settings import Settings

if TYPE_CHECKING:
    from service.reload import Reloader


def create_app(
    settings: Settings, *, engine: Engine | None = None, backends: Mapping[str, Backend] | None = None
) -> FastAPI:
    """Return the gateway as an ASGI application.

    Parameters
    ----------
    settings : Settings
        The configuration.
    engine : RoutingEngine, optional
        By default the configured artifact is loaded.
    backends : mapping of str to Backend, optional
        Pool name -> backend; by default as configured.

    Raises
    ------
    ConfigError, ArtifactError, EncoderError, StoreError, MissingExtraError
        If the configuration cannot be put into effect.
    """
    gateway = Gateway(settings, engine=engine, backends=backends)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        reloader: Reloader | None = getattr(app.state, "reloader", None)
        if reloader is not None:
            reloader.start()
        try:
            yield
        finally:
            if reloader is not None:
                await reloader.stop()
            await app.state.gateway.aclose()

    app = FastAPI(
        title="llmrouter",
        version=__version__,
        description="An OpenAI endpoint that sends each prompt to the model that gives the wanted quality for the "
        "least money.",
        lifespan=lifespan,
        # Their pages load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The framework's own would be another exporter, and one that shows what exceptions say. See service.telemetry.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.gateway = gateway
    app.openapi = openapi.describing(lambda: app.state.gateway)  # type: ignore[method-assign] # the documented way
    errors.install(app)
    # One by one: a router of routers is matched level by level, on every request.
    for routes in ALL_ROUTES:
        app.include_router(routes)
    # Reached through the front; here for the answer to other methods than POST.
    for path, application in SHORTCUTS.items():
        app.router.routes.append(Route(path, application, methods=["POST"]))
    # Outside of the framework's own layers, not among them: each costs something on every request.
    app.middleware_stack = Front(app.build_middleware_stack(), shortcuts=SHORTCUTS)
    return app
