"""A kept answer as it is sent, whichever way it came and is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llmrouter.pool import DONE, EventSplitter, encode_event
from service.cache.assembling import assemble, cut, usage_chunk
from service.cache.entry import Entry, Hit


def replay(hit: Hit, *, stream: bool, usage_asked: bool) -> bytes:
    """Return a kept answer as bytes to send.

    Parameters
    ----------
    hit : Hit
        The answer.
    stream : bool
        Whether as events, ``[DONE]`` included, or as the whole body. What came that way is sent as it came.
    usage_asked : bool
        Whether a stream is to have the extra usage chunk, where the usage is known.
    """
    entry = hit.entry
    if not stream:
        return entry.payload if not entry.streamed else orjson.dumps(_assembled(entry))
    if entry.streamed:
        return b"".join((entry.payload, _usage_event(entry) if usage_asked else b"", encode_event(DONE)))
    answer = orjson.loads(entry.payload)
    events = [encode_event(orjson.dumps(chunk)) for chunk in cut(answer)]
    if usage_asked and answer.get("usage"):
        events.append(encode_event(usage_chunk(answer, answer["usage"])))
    return b"".join((*events, encode_event(DONE)))


def _assembled(entry: Entry) -> dict[str, Any]:
    return assemble(_chunks(entry.payload + entry.usage_event), usage=entry.usage)


def _usage_event(entry: Entry) -> bytes:
    if entry.usage_event or entry.usage_shown or entry.usage is None:
        return entry.usage_event
    return encode_event(usage_chunk(next(_chunks(entry.payload), {}), entry.usage))


def _chunks(payload: bytes) -> Iterator[dict[str, Any]]:
    splitter = EventSplitter(max_event_bytes=len(payload) + 1)
    # With its first event behind it, the splitter cuts the rest several times faster.
    start = payload.find(b"\n\n") + 2
    for event in [*splitter.feed(payload[:start]), *splitter.feed(payload[start:])]:
        try:
            chunk = orjson.loads(event.data or b"null")
        except orjson.JSONDecodeError:
            continue
        if isinstance(chunk, dict):
            yield chunk
