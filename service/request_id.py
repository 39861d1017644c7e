"""Middleware: every request gets an id, every answer carries it, and no fault of ours leaves the gateway unanswered."""

from __future__ import annotations

import logging
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import internal_error

logger = logging.getLogger(__name__)


class RequestIdMiddleware:
    """Set ``request.state.request_id`` and the header ``x-request-id``; answer an unexpected exception with 500.

    The id is always our own: clients may repeat theirs, and the outcome log is keyed by it.

    Parameters
    ----------
    app : ASGI application
        What is wrapped.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if started:
                raise  # the server cuts the connection: the client must not take the answer for complete
            await internal_error().response()(scope, receive, send_with_id)
