"""A pass-through in FastAPI, aiohttp and orjson that does nothing else: what Python can do at best without tricks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

UPSTREAM = os.environ["BENCHMARK_UPSTREAM"]


@asynccontextmanager
async def _session(app: FastAPI) -> AsyncIterator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=_session, docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/healthz")
async def healthz() -> Response:
    """Say that the process answers."""
    return Response(b"ok")


@app.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Parse the body, set the model, pass on what comes back."""
    body = orjson.loads(await request.body())
    body["model"] = "echo-1"
    session: aiohttp.ClientSession = app.state.session
    upstream = await session.post(
        f"{UPSTREAM}/chat/completions", data=orjson.dumps(body), headers={"content-type": "application/json"}
    )
    if body.get("stream"):
        return StreamingResponse(_pieces(upstream), media_type=upstream.headers["content-type"])
    async with upstream:
        return Response(await upstream.read(), upstream.status, media_type=upstream.headers["content-type"])


async def _pieces(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with upstream:
        async for piece in upstream.content.iter_any():
            yield piece
