"""What the upstream answers, byte for byte: made here once, sent by `echo` and expected by `load`.

Every request carries a number in ``seed``, a field that no gateway drops, and its answer repeats it: an answer that
reached another client, or lost bytes on its way, is noticed.
"""

from __future__ import annotations

import re
from functools import cache

import orjson

TOKENS = 50
"""Content chunks of a stream."""

MODEL = "echo-1"
"""What the upstream says in ``model``."""

_CREATED = 1_760_000_000
_MARK_SLOT = "MARK-SLOT"
_MARK = re.compile(rb'"seed":\s?([0-9]{1,18})')
_FILLER = (
    "The answer is the same for every request, so that gateways can be compared by what they add to it. It is about as "
    "long as an ordinary short answer of a chat model: two or three sentences of plain text, without markup, with some "
    "punctuation; the number above belongs to the request."
)
_USAGE = {
    "prompt_tokens": 180,
    "completion_tokens": TOKENS,
    "total_tokens": 180 + TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def mark_of(body: bytes) -> bytes:
    """Return the number in a request's ``seed``, b"0" where it has none."""
    found = _MARK.search(body)
    return found[1] if found else b"0"


def wants_stream(body: bytes) -> bool:
    """Return whether a request asks for a stream, however its JSON is spaced."""
    return b'"stream":true' in body or b'"stream": true' in body


def wants_usage(body: bytes) -> bool:
    """Return whether a request asks for the usage chunk of a stream."""
    return b'"include_usage":true' in body or b'"include_usage": true' in body


def text(mark: bytes) -> str:
    """Return the content of the whole answer."""
    return f"Request {mark.decode()}. {_FILLER}"


def streamed_text(mark: bytes) -> str:
    """Return the contents of a stream's chunks, joined."""
    return f"Request {mark.decode()}" + "".join(_words())


def completion(mark: bytes) -> bytes:
    """Return the body of a whole answer, about 0.75 KB."""
    before, after = _completion_parts()
    return before + mark + after


def events(mark: bytes, *, usage: bool) -> list[bytes]:
    """Return the events of a stream in order: role, `TOKENS` pieces of content, finish, usage if asked, [DONE]."""
    role, before, after, rest, usage_chunk = _event_parts()
    ending = [usage_chunk, _event(b"[DONE]")] if usage else [_event(b"[DONE]")]
    return [role, before + mark + after, *rest, *ending]


def stream(mark: bytes, *, usage: bool) -> bytes:
    """Return a whole stream."""
    role, before, after, _, _ = _event_parts()
    return b"".join((role, before, mark, after, _rest(usage=usage)))


def models() -> bytes:
    """Return the answer of ``GET /v1/models``."""
    entry = {"id": MODEL, "object": "model", "created": _CREATED, "owned_by": "benchmark"}
    return orjson.dumps({"object": "list", "data": [entry]})


@cache
def _completion_parts() -> tuple[bytes, bytes]:
    body = orjson.dumps(
        {
            "id": "chatcmpl-benchmark0000000000000000",
            "object": "chat.completion",
            "created": _CREATED,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": f"Request {_MARK_SLOT}. {_FILLER}", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_benchmark",
        }
    )
    before, _, after = body.partition(_MARK_SLOT.encode())
    return before, after


@cache
def _event_parts() -> tuple[bytes, bytes, bytes, list[bytes], bytes]:
    role = _event(_chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
    first = _event(_content_chunk(f"Request {_MARK_SLOT}"))
    before, _, after = first.partition(_MARK_SLOT.encode())
    rest = [_event(_content_chunk(word)) for word in _words()]
    rest.append(_event(_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])))
    return role, before, after, rest, _event(_chunk([], usage=_USAGE))


@cache
def _rest(*, usage: bool) -> bytes:
    _, _, _, rest, usage_chunk = _event_parts()
    return b"".join([*rest, usage_chunk if usage else b"", _event(b"[DONE]")])


@cache
def _words() -> tuple[str, ...]:
    words = _FILLER.split()
    return tuple(f" {words[i % len(words)]}" for i in range(TOKENS - 1))


def _content_chunk(content: str) -> bytes:
    return _chunk([{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": None}])


def _chunk(choices: list[dict[str, object]], **more: object) -> bytes:
    return orjson.dumps(
        {
            "id": "chatcmpl-benchmark0000000000000000",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": MODEL,
            "system_fingerprint": "fp_benchmark",
            "choices": choices,
            **more,
        }
    )


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
