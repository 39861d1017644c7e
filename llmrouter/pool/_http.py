"""Pooled HTTP sessions, by base URL."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType, SimpleNamespace
from typing import Any

import aiohttp

_KEEPALIVE_S = 30.0

CALL_HEADERS: ContextVar[Mapping[str, str]] = ContextVar("CALL_HEADERS", default=MappingProxyType({}))
"""What the calls of one request send beside a backend's own headers, e.g. its place in a trace; names in lower case."""


class CallTrace:
    """What is to be known of one HTTP call: whether it went over a connection used before."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


class HTTPSessions:
    """Sessions that backends share, so that models of one upstream share its connections.

    Sessions are opened on first use, in the running event loop.
    """

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}

    def session(self, base_url: str, *, fresh: bool = False) -> aiohttp.ClientSession:
        """Return the session for `base_url`; every call over a `fresh` one has a connection of its own."""
        key = (base_url, fresh)
        session = self._sessions.get(key)
        if session is None or session.closed:
            session = self._sessions[key] = _open_session(fresh=fresh)
        return session

    async def aclose(self) -> None:
        """Close every session."""
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()


def _open_session(*, fresh: bool) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_mark_reused)
    kept: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": _KEEPALIVE_S}
    return aiohttp.ClientSession(
        # No limit of our own: a queue in front of the upstream would hide in its response time.
        connector=aiohttp.TCPConnector(limit=0, **kept),
        # A cookie of one client's call must not travel with another's.
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        auto_decompress=True,
    )


async def _mark_reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: Any) -> None:
    trace = context.trace_request_ctx
    if isinstance(trace, CallTrace):
        trace.reused = True
