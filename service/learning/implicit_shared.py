"""What each replica remembers of the last chats, where they share a Redis: a retry is seen wherever it arrives."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import orjson

from service.redis_script import Script

if TYPE_CHECKING:
    from service.redis_link import RedisLink

# A retry is seen when it ends: so long it may have taken itself.
_ANSWER_S = 300.0

# KEYS: first those that are looked up, then those that are written. ARGV: how many are looked up, what is written (""
# removes them), milliseconds for which it is kept. Reply: what was found, "" for nothing.
_EXCHANGE = Script(
    r"""
local count = tonumber(ARGV[1])
local found = {}
for i = 1, count do found[i] = redis.call('GET', KEYS[i]) or '' end
for i = count + 1, #KEYS do
  if ARGV[2] == '' then redis.call('DEL', KEYS[i]) else redis.call('SET', KEYS[i], ARGV[2], 'PX', ARGV[3]) end
end
return found
"""
)


class Earlier(NamedTuple):
    """An answer that may be asked for again.

    Attributes
    ----------
    request_id : str
        Whose answer.
    question : str
        Digest of the last message.
    ended : float
        Seconds since the epoch.
    """

    request_id: str
    question: str
    ended: float


class Asked(NamedTuple):
    """A request that has ended, as later and earlier ones are told by: digests, never texts.

    Attributes
    ----------
    places : tuple of bytes
        Where an earlier request for the same answer would have been put.
    chat, session : bytes
        Where this one is put; b"" for nowhere. In a session only the question counts.
    own : Earlier
        This request itself.
    good : bool
        Whether there is an answer that could be asked for again.
    """

    places: tuple[bytes, ...]
    chat: bytes
    session: bytes
    own: Earlier
    good: bool

    def earlier(self, found: list[Earlier | None]) -> Earlier | None:
        """Return the request that this one repeats, of those found in `places` and then in `session`."""
        first = next((one for one in found[: len(self.places)] if one is not None), None)
        if first is not None or not self.session:
            return first
        last = found[len(self.places)]
        return last if last is not None and last.question == self.own.question else None


async def exchange(link: RedisLink, asked: Asked, *, within_s: float) -> Earlier | None:
    """Put a request that has ended into Redis, and return the one that it repeats; in one step.

    Parameters
    ----------
    link : RedisLink
        The connection.
    asked : Asked
        The request.
    within_s : float
        How long it matters, seconds.

    Raises
    ------
    RedisUnavailableError
        If Redis does not answer.
    """
    look = [*asked.places, *([asked.session] if asked.session else [])]
    put = [place for place in (asked.chat, asked.session) if place]
    if not look and not put:
        return None
    keys = [link.key("asked", place.hex()) for place in (*look, *put)]
    value = orjson.dumps(list(asked.own)) if asked.good else b""
    kept_ms = int(1000 * (within_s + _ANSWER_S))
    (reply,) = await link.evaluate([(_EXCHANGE, keys, [str(len(look)), value, str(kept_ms)])])
    if isinstance(reply, Exception):
        raise reply
    return asked.earlier([_parsed(raw) for raw in reply])


def digest_of(question: str) -> str:
    """Return what stands for a question."""
    return hashlib.blake2b(question.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _parsed(raw: bytes | str) -> Earlier | None:
    if not raw:
        return None
    try:
        request_id, question, ended = orjson.loads(raw)
        return Earlier(str(request_id), str(question), float(ended))
    except (ValueError, TypeError):  # another version's
        return None
