"""What is fuzzed: parsers of what clients, upstreams and administrators write. Each takes one draw and checks it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import yaml
from hypothesis import strategies as st
from starlette.datastructures import Headers

from llmrouter.exceptions import BackendStatusError, ConfigError, LLMRouterError
from llmrouter.pool import EventSplitter, StreamObserver, retry_after_s, usage_from_body
from service.cache.directives import parse_directives
from service.chat import parse_request
from service.dialects import dialect
from service.dialects.embeddings import parse_embeddings
from service.endpoints import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from service.errors import of_library
from service.keys.authenticator import token_in
from service.keys.token import digest_of, id_in, masked, new_id, new_token
from service.settings import RouterSettings, Settings, parse_settings
from service.telemetry.trace_context import parse_traceparent

ENDPOINTS: Mapping[str, Endpoint] = {one.name: one for one in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)}
POOL = ("alpha", "beta")

_TOOL = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {"a": {}}}}
BODIES: Mapping[str, dict[str, Any]] = {
    "chat": {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "stream": False,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": _TOOL}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "max_tokens": 5,
        "n": 1,
        "stop": ["x"],
        "logit_bias": {"1": 2},
        "modalities": ["text"],
        "llmrouter": {"cost_weight": 0.3, "models": ["alpha"], "session_id": "s", "max_cost": 1.0, "dry_run": False},
    },
    "completions": {"model": "auto", "prompt": ["a"], "max_tokens": 5, "logprobs": 2, "echo": False, "suffix": "x"},
    "responses": {
        "model": "auto",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
        ],
        "instructions": "i",
        "tools": [{"type": "function", **_TOOL}],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
    },
    "messages": {
        "model": "auto",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
        ],
        "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
    },
}
EMBEDDING = {"model": "vectors", "input": ["a"], "encoding_format": "float", "dimensions": 5, "user": "u"}
ANSWER: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "a",
                "tool_calls": [{"id": "t", "type": "function", "function": {"name": "w", "arguments": "{}"}}],
            },
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": []}]},
        }
    ],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
}
CHUNK: dict[str, Any] = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "delta": {
                "content": "a",
                "tool_calls": [{"index": 0, "id": "t", "function": {"name": "w", "arguments": "{"}}],
            },
            "finish_reason": None,
        }
    ],
    "usage": None,
}
CONFIG: dict[str, Any] = {
    "pool": [
        {
            "name": "alpha",
            "base_url": "https://one.example/v1",
            "api_key": "${KEY}",
            "price": {"input": 1.0, "cached_input": 0.5, "output": 2.0},
            "capabilities": ["tools"],
            "context_window": 8000,
            "timeouts": {"total_s": 10},
            "deployments": [{"name": "a", "base_url": "https://two.example/v1", "weight": 2}],
            "endpoints": ["chat"],
        }
    ],
    "router": {"text": "last_user_turn", "turns": 2},
    "policy": {"kind": "utility", "cost_weight": 0.3},
    "log": {"store": "sqlite:///outcomes.db", "prompts": "hash"},
    "server": {"host": "127.0.0.1", "port": 8080, "workers": 2},
    "auth": {"store": "redis", "trusted_proxies": ["10.0.0.0/8"]},
    "limits": {"gateway": {"rpm": 5, "budget_usd": 1.5, "budget_period": "day"}, "teams": {"a": {"tpm": 5}}},
    "cache": {"store": "redis", "ttl_s": 5, "semantic": {"enabled": True}},
    "resilience": {"hedge": {"enabled": True, "after": "p90"}, "fallback_on": ["timeout"]},
    "redis": {"url": "redis://localhost:6379/0"},
    "telemetry": {"traces": {"otlp_endpoint": "http://localhost:4318"}, "logs": {"format": "json"}},
}

_texts = st.text(max_size=8) | st.sampled_from(
    [
        "auto",
        "alpha",
        "user",
        "text",
        "image_url",
        "tool",
        "${KEY}",
        "${",
        "${A:-",
        "\x00",
        "\r\n",
        "🦉",
        "1e999",
        "-0",
        "null",
    ]
)
_numbers = st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 1e300, -1e300, 0.1, 1e-320])
_scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
_values = st.recursive(
    _scalars | _texts | _numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_headers = st.dictionaries(
    st.sampled_from(
        [
            *(f"x-llmrouter-{name}" for name in ("cost-weight", "quality-floor", "max-cost", "models", "session-id")),
            *("x-llmrouter-dry-run", "x-llmrouter-resume", "x-llmrouter-nonsense", "cache-control", "traceparent"),
            *("authorization", "x-api-key", "content-type", "accept", "x-forwarded-for", "anthropic-version"),
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
    | st.sampled_from(
        ["nan", "inf", "1e309", "-1", "0.5", "true", "alpha", "alpha,beta", ",", "no-cache", "max-age=9"]
    ),
    max_size=3,
)


@st.composite
def damaged(draw: st.DrawFn, sample: Any) -> Any:
    """Draw a copy of a JSON value in which up to four places are replaced, doubled or removed."""
    whole = [copy.deepcopy(sample)]
    for _ in range(draw(st.integers(0, 4))):
        holder, key = draw(st.sampled_from(list(_places(whole))))
        deed = draw(st.integers(0, 3))
        if deed == 0 and holder is not whole:
            del holder[key]
        elif deed == 1 and isinstance(holder, list) and holder is not whole:
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = draw(_values)
    return whole[0]


def _places(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inner):
        yield value, key
        yield from _places(one)


def deep(levels: int) -> bytes:
    """Return JSON that is nested so deep."""
    return b"[" * levels + b"]" * levels


raw_bodies = st.one_of(
    *(damaged(body).map(orjson.dumps) for body in BODIES.values()),
    damaged(EMBEDDING).map(orjson.dumps),
    st.binary(max_size=40),
    st.tuples(damaged(BODIES["chat"]).map(orjson.dumps), st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]]),
    st.integers(1, 1100).map(
        lambda n: b'{"model":"auto","messages":[{"role":"user","content":"a"}],"x":' + deep(n) + b"}"
    ),
)
"""Bodies of requests, as bytes."""

http_requests = st.tuples(
    st.sampled_from(["POST"] * 8 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
    st.sampled_from(
        [
            *(endpoint.url for endpoint in ENDPOINTS.values()),
            *("/v1/embeddings", "/v1/route", "/v1/feedback", "/v1/models", "/v1/models/alpha", "/v1/outcomes/x"),
            *(
                "/v1/messages/count_tokens",
                "/admin/keys",
                "/metrics",
                "/readyz",
                "/healthz",
                "/openapi.json",
                "/%00",
                "/v1",
            ),
        ]
    ),
    _headers,
    raw_bodies,
)

whole_answers = st.one_of(
    damaged(ANSWER).map(orjson.dumps),
    st.binary(max_size=60),
    st.sampled_from(
        [b"null", b"[]", b'{"error": {}}', b'{"error": "x", "choices": []}', b'{"choices": ' + deep(700) + b"}"]
    ),
)
"""What an upstream may answer, whole."""

stream_events = st.lists(
    st.one_of(
        damaged(CHUNK).map(lambda chunk: b"data: " + orjson.dumps(chunk) + b"\n\n"),
        damaged({**CHUNK, "choices": [], "usage": ANSWER["usage"]}).map(
            lambda c: b"data:" + orjson.dumps(c) + b"\r\n\r\n"
        ),
        st.sampled_from(
            [
                b": comment\n\n",
                b"event: ping\ndata: {}\n\n",
                b"data: [DONE]\n\n",
                b'data: {"error": {"message": "m", "code": 5}}\n\n',
                b'data: {"error": "m"}\n\n',
                b"data: {\ndata: }\n\n",
                b"data\n\n",
                b"id: 1\nretry: 5\n\n",
                b"\n\n\n",
                b"\xef\xbb\xbf",
                b"data: \xff\xfe\n\n",
                b"\r",
                b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n',
            ]
        ),
        st.binary(max_size=20),
    ),
    max_size=8,
)
"""What an upstream may stream, in pieces."""


def check_request(drawn: tuple[str, Any, dict[str, str]]) -> None:
    """A request is parsed, or refused with an error of ours below 500."""
    name, body, headers = drawn
    if not isinstance(body, dict):
        return
    known = {
        "pool": POOL,
        "router_name": "knn",
        "settings": RouterSettings(),
        "request_id": "req_1",
        "native": ("alpha",) if len(headers) % 2 else (),
    }
    try:
        parsed = parse_request(ENDPOINTS[name], copy.deepcopy(body), Headers(headers), **known)
    except LLMRouterError as error:
        refusal = error
    else:
        orjson.dumps(dict(parsed.body))
        orjson.dumps(dict(parsed.original))
        assert parsed.routing.prompt_tokens >= 0
        return
    answer = of_library(refusal)
    assert answer is not None, refusal
    assert 400 <= answer.status < 500
    assert answer.body["error"]["message"]
    orjson.dumps(answer.body)


def check_embeddings(body: Any) -> None:
    """The same of embeddings."""
    if isinstance(body, dict):
        try:
            parse_embeddings(body)
        except LLMRouterError as error:
            answer = of_library(error)
            assert answer is not None
            assert answer.status < 500


def check_splitter(drawn: tuple[list[bytes], list[int]]) -> None:
    """However a stream is cut, its events are the same, and their bytes are the stream."""
    parts, cuts = drawn
    stream = b"".join(parts)
    whole = EventSplitter()
    expected = whole.feed(stream)
    last = whole.flush()
    expected += [] if last is None else [last]
    assert b"".join(one.raw for one in expected) == stream
    splitter = EventSplitter()
    found = []
    begin = 0
    for cut in [*sorted(place % (len(stream) + 1) for place in cuts), len(stream)]:
        found += splitter.feed(stream[begin:cut])
        begin = cut
    last = splitter.flush()
    found += [] if last is None else [last]
    assert b"".join(one.raw for one in found) == stream
    assert [one.data for one in found if one.data is not None] == [one.data for one in expected if one.data is not None]


def check_observer(parts: list[bytes]) -> None:
    """Accounting reads whatever comes, and counts nothing that is no count."""
    observer = StreamObserver()
    for one in EventSplitter().feed(b"".join(parts)):
        if one.data is not None:
            observer.observe(one.data)
    _check_usage(observer.usage)


def check_usage(body: bytes) -> None:
    """The same of whole answers."""
    _check_usage(usage_from_body(body))


def _check_usage(usage: Any) -> None:
    for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"):
        count = getattr(usage, name)
        assert count is None or 0 <= count < 2**63


def check_translator(drawn: tuple[str, list[bytes]]) -> None:
    """A translated stream is a stream."""
    name, parts = drawn
    translator = dialect(name).stream(BODIES[name], request_id="req_1")
    shown = b""
    for one in EventSplitter().feed(b"".join(parts)):
        if one.data is not None:
            shown += translator.feed(one.data)
    shown += translator.finish()
    for one in EventSplitter().feed(shown):
        assert one.data is None or one.data == b"[DONE]" or isinstance(orjson.loads(one.data), dict)


def check_config(text: str) -> None:
    """A configuration is right, or every problem of it is told."""
    try:
        settings = parse_settings(text, source="fuzz.yaml", environment={"KEY": "sk-secret-of-the-fuzz"})
    except ConfigError as error:
        told = str(error)
    else:
        assert isinstance(settings, Settings)
        return
    assert told
    assert "sk-secret-of-the-fuzz" not in told


def as_yaml(tree: Any) -> str:
    """Return a tree as it would be written."""
    return yaml.safe_dump(tree, allow_unicode=True)


def check_token(headers: list[tuple[bytes, bytes]]) -> None:
    """A key is found, or not; nothing of it is shown but its end."""
    token = token_in(headers)
    if token is None:
        return
    found = id_in(token)
    assert found is None or len(found) == len(new_id())
    assert len(digest_of(token)) == 32
    shown = masked(token)
    assert len(shown) <= 8
    assert shown.isascii()
    assert shown.isprintable()


def check_retry_after(drawn: tuple[str, str]) -> None:
    """A wait is a number of seconds, or none."""
    headers = {"retry-after": drawn[0], "retry-after-ms": drawn[1]}
    seconds = retry_after_s(BackendStatusError("x", model="m", status=429, body=b"", headers=headers), now=1.8e9)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


def check_small(text: str) -> None:
    """Other headers are read, or ignored."""
    directives = parse_directives(text)
    assert directives.max_age_s is None or directives.max_age_s >= 0
    parent = parse_traceparent(text)
    assert parent is None or parent[0] > 0


_digits = st.text("0123456789", max_size=25)
_dates = st.builds(
    "{0}, {1} Jan {2} {3}:{1}:00 {4}".format,
    _texts,
    _digits,
    _digits,
    _digits,
    st.sampled_from(["GMT", "+9999", "-0000", "x"]),
)
_waits = (
    st.text(max_size=12) | st.sampled_from(["nan", "inf", "-1", "1e999", "1_0", "٣"]) | st.floats().map(str) | _dates
)
_tokens = st.builds(new_token, st.just("A" * len(new_id()))).map(str.encode)
_header_lines = st.lists(
    st.tuples(
        st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"other"]),
        st.binary(max_size=60) | _tokens | st.builds(lambda a, b: b"Bearer " + a + b, _tokens, st.binary(max_size=3)),
    ),
    max_size=4,
)

FUZZERS: Mapping[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    **{
        f"requests of {name}": (st.tuples(st.just(name), damaged(BODIES[name]), _headers), check_request)
        for name in ENDPOINTS
    },
    "embeddings": (damaged(EMBEDDING), check_embeddings),
    "splitter": (st.tuples(stream_events, st.lists(st.integers(0, 10**6), max_size=8)), check_splitter),
    "observer": (stream_events, check_observer),
    "usage": (whole_answers, check_usage),
    **{
        f"translator of {name}": (st.tuples(st.just(name), stream_events), check_translator)
        for name in ("completions", "responses", "messages")
    },
    "configuration": (damaged(CONFIG).map(as_yaml), check_config),
    "configuration as text": (
        st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")),
        check_config,
    ),
    "keys": (_header_lines, check_token),
    "retry-after": (st.tuples(_waits, _waits), check_retry_after),
    "other headers": (
        st.text(max_size=40) | st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True),
        check_small,
    ),
}
"""Name -> what is drawn, and how it is checked."""
