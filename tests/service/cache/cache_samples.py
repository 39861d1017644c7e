"""Requests, answers and streams for the tests of the cache."""

from __future__ import annotations

import orjson
from starlette.datastructures import Headers

from llmrouter.pool import EventSplitter, encode_event
from service.cache import Cache, CacheSettings

CHAT = "chat"
DONE = b"data: [DONE]\n\n"


class Clock:
    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


def body(text="hello", **more):
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


def answer(text="a text", *, usage=None, finish_reason="stop", **message):
    whole = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "upstream-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7} if usage is None else usage,
    }
    return orjson.dumps(whole)


def chunk(delta=None, *, finish_reason=None, **more):
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}]
    head = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1700000001, "model": "upstream-model"}
    return encode_event(orjson.dumps({**head, "choices": choices, **more}))


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
USAGE_EVENT = chunk(choices=[], usage=USAGE)


def stream(*texts, usage_event=USAGE_EVENT, finish_reason="stop", done=DONE):
    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": text}) for text in texts)]
    return b"".join((*events, chunk(finish_reason=finish_reason), usage_event, done))


def events_of(raw):
    return EventSplitter().feed(raw)


def chunks_of(raw):
    return [orjson.loads(event.data) for event in events_of(raw) if event.data and event.data != b"[DONE]"]


def recorded(recorder, raw):
    for event in events_of(raw):
        recorder.feed(event.raw, event.data)
    return recorder


def make_cache(clock=None, **settings):
    return Cache.from_settings(CacheSettings(**settings), clock=clock or Clock())


def plan(cache, asked=None, *, control="", key_id="k1", team=None, endpoint=CHAT, models=None):
    headers = Headers({"cache-control": control} if control else {})
    return cache.plan(endpoint, body() if asked is None else asked, headers, key_id=key_id, team=team, models=models)


async def kept(cache, asked=None, whole=None, **who):
    """Ask, find nothing, and keep an answer."""
    made = plan(cache, asked, **who)
    assert await cache.lookup(made) is None
    cache.store_answer(made, whole or answer(), served_by="m1", usage=None)


async def found(cache, asked=None, **who):
    return await cache.lookup(plan(cache, asked, **who))
