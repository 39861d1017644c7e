"""The text of answers that are to be judged, out of whatever shape they come in."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.pool import StreamObserver, finish_reason_in
from service.learning.answer import HeardAnswer


def heard(*datas: Any, whole: bool = False, max_bytes: int = 10_000) -> HeardAnswer:
    answer = HeardAnswer((), judged=True, max_bytes=max_bytes)
    for data in datas:
        raw = data if isinstance(data, bytes) else orjson.dumps(data)
        (answer.whole if whole else answer.feed)(raw)
    return answer


def message(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": "stop"}]}


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": None}]}


OUTPUT = [
    {"type": "reasoning", "summary": []},
    {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]},
]


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (message(content="Hi"), "Hi"),
        (message(content=""), ""),
        (message(content=None), None),
        (message(content=[{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]), "Hi"),
        (message(content="Hi", tool_calls=[{"id": "1"}]), None),
        ({"choices": [{"text": "old"}]}, "old"),
        ({"choices": [{"index": 1, "message": {"content": "second"}}, {"index": 0, "message": {"content": "1"}}]}, "1"),
        ({"object": "response", "output": OUTPUT}, "ab"),
        ({"object": "response", "output": []}, None),
        ({"choices": []}, None),
        ({"choices": "x"}, None),
        ({"choices": [5]}, None),
        ([1], None),
        (b"no json", None),
        (b"", None),
    ],
)
def test_whole_answers(payload: Any, text: str | None) -> None:
    assert heard(payload, whole=True).text() == text


@pytest.mark.parametrize(
    ("datas", "text"),
    [
        ([delta(role="assistant", content=""), delta(content="a"), delta(content="b"), b"[DONE]"], "ab"),
        ([delta(content="a"), delta(1, content="x"), delta(content="b")], "ab"),
        ([delta(content="a"), delta(tool_calls=[{"index": 0}])], None),
        ([{"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}], "ab"),
        ([{"type": "response.output_text.delta", "delta": "a"}, {"type": "response.completed"}], "a"),
        ([delta(content="a"), {"choices": [], "usage": {}}, b": odd", b"{"], "a"),
        ([delta(content=5)], None),
        ([], None),
    ],
)
def test_streams(datas: list[Any], text: str | None) -> None:
    assert heard(*datas).text() == text


@settings(deadline=None)
@given(st.lists(st.text(max_size=5)))
def test_a_stream_is_its_pieces(pieces: list[str]) -> None:
    answer = heard(*(orjson.dumps(delta(content=piece.encode("utf-8", "replace").decode())) for piece in pieces))
    assert (answer.text() or "") == "".join(piece.encode("utf-8", "replace").decode() for piece in pieces)


_KEYS = st.sampled_from(["choices", "message", "content", "output", "delta", "index", "text", "type"])
_LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5)
_SHAPES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=15
)


@settings(deadline=None)
@given(_SHAPES)
def test_no_shape_is_too_odd(payload: Any) -> None:
    for whole in (True, False):
        text = heard(payload, whole=whole).text()
        assert text is None or isinstance(text, str)


def test_of_a_long_answer_nothing_is_kept() -> None:
    answer = heard(*[delta(content="x" * 100)] * 50, max_bytes=1000)
    assert answer.given_up
    assert answer.text() is None
    assert answer._datas == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"choices":[{"finish_reason":"stop"}]}', "stop"),
        (b'{"choices":[{"finish_reason" : "length"}]}', "length"),
        (b'{"choices":[{"finish_reason":null},{"finish_reason":"tool_calls"}]}', "tool_calls"),
        (orjson.dumps({"content": '"finish_reason": "stop"', "x": 1}), None),
        (b'{"object":"response","status":"completed","incomplete_details":null}', "stop"),
        (b'{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}', "length"),
        (b'{"status":"incomplete","incomplete_details":{"reason":"content_filter"}}', "content_filter"),
        (b"{}", None),
        (b"", None),
    ],
)
def test_why_an_answer_ended(body: bytes, reason: str | None) -> None:
    assert finish_reason_in(body) == reason


def test_why_a_stream_ended() -> None:
    observer = StreamObserver()
    for data in (delta(content="a"), {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}):
        observer.observe(orjson.dumps(data))
    assert (observer.finished, observer.finish_reason) == (True, "length")
    responses = StreamObserver()
    responses.observe(b'{"type":"response.output_text.delta","delta":"a"}')
    closing = b'{"type":"response.incomplete","response":{"incomplete_details":{"reason":"max_output_tokens"}}}'
    responses.observe(closing)
    assert responses.finish_reason == "length"
    assert StreamObserver().finish_reason is None
