"""A day's dollars for exploration, shared by all replicas: each takes small parts of them from Redis in advance."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.redis_script import Script

if TYPE_CHECKING:
    from service.gateway import Gateway
    from service.redis_link import RedisLink

logger = logging.getLogger(__name__)

_DAY_S = 86_400
_PARTS = 50
_PAUSE_S = 1.0
_EXHAUSTED_PAUSE_S = 60.0

# KEYS: the day's sum. ARGV: dollars wanted (negative gives back), dollars a day. Reply: dollars granted.
_TAKE = Script(
    r"""
local taken = tonumber(redis.call('GET', KEYS[1]) or '0')
local granted = math.min(tonumber(ARGV[1]), tonumber(ARGV[2]) - taken)
if tonumber(ARGV[1]) > 0 and granted < 0 then granted = 0 end
if granted ~= 0 then
  redis.call('SET', KEYS[1], string.format('%.17g', math.max(taken + granted, 0)), 'EX', 172800)
end
return string.format('%.17g', granted)
"""
)


def ledger_of(gateway: Gateway, before: Gateway | None) -> LeasedLedger | None:
    """Let the gateway's exploration be seen, and count its dollars over all replicas where they share a Redis.

    Parameters
    ----------
    gateway : Gateway
        Whose policy explores.
    before : Gateway or None
        The gateway that it takes the place of, where that has the same policy.
    """
    from llmrouter.policy import ExplorePolicy

    explore, policy = gateway.settings.learning.explore, gateway.policy
    if explore is None or not isinstance(policy, ExplorePolicy):
        return None
    gateway.learning["explore"] = policy.state
    if before is not None and before.ledger is not None and before.link is gateway.link:
        return before.ledger
    if explore.usd_per_day is None or gateway.link is None:
        return None
    ledger = LeasedLedger(gateway.link, explore.usd_per_day)
    policy.use_ledger(ledger)
    return ledger


class LeasedLedger:
    """Spends only what it took from Redis: all replicas together never exceed the day's dollars.

    A replica that is killed takes at most a fiftieth of them with it for the day. While Redis is away, what was taken
    can be spent, and no more.

    Parameters
    ----------
    link : RedisLink
        The connection.
    usd_per_day : float
        For all replicas, a UTC day.
    clock : callable, optional
        Seconds since the epoch; for tests.
    """

    def __init__(self, link: RedisLink, usd_per_day: float, *, clock: Callable[[], float] = time.time) -> None:
        self.usd_per_day = usd_per_day
        self.part_usd = usd_per_day / _PARTS
        self._link = link
        self._clock = clock
        self._lock = threading.Lock()
        self._day = 0
        self._held = 0.0
        self._task: asyncio.Task[None] | None = None

    def left_usd(self) -> float:
        """Return what this replica holds of the day's dollars."""
        with self._lock:
            return self._held if self._day == self._today() else 0.0

    def charge(self, usd: float, /) -> None:
        """Take from what this replica holds."""
        with self._lock:
            self._held -= usd

    async def renew(self) -> float:
        """Take another part where less than half of one is held; return what was granted.

        Raises
        ------
        RedisUnavailableError
            If Redis does not answer.
        """
        today = self._today()
        held = self.left_usd()
        if held > self.part_usd / 2:
            return 0.0
        granted = await self._take(today, self.part_usd)
        with self._lock:
            if self._day != today:
                self._day, self._held = today, 0.0
            self._held += granted
        return granted

    def start(self) -> None:
        """Keep a part in hand."""
        if self._task is None and self.usd_per_day > 0:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="explore-ledger")

    async def aclose(self) -> None:
        """Give back what was not spent."""
        from service.redis_link import RedisUnavailableError

        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        held = self.left_usd()
        if held > 0:
            self.charge(held)
            try:
                await self._take(self._today(), -held)
            except RedisUnavailableError as error:
                logger.debug("%.6f USD of the day's exploration were not given back: %s", held, error)

    async def _keep(self) -> None:
        from service.redis_link import RedisUnavailableError

        while True:
            pause_s = _PAUSE_S
            try:
                await self.renew()
                if self.left_usd() <= 0:
                    pause_s = min(_EXHAUSTED_PAUSE_S, _DAY_S - self._clock() % _DAY_S + 0.01)
            except RedisUnavailableError as error:
                logger.debug("no dollars for exploration now: %s", error)
            except Exception:
                logger.exception("the day's dollars for exploration cannot be taken")
            await asyncio.sleep(pause_s)

    async def _take(self, day: int, usd: float) -> float:
        key = self._link.key("explore", str(day))
        (reply,) = await self._link.evaluate([(_TAKE, [key], [repr(usd), repr(self.usd_per_day)])])
        if isinstance(reply, Exception):
            raise reply
        granted = float(reply)
        return granted if math.isfinite(granted) else 0.0

    def _today(self) -> int:
        return int(self._clock() // _DAY_S)
