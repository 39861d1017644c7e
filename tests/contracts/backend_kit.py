"""What every backend must do, whatever is behind it: run over each implementation by its own tests."""

from __future__ import annotations

import json
from typing import Any

from llmrouter.pool import DONE, Backend, EventSplitter, ServerSentEvent, Timeouts, usage_from_body

BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Say hello there"}]}


async def read(stream: Any) -> list[ServerSentEvent]:
    """Return all events of a stream and release it."""
    try:
        return [event async for events in stream for event in events]
    finally:
        await stream.aclose()


async def check_backend(backend: Backend, *, answer: str = "Hello there") -> None:
    """Run the kit on a backend that answers `answer`."""
    assert isinstance(backend, Backend)
    assert await backend.healthy()
    await _check_complete(backend, answer)
    await _check_stream(backend, answer)
    stream = await backend.stream({**BODY, "stream": True}, timeouts=Timeouts())
    await stream.aclose()
    await stream.aclose()
    assert BODY["model"] == "auto", "the caller's body is left alone"


async def _check_complete(backend: Backend, answer: str) -> None:
    response = await backend.complete(BODY, timeouts=Timeouts())
    payload = json.loads(response.body)
    assert payload["object"] == "chat.completion"
    assert payload["choices"][0]["message"]["content"] == answer
    assert payload["choices"][0]["finish_reason"] == "stop"
    assert response.headers["content-type"].startswith("application/json")
    usage = usage_from_body(response.body)
    assert usage.input_tokens is not None
    assert usage.output_tokens is not None


async def _check_stream(backend: Backend, answer: str) -> None:
    body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    stream = await backend.stream(body, timeouts=Timeouts())
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = await read(stream)
    assert EventSplitter().feed(b"".join(event.raw for event in events)), "the raw bytes are an event stream"
    datas = [event.data for event in events if event.data is not None]
    assert datas[-1] == DONE
    chunks = [json.loads(data) for data in datas[:-1]]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    said = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(said) == answer
    assert any(choice["finish_reason"] == "stop" for chunk in chunks for choice in chunk["choices"])
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    assert with_usage[-1]["choices"] == []
