"""Guesses at quality from what clients do next."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from llmrouter.outcomes import Feedback

if TYPE_CHECKING:
    from llmrouter.types import Outcome
    from service.call import Call
    from service.learning.signal_settings import ImplicitSettings

RETRY, TRUNCATED, ERROR = "implicit:retry", "implicit:truncated", "implicit:error"

_RETRY_QUALITY, _TRUNCATED_QUALITY, _ERROR_QUALITY = 0.0, 0.3, 0.0
_REMEMBERED = 50_000
_LARGEST = 1024 * 1024
# "yes" twice in one conversation is no retry.
_SHORTEST_QUESTION = 20
_KEPT = frozenset({"hit", "semantic"})


class _Earlier(NamedTuple):
    request_id: str
    question: str
    ended: float


class ImplicitSignals:
    """Watch requests go by, and say what they tell of answers; belongs to the event loop's thread.

    Retries are seen within one process. A client without a key, a session and a ``user`` cannot be told from others:
    its repetitions say nothing.

    Parameters
    ----------
    settings : ImplicitSettings
        Which guesses are made.
    """

    def __init__(self, settings: ImplicitSettings) -> None:
        self.settings = settings
        self._chats: OrderedDict[bytes, _Earlier] = OrderedDict()

    def finished(self, call: Call, outcome: Outcome) -> list[Feedback]:
        """Return what a request that has ended tells, of its own answer and of an earlier one."""
        settings = self.settings
        found = []
        if settings.truncated and self._truncated(call, outcome):
            found.append(self._guess(outcome.request_id, TRUNCATED, _TRUNCATED_QUALITY, outcome))
        if settings.errors and outcome.status == "error":
            found.append(self._guess(outcome.request_id, ERROR, _ERROR_QUALITY, outcome))
        if settings.retry and outcome.cache not in _KEPT and (earlier := self._retried(call, outcome)):
            found.append(self._guess(earlier, RETRY, _RETRY_QUALITY, outcome))
        return found

    def _guess(self, request_id: str, source: str, quality: float, outcome: Outcome) -> Feedback:
        time = outcome.time + (outcome.latency_s or 0.0)
        return Feedback(request_id, quality, source, self.settings.weight, time)

    def _truncated(self, call: Call, outcome: Outcome) -> bool:
        if outcome.status != "ok" or outcome.finish_reason != "length":
            return False
        allowed = call.chat.routing.max_output_tokens
        return allowed is None or allowed >= self.settings.own_limit_tokens

    def _retried(self, call: Call, outcome: Outcome) -> str | None:
        """Return the request whose answer this one asks for again, and remember this one."""
        body = call.chat.body
        messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
        session, user = outcome.conversation_id, body.get("user")
        if not messages or (outcome.key_id is None and session is None and not isinstance(user, str)):
            return None
        who = (outcome.key_id, outcome.team, user if isinstance(user, str) else None, session)
        question = _question(messages)
        asked = _digest(who, messages)
        places = [asked]
        if len(messages) > 2 and messages[-1] == messages[-3]:
            places.append(_digest(who, messages[:-2]))  # asked again below the answer
        in_session = _digest(who, ()) if session is not None and len(question) >= _SHORTEST_QUESTION else None
        earlier = next((self._chats[place] for place in places if place in self._chats), None)
        if earlier is None and in_session is not None and (last := self._chats.get(in_session)) is not None:
            earlier = last if last.question == question else None
        self._remember((asked, in_session), outcome, question)
        if earlier is None:
            return None
        waited = outcome.time - earlier.ended
        return earlier.request_id if self.settings.after_s <= waited <= self.settings.within_s else None

    def _remember(self, places: Sequence[bytes | None], outcome: Outcome, question: str) -> None:
        for place in places:
            if not place:
                continue
            self._chats.pop(place, None)
            if outcome.status == "ok":
                ended = outcome.time + (outcome.latency_s or 0.0)
                self._chats[place] = _Earlier(outcome.request_id, question, ended)
        while len(self._chats) > _REMEMBERED:
            self._chats.popitem(last=False)


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    content = messages[-1].get("content")
    return content[:_LARGEST] if isinstance(content, str) else ""


def _digest(who: tuple[str | None, ...], messages: Sequence[Mapping[str, Any]]) -> bytes:
    """Return what stands for a chat of somebody, b"" where it is too long or odd to be compared."""
    try:
        told = orjson.dumps([who, messages])
    except TypeError:
        return b""
    return hashlib.blake2b(told, digest_size=16).digest() if len(told) <= _LARGEST else b""
