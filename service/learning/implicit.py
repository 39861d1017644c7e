"""Guesses at quality from what clients do next."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from llmrouter.outcomes import Feedback
from service.learning.implicit_shared import Asked, Earlier, digest_of, exchange

if TYPE_CHECKING:
    from llmrouter.types import Outcome
    from service.call import Call
    from service.learning.signal_settings import ImplicitSettings
    from service.redis_link import RedisLink

RETRY, TRUNCATED, ERROR = "implicit:retry", "implicit:truncated", "implicit:error"

_RETRY_QUALITY, _TRUNCATED_QUALITY, _ERROR_QUALITY = 0.0, 0.3, 0.0
# Of one process; replicas that share a Redis remember by time.
_REMEMBERED = 20_000
_LARGEST = 1024 * 1024
# "yes" twice in one conversation is no retry.
_SHORTEST_QUESTION = 20
_KEPT = frozenset({"hit", "semantic"})


class ImplicitSignals:
    """Watch requests go by, and say what they tell of answers; belongs to the event loop's thread.

    Retries are seen within one process, or among all that share a Redis. A client without a key, a session and a
    ``user`` cannot be told from others: its repetitions say nothing.

    Parameters
    ----------
    settings : ImplicitSettings
        Which guesses are made.
    """

    def __init__(self, settings: ImplicitSettings) -> None:
        self.settings = settings
        self._chats: OrderedDict[bytes, Earlier] = OrderedDict()

    def finished(self, call: Call, outcome: Outcome) -> list[Feedback]:
        """Return what a request that has ended tells of its own answer."""
        settings = self.settings
        found = []
        if settings.truncated and self._truncated(call, outcome):
            found.append(self._guess(outcome.request_id, TRUNCATED, _TRUNCATED_QUALITY, outcome))
        if settings.errors and outcome.status == "error":
            found.append(self._guess(outcome.request_id, ERROR, _ERROR_QUALITY, outcome))
        return found

    def asked(self, call: Call, outcome: Outcome) -> Asked | None:
        """Return what a request that has ended is known by, None where it can be nobody's retry."""
        if not self.settings.retry or outcome.cache in _KEPT:
            return None
        body = call.chat.body
        messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
        session, user = outcome.conversation_id, body.get("user")
        if not messages or (outcome.key_id is None and session is None and not isinstance(user, str)):
            return None
        who = (outcome.key_id, outcome.team, user if isinstance(user, str) else None, session)
        question = _question(messages)
        chat = _digest(who, messages)
        places = [chat]
        if len(messages) > 2 and messages[-1] == messages[-3]:
            places.append(_digest(who, messages[:-2]))  # asked again below the answer
        in_session = _digest(who, ()) if session is not None and len(question) >= _SHORTEST_QUESTION else b""
        own = Earlier(outcome.request_id, digest_of(question), outcome.time + (outcome.latency_s or 0.0))
        good = outcome.status == "ok"
        return Asked(tuple(place for place in places if place), chat, in_session, own, good)

    def retried(self, asked: Asked, outcome: Outcome) -> Feedback | None:
        """Return what a request tells of an earlier answer of this process, and remember it."""
        look = (*asked.places, *((asked.session,) if asked.session else ()))
        earlier = asked.earlier([self._chats.get(place) for place in look])
        for place in (asked.chat, asked.session):
            if place:
                self._chats.pop(place, None)
                if asked.good:
                    self._chats[place] = asked.own
        while len(self._chats) > _REMEMBERED:
            self._chats.popitem(last=False)
        return self._against(earlier, outcome)

    async def retried_anywhere(self, link: RedisLink, asked: Asked, outcome: Outcome) -> Feedback | None:
        """Return what a request tells of an earlier answer of any replica; of this one only while Redis is away."""
        from service.redis_link import RedisUnavailableError

        here = self.retried(asked, outcome)
        try:
            earlier = await exchange(link, asked, within_s=self.settings.within_s)
        except RedisUnavailableError:
            return here
        return self._against(earlier, outcome)

    def _against(self, earlier: Earlier | None, outcome: Outcome) -> Feedback | None:
        if earlier is None:
            return None
        waited = outcome.time - earlier.ended
        if not self.settings.after_s <= waited <= self.settings.within_s:
            return None
        return self._guess(earlier.request_id, RETRY, _RETRY_QUALITY, outcome)

    def _guess(self, request_id: str, source: str, quality: float, outcome: Outcome) -> Feedback:
        time = outcome.time + (outcome.latency_s or 0.0)
        return Feedback(request_id, quality, source, self.settings.weight, time)

    def _truncated(self, call: Call, outcome: Outcome) -> bool:
        if outcome.status != "ok" or outcome.finish_reason != "length":
            return False
        allowed = call.chat.routing.max_output_tokens
        return allowed is None or allowed >= self.settings.own_limit_tokens


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
