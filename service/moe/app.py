"""The application: OpenAI's completions, of chats and texts, over local engines."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrouter.exceptions import ConfigError, LLMRouterError, UnknownModelError
from llmrouter.moe import Engine, EngineWorker
from service.moe._chat import CLIENT_CLOSED_REQUEST, answer, read_json
from service.moe._embeddings import answer_embeddings, parse_embedding_body
from service.moe._errors import APIError, api_error
from service.moe._load_routes import add_load_routes
from service.moe._schema import parse_chat_body
from service.moe._text_completions import TextWriter, parse_text_body

_LOGGER = logging.getLogger(__name__)


def create_app(engines: Sequence[Engine], *, threads: int = 1) -> FastAPI:
    """Return the application that serves `engines` under their names.

    The engines are started with the application, in one worker thread together, and stopped with it.

    Parameters
    ----------
    engines : sequence of Engine
        Loaded models; their names must differ.
    threads : int
        Torch's intra-op threads (process-wide).

    Raises
    ------
    ConfigError
        If there is no engine, or two have the same name.
    """
    by_name = {engine.name: engine for engine in engines}
    if not engines or len(by_name) < len(engines):
        names = ", ".join(engine.name for engine in engines) or "none"
        raise ConfigError(f"models to serve: {names}; give at least one, each with its own name")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = EngineWorker(threads=threads)
        for engine in engines:
            engine.start(worker)
        yield
        for engine in engines:
            engine.stop()

    app = FastAPI(title="llmrouter local models", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_RequestId)
    _add_error_handlers(app)
    _add_model_routes(app, by_name)
    _add_health_routes(app, engines)
    add_load_routes(app, engines)
    return app


def _add_model_routes(app: FastAPI, engines: dict[str, Engine]) -> None:
    created = int(time.time())

    def find(name: str) -> Engine:
        if name not in engines:
            raise UnknownModelError(name, known=sorted(engines))
        return engines[name]

    def card(engine: Engine) -> dict[str, Any]:
        return {
            "id": engine.name,
            "object": "model",
            "created": created,
            "owned_by": "llmrouter",
            "max_model_len": engine.context_window,  # as vLLM tells it
        }

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = parse_chat_body(await read_json(request))
        return await answer(request, body, find(body.model))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = parse_text_body(await read_json(request))
        return await answer(request, body, find(body.model), shape=TextWriter)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body = parse_embedding_body(await read_json(request))
        return await answer_embeddings(request, body, find(body.model))

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [card(engine) for engine in engines.values()]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        return card(find(name))


def _add_health_routes(app: FastAPI, engines: Sequence[Engine]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        models = {
            engine.name: {"ready": engine.alive, "running": stats.running, "waiting": stats.waiting}
            for engine in engines
            for stats in [engine.stats()]
        }
        ready = all(engine.alive for engine in engines)
        return JSONResponse({"status": "ready" if ready else "not ready", "models": models}, 200 if ready else 503)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(APIError)
    async def on_api_error(_: Request, error: APIError) -> Response:
        return error.response()

    @app.exception_handler(LLMRouterError)
    async def on_library_error(_: Request, error: LLMRouterError) -> Response:
        return api_error(error).response()

    @app.exception_handler(ClientDisconnect)
    async def on_hang_up(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {request.url.path}"
        return APIError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> Response:
        _LOGGER.error("unexpected error", exc_info=error)
        return APIError(500, "internal error; the server's log has it", type="server_error").response()


class _RequestId:
    """Give every answer an x-request-id, the client's own where it sent one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = dict(scope["headers"]).get(b"x-request-id") or f"req_{uuid.uuid4().hex}".encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)
