"""The FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from llmrouter import __version__
from llmrouter.pool import Backend
from service import errors
from service.gateway import Engine, Gateway
from service.request_id import RequestIdMiddleware
from service.routes import ALL_ROUTES
from service.settings import Settings


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
        gateway.start()
        try:
            yield
        finally:
            await gateway.aclose()

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
    )
    app.state.gateway = gateway
    app.add_middleware(RequestIdMiddleware)
    errors.install(app)
    # One by one: a router of routers is matched level by level, on every request.
    for routes in ALL_ROUTES:
        app.include_router(routes)
    return app
