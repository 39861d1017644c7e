"""The first moments of a clean end, in which requests still come in over connections that stand already."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import uvicorn

LINGER_S = 0.5
"""How long connections without a request stay open: less than a balancer leaves out a gateway that refused it."""

_POLL_S = 0.02
# Timers go before reading: a loop that was held up would close connections whose request it has not looked at yet.
_QUIET_S = 0.1


async def linger(server: uvicorn.Server, sockets: Sequence[socket.socket], *, linger_s: float = LINGER_S) -> None:
    """Take no new connections, and let those that stand carry at most one more request each.

    A balancer reuses connections, and learns that one is closed only after it has sent a request on it; that request
    is lost, as none can know whether it was carried out. So connections are not closed under it: every answer that
    begins from now on says ``connection: close``, and only those that stay idle are closed at the end, by the
    `shutdown` of uvicorn that is to follow. New connections are refused at once, so the balancer goes elsewhere; the
    ones that the system had accepted already are served.

    Parameters
    ----------
    server : uvicorn.Server
        It has started. Its protocol class must heed the attribute ``draining`` (see `service.http.GuardedProtocol`).
    sockets : sequence of socket
        What it listens on.
    linger_s : float
        Seconds; up to twice as long where requests still come at its end, or where the event loop was held up.
    """
    config: Any = server.config
    config.http_protocol_class.draining = True
    # uvloop closes its listening socket a turn of the loop late, and what connected until then would be reset. So the
    # queue stays open through duplicates, which are closed right behind the last look into it.
    spares = [listener.dup() for listener in sockets]
    for listening in server.servers:
        listening.close()
    for listener in sockets:
        listener.close()
    await asyncio.sleep(0)
    waiting = []
    for spare in spares:
        waiting += _accepted(spare)
        spare.close()
    loop = asyncio.get_running_loop()

    def protocol() -> Any:
        return config.http_protocol_class(
            config=config, server_state=server.server_state, app_state=server.lifespan.state, _loop=loop
        )

    for connection in waiting:
        try:
            await loop.connect_accepted_socket(protocol, connection)
        except OSError:  # it has gone again
            connection.close()
    for standing in list(server.server_state.connections):
        _last_request(standing)
    deadline = time.monotonic() + linger_s
    last = deadline + linger_s
    seen, quiet_since = server.server_state.total_requests, time.monotonic()
    while server.server_state.connections and not server.force_exit:
        now = time.monotonic()
        if now >= last or (now >= deadline and now - quiet_since >= _QUIET_S):
            break
        await asyncio.sleep(_POLL_S)
        came, late = server.server_state.total_requests, time.monotonic() - now > 2 * _POLL_S
        if came != seen or late:
            seen, quiet_since = came, time.monotonic()


def _accepted(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that wait in the queue of a listening socket: closing it would cut them off."""
    connections = []
    listener.settimeout(0)
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(0)
            connections.append(connection)
    return connections


def _last_request(connection: Any) -> None:
    """Let the answer under way, if its head has not gone out, say that it is the last."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_started:
        cycle.keep_alive = False
