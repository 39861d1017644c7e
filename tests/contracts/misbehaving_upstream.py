"""A real HTTP upstream on loopback that does, byte for byte, what a test tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


@dataclass
class Exchange:
    """One request and the means to answer it."""

    path: str
    headers: dict[str, str]
    raw: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    early: bytes = b""

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    def head(self, status: int = 200, **headers: str) -> None:
        lines = [
            f"HTTP/1.1 {status} Whatever",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.head(status, **{"content_type": "application/json", "content_length": str(len(body)), **headers})
        self.writer.write(body)
        await self.writer.drain()

    async def chunks(self, pieces: Sequence[bytes], *, pause: float = 0.0, end: bool = True) -> None:
        """Send pieces as HTTP chunks; `end` closes the body properly."""
        for piece in pieces:
            self.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await self.writer.drain()
            if pause:
                await self.pause(pause)
        if end:
            self.writer.write(b"0\r\n\r\n")
            await self.writer.drain()

    async def event_stream(self, pieces: Sequence[bytes], *, pause: float = 0.0, end: bool = True) -> None:
        self.head(200, content_type="text/event-stream; charset=utf-8", transfer_encoding="chunked")
        await self.chunks(pieces, pause=pause, end=end)

    async def pause(self, seconds: float) -> None:
        """Wait, unless the client hangs up meanwhile."""
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            return
        raise ConnectionResetError("the client hung up")

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


class MisbehavingUpstream:
    """An upstream whose behaviour is chosen by the ``model`` in the request body.

    Attributes
    ----------
    behaviours : dict of str to coroutine function
        Model name -> what to do with an exchange.
    exchanges : list of Exchange
        What was asked.
    hang_ups : int
        Exchanges during which the client closed the connection.
    """

    def __init__(self) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        self.exchanges: list[Exchange] = []
        self.hang_ups = 0
        self.hung_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def renew(self) -> None:
        """Forget behaviours and what happened."""
        self.behaviours.clear()
        self.exchanges.clear()
        self.hang_ups = 0
        self.hung_up.clear()

    def __enter__(self) -> MisbehavingUpstream:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            early = b""
            while exchange := await _read_request(reader, writer, early):
                self.exchanges.append(exchange)
                await self._serve(exchange)
                early = exchange.early
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, exchange: Exchange) -> None:
        watcher = asyncio.create_task(self._watch(exchange))
        try:
            if exchange.path.endswith("/models"):
                await exchange.answer(b'{"object": "list", "data": []}')
            else:
                await self.behaviours[exchange.body["model"]](exchange)
        finally:
            watcher.cancel()
            await asyncio.wait([watcher])

    async def _watch(self, exchange: Exchange) -> None:
        """Notice when the client closes its side; what it sends is its next request, already answered as it is."""
        try:
            exchange.early = await exchange.reader.read(1)
            closed = not exchange.early
        except ConnectionError:
            closed = True
        if closed:
            self.hang_ups += 1
            self.hung_up.set()
            exchange.gone.set()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes) -> Exchange | None:
    try:
        head = early + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request, *lines = head.decode().rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Exchange(request.split()[1], headers, raw, reader, writer)


def chunk(content: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return a stream chunk."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "up-1",
        "choices": [choice],
        **changes,
    }


def finish_chunk() -> dict[str, Any]:
    return chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])


def usage_chunk() -> dict[str, Any]:
    return chunk(choices=[], usage=USAGE)


def event(payload: dict[str, Any] | str, newline: str = "\n") -> bytes:
    data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return f"data: {data}{newline}{newline}".encode()


def ordinary_stream(*words: str) -> list[bytes]:
    """Return the events of an ordinary stream, usage and [DONE] included."""
    return [
        *(event(chunk(word)) for word in words or ("Hello", " there")),
        event(finish_chunk()),
        event(usage_chunk()),
        event("[DONE]"),
    ]


def completion(content: str = "Hello there", **changes: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    payload = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "up-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
        "vendor_field": {"kept": True},
        **changes,
    }
    return json.dumps(payload, indent=1).encode()
