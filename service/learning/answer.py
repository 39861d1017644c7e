"""The text of an answer, taken down only where something is to judge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmrouter.pool import DONE

_DELTA = "response.output_text.delta"


@dataclass(frozen=True, slots=True)
class Check:
    """A verifier to run on an answer.

    Attributes
    ----------
    spec : mapping
        ``kind`` and parameters.
    source, weight, by
        Of the feedback that its verdict becomes.
    """

    spec: Mapping[str, Any]
    source: str
    weight: float
    by: str = ""


class HeardAnswer:
    """The bytes of one answer as they pass, up to a limit; read when its text is asked for, off the event loop.

    Parameters
    ----------
    checks : tuple of Check
        What is to be run on it.
    judged : bool
        Whether the judge is to see it.
    max_bytes : int
        Of a longer answer nothing is kept.
    """

    __slots__ = ("_bytes", "_datas", "_max_bytes", "_whole", "checks", "given_up", "judged")

    def __init__(self, checks: tuple[Check, ...], *, judged: bool, max_bytes: int) -> None:
        self.checks = checks
        self.judged = judged
        self.given_up = False
        self._max_bytes = max_bytes
        self._bytes = 0
        self._whole = False
        self._datas: list[bytes] = []

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return 0 if self.given_up else self._bytes

    def whole(self, body: bytes) -> None:
        """Take an answer that was not streamed."""
        self._whole = True
        self.feed(body)

    def feed(self, data: bytes) -> None:
        """Take the data of one event of a stream."""
        if self.given_up:
            return
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self.give_up()
        else:
            self._datas.append(data)

    def give_up(self) -> None:
        """Forget it: it is too long, or not one model's."""
        self.given_up = True
        self._datas.clear()

    def text(self) -> str | None:
        """Return the text of the first choice; None where there is none, or a tool was called."""
        if self.given_up:
            return None
        payloads = [payload for data in self._datas if (payload := _object(data)) is not None]
        try:
            return _whole_text(payloads[0]) if self._whole and payloads else _streamed_text(payloads)
        except (AttributeError, TypeError, KeyError):  # an upstream's own shape
            return None


def _object(data: bytes) -> dict[str, Any] | None:
    if data.startswith(DONE):
        return None
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return payload if isinstance(payload, dict) else None


def _whole_text(payload: Mapping[str, Any]) -> str | None:
    if isinstance(payload.get("output"), list):  # of the responses API
        parts = [part for item in payload["output"] for part in item.get("content") or ()]
        texts = [part["text"] for part in parts if part.get("type") == "output_text"]
        return "".join(texts) if texts else None
    choice = _first(payload.get("choices") or ())
    if choice is None:
        return None
    message = choice.get("message")
    if message is None:
        return _text(choice.get("text"))
    return None if message.get("tool_calls") or message.get("function_call") else _text(message.get("content"))


def _streamed_text(payloads: Iterable[Mapping[str, Any]]) -> str | None:
    pieces: list[str] = []
    for payload in payloads:
        if payload.get("type") == _DELTA:
            pieces.append(payload["delta"])
            continue
        choice = _first(payload.get("choices") or ())
        if choice is None:
            continue
        delta = choice.get("delta") or {}
        if delta.get("tool_calls") or delta.get("function_call"):
            return None
        piece = delta.get("content") or choice.get("text")
        if piece:
            pieces.append(piece)
    return "".join(pieces) if pieces else None


def _first(choices: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((choice for choice in choices if choice.get("index", 0) == 0), None)


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    return content if isinstance(content, str) else None
