"""Server-sent events, cut out of a byte stream without changing a byte."""

from __future__ import annotations

import re
from typing import NamedTuple

DONE = b"[DONE]"
"""Data of the event that ends an OpenAI stream."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A line may end in CRLF, LF or CR. The groups are atomic: the two halves of one CRLF are not two line ends.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_BLANK_LINE = 4
_LF_LF = b"\n\n"
_HALF_BLANK_LINE = b"\r\n\r"
_DATA = b"data: "


class ServerSentEvent(NamedTuple):
    """One event.

    Attributes
    ----------
    raw : bytes
        The upstream's own bytes, blank line included. The `raw` of all events joined is the stream.
    data : bytes or None
        Its data lines, joined by newlines; None for comments and other events without data.
    usage_only : bool
        Whether it is known to be the extra chunk that carries usage and nothing else.
    """

    raw: bytes
    data: bytes | None
    usage_only: bool = False


class EventTooLongError(ValueError):
    """An event grew beyond the splitter's limit."""


class EventSplitter:
    """Cut a byte stream into events as it arrives, however it is chunked.

    Parameters
    ----------
    max_event_bytes : int
        Largest event; more raises EventTooLongError, so that an upstream cannot fill the memory.
    """

    def __init__(self, *, max_event_bytes: int = 32 * 1024 * 1024) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._searched = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and return the events that they complete.

        Raises
        ------
        EventTooLongError
            If an event exceeds the limit.
        """
        if not self._pending and not self._first and chunk[-2:] == _LF_LF and b"\r" not in chunk:
            return self._whole_events(chunk)
        self._pending += chunk
        events = []
        start = 0
        # The blank line may have begun in what was searched before.
        search_from = max(self._searched - _LONGEST_BLANK_LINE + 1, 0)
        while match := _BLANK_LINE.search(self._pending, search_from):
            search_from = match.end()
            if search_from == len(self._pending) and self._pending.endswith(_HALF_BLANK_LINE):
                break  # its line feed is still to come, and belongs to this event
            events.append(self._event(bytes(self._pending[start:search_from])))
            start = search_from
        if start:
            del self._pending[:start]
        self._searched = len(self._pending)
        if self._searched > self._max_event_bytes:
            raise EventTooLongError(f"an event is longer than {self._max_event_bytes} bytes")
        return events

    def _whole_events(self, chunk: bytes) -> list[ServerSentEvent]:
        """Cut a chunk of whole events with plain line ends, which is how nearly all of them come."""
        if len(chunk) > self._max_event_bytes:
            raise EventTooLongError(f"an event is longer than {self._max_event_bytes} bytes")
        events = []
        start, end = 0, len(chunk)
        while start < end:
            found = chunk.find(_LF_LF, start)
            if found < 0:  # three line ends in a row: the last one begins something
                self._pending += chunk[start:]
                self._searched = len(self._pending)
                break
            stop = found + len(_LF_LF)
            raw = chunk[start:stop]
            if raw.startswith(_DATA) and raw.find(b"\n") == len(raw) - 2:
                events.append(ServerSentEvent(raw, raw[len(_DATA) : -2]))
            else:
                events.append(ServerSentEvent(raw, _data_of(raw)))
            start = stop
        return events

    def flush(self) -> ServerSentEvent | None:
        """Return what is left at the end of the stream as an event, or None where nothing is left."""
        if not self._pending:
            return None
        event = self._event(bytes(self._pending))
        self._pending.clear()
        self._searched = 0
        return event

    def _event(self, raw: bytes) -> ServerSentEvent:
        content = raw
        if self._first:
            self._first = False
            content = raw.removeprefix(_BYTE_ORDER_MARK)
        return ServerSentEvent(raw, _data_of(content))


def _data_of(content: bytes) -> bytes | None:
    lines = []
    for line in content.splitlines():
        field, separator, value = line.partition(b":")
        if field == b"data":
            lines.append(value[1:] if separator and value[:1] == b" " else value)
    return b"\n".join(lines) if lines else None


def encode_event(data: bytes) -> bytes:
    """Return an event with one line of data, as bytes to send."""
    return b"data: " + data + b"\n\n"
