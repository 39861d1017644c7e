"""The upstream of the benchmark: an OpenAI-compatible server that costs next to nothing.

``python -m benchmarks.gateway.echo --port 9001``. `PUT /control` with ``{"delay_s": 0.05, "first_token_s": 0.05,
"token_gap_s": 0.005}`` changes how long it takes to answer, `GET /stats` counts what it has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import cast

import httptools
import orjson
import uvloop

from benchmarks.gateway import answers
from benchmarks.gateway.timers import PreciseTimers

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: upstream-request\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass
class Behaviour:
    """How long answers take.

    Attributes
    ----------
    delay_s : float
        Until a whole answer.
    first_token_s : float
        Until the first event of a stream.
    token_gap_s : float
        Between its events; 0 sends one event in every turn of the event loop.
    """

    delay_s: float = 0.0
    first_token_s: float = 0.0
    token_gap_s: float = 0.0


@dataclass
class Counts:
    """What was seen since the start.

    Attributes
    ----------
    whole, streamed : int
        Answers begun.
    finished : int
        Answers sent to their end.
    disconnects : int
        Connections closed by the other side while an answer was under way.
    models : dict of str to int
        Requests by the ``model`` asked for.
    """

    whole: int = 0
    streamed: int = 0
    finished: int = 0
    disconnects: int = 0
    models: dict[str, int] = field(default_factory=dict)


class Upstream:
    """What the connections share.

    Parameters
    ----------
    timers : PreciseTimers
        For the delays.
    behaviour : Behaviour, optional
        How long answers take.
    """

    def __init__(self, timers: PreciseTimers, behaviour: Behaviour | None = None) -> None:
        self.timers = timers
        self.behaviour = behaviour or Behaviour()
        self.counts = Counts()

    def later(self, delay_s: float, function: Callable[[], object]) -> None:
        """Call `function` after a delay."""
        self.timers.call_at(time.monotonic() + delay_s, function)


class EchoProtocol(asyncio.Protocol):
    """One connection; answers one request after the other.

    Parameters
    ----------
    upstream : Upstream
        Shared.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._body: list[bytes] = []
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Count a client that did not wait for its answer."""
        self._transport = None
        if self._answering:
            self._upstream.counts.disconnects += 1

    def data_received(self, data: bytes) -> None:
        """Parse."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            if self._transport is not None:
                self._transport.close()

    def on_url(self, url: bytes) -> None:
        """Begin a request."""
        self._url = url
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        """Take a piece of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer it."""
        body = b"".join(self._body)
        if self._url.endswith(b"/chat/completions"):
            self._chat(body)
        elif self._url == b"/stats":
            self._write(_whole(orjson.dumps(asdict(self._upstream.counts))))
        elif self._url == b"/control":
            self._upstream.behaviour = Behaviour(**orjson.loads(body))
            self._write(_whole(b"{}"))
        elif self._url.endswith(b"/models"):
            self._write(_whole(answers.models()))
        else:
            self._write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def _chat(self, body: bytes) -> None:
        self._answering = True
        counts, behaviour = self._upstream.counts, self._upstream.behaviour
        start = body.find(b'"model"')
        model = body[start + 7 : start + 80].split(b'"', 2)[1].decode() if start >= 0 else ""
        counts.models[model] = counts.models.get(model, 0) + 1
        mark = answers.mark_of(body)
        if answers.wants_stream(body):
            counts.streamed += 1
            pieces = answers.events(mark, usage=answers.wants_usage(body))
            self._after(behaviour.first_token_s, partial(self._stream, pieces, 0, behaviour.token_gap_s))
        else:
            counts.whole += 1
            self._after(behaviour.delay_s, partial(self._end, _whole(answers.completion(mark))))

    def _after(self, delay_s: float, function: Callable[[], object]) -> None:
        if delay_s > 0:
            self._upstream.later(delay_s, function)
        else:
            function()

    def _stream(self, pieces: Sequence[bytes], position: int, gap_s: float) -> None:
        if self._transport is None:
            return
        piece = pieces[position]
        head = b"" if position else _STREAM_HEAD
        chunk = b"%b%x\r\n%b\r\n" % (head, len(piece), piece)
        if position + 1 == len(pieces):
            self._end(chunk + _LAST_CHUNK)
            return
        self._transport.write(chunk)
        following = partial(self._stream, pieces, position + 1, gap_s)
        if gap_s > 0:
            self._upstream.later(gap_s, following)
        else:
            # Written in one turn of the loop, all events would reach the gateway as one piece.
            asyncio.get_running_loop().call_soon(following)

    def _end(self, data: bytes) -> None:
        if self._transport is not None:
            self._answering = False
            self._upstream.counts.finished += 1
            self._transport.write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: upstream-request\r\ncontent-length: %d"
    return head % len(body) + b"\r\n\r\n" + body


async def serve(host: str, port: int, ready: Callable[[int], object]) -> None:
    """Answer until SIGTERM or SIGINT; `ready` is called with the port."""
    loop = asyncio.get_running_loop()
    timers = PreciseTimers(loop)
    upstream = Upstream(timers)
    server = await loop.create_server(lambda: EchoProtocol(upstream), host, port, backlog=4096)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    ready(server.sockets[0].getsockname()[1])
    await stopped.wait()
    server.close()
    timers.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the port is printed once requests are answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.host, options.port, lambda port: print(port, flush=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
