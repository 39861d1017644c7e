"""Keys in Redis, shared by all replicas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from llmrouter.exceptions import LLMRouterError
from service.keys.record import KeyRecord
from service.keys.store import Change, KeyStoreError

T = TypeVar("T")

_ATTEMPTS = 20
# Both keep what belongs together in step. Redis keeps its word only as well as its persistence: see docs/security.md.
_ADD = """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1
"""
_SWAP = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
_TOUCH = """
for i = 1, #ARGV, 2 do
  local known = redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1
  local before = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0')
  if known and tonumber(ARGV[i + 1]) > before then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
end
"""


class Link(Protocol):
    """What is needed of `service.redis_link.RedisLink`."""

    def key(self, *parts: str) -> str:
        """Return a key under the configured prefix."""
        ...

    async def run(self, job: Callable[[Any], Awaitable[T]], /) -> T:
        """Run `job` with a client of ``redis.asyncio``; fail quickly where Redis does not answer."""
        ...


class RedisKeyStore:
    """Keys in a hash of Redis.

    Parameters
    ----------
    link : RedisLink
        The connection; not closed with the store.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._records = link.key("keys")
        self._order = link.key("keys", "created")
        self._used = link.key("keys", "used")

    async def get(self, key_id: str, /) -> KeyRecord | None:
        """Return a key, or None."""
        (record,) = await self._read([key_id])
        return record

    async def add(self, record: KeyRecord, /) -> None:
        """Store a new key."""
        arguments = (record.id, record.to_json(), repr(record.created))
        # A script of ours, above; what varies are its arguments.
        added = await self._run(lambda redis: redis.eval(_ADD, 2, self._records, self._order, *arguments))
        if not int(added):
            raise KeyStoreError(f"the key id {record.id} is taken")

    async def change(self, key_id: str, change: Change, /) -> KeyRecord | None:
        """Change a key; where another replica was quicker, its change is kept and ours is made to that."""
        for _ in range(_ATTEMPTS):
            text = await self._run(lambda redis: redis.hget(self._records, key_id))
            if text is None:
                return None
            used = await self._run(lambda redis: redis.hget(self._used, key_id))
            changed = change(_record(text, used))
            if await self._swap(key_id, text, changed.to_json()):
                return changed
        raise KeyStoreError(f"the key {key_id} is being changed by others all the time; try again")

    async def page(self, *, after: str | None, limit: int) -> list[KeyRecord]:
        """Return keys, oldest first."""
        start = 0
        if after is not None:
            rank = await self._run(lambda redis: redis.zrank(self._order, after))
            if rank is None:
                return []
            start = int(rank) + 1
        ids = await self._run(lambda redis: redis.zrange(self._order, start, start + limit - 1))
        records = await self._read([_text(key_id) for key_id in ids])
        return [record for record in records if record is not None]

    async def touch(self, used: Mapping[str, float], /) -> None:
        """Note when keys were last used."""
        if used:
            arguments = [part for key_id, moment in used.items() for part in (key_id, repr(moment))]
            await self._run(lambda redis: redis.eval(_TOUCH, 2, self._records, self._used, *arguments))

    async def aclose(self) -> None:
        """Do nothing: the link is not the store's."""

    async def _swap(self, key_id: str, old: bytes | str, new: bytes) -> bool:
        """Put `new` in the place of `old`; return False where that is no longer what is there."""
        return bool(int(await self._run(lambda redis: redis.eval(_SWAP, 1, self._records, key_id, old, new))))

    async def _read(self, ids: list[str]) -> list[KeyRecord | None]:
        if not ids:
            return []
        texts = await self._run(lambda redis: redis.hmget(self._records, ids))
        if not any(texts):
            return [None] * len(ids)
        times = await self._run(lambda redis: redis.hmget(self._used, ids))
        return [None if text is None else _record(text, used) for text, used in zip(texts, times, strict=True)]

    async def _run(self, job: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await self._link.run(job)
        except KeyStoreError:
            raise
        except LLMRouterError as error:  # RedisUnavailableError
            raise KeyStoreError(f"the store of keys in Redis cannot be reached ({error})") from error


def _text(value: bytes | str) -> str:
    """Return a reply as text, whether or not the client decodes replies."""
    return value if isinstance(value, str) else value.decode()


def _record(text: bytes | str, used: bytes | str | None) -> KeyRecord:
    try:
        return KeyRecord.from_json(text, last_used=None if used is None else float(used))
    except (ValueError, TypeError, KeyError) as error:
        raise KeyStoreError("a stored key cannot be read: it was written by a newer llmrouter, or damaged") from error
