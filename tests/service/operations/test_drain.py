"""The end of a server that a balancer keeps connections to: nothing sent on one of them is lost."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.drain import linger

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Heeding(HttpToolsProtocol):
    """What the protocol of the gateway does with `draining`."""

    draining = False

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.draining and self.cycle is not None:
            self.cycle.keep_alive = False


class Running:
    """A server in this event loop, whose answers wait while `hold` is clear."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.asked = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        protocol = type("Protocol", (Heeding,), {})
        self.server = uvicorn.Server(
            uvicorn.Config(self._app, http=protocol, interface="asgi3", lifespan="off", log_level="error")
        )

    async def _app(self, scope, receive, send) -> None:
        self.asked += 1
        await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def linger(self, seconds: float) -> float:
        started = time.monotonic()
        await linger(self.server, [self.listener], linger_s=seconds)
        return time.monotonic() - started


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    one = Running()
    one.server.config.load()
    one.server.lifespan = one.server.config.lifespan_class(one.server.config)
    address = one.listener.getsockname()
    await one.server.startup(sockets=[one.listener])
    one.address = address
    try:
        yield one
    finally:
        one.hold.set()
        await one.server.shutdown(sockets=[one.listener])


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert await asyncio.wait_for(reader.readexactly(2), 10) == b"ok"
    return head.lower()


async def test_a_standing_connection_carries_one_more_request() -> None:
    async with running() as one:
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(REQUEST)
        assert b"connection: close" not in await answer(reader)
        ending = asyncio.create_task(one.linger(20.0))
        await asyncio.sleep(0.1)
        assert not ending.done()
        writer.write(REQUEST)
        assert b"connection: close" in await answer(reader)
        assert await reader.read() == b"", "and is closed"
        await asyncio.wait_for(ending, 10)
        writer.close()


async def test_new_connections_are_refused_at_once() -> None:
    async with running() as one:
        _, writer = await asyncio.open_connection(*one.address)
        ending = asyncio.create_task(one.linger(0.3))
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*one.address)
        assert await ending >= 0.3, "an idle connection is waited for so long, and no longer"
        writer.close()


async def test_connections_that_the_system_had_accepted_are_served() -> None:
    async with running() as one:
        clients = []
        # The event loop does not run here, so nobody accepts them before the end begins.
        for _ in range(20):
            client = socket.create_connection(one.address)
            client.sendall(REQUEST)
            client.settimeout(0)
            clients.append(client)
        ending = asyncio.create_task(one.linger(20.0))
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            assert b"connection: close" in await answer(reader)
            writer.close()
        await asyncio.wait_for(ending, 10)
        assert one.asked == 20


async def test_an_answer_under_way_says_that_it_is_the_last() -> None:
    async with running() as one:
        one.hold.clear()
        reader, writer = await asyncio.open_connection(*one.address)
        writer.write(REQUEST)
        while not one.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ending = asyncio.create_task(one.linger(20.0))
        await asyncio.sleep(0.05)
        one.hold.set()
        assert b"connection: close" in await answer(reader)
        await asyncio.wait_for(ending, 10)
        writer.close()


async def test_without_connections_nothing_is_waited_for() -> None:
    async with running() as one:
        assert await one.linger(20.0) < 5.0
