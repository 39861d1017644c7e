"""What is no HTTP, HTTP that can be read in two ways, and floods: refused, and nothing behind it is carried out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse

import psutil
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream, completion
from crowd import echo
from fault_gateway import pool_of, start
from live_gateway import Live
from wire import body_of, chunked, connect, read, request, send, send_until_cut

HIDDEN = request(body_of("hidden"))
ABSENT = request(b"", line=b"GET /healthz HTTP/1.1")
MEGABYTE = 1024 * 1024
MOST_GROWTH = 40 * MEGABYTE
# Who has sent for so long is not being cut off; a busy machine takes its time.
NEVER_S = 30.0


@pytest.fixture(scope="module")
def steady() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(steady: MisbehavingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with ExitStack() as stack:
        limits = {"port": 0, "header_timeout_s": 1.0, "body_timeout_s": 1.0, "write_timeout_s": 1.0}
        pool = pool_of(steady.base_url, "alpha")
        yield start(stack, tmp_path_factory.mktemp("gateway"), pool, server=limits)


@pytest.fixture(autouse=True)
def _asked_nothing(steady: MisbehavingUpstream) -> None:
    steady.renew()
    steady.behaviours["alpha"] = echo


def texts(upstream: MisbehavingUpstream) -> list[str]:
    return [exchange.body["messages"][0]["content"] for exchange in upstream.exchanges]


SMUGGLED = {
    "length and chunks": request(b"0\r\n\r\n" + HIDDEN, b"transfer-encoding: chunked"),
    "chunks and a length": chunked(body_of()).replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n", 1) + HIDDEN,
    "two lengths": request(body_of() + HIDDEN, b"content-length: %d" % len(body_of())),
    "two equal lengths": request(body_of(), b"content-length: %d" % len(body_of())) + HIDDEN,
    "a list of lengths": request(body_of(), length=b"60, 60") + HIDDEN,
    "a signed length": request(body_of(), length=b"+%d" % len(body_of())) + HIDDEN,
    "a negative length": request(body_of(), length=b"-1") + HIDDEN,
    "a length in hexadecimal": request(body_of(), length=b"0x3c") + HIDDEN,
    "a length beyond 64 bits": request(body_of(), length=b"9" * 30) + HIDDEN,
    "an empty length": request(body_of(), length=b" ") + HIDDEN,
    "a length with a space in it": request(body_of(), length=b"6 0") + HIDDEN,
    "an unknown coding": request(HIDDEN, b"transfer-encoding: xchunked", length=None),
    "chunks that are not the last coding": request(HIDDEN, b"transfer-encoding: chunked, identity", length=None),
    "a coding twice": request(
        b"0\r\n\r\n" + HIDDEN, b"transfer-encoding: chunked", b"transfer-encoding: x", length=None
    ),
    "a space before the colon": request(body_of(), b"transfer-encoding : chunked") + HIDDEN,
    "a folded line": request(body_of(), b"x: a\r\n transfer-encoding: chunked") + HIDDEN,
    "lines without CR": request(body_of()).replace(b"\r\n", b"\n") + HIDDEN,
    "a CR within a value": request(body_of(), b"x: a\rtransfer-encoding: chunked") + HIDDEN,
    "a NUL within a value": request(body_of(), b"x: a\0b") + HIDDEN,
    "a line without a colon": request(body_of(), b"transfer-encoding chunked") + HIDDEN,
    "a chunk size beyond 64 bits": chunked(end=b"f" * 20 + b"\r\n" + HIDDEN),
    "a negative chunk size": chunked(end=b"-1\r\n" + HIDDEN),
    "a chunk longer than it says": chunked(end=b"3\r\n" + HIDDEN),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_ambiguous_requests_end_their_connection(name: str, gateway: Live, steady: MisbehavingUpstream) -> None:
    reply = send(gateway.url, SMUGGLED[name], patience_s=3)
    assert reply.statuses == [400], reply
    assert reply.closed
    assert "hidden" not in texts(steady)


NO_HTTP = {
    "random bytes": os.urandom(4000),
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP of the future": request(line=b"POST /v1/chat/completions HTTP/3.7"),
    "a method of another": b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: gateway\r\n\r\n",
    "a path that is not ASCII": request(line="POST /v1/chät HTTP/1.1".encode()),
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_is_refused(name: str, gateway: Live, steady: MisbehavingUpstream) -> None:
    reply = send(gateway.url, NO_HTTP[name], patience_s=3)
    assert reply.statuses == [400], reply
    assert reply.closed
    assert steady.exchanges == []


def test_pipelined_requests_are_answered_in_their_order(gateway: Live, steady: MisbehavingUpstream) -> None:
    texts_sent = [f"number {i}" for i in range(20)]
    reply = send(gateway.url, b"".join(request(body_of(text)) for text in texts_sent), patience_s=1)
    assert reply.statuses == [200] * 20
    places = [reply.data.index(f'"{text}"'.encode()) for text in texts_sent]
    assert places == sorted(places)
    assert texts(steady) == texts_sent


def test_a_pipelined_head_that_does_not_end_leaves_the_answer_before_it_whole(
    gateway: Live, steady: MisbehavingUpstream
) -> None:
    async def slowly(exchange: object) -> None:
        await exchange.pause(1.6)  # type: ignore[attr-defined]
        await echo(exchange)  # type: ignore[arg-type]

    steady.behaviours["alpha"] = slowly
    reply = send(gateway.url, request(body_of("first")), b"POST /v1", patience_s=4)
    assert reply.statuses[:1] == [200], reply
    assert completion("first") in reply.data


@pytest.mark.parametrize("repeat", [False, True])
def test_a_wish_for_another_protocol_is_not_granted(repeat: bool, gateway: Live, steady: MisbehavingUpstream) -> None:
    """Java's client asks for HTTP/2 in every request."""
    wish = request(None, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAEAAEAAAAIAAAAB")
    with connect(gateway.url) as connection:
        for _ in range(2 if repeat else 1):
            connection.sendall(wish)
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            assert b"chat.completion" in answer.read()
    assert texts(steady) == ["x", "x"] if repeat else ["x"]


def test_a_client_that_asks_before_it_sends_is_told_first(gateway: Live, steady: MisbehavingUpstream) -> None:
    head, body = request(None, b"expect: 100-continue").split(b"\r\n\r\n")
    assert send(gateway.url, head + b"\r\n\r\n", body, pause_s=0.2).statuses == [100, 200]
    too_large = request(None, b"expect: 100-continue", length=b"99999999999").split(b"\r\n\r\n")[0]
    assert send(gateway.url, too_large + b"\r\n\r\n").statuses == [413]
    assert len(steady.exchanges) == 1


# Floods


def growth_of(before: int) -> int:
    return psutil.Process().memory_info().rss - before


HEADS = {
    "one line without end": (b"POST / HTTP/1.1\r\nx: ", itertools.repeat(b"y" * 65536)),
    "lines without end": (b"POST / HTTP/1.1\r\n", itertools.repeat(b"x: y\r\n" * 8192)),
    "a path without end": (b"POST /", itertools.repeat(b"y" * 65536)),
    "a method without end": (b"", itertools.repeat(b"P" * 65536)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_without_end(name: str, gateway: Live, steady: MisbehavingUpstream) -> None:
    begin, rest = HEADS[name]
    before = psutil.Process().memory_info().rss
    with connect(gateway.url) as connection:
        sent, seconds = send_until_cut(connection, itertools.chain([begin], rest), most_s=NEVER_S)
    assert seconds < NEVER_S
    assert sent < 16 * MEGABYTE
    assert growth_of(before) < MOST_GROWTH
    assert steady.exchanges == []


BODIES = {
    "chunks": itertools.repeat(b"10000\r\n" + b"y" * 65536 + b"\r\n"),
    "the name of a chunk": itertools.chain([b"5;"], itertools.repeat(b"y" * 65536)),
    "trailers": itertools.chain([b"0\r\n"], itertools.repeat(b"x: y\r\n" * 8192)),
    "one trailer": itertools.chain([b"0\r\nx: "], itertools.repeat(b"y" * 65536)),
    "chunks of one byte": itertools.repeat(b"1\r\ny\r\n" * 8192),
}


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, "/v1/chat/completions") for name in BODIES]
    + [
        ("trailers", "/v1/feedback"),
        ("chunks of one byte", "/v1/feedback"),
        ("chunks of one byte", "/nowhere"),
    ],
)
def test_bodies_without_end(name: str, path: str, gateway: Live, steady: MisbehavingUpstream) -> None:
    head = b"POST " + path.encode() + b" HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\n\r\n"
    before = psutil.Process().memory_info().rss
    with connect(gateway.url) as connection:
        _, seconds = send_until_cut(connection, itertools.chain([head], BODIES[name]), most_s=NEVER_S)
    assert seconds < NEVER_S, "it is cut off"
    assert growth_of(before) < MOST_GROWTH + 32 * MEGABYTE, "the largest body that is allowed, and little more"
    assert steady.exchanges == []
    assert gateway.gateway.in_flight == 0


def test_a_flood_of_connections_leaves_others_their_answers(gateway: Live) -> None:
    connections = [connect(gateway.url) for _ in range(400)]
    try:
        for i, connection in enumerate(connections):
            connection.sendall((b"", b"P", request()[:30], os.urandom(100))[i % 4])
        assert gateway.chat("still there").status_code == 200
        for connection in connections:
            connection.settimeout(5)
            assert read(connection).closed
    finally:
        for connection in connections:
            connection.close()
    assert gateway.client.get("/healthz").status_code == 200
