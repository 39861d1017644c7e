"""Completions of chats and texts: submit, then answer at once or as a stream; a client that hangs up cancels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmrouter.exceptions import LLMRouterError
from llmrouter.moe import Delta, Engine, GenerationHandle, GenerationResult
from service.moe._errors import APIError, api_error
from service.moe._schema import CommonBody
from service.moe._wire import CompletionWriter, delta_of

_LOGGER = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the log does
_DONE = b"data: [DONE]\n\n"


async def read_json(request: Request) -> Any:
    """Read the body and decode it.

    Raises
    ------
    APIError
        413 if it is too large, 400 if it is not JSON.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise APIError(413, f"the body has more than {MAX_BODY_BYTES} bytes", code="request_too_large")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise APIError(400, f"the body is not valid JSON: {error}", code="invalid_json") from error


async def answer(
    request: Request, body: CommonBody, engine: Engine, *, shape: type[CompletionWriter] = CompletionWriter
) -> Response:
    """Generate the answer to `body` with `engine`, in the shape of its endpoint."""
    handles = await _submit(body, engine)
    writer = shape(engine.name, include_usage=body.include_usage)
    if body.stream:
        return _GenerationStream(_events(handles, writer, include_usage=body.include_usage), handles)
    results = await _results_unless_disconnected(request, handles)
    if results is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(orjson.dumps(writer.completion(results)), media_type="application/json")


async def _submit(body: CommonBody, engine: Engine) -> list[GenerationHandle]:
    """Queue all choices, or none if one of them is refused."""
    loop = asyncio.get_running_loop()
    handles: list[GenerationHandle] = []
    try:
        for generation in body.generation_requests():
            # Templates and tokenizers take milliseconds for a long chat: not on the event loop.
            handle = await asyncio.to_thread(engine.submit, generation, loop=loop)
            handles.append(handle)  # those queued so far must be known if the next is refused
    except BaseException:
        _cancel(handles)
        raise
    return handles


def _cancel(handles: Sequence[GenerationHandle]) -> None:
    for handle in handles:
        handle.cancel()


async def _results_unless_disconnected(
    request: Request, handles: Sequence[GenerationHandle]
) -> list[GenerationResult] | None:
    """Return the results, or None (and cancel) if the client hangs up first."""
    results: asyncio.Future[list[GenerationResult]] = asyncio.gather(*(handle.result() for handle in handles))
    hang_up = asyncio.ensure_future(disconnected(request))
    results.add_done_callback(seen)
    both: set[asyncio.Future[Any]] = {results, hang_up}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return await results if results.done() else None
    finally:
        hang_up.cancel()
        results.cancel()
        _cancel(handles)  # of no effect on those that are finished


def seen(results: asyncio.Future[Any]) -> None:
    """Look at what nobody waits for after a hang-up, or asyncio writes it to the log."""
    if not results.cancelled():
        results.exception()


async def disconnected(request: Request) -> None:
    """Return when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _GenerationStream(StreamingResponse):
    """A stream of events that cancels the generation when it ends, also where the client left before its first byte.

    The event iterator itself cannot do that: cancelled before its start, or while a chunk is sent, it is not closed.
    """

    def __init__(self, events: AsyncIterator[bytes], handles: Sequence[GenerationHandle]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._handles = handles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _cancel(self._handles)


async def _events(
    handles: Sequence[GenerationHandle], writer: CompletionWriter, *, include_usage: bool
) -> AsyncIterator[bytes]:
    """Yield server-sent events."""
    try:
        for index in range(len(handles)):
            yield _event(writer.chunk(index, {"role": "assistant", "content": ""}))
        async for index, delta in _merged(handles):
            if delta is None:
                reason = (await handles[index].result()).finish_reason
                yield _event(writer.chunk(index, {}, finish_reason=reason))
            else:
                yield _event(writer.chunk(index, delta_of(delta), logprobs=delta.logprobs))
        if include_usage:
            yield _event(writer.usage_chunk([await handle.result() for handle in handles]))
        yield _DONE
    except LLMRouterError as error:
        # The status went out long ago: the error is an event, and no [DONE] pretends that the answer is whole.
        _LOGGER.warning("a stream broke off: %s", error)
        yield _event(api_error(error).body)


async def _merged(handles: Sequence[GenerationHandle]) -> AsyncIterator[tuple[int, Delta | None]]:
    """Yield (choice, delta) as they come from all handles, and (choice, None) when a choice is finished."""
    if len(handles) == 1:
        async for delta in handles[0]:
            yield 0, delta
        yield 0, None
        return
    arrivals: asyncio.Queue[tuple[int, Delta | LLMRouterError | None]] = asyncio.Queue()

    async def forward(index: int, handle: GenerationHandle) -> None:
        try:
            async for delta in handle:
                arrivals.put_nowait((index, delta))
            arrivals.put_nowait((index, None))
        except LLMRouterError as error:
            arrivals.put_nowait((index, error))

    tasks = [asyncio.create_task(forward(index, handle)) for index, handle in enumerate(handles)]
    try:
        unfinished = len(handles)
        while unfinished:
            index, arrival = await arrivals.get()
            if isinstance(arrival, LLMRouterError):
                raise arrival
            unfinished -= arrival is None
            yield index, arrival
    finally:
        for task in tasks:
            task.cancel()


def _event(body: object) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
