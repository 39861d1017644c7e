"""Answers kept in the Redis that replicas share. Whatever is wrong with it is a miss."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import lru_cache, partial
from typing import Any

from service.cache.entry import Entry, decode, encode
from service.cache.memory import StoreCounts
from service.redis_link import RedisLink, RedisUnavailableError

logger = logging.getLogger(__name__)

_MILLISECONDS = 1000
_PAGE = 500
_SCOPE_BYTES = 8
_PENDING = 64
_PENDING_BYTES = 16 * 1024 * 1024
_PLACE = "cache"


class RedisStore:
    """Entries as values under ``PREFIX:cache:SCOPE:KEY``, which Redis removes when they are too old.

    Parameters
    ----------
    link : RedisLink
        The connection.
    ttl_s : float
        Age at which an entry is gone.

    Notes
    -----
    Scopes stand in keys as digests: names of keys and teams are not to be read there, and cannot disturb. Writes go on
    in the background; where too many wait, further ones are left out.
    """

    def __init__(self, link: RedisLink, *, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.counts = StoreCounts()
        self._link = link
        self._writes: set[asyncio.Task[None]] = set()
        self._pending_bytes = 0

    async def get(self, scope: str, key: bytes) -> Entry | None:
        """Return the entry under a key; None where Redis has none, does not answer, or has something else there."""
        name = self._name(scope, key)
        try:
            value = await self._link.run(lambda redis: _bytes_at(redis, name))
        except RedisUnavailableError:
            self.counts.failures += 1
            return None
        if value is None:
            return None
        entry = decode(key, value)
        if entry is None or entry.scope != scope:
            self.counts.failures += 1
            return None
        return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Begin to write an entry."""
        if len(self._writes) >= _PENDING or self._pending_bytes + entry.size > _PENDING_BYTES:
            self.counts.failures += 1
            return
        self._pending_bytes += entry.size
        task = asyncio.get_running_loop().create_task(self._write(key, entry))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def clear(self, scope: str | None) -> int:
        """Remove the entries of a scope, or all; return how many there were.

        Raises
        ------
        RedisUnavailableError
            If Redis does not answer; some may be gone.
        """
        await self._flushed()
        scope_name = "*" if scope is None else _scope_name(scope)
        pattern = self._link.key(_PLACE, scope_name, "*")
        removed, cursor = 0, 0
        while True:
            cursor, names = await self._link.run(partial(_scan, at=cursor, pattern=pattern))
            if names:
                removed += await self._link.run(partial(_unlink, names=names))
            if not cursor:
                return removed

    async def aclose(self) -> None:
        """Wait for the writes under way: each ends within the time-out of Redis."""
        await self._flushed()

    async def _write(self, key: bytes, entry: Entry) -> None:
        try:
            name, value = self._name(entry.scope, key), encode(key, entry)
            ttl_ms = max(round(self.ttl_s * _MILLISECONDS), 1)
            await self._link.run(lambda redis: redis.set(name, value, px=ttl_ms))
            self.counts.stored += 1
        except RedisUnavailableError:
            self.counts.failures += 1
        except Exception:
            self.counts.failures += 1
            logger.exception("an answer could not be kept")
        finally:
            self._pending_bytes -= entry.size

    async def _flushed(self) -> None:
        if self._writes:
            await asyncio.wait(set(self._writes))

    def _name(self, scope: str, key: bytes) -> str:
        return self._link.key(_PLACE, _scope_name(scope), key.hex())


@lru_cache(maxsize=4096)
def _scope_name(scope: str) -> str:
    return hashlib.blake2b(scope.encode("utf-8", "replace"), digest_size=_SCOPE_BYTES).hexdigest()


async def _bytes_at(redis: Any, name: str) -> Any:
    # Whatever the URL says of decoding: entries are no text.
    return await redis.execute_command("GET", name, NEVER_DECODE=True)


async def _unlink(redis: Any, *, names: list[Any]) -> int:
    return int(await redis.unlink(*names))


async def _scan(redis: Any, *, at: int, pattern: str) -> tuple[int, list[Any]]:
    found: tuple[int, list[Any]] = await redis.scan(at, match=pattern, count=_PAGE)
    return found
