"""The OpenAI backend against a real server that misbehaves in every known way, up to the first byte of its answer."""

from __future__ import annotations

import asyncio
import socket

import pytest
from contracts.backend_kit import BODY, check_backend
from contracts.misbehaving_upstream import (
    Exchange,
    MisbehavingUpstream,
    chunk,
    completion,
    event,
    finish_chunk,
    ordinary_stream,
    usage_chunk,
)
from openai_backend_kit import ORDINARY, SLOW, STREAM_BODY, behave, pieces_of, stream_bytes

from llmrouter.exceptions import (
    BackendConnectError,
    BackendError,
    BackendStatusError,
    BackendStreamError,
    BackendTimeoutError,
)
from llmrouter.pool import HTTPSessions, OpenAIBackend, Timeouts


async def test_it_keeps_the_contract(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def ordinary(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream(ordinary_stream())
        else:
            await exchange.answer(completion())

    behave(upstream, ordinary)
    await check_backend(backend)


async def test_the_body_is_relayed_to_the_byte_and_the_request_is_complete(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    answer = b'{ "choices" : [ ],\n "vendor": "\xc3\xa9\\u00e9", "usage": {"prompt_tokens": 1} }\n'

    async def odd_formatting(exchange: Exchange) -> None:
        await exchange.answer(
            answer, openai_processing_ms="7", x_ratelimit_limit_requests="9", set_cookie="a=b", server="x"
        )

    behave(upstream, odd_formatting)
    body = {**BODY, "vendor_field": {"deep": [1, 2.5, None]}, "temperature": 0}
    response = await backend.complete(body, timeouts=Timeouts())
    assert response.body == answer
    assert response.headers == {
        "content-type": "application/json",
        "openai-processing-ms": "7",
        "x-ratelimit-limit-requests": "9",
    }
    (asked,) = upstream.exchanges
    assert asked.path == "/v1/chat/completions"
    assert asked.body == {**body, "model": "up"}
    assert asked.headers["authorization"] == "Bearer sk-secret"
    assert asked.headers["x-team"] == "a"
    assert "cookie" not in asked.headers


async def test_cookies_of_one_call_do_not_travel_with_the_next(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def with_cookie(exchange: Exchange) -> None:
        await exchange.answer(completion(), set_cookie="session=other-tenant")

    behave(upstream, with_cookie)
    for _ in range(2):
        await backend.complete(BODY, timeouts=Timeouts())
    assert "cookie" not in upstream.exchanges[1].headers


async def test_connections_are_kept_and_shared(upstream: MisbehavingUpstream) -> None:
    async def ordinary(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream(ordinary_stream())
        else:
            await exchange.answer(completion())

    sessions = HTTPSessions()
    one = OpenAIBackend("a", model="one", base_url=upstream.base_url, sessions=sessions)
    two = OpenAIBackend("b", model="two", base_url=upstream.base_url, sessions=sessions)
    for name in ("one", "two"):
        behave(upstream, ordinary, name)
    await one.complete(BODY, timeouts=Timeouts())
    await stream_bytes(two)
    await one.complete(BODY, timeouts=Timeouts())
    assert len({id(exchange.writer) for exchange in upstream.exchanges}) == 1
    await sessions.aclose()


# Streams, byte for byte


STREAMS = {
    "ordinary": ordinary_stream(),
    "one byte at a time": pieces_of(ORDINARY, 1),
    "split characters": pieces_of(ORDINARY, 7),
    "all at once": [ORDINARY],
    "crlf": [event(chunk("a"), "\r\n"), event(finish_chunk(), "\r\n"), event("[DONE]", "\r\n")],
    "cr": [event(chunk("a"), "\r"), event(finish_chunk(), "\r"), event("[DONE]", "\r")],
    "comments": [b": OPENROUTER PROCESSING\n\n", b": ping\n\n", event(chunk("a")), b": ping\n\n", event("[DONE]")],
    "event and id lines": [b"event: message\nid: 1\n" + event(chunk("a")), event("[DONE]")],
    "vendor fields": [event(chunk("a", vendor={"x": 1}, citations=["u"])), event(finish_chunk()), event("[DONE]")],
    "a line of a megabyte": [event(chunk("x" * 1_000_000)), event(finish_chunk()), event("[DONE]")],
    "usage in the last content chunk": [event({**finish_chunk(), "usage": {"prompt_tokens": 1}}), event("[DONE]")],
    "bytes after the end": [event(chunk("a")), event("[DONE]") + b"\n: bye\n"],
    "no blank line at the end": [event(chunk("a")), b"data: [DONE]"],
    "no [DONE], but a finish": [event(chunk("a")), event(finish_chunk()), event(usage_chunk())],
    "no [DONE], finish without blank line": [event(chunk("a")), event(finish_chunk()).rstrip()],
}


@pytest.mark.parametrize("name", STREAMS)
async def test_streams_are_relayed_to_the_byte(
    name: str, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def send(exchange: Exchange) -> None:
        await exchange.event_stream(STREAMS[name])

    behave(upstream, send)
    assert await stream_bytes(backend) == b"".join(STREAMS[name])


async def test_a_stream_may_end_with_the_connection(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    """HTTP/1.0 style: no length, no chunks."""

    async def until_close(exchange: Exchange) -> None:
        exchange.head(200, content_type="text/event-stream", connection="close")
        exchange.writer.write(b"".join(ordinary_stream()))
        await exchange.writer.drain()
        raise ConnectionError

    behave(upstream, until_close)
    assert await stream_bytes(backend) == b"".join(ordinary_stream())


async def test_an_error_event_within_a_stream_is_relayed_and_ends_it(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    pieces = [event(chunk("a")), event({"error": {"message": "overloaded"}})]

    async def fail_later(exchange: Exchange) -> None:
        await exchange.event_stream(pieces, pause=0.05)

    behave(upstream, fail_later)
    assert await stream_bytes(backend) == b"".join(pieces)


async def test_an_error_that_comes_with_the_first_event_can_still_fall_back(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def fail_at_once(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("")) + event({"error": {"message": "overloaded"}})])

    behave(upstream, fail_at_once)
    with pytest.raises(BackendStatusError):
        await backend.stream(STREAM_BODY, timeouts=Timeouts())


# Failures before the first byte


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        backend = OpenAIBackend("pool-a", model="up", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        for call in (backend.complete, backend.stream):
            with pytest.raises(BackendConnectError, match="pool-a: could not connect") as caught:
                await call(BODY, timeouts=Timeouts())
            assert caught.value.model == "pool-a"
            assert "127.0.0.1" not in str(caught.value), "addresses do not reach clients"
        assert not await backend.healthy()
        await backend.aclose()


async def test_no_such_host() -> None:
    backend = OpenAIBackend("a", model="up", base_url="http://no-such-host.invalid/v1")
    with pytest.raises(BackendConnectError, match="could not be resolved"):
        await backend.complete(BODY, timeouts=Timeouts())
    await backend.aclose()


async def test_a_full_backlog_runs_into_the_connect_timeout() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.settimeout(0)
            filler.connect_ex(deaf.getsockname())
            fillers.append(filler)
        backend = OpenAIBackend("a", model="up", base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}/v1")
        with pytest.raises(BackendTimeoutError, match="connect_s"):
            await backend.complete(BODY, timeouts=Timeouts(connect_s=0.2))
        await backend.aclose()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_it_hangs_up_without_an_answer(
    streamed: bool, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    behave(upstream, reset)
    call = backend.stream if streamed else backend.complete
    with pytest.raises(BackendConnectError, match="hung up"):
        await call(BODY, timeouts=Timeouts())
    assert len(upstream.exchanges) == 1, "over a fresh connection it is not asked twice"


async def test_a_stale_connection_is_replaced(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    """An upstream may close a kept-alive connection in the moment it is used again."""

    async def once_then_cut(exchange: Exchange) -> None:
        if len(upstream.exchanges) == 2:
            exchange.reset()
        else:
            await exchange.answer(completion())

    behave(upstream, once_then_cut)
    for _ in range(2):
        assert (await backend.complete(BODY, timeouts=Timeouts())).body == completion()
    assert len(upstream.exchanges) == 3


async def test_the_second_try_goes_over_a_connection_of_its_own(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    """All kept connections may have died together."""
    used: set[int] = set()
    together = 4

    async def once_a_connection(exchange: Exchange) -> None:
        if id(exchange.writer) in used:
            exchange.reset()
            raise ConnectionError
        used.add(id(exchange.writer))
        await exchange.pause(0.1)  # so that each call needs its own
        await exchange.answer(completion())

    behave(upstream, once_a_connection)
    await asyncio.gather(*(backend.complete(BODY, timeouts=Timeouts()) for _ in range(together)))
    assert len(used) == together
    assert (await backend.complete(BODY, timeouts=Timeouts())).body == completion()
    assert len(upstream.exchanges) == together + 2


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"", b"[]", b'{"detail": "Not Found"}'])
async def test_what_is_no_answer_under_status_200(
    body: bytes, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def page(exchange: Exchange) -> None:
        await exchange.answer(body)

    behave(upstream, page)
    with pytest.raises(BackendStreamError, match="no answer"):
        await backend.complete(BODY, timeouts=Timeouts())


async def test_it_does_not_speak_http(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def smtp(exchange: Exchange) -> None:
        exchange.writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await exchange.writer.drain()

    behave(upstream, smtp)
    with pytest.raises(BackendConnectError, match="not HTTP"):
        await backend.complete(BODY, timeouts=Timeouts())


@pytest.mark.parametrize(
    ("timeouts", "named"),
    [(Timeouts(first_byte_s=0.1), "first_byte_s"), (Timeouts(total_s=0.1), "total_s")],
)
async def test_a_slow_first_byte_of_a_stream(
    timeouts: Timeouts, named: str, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def think(exchange: Exchange) -> None:
        await exchange.pause(SLOW)

    behave(upstream, think)
    with pytest.raises(BackendTimeoutError, match=named):
        await backend.stream(STREAM_BODY, timeouts=timeouts)
    assert await asyncio.to_thread(upstream.hung_up.wait, 5), "the call upstream is cancelled"


async def test_keep_alive_comments_are_no_first_event(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def comments_only(exchange: Exchange) -> None:
        await exchange.event_stream([b": wait\n\n"] * 500, pause=0.02)

    behave(upstream, comments_only)
    with pytest.raises(BackendTimeoutError, match="first_byte_s"):
        await backend.stream(STREAM_BODY, timeouts=Timeouts(first_byte_s=0.2))


async def test_a_whole_answer_may_take_longer_than_a_first_byte(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def think(exchange: Exchange) -> None:
        await exchange.pause(0.2)
        await exchange.answer(completion())

    behave(upstream, think)
    assert (await backend.complete(BODY, timeouts=Timeouts(first_byte_s=0.05))).body == completion()
    with pytest.raises(BackendTimeoutError, match="total_s"):
        await backend.complete(BODY, timeouts=Timeouts(total_s=0.05))


@pytest.mark.parametrize("code", [400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("streamed", [True, False])
async def test_http_errors_keep_their_body_and_advice(
    code: int, streamed: bool, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    body = b'{"error": {"message": "no", "type": "t", "param": "p", "code": "c"}}'

    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(body, code, retry_after="3", x_should_retry="false", www_authenticate="Basic")

    behave(upstream, refuse)
    with pytest.raises(BackendStatusError) as caught:
        await (backend.stream if streamed else backend.complete)(BODY, timeouts=Timeouts())
    assert (caught.value.status, caught.value.body) == (code, body)
    assert caught.value.headers == {"content-type": "application/json", "retry-after": "3", "x-should-retry": "false"}


async def test_an_error_body_that_never_ends_is_cut(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def babble(exchange: Exchange) -> None:
        exchange.head(500, content_type="text/plain", transfer_encoding="chunked")
        while True:
            await exchange.chunks([b"x" * 65536] * 4, end=False)

    behave(upstream, babble)
    with pytest.raises(BackendStatusError) as caught:
        await backend.complete(BODY, timeouts=Timeouts())
    assert 1024**2 <= len(caught.value.body) < 3 * 1024**2


async def test_redirects_are_not_followed(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def redirect(exchange: Exchange) -> None:
        await exchange.answer(b"", 307, location="http://127.0.0.1:1/steal")

    behave(upstream, redirect)
    with pytest.raises(BackendStatusError, match="307.*base_url") as caught:
        await backend.complete(BODY, timeouts=Timeouts())
    assert caught.value.status == 502


@pytest.mark.parametrize(("error", "status"), [({"message": "busy", "code": 503}, 503), ({"message": "busy"}, 502)])
async def test_an_error_as_the_first_event_is_an_http_error(
    error: dict[str, object], status: int, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def fail_politely(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            await exchange.event_stream([b": hm\n\n", event({"error": error})])
        else:
            await exchange.answer(event({"error": error})[6:])

    behave(upstream, fail_politely)
    for call, body in ((backend.stream, STREAM_BODY), (backend.complete, BODY)):
        with pytest.raises(BackendStatusError) as caught:
            await call(body, timeouts=Timeouts())
        assert caught.value.status == status
        assert b"busy" in caught.value.body


async def test_json_instead_of_a_stream(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def whole(exchange: Exchange) -> None:
        await exchange.answer(completion())

    behave(upstream, whole)
    with pytest.raises(BackendStreamError, match="application/json"):
        await backend.stream(STREAM_BODY, timeouts=Timeouts())


# Cancelling


async def test_closing_a_stream_cancels_the_call_upstream(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("a"))] * 10_000, pause=0.01)

    behave(upstream, endless)
    stream = await backend.stream(STREAM_BODY, timeouts=Timeouts())
    await stream.aclose()
    assert await asyncio.to_thread(upstream.hung_up.wait, 5)


async def test_cancelling_the_task_cancels_the_call_upstream(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def think(exchange: Exchange) -> None:
        loop.call_soon_threadsafe(started.set)
        await exchange.pause(SLOW)

    behave(upstream, think)
    task = asyncio.create_task(backend.complete(BODY, timeouts=Timeouts()))
    await asyncio.wait_for(started.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(upstream.hung_up.wait, 5)


async def test_errors_are_backend_errors_without_the_key(backend: OpenAIBackend) -> None:
    backend.base_url = "http://127.0.0.1:1/v1"
    with pytest.raises(BackendError) as caught:
        await backend.complete(BODY, timeouts=Timeouts())
    assert "sk-secret" not in repr(caught.value) + repr(backend) + str(caught.value)
