"""The OpenAI backend against a real server whose answers begin, and do not end as they should."""

from __future__ import annotations

import asyncio

import pytest
from contracts.backend_kit import BODY, read
from contracts.misbehaving_upstream import (
    Exchange,
    MisbehavingUpstream,
    chunk,
    event,
    finish_chunk,
    ordinary_stream,
    usage_chunk,
)
from openai_backend_kit import ORDINARY, SLOW, STREAM_BODY, behave, pieces_of, stream_bytes

from llmrouter.exceptions import (
    BackendError,
    BackendStatusError,
    BackendStreamError,
    BackendTimeoutError,
)
from llmrouter.pool import OpenAIBackend, StreamObserver, Timeouts

# Failures after the first byte


async def cut_short(exchange: Exchange) -> None:
    exchange.head(200, content_type="application/json", content_length="1000")
    exchange.writer.write(b'{"choices": [')
    await exchange.writer.drain()
    raise ConnectionError


async def reset_within(exchange: Exchange) -> None:
    exchange.head(200, content_type="application/json", content_length="1000")
    exchange.writer.write(b'{"choices": [')
    await exchange.writer.drain()
    await asyncio.sleep(0.05)
    exchange.reset()


@pytest.mark.parametrize("behaviour", [cut_short, reset_within])
async def test_a_whole_answer_that_is_cut_short(
    behaviour: object, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    behave(upstream, behaviour)
    with pytest.raises(BackendStreamError, match="broke off"):
        await backend.complete(BODY, timeouts=Timeouts())


async def early_end(exchange: Exchange) -> None:
    await exchange.event_stream([event(chunk("a"))])


async def end_within_an_event(exchange: Exchange) -> None:
    await exchange.event_stream([event(chunk("a")), b'data: {"choices": [{"del'])


async def unfinished_chunks(exchange: Exchange) -> None:
    await exchange.event_stream([event(chunk("a"))], end=False)
    raise ConnectionError


async def reset_after_event(exchange: Exchange) -> None:
    await exchange.event_stream([event(chunk("a"))], end=False)
    await asyncio.sleep(0.05)
    exchange.reset()


@pytest.mark.parametrize("behaviour", [early_end, end_within_an_event, unfinished_chunks, reset_after_event])
async def test_a_stream_that_breaks_off(
    behaviour: object, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    behave(upstream, behaviour)
    stream = await backend.stream(STREAM_BODY, timeouts=Timeouts())
    got = bytearray()

    async def collect() -> None:
        async for events in stream:
            got.extend(b"".join(found.raw for found in events))

    with pytest.raises(BackendStreamError):
        await collect()
    await stream.aclose()
    assert got == event(chunk("a")), "whole events only"


async def test_a_stream_that_ends_before_it_began(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def nothing(exchange: Exchange) -> None:
        await exchange.event_stream([b": hello\n\n"])

    behave(upstream, nothing)
    with pytest.raises(BackendStreamError, match="before its first token"):
        await backend.stream(STREAM_BODY, timeouts=Timeouts())


# Between an empty first chunk and the first token

ROLE = event(chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))


async def end_after_role(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE])


async def end_within_the_second(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE, b'data: {"choices": [{"del'])


async def reset_after_role(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE], end=False)
    await asyncio.sleep(0.05)
    exchange.reset()


async def error_after_role(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE, event({"error": {"message": "overloaded"}})], pause=0.03)


async def error_without_blank_line(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE, event({"error": {"message": "overloaded"}}).rstrip()], pause=0.03)


async def silence_after_role(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE], end=False)
    await exchange.pause(SLOW)


async def keep_alives_after_role(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE, *[b": wait\n\n"] * 500], pause=0.02)


