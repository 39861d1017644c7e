"""The splitter of event streams: same events however the bytes are chunked, and not a byte changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.pool import EventSplitter, ServerSentEvent, encode_event
from llmrouter.pool._sse import EventTooLongError

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
FIELD = st.one_of(
    LINE.map(lambda text: f"data: {text}"),
    LINE.map(lambda text: f"data:{text}"),
    LINE.map(lambda text: f": {text}"),
    st.sampled_from(["event: message", "id: 7", "data", "retry: 10", "dataset: 1", "vendor"]),
)
NEWLINE = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Streams of events whose lines end in any of the three ways, mixed."""
    text = ""
    for lines in draw(st.lists(st.lists(FIELD, max_size=3), max_size=5)):
        text += "".join(line + draw(NEWLINE) for line in lines) + draw(NEWLINE)
    return (text + draw(st.sampled_from(["", "data: half", "data: [DONE]"]))).encode()


def split(pieces: list[bytes]) -> list[ServerSentEvent]:
    splitter = EventSplitter()
    events = [found for piece in pieces for found in splitter.feed(piece)]
    rest = splitter.flush()
    return events if rest is None else [*events, rest]


@given(streams(), st.data())
def test_any_chunking_gives_the_same_bytes_and_data(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    chunked, whole = split(pieces), split([stream])
    assert b"".join(found.raw for found in chunked) == stream
    assert [found.data for found in chunked if found.data is not None] == [
        found.data for found in whole if found.data is not None
    ]


@given(streams())
def test_one_byte_at_a_time(stream: bytes) -> None:
    pieces = [stream[i : i + 1] for i in range(len(stream))]
    assert [found.data for found in split(pieces) if found.data is not None] == [
        found.data for found in split([stream]) if found.data is not None
    ]


@given(
    st.lists(
        st.binary(max_size=40).map(lambda piece: piece + b"\n\n") | st.sampled_from([b"\n\n\n", b"\n"]), max_size=6
    )
)
def test_whole_events_at_once_are_cut_as_byte_by_byte(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    slow = split([stream[i : i + 1] for i in range(len(stream))])
    assert b"".join(found.raw for found in split([b"data: first\n\n", *pieces])) == b"data: first\n\n" + stream
    fast = split([b"data: first\n\n", *pieces])[1:]
    assert [found.data for found in fast if found.data is not None] == [
        found.data for found in slow if found.data is not None
    ]


@given(st.binary(max_size=200))
def test_no_bytes_are_lost_or_made_up(stream: bytes) -> None:
    assert b"".join(found.raw for found in split([stream])) == stream


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_what_is_encoded_is_read_back(texts: list[str]) -> None:
    stream = b"".join(encode_event(text.encode()) for text in texts)
    assert [found.data for found in split([stream])] == [text.encode() for text in texts]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_there_as_soon_as_its_blank_line_is(newline: bytes) -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a" + newline) == []
    (found,) = splitter.feed(newline)
    assert found.data == b"a"


def test_crlf_is_one_line_end() -> None:
    (found,) = split([b"data: a\r\ndata: b\r\n\r\n"])
    assert found.data == b"a\nb"


def test_a_split_character_stays_whole() -> None:
    stream = encode_event("é漢🙂".encode())
    for cut in range(len(stream)):
        assert split([stream[:cut], stream[cut:]])[0].data == "é漢🙂".encode()


def test_comments_and_other_fields_have_no_data() -> None:
    found = split([b": keep-alive\n\nevent: ping\nid: 1\n\ndata: x\n\n"])
    assert [one.data for one in found] == [None, None, b"x"]


def test_a_byte_order_mark_is_relayed_but_not_data() -> None:
    (found,) = split([b"\xef\xbb\xbfdata: x\n\n"])
    assert (found.raw, found.data) == (b"\xef\xbb\xbfdata: x\n\n", b"x")


def test_a_line_of_a_megabyte_in_small_pieces() -> None:
    stream = encode_event(b"x" * 1_000_000)
    pieces = [stream[i : i + 4096] for i in range(0, len(stream), 4096)]
    (found,) = split(pieces)
    assert found.raw == stream


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter(max_event_bytes=1000)
    splitter.feed(b"data: " + b"x" * 900)
    with pytest.raises(EventTooLongError, match="1000 bytes"):
        splitter.feed(b"x" * 200)
