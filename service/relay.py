"""A streamed answer on its way to the client: bytes unchanged (or translated), accounting beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmrouter.exceptions import BackendError, BackendStreamError
from llmrouter.pool import (
    BackendStream,
    FailedAttempt,
    ServerSentEvent,
    StreamObserver,
    StreamText,
    encode_event,
    error_in,
    resume_body,
)
from service.call import Call, Status
from service.disconnect import ClientGoneError, cancel_on_disconnect
from service.dispatch import PoolFailedError, stream_error
from service.endpoints import dialect_of
from service.gateway import Gateway

if TYPE_CHECKING:
    from service.cache import Hit, StreamRecorder
    from service.dialects.base import StreamTranslator

Reopen = Callable[[Gateway, Call], Awaitable[BackendStream]]

_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_EVENT_STREAM_TYPE = "text/event-stream"
_EVENT_STREAM = f"{_EVENT_STREAM_TYPE}; charset=utf-8"


class _HeldError(BackendStreamError):
    """The upstream sent an error within its stream; `before` is what came ahead of it and is not sent yet."""

    def __init__(self, before: bytes, *, model: str) -> None:
        super().__init__(f"{model}: the upstream sent an error", model=model)
        self.before = before


class RelayResponse(Response):
    """Send a backend's stream to the client.

    The extra usage chunk is hidden where the client did not ask for it. If the upstream breaks off, the next model
    goes on where that was asked for and is possible; else the client gets an error event and no ``[DONE]``. If the
    client hangs up, the upstream call is cancelled. The outcome is recorded before the last bytes leave, so that a
    client that has seen the end finds it.

    Parameters
    ----------
    gateway : Gateway
        Where the outcome goes.
    call : Call
        The request; its `served_by` is set.
    stream : BackendStream
        Open, with its first token there; closed by the response.
    headers : mapping of str to str
        Of the answer.
    reopen : callable
        Opens the stream of another model.
    """

    def __init__(
        self, gateway: Gateway, call: Call, stream: BackendStream, *, headers: Mapping[str, str], reopen: Reopen
    ) -> None:
        translated = not gateway.upstreams.serves(call.served_by, call.chat.endpoint)
        kind = headers.get("content-type", "")
        if translated or not kind.startswith(_EVENT_STREAM_TYPE):
            kind = _EVENT_STREAM
        super().__init__(status_code=200, headers={**headers, "content-type": kind, **_STREAM_HEADERS})
        # What `Response` derives from an empty body is not true of a stream.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._gateway = gateway
        self._call = call
        self._stream = stream
        self._reopen = reopen
        self._observe_stream(stream)
        self._translator = _translator(call) if translated else None
        self._recorder: StreamRecorder | None = gateway.answers.recorder(call)
        self._text = StreamText() if gateway.resumes(call) else None
        self._held: tuple[bytes, bytes] | None = None
        call.heard = gateway.listen(call)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, events and end."""
        try:
            async with cancel_on_disconnect(scope, receive):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self._relay(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGoneError:
            self._record("cancelled", "the client hung up")
        except asyncio.CancelledError:
            self._record("cancelled", "the gateway stopped")
            raise
        except Exception as error:
            self._record("partial", f"internal error: {type(error).__name__}")
            raise
        finally:
            await self._stream.aclose()

    def _observe_stream(self, stream: BackendStream) -> None:
        self._marked = stream.observer is not None
        self._observer = stream.observer or StreamObserver()

    async def _relay(self, send: Send) -> None:
        while True:
            try:
                await self._relay_one(send)
            except BackendError as error:
                if isinstance(error, _HeldError) and error.before:
                    await send({"type": "http.response.body", "body": error.before, "more_body": True})
                if self._call.served_by:
                    self._gateway.cooldowns.failed(self._call.served_by, error)
                if await self._resumed(error):
                    continue
                self._record("partial", str(error))
                body = self._failure(error) if self._held is None else self._shown(*self._held)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            return

    async def _relay_one(self, send: Send) -> None:
        async for events in self._stream:
            visible = self._observe(events)
            if self._observer.done:
                visible += self._finished()
            if visible:
                await send({"type": "http.response.body", "body": visible, "more_body": True})
        if rest := self._finished():
            await send({"type": "http.response.body", "body": rest, "more_body": True})

    def _observe(self, events: Sequence[ServerSentEvent]) -> bytes:
        """Return the bytes that the client is to see of these events."""
        shown: list[bytes] = []
        for raw, data, usage_only in events:
            if not self._marked:
                usage_only = data is not None and self._observer.observe(data)
            if self._recorder is not None:
                self._recorder.feed(raw, data)
            if self._call.heard is not None and data is not None:
                self._call.heard.feed(data)
            if self._text is not None and data is not None:
                if self._observer.error is not None and error_in(data):
                    self._hold(b"".join(shown), raw, data)
                self._text.feed(data)
            if not usage_only or self._translator is not None or self._call.chat.usage_asked:
                shown.append(self._shown(raw, data))
        if self._call.first_token_s is None and self._observer.content_seen:
            self._call.first_token_s = time.perf_counter() - self._call.started
        return b"".join(shown)

    def _shown(self, raw: bytes, data: bytes | None) -> bytes:
        if self._translator is None:
            return raw
        return b"" if data is None else self._translator.feed(data)

    def _hold(self, before: bytes, raw: bytes, data: bytes) -> None:
        """Keep an error event of the upstream back: another model may go on.

        Raises
        ------
        BackendStreamError
            Always; with what is to be sent before the next model goes on.
        """
        self._held = (raw, data)
        raise _HeldError(before, model=self._call.served_by or "")

    def _finished(self) -> bytes:
        """Record a stream that came to its end, and return what closes it in its shape."""
        error = self._observer.error
        if error is None:
            if self._recorder is not None and not self._call.recorded:
                self._gateway.answers.keep_stream(self._call, self._recorder, self._observer.usage)
            self._record("ok")
        else:
            said = error.get("message") if self._gateway.keeps_text(self._call.principal) else error.get("code")
            self._record("partial", f"the upstream sent an error: {said}")
        return b"" if self._translator is None else self._translator.finish()

    async def _resumed(self, error: BackendError) -> bool:
        """Let the next model go on with the answer; return whether one does."""
        call = self._call
        if self._text is None or call.served_by is None or self._observer.finished:
            return False
        broken_off = call.served_by
        body = resume_body(call.chat.body, self._text)
        call.failures.append(FailedAttempt(broken_off, error))
        tried = {name for name, _ in call.failures}
        rest = tuple(entry for entry in call.decision.ranking if entry.model not in tried)
        if body is None or not any(entry.eligible for entry in rest):
            return False
        chat, decision = call.chat, call.decision
        call.chat, call.decision = replace(chat, body=body), replace(decision, ranking=rest)
        try:
            stream = await self._reopen(self._gateway, call)
        except PoolFailedError:
            return False
        finally:
            call.chat, call.decision = chat, decision
        self._gateway.charge_broken_off(call, broken_off)
        if call.heard is not None:
            call.heard.give_up()  # what two models said judges neither
        await self._stream.aclose()
        self._stream = stream
        self._observe_stream(stream)
        self._recorder = self._held = None
        return True

    def _failure(self, error: BackendError) -> bytes:
        event = stream_error(error)
        if self._translator is None:
            return encode_event(event)
        return self._translator.fail(orjson.loads(event)["error"])

    def _record(self, status: Status, error: str = "") -> None:
        self._call.finish_reason = self._observer.finish_reason
        self._gateway.finish(self._call, status, usage=self._observer.usage, error=error)


def _translator(call: Call) -> StreamTranslator | None:
    dialect = dialect_of(call.chat.endpoint)
    if dialect is None:
        return None
    return dialect.stream(dict(call.chat.original), request_id=call.request_id)


def replay_response(gateway: Gateway, call: Call, hit: Hit) -> Response:
    """Return a kept answer, in the shape in which it was asked for; its cost is zero."""
    from service.cache import replay

    dialect = dialect_of(call.chat.endpoint)
    asked = dict(call.chat.original)
    # A translation needs the usage whether or not the client asked for it.
    body = replay(hit, stream=call.chat.stream, usage_asked=call.chat.usage_asked or dialect is not None)
    if dialect is not None and call.chat.stream:
        translator = dialect.stream(asked, request_id=call.request_id)
        body = b"".join([*(translator.feed(data) for data in _data_of(body)), translator.finish()])
    elif dialect is not None:
        body = orjson.dumps(dialect.answer(orjson.loads(body), asked, request_id=call.request_id))
    gateway.finish(call, "ok")
    kind = {"content-type": _EVENT_STREAM, **_STREAM_HEADERS} if call.chat.stream else {"content-type": _JSON}
    headers = {**kind, **call.headers(), **hit.headers(), "x-llmrouter-cost": "0"}
    return Response(body, headers=headers)


_JSON = "application/json"


def _data_of(stream: bytes) -> list[bytes]:
    from llmrouter.pool import EventSplitter

    return [event.data for event in EventSplitter().feed(stream) if event.data is not None]