async def empty_chunks_without_end(exchange: Exchange) -> None:
    await exchange.event_stream([ROLE] * 500, pause=0.02)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (end_after_role, BackendStreamError),
        (end_within_the_second, BackendStreamError),
        (reset_after_role, BackendStreamError),
        (error_after_role, BackendStatusError),
        (error_without_blank_line, BackendStatusError),
        (silence_after_role, BackendTimeoutError),
        (keep_alives_after_role, BackendTimeoutError),
        (empty_chunks_without_end, BackendTimeoutError),
    ],
)
async def test_an_empty_chunk_is_no_first_token(
    behaviour: object, error: type[BackendError], upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    behave(upstream, behaviour)
    with pytest.raises(error):
        await backend.stream(STREAM_BODY, timeouts=Timeouts(first_byte_s=0.4))


EMPTY_ANSWERS = {
    "finish": [ROLE, event(finish_chunk()), event(usage_chunk()), event("[DONE]")],
    "no finish": [ROLE, event("[DONE]")],
    "no blank line": [ROLE, b"data: [DONE]"],
    "no [DONE], no blank line": [ROLE, event(finish_chunk()).rstrip()],
    "no JSON": [ROLE, b"data: hello\n\n", event("[DONE]")],
    "keep-alives": [b": a\n\n", ROLE, b": b\n\n", event(chunk("a")), event("[DONE]")],
}


@pytest.mark.parametrize("name", EMPTY_ANSWERS)
async def test_what_came_before_the_first_token_is_relayed_and_observed_once(
    name: str, upstream: MisbehavingUpstream, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[bytes] = []
    really = StreamObserver.observe

    def observe(self: StreamObserver, data: bytes) -> bool:
        observed.append(data)
        return really(self, data)

    monkeypatch.setattr(StreamObserver, "observe", observe)
    pieces = EMPTY_ANSWERS[name]

    async def send(exchange: Exchange) -> None:
        await exchange.event_stream(pieces, pause=0.02)

    behave(upstream, send)
    stream = await backend.stream(STREAM_BODY, timeouts=Timeouts())
    events = await read(stream)
    assert b"".join(found.raw for found in events) == b"".join(pieces)
    assert observed == [found.data for found in events if found.data is not None]
    assert [found.usage_only for found in events] == [found.raw == event(usage_chunk()) for found in events]


async def test_the_first_token_is_there_when_the_stream_is(
    upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def think(exchange: Exchange) -> None:
        await exchange.event_stream([ROLE, ROLE, *ordinary_stream()], pause=0.05)

    behave(upstream, think)
    stream = await backend.stream(STREAM_BODY, timeouts=Timeouts())
    assert stream.observer.content_seen
    assert not stream.observer.finished
    await stream.aclose()


@pytest.mark.parametrize(
    ("timeouts", "named"),
    [(Timeouts(between_chunks_s=0.1), "between_chunks_s"), (Timeouts(total_s=0.4), "total_s")],
)
async def test_a_stream_that_falls_silent(
    timeouts: Timeouts, named: str, upstream: MisbehavingUpstream, backend: OpenAIBackend
) -> None:
    async def fall_silent(exchange: Exchange) -> None:
        await exchange.event_stream([event(chunk("a"))], end=False)
        await exchange.pause(SLOW)

    behave(upstream, fall_silent)
    with pytest.raises(BackendTimeoutError, match=named):
        await stream_bytes(backend, timeouts)
    assert await asyncio.to_thread(upstream.hung_up.wait, 5)


async def test_dripping_is_stopped_by_the_total(upstream: MisbehavingUpstream, backend: OpenAIBackend) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.event_stream(pieces_of(ORDINARY * 50, 1), pause=0.02)

    behave(upstream, drip)
    with pytest.raises(BackendTimeoutError, match="total_s"):
        await stream_bytes(backend, Timeouts(total_s=0.5, between_chunks_s=0.4))


async def test_answers_without_bounds_are_refused(upstream: MisbehavingUpstream) -> None:
    async def flood(exchange: Exchange) -> None:
        if exchange.body.get("stream"):
            exchange.head(200, content_type="text/event-stream", transfer_encoding="chunked")
            while exchange.body["stream"] == "role":
                await exchange.chunks([ROLE] * 50, end=False)
            await exchange.chunks([b"data: "], end=False)
        else:
            exchange.head(200, content_type="application/json", transfer_encoding="chunked")
        while True:
            await exchange.chunks([b"x" * 10_000], end=False)

    behave(upstream, flood)
    backend = OpenAIBackend("a", model="up", base_url=upstream.base_url, max_response_bytes=50_000)
    with pytest.raises(BackendStreamError, match="50000 bytes"):
        await backend.complete(BODY, timeouts=Timeouts())
    for body in (STREAM_BODY, {**BODY, "stream": "role"}):
        with pytest.raises(BackendStreamError, match="50000 bytes"):
            await backend.stream(body, timeouts=Timeouts())
    await backend.aclose()
