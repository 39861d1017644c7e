"""Backend that answers from a script: for tests and dry demonstrations, as small as the contract."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import orjson

from llmrouter.exceptions import BackendError
from llmrouter.pool._base import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, BackendResponse, Timeouts
from llmrouter.pool._limits import CallLimits
from llmrouter.pool._sse import DONE, EventSplitter, ServerSentEvent, encode_event

_WORD = re.compile(r"\s*\S+\s*|\s+")

Reply = str | BackendError | Callable[[Mapping[str, Any]], str | BackendError]


class ScriptedBackend:
    """Answer every call with the same text, with what a function says, or with an error.

    Tokens are counted as words. Embeddings are made from a hash of the text.

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

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        """Return the scripted answer; see `Backend.complete`."""
        text = await CallLimits(self.name, timeouts).whole(self._text(body))
        return BackendResponse(orjson.dumps(self._answer(body, text, endpoint)), {"content-type": "application/json"})

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> ScriptedStream:
        """Return the scripted answer, a word an event; see `Backend.stream`."""
        limits = CallLimits(self.name, timeouts)
        text = await limits.first_byte(self._text(body))
        if endpoint == RESPONSES:
            events = _response_events(self._answer(body, text, endpoint), text)
            return ScriptedStream(events, limits, self.delay_s)
        pieces: list[dict[str, Any]] = [_piece(word, endpoint) for word in _WORD.findall(text)]
        if endpoint == CHAT:
            pieces.insert(0, {"delta": {"role": "assistant", "content": ""}})
        head = self._head("chat.completion.chunk" if endpoint == CHAT else "text_completion")
        chunks: list[dict[str, Any]] = [
            {**head, "choices": [{"index": 0, **piece, "finish_reason": None}]} for piece in pieces
        ]
        last: dict[str, Any] = {"delta": {}} if endpoint == CHAT else {"text": ""}
        chunks.append({**head, "choices": [{"index": 0, **last, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": _usage(body, text)})
        return ScriptedStream([encode_event(data) for data in (*map(orjson.dumps, chunks), DONE)], limits, self.delay_s)

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

    def _answer(self, body: Mapping[str, Any], text: str, endpoint: str) -> dict[str, Any]:
        usage = _usage(body, text)
        if endpoint == EMBEDDINGS:
            asked = body.get("input", "")
            vectors = [_embedding(one) for one in (asked if isinstance(asked, list) else [asked])]
            data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
            return {"object": "list", "data": data, "model": self.model, "usage": usage}
        if endpoint == RESPONSES:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            message = {"type": "message", "id": "msg-1", "role": "assistant", "status": "completed", "content": content}
            read, said = usage["prompt_tokens"], usage["completion_tokens"]
            return {
                **self._head("response"),
                "status": "completed",
                "error": None,
                "output": [message],
                "usage": {"input_tokens": read, "output_tokens": said, "total_tokens": read + said},
            }
        if endpoint == COMPLETIONS:
            choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop"}
            return {**self._head("text_completion"), "choices": [choice], "usage": usage}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{len(self.bodies)}", "object": kind, "created": 0, "model": self.model}


class ScriptedStream:
    """A scripted answer under way; see `BackendStream`."""

    def __init__(self, events: Sequence[bytes], limits: CallLimits, delay_s: float) -> None:
        self.closed = False
        self._events = events
        self._limits = limits
        self._delay_s = delay_s

    observer = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The content type."""
        return {"content-type": "text/event-stream; charset=utf-8"}

    async def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield the events one by one."""
        for raw in self._events:
            await self._limits.next_piece(asyncio.sleep(self._delay_s))
            yield EventSplitter().feed(raw)

    async def aclose(self) -> None:
        """Take note."""
        self.closed = True


def _piece(word: str, endpoint: str) -> dict[str, Any]:
    return {"delta": {"content": word}} if endpoint == CHAT else {"text": word}


def _response_events(answer: Mapping[str, Any], text: str) -> list[bytes]:
    """Return the events of a streamed response: created, a delta a word, completed."""
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": "msg-1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    events += [{"type": "response.output_text.delta", **place, "delta": word} for word in _WORD.findall(text)]
    events.append({"type": "response.completed", "response": answer})
    return [
        f"event: {event['type']}\n".encode() + encode_event(orjson.dumps({**event, "sequence_number": i}))
        for i, event in enumerate(events)
    ]


def _embedding(text: object) -> list[float]:
    digest = hashlib.sha256(str(text).encode("utf-8", "replace")).digest()
    return [byte / 255 for byte in digest[:8]]


def _usage(body: Mapping[str, Any], text: str) -> dict[str, int]:
    asked = sum(len(_words(value).split()) for value in _asked(body))
    answered = len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _asked(body: Mapping[str, Any]) -> list[object]:
    if isinstance(messages := body.get("messages"), list):
        return [message.get("content") for message in messages]
    found = body.get("prompt", body.get("input"))
    return found if isinstance(found, list) else [found]


def _words(value: object) -> str:
    return str(value.get("content") or "") if isinstance(value, Mapping) else str(value or "")
