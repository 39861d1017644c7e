"""A stream taken down as it passes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmrouter.pool import DONE, usage_in

# Text of the model cannot look like any of these: quotes within a JSON string are escaped.
_TELLING = re.compile(
    rb'"(?:finish_reason"\s*:\s*"|usage"\s*:\s*\{|error"\s*:\s*["{]|tool_calls"\s*:\s*\[|function_call"\s*:\s*\{)'
)

UNFIT_REASONS = frozenset({"error", "content_filter"})
"""Finish reasons of answers that another try may better."""

WHOLE = "stop"
"""Finish reason of an answer that says all it has to say."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was taken down; the attributes are those of `Entry`."""

    payload: bytes
    usage_event: bytes
    usage_shown: bool
    plain: bool


class StreamRecorder:
    """Take down the events of one stream, as long as they are few enough.

    Parameters
    ----------
    max_bytes : int
        Longer streams are given up, without a word.
    choices : int
        How many answers were asked for; each has to come to its end.
    """

    __slots__ = (
        "_bytes", "_choices", "_done", "_events", "_given_up", "_max_bytes", "_plain", "_reasons", "_usage_event",
        "_usage_shown",
    )  # fmt: skip

    def __init__(self, *, max_bytes: int, choices: int = 1) -> None:
        self._max_bytes = max_bytes
        self._choices = choices
        self._events: list[bytes] = []
        self._bytes = 0
        self._given_up = False
        self._done = False
        self._plain = True
        self._reasons: dict[int, str] = {}
        self._usage_event = b""
        self._usage_shown = False

    def feed(self, raw: bytes, data: bytes | None) -> None:
        """Take one event: its bytes and, where it has any, its data. Comments are left out."""
        if data is None or self._given_up or self._done:
            return
        if data.startswith(DONE):
            self._done = True
            return
        self._bytes += len(raw)
        if self._bytes > self._max_bytes:
            self._give_up()
        elif not _TELLING.search(data) or self._shown(raw, data):
            self._events.append(raw)

    def recording(self) -> Recording | None:
        """Return what was taken down; None unless every answer came to a good end, and ``[DONE]`` after them."""
        if self._given_up or not self._done or len(self._reasons) < self._choices:
            return None
        if not UNFIT_REASONS.isdisjoint(self._reasons.values()):
            return None
        return Recording(
            payload=b"".join(self._events),
            usage_event=self._usage_event,
            usage_shown=self._usage_shown,
            plain=self._plain and set(self._reasons.values()) == {WHOLE},
        )

    def _shown(self, raw: bytes, data: bytes) -> bool:
        """Take note of an event that tells something; return whether every client sees it."""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            chunk = None
        if not isinstance(chunk, dict) or chunk.get("error"):
            self._give_up()
            return False
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                self._take(choice)
        if usage_in(chunk) is None:
            return True
        if choices == []:
            self._usage_event = raw
            return False
        self._usage_shown = True
        return True

    def _take(self, choice: Mapping[str, Any]) -> None:
        reason, index, delta = choice.get("finish_reason"), choice.get("index", 0), choice.get("delta")
        if isinstance(reason, str) and isinstance(index, int):
            self._reasons[index] = reason
        if isinstance(delta, Mapping) and (delta.get("tool_calls") or delta.get("function_call")):
            self._plain = False

    def _give_up(self) -> None:
        self._given_up = True
        self._events.clear()
