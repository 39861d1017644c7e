"""Ways in which an upstream answers, and a body for each endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, chunk, event

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
ROLE = event(chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
LONG = 60.0
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": ASK,
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {**ASK, "max_tokens": 9},
}


def answering(status: int, body: Any = None, **headers: str) -> Callable[[Exchange], Any]:
    given = {"error": {"message": "no", "type": "t", "param": "p", "code": "c"}} if body is None else body

    async def behaviour(exchange: Exchange) -> None:
        await exchange.answer(json.dumps(given).encode(), status, **headers)

    return behaviour


def streaming(*pieces: bytes, pause: float = 0.0, then: str = "end") -> Callable[[Exchange], Any]:
    async def behaviour(exchange: Exchange) -> None:
        await exchange.event_stream(pieces, pause=pause, end=then == "end")
        if then == "silence":
            await exchange.pause(LONG)
        elif then == "reset":
            await exchange.pause(0.05)
            exchange.reset()

    return behaviour


def whole(body: bytes, **headers: str) -> Callable[[Exchange], Any]:
    async def behaviour(exchange: Exchange) -> None:
        await exchange.answer(body, **headers)

    return behaviour


def asked(upstream: MisbehavingUpstream) -> list[str]:
    return [exchange.body["model"] for exchange in upstream.exchanges]
