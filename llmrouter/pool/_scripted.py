"""Backend that answers from a script: for tests and dry demonstrations, as small as the contract."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson

from llmrouter.exceptions import BackendError
from llmrouter.pool._base import BackendResponse, Timeouts
from llmrouter.pool._limits import CallLimits
from llmrouter.pool._sse import DONE, ServerSentEvent, encode_event

_WORD = re.compile(r"\s*\S+\s*|\s+")

Reply = str | BackendError | Callable[[Mapping[str, Any]], str | BackendError]


class ScriptedBackend:
    """Answer every call with the same text, with what a function says, or with an error.

    Tokens are counted as words.

    Parameters
    ----------
    name : str
        Pool name.
    model : str
        Reported as ``model`` in the answers.
    reply : str or BackendError or callable
        The answer, the error to raise, or a function of the body that returns one of these.
    delay_s : float
        Waited before the answer and, in a stream, before every word.

    Attributes
    ----------
    bodies : list of mapping
        What was asked, in order.
    """

    def __init__(self, name: str, *, model: str = "scripted", reply: Reply = "ok", delay_s: float = 0.0) -> None:
        self.name = name
        self.model = model
        self.reply = reply
        self.delay_s = delay_s
        self.bodies: list[Mapping[str, Any]] = []

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts) -> BackendResponse:
        """Return the scripted answer; see `Backend.complete`."""
        text = await CallLimits(self.name, timeouts).whole(self._text(body))
        message = {"role": "assistant", "content": text}
        payload = {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(body, text),
        }
        return BackendResponse(orjson.dumps(payload), {"content-type": "application/json"})

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts) -> ScriptedStream:
        """Return the scripted answer, a word an event; see `Backend.stream`."""
        limits = CallLimits(self.name, timeouts)
        text = await limits.first_byte(self._text(body))
        head = self._head("chat.completion.chunk")
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": word} for word in _WORD.findall(text)]
        chunks: list[dict[str, Any]] = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
        ]
        chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": _usage(body, text)})
        return ScriptedStream([*map(orjson.dumps, chunks), DONE], limits, self.delay_s)

    async def healthy(self) -> bool:
        """Return True."""
        return True

    async def aclose(self) -> None:
        """Do nothing."""

    async def _text(self, body: Mapping[str, Any]) -> str:
        self.bodies.append(body)
        await asyncio.sleep(self.delay_s)
        reply = self.reply(body) if callable(self.reply) else self.reply
        if isinstance(reply, BackendError):
            raise reply
        return reply

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{len(self.bodies)}", "object": kind, "created": 0, "model": self.model}


class ScriptedStream:
    """A scripted answer under way; see `BackendStream`."""

    def __init__(self, chunks: Sequence[bytes], limits: CallLimits, delay_s: float) -> None:
        self.closed = False
        self._chunks = chunks
        self._limits = limits
        self._delay_s = delay_s

    @property
    def headers(self) -> Mapping[str, str]:
        """The content type."""
        return {"content-type": "text/event-stream; charset=utf-8"}

    async def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield the events one by one."""
        for data in self._chunks:
            await self._limits.next_piece(asyncio.sleep(self._delay_s))
            yield [ServerSentEvent(encode_event(data), data)]

    async def aclose(self) -> None:
        """Take note."""
        self.closed = True


def _usage(body: Mapping[str, Any], text: str) -> dict[str, int]:
    asked = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    answered = len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
