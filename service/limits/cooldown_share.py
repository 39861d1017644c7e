"""Replicas tell each other which models cool down."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from service.redis_link import RedisLink, RedisUnavailableError
from service.redis_script import Script

logger = logging.getLogger(__name__)

_PENDING = 10_000

# KEYS: a hash of name -> "end of the pause|replica". ARGV: this replica, then (name, remaining seconds) each.
# Reply: name, remaining seconds and end of the pause of what other replicas told.
_EXCHANGE = Script(
    r"""
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
for i = 2, #ARGV, 2 do
  local till = now + tonumber(ARGV[i + 1])
  local told = redis.call('HGET', KEYS[1], ARGV[i])
  if not told or tonumber(string.match(told, '^[^|]+')) < till then
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%.3f|%s', till, ARGV[1]))
    redis.call('EXPIRE', KEYS[1], 86400)
  end
end
local reply = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local till, replica = string.match(all[i + 1], '^([^|]+)|(.*)$')
  if tonumber(till) <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif replica ~= ARGV[1] then
    reply[#reply + 1] = all[i]
    reply[#reply + 1] = string.format('%.3f', tonumber(till) - now)
    reply[#reply + 1] = till
  end
end
return reply
"""
)


class RedisCooldownShare:
    """Publish pauses over Redis, and apply those of other replicas.

    Parameters
    ----------
    link : RedisLink
        The connection; while it fails replicas keep to what they find out themselves.
    apply : callable
        Takes (name, remaining seconds) of a pause that another replica told, once.
    interval_s : float
        How often is asked.
    """

    def __init__(self, link: RedisLink, apply: Callable[[str, float], None], *, interval_s: float = 0.5) -> None:
        self.interval_s = interval_s
        self._link = link
        self._apply = apply
        self._replica = secrets.token_hex(6)
        # Name -> end of the pause, on the monotonic clock.
        self._pending: dict[str, float] = {}
        self._applied: dict[str, str] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def publish(self, name: str, remaining_s: float) -> None:
        """Tell that `name` cools down for that many seconds from now; returns at once and never raises."""
        if len(self._pending) < _PENDING:
            till = time.monotonic() + remaining_s
            self._pending[name] = max(till, self._pending.get(name, till))
            self._news.set()

    def start(self) -> None:
        """Start the exchange."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._exchange_always(), name="cooldown-share")

    async def aclose(self) -> None:
        """End the exchange."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _exchange_always(self) -> None:
        while True:
            try:
                await self._exchange()
            except RedisUnavailableError as error:
                logger.debug("cool-downs are not shared now: %s", error)
                await asyncio.sleep(self.interval_s)
                continue
            try:
                async with asyncio.timeout(self.interval_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _exchange(self) -> None:
        self._news.clear()
        now = time.monotonic()
        told = {name: till for name, till in self._pending.items() if till > now}
        arguments: list[Any] = [self._replica]
        for name, till in told.items():
            arguments += (name, till - now)
        (reply,) = await self._link.evaluate([(_EXCHANGE, [self._link.key("cooldowns")], arguments)])
        if isinstance(reply, Exception):
            logger.error("Redis refused to share cool-downs: %s", reply)
            return
        # What was published meanwhile stays.
        self._pending = {name: till for name, till in self._pending.items() if till > told.get(name, now)}
        self._take(reply)

    def _take(self, reply: Sequence[bytes]) -> None:
        present = {}
        for i in range(0, len(reply), 3):
            name, remaining_s, till = reply[i].decode(), float(reply[i + 1]), reply[i + 2].decode()
            present[name] = till
            # Once only: a model that has proved well here meanwhile is not to be cooled again by old news.
            if self._applied.get(name) != till:
                self._apply(name, remaining_s)
        self._applied = present
