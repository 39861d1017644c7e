"""Pooled HTTP sessions, one for each base URL."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp

_KEEPALIVE_S = 30.0


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
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def session(self, base_url: str) -> aiohttp.ClientSession:
        """Return the session for `base_url`."""
        session = self._sessions.get(base_url)
        if session is None or session.closed:
            session = self._sessions[base_url] = _open_session()
        return session

    async def aclose(self) -> None:
        """Close every session."""
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()


def _open_session() -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_mark_reused)
    return aiohttp.ClientSession(
        # No limit of our own: a queue in front of the upstream would hide in its response time.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
        # A cookie of one client's call must not travel with another's.
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        auto_decompress=True,
    )


async def _mark_reused(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: Any) -> None:
    trace = context.trace_request_ctx
    if isinstance(trace, CallTrace):
        trace.reused = True
