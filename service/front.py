"""The outermost layer: every request gets an id, every answer carries it, and no fault of ours goes unanswered.

The generating endpoints are called from here, past the web framework's own layers, which would cost more than routing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.endpoints import MESSAGES
from service.errors import in_shape_of, internal_error
from service.telemetry.logs import current_request_id

logger = logging.getLogger(__name__)

_RANDOM_BYTES = 16
_AHEAD = 256


class Front:
    """Set ``request.state.request_id`` and the header ``x-request-id``; answer an unexpected exception with 500.

    The id is always our own: clients may repeat theirs, and the outcome log is keyed by it.

    Parameters
    ----------
    app : ASGI application
        What is wrapped.
    shortcuts : mapping of str to ASGI application
        Path -> what answers POST requests to it.
    """

    def __init__(self, app: ASGIApp, *, shortcuts: Mapping[str, ASGIApp]) -> None:
        self.app = app
        self.shortcuts = shortcuts
        self._random = b""

    def _unguessable(self) -> str:
        """Return 128 random bits in hexadecimal.

        They are asked of the system for many requests at once: the call gives up the interpreter lock, and a busy
        process may wait milliseconds to get it back.
        """
        if not self._random:
            self._random = os.urandom(_RANDOM_BYTES * _AHEAD)
        taken, self._random = self._random[:_RANDOM_BYTES], self._random[_RANDOM_BYTES:]
        return taken.hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{self._unguessable()}"
        current_request_id.set(request_id)
        scope.setdefault("state", {})["request_id"] = request_id
        started = complete = False

        async def send_with_id(message: Message) -> None:
            nonlocal started, complete
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif not message.get("more_body", False):
                complete = True
            await send(message)

        app = self.shortcuts.get(scope["path"], self.app) if scope["method"] == "POST" else self.app
        try:
            await app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if complete:  # the framework has answered, and raised it again
                return
            if started:
                raise  # the server cuts the connection: the client must not take the answer for complete
            answer = internal_error().response()
            if scope["path"].startswith(MESSAGES.url):
                answer = in_shape_of(MESSAGES, answer, request_id)
            await answer(scope, receive, send_with_id)
