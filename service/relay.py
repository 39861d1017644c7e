"""A streamed answer on its way to the client: bytes unchanged, accounting beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmrouter.exceptions import BackendError
from llmrouter.pool import BackendStream, ServerSentEvent, StreamObserver, encode_event
from service.call import Call, Status
from service.disconnect import ClientGoneError, cancel_on_disconnect
from service.dispatch import stream_error
from service.gateway import Gateway


class RelayResponse(Response):
    """Send a backend's stream to the client.

    The extra usage chunk is hidden where the client did not ask for it. If the upstream breaks off, the client gets
    an error event and no ``[DONE]``. If the client hangs up, the upstream call is cancelled. The outcome is recorded
    before the last bytes leave, so that a client that has seen ``[DONE]`` finds it.

    Parameters
    ----------
    gateway : Gateway
        Where the outcome goes.
    call : Call
        The request; its `served_by` is set.
    stream : BackendStream
        Open, with its first event there; closed by the response.
    headers : mapping of str to str
        Of the answer.
    """

    def __init__(self, gateway: Gateway, call: Call, stream: BackendStream, *, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=200, headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        # What `Response` derives from an empty body is not true of a stream.
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._gateway = gateway
        self._call = call
        self._stream = stream
        self._observer = StreamObserver()
        self._recorded = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, events and end."""
        del scope
        try:
            async with cancel_on_disconnect(receive):
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

    async def _relay(self, send: Send) -> None:
        try:
            async for events in self._stream:
                visible = self._observe(events)
                if self._observer.done:
                    self._record_end()
                if visible:
                    await send({"type": "http.response.body", "body": visible, "more_body": True})
        except BackendError as error:
            if self._call.served_by:
                self._gateway.cooldowns.failed(self._call.served_by, error)
            self._record("partial", str(error))
            event = encode_event(stream_error(error))
            await send({"type": "http.response.body", "body": event, "more_body": True})
        else:
            self._record_end()

    def _observe(self, events: Sequence[ServerSentEvent]) -> bytes:
        """Return the bytes of the events that the client is to see."""
        shown = []
        for raw, data in events:
            usage_only = data is not None and self._observer.observe(data)
            if not usage_only or self._call.chat.usage_asked:
                shown.append(raw)
        if self._call.first_token_s is None and self._observer.content_seen:
            self._call.first_token_s = time.perf_counter() - self._call.started
        return b"".join(shown)

    def _record_end(self) -> None:
        error = self._observer.error
        if error is None:
            self._record("ok")
        else:
            said = error.get("message") if self._gateway.keeps_text else error.get("code")
            self._record("partial", f"the upstream sent an error: {said}")

    def _record(self, status: Status, error: str = "") -> None:
        if not self._recorded:
            self._recorded = True
            self._gateway.record(self._call, status, usage=self._observer.usage, error=error)
