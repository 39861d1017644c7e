"""A day's dollars for exploration: granted from what all replicas share in Redis, or from what the log has left."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmrouter.exceptions import LLMRouterError
from service.redis_script import Script

if TYPE_CHECKING:
    from service.gateway import Gateway
    from service.redis_link import RedisLink

logger = logging.getLogger(__name__)

DAY_S = 86_400
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
    """Let the gateway's exploration be seen, and count its dollars over all replicas, and over restarts.

    Parameters
    ----------
    gateway : Gateway
        Whose policy explores.
    before : Gateway or None
        The gateway that it takes the place of, where that has the same policy.
    """
    from llmrouter.policy import ExplorePolicy
    from service.learning.explore_logged import LoggedLedger

    explore, policy = gateway.settings.learning.explore, gateway.policy
    if explore is None or not isinstance(policy, ExplorePolicy):
        return None
    gateway.learning["explore"] = policy.state
    if before is not None and before.ledger is not None and before.link is gateway.link:
        if isinstance(before.ledger, LoggedLedger):
            before.ledger.with_log = gateway.with_log
        return before.ledger
    if explore.usd_per_day is None:
        return None
    ledger: LeasedLedger
    if gateway.link is not None:
        ledger = RedisLedger(gateway.link, explore.usd_per_day)
    else:
        ledger = LoggedLedger(gateway.with_log, explore.usd_per_day, workers=gateway.settings.server.workers)
    policy.use_ledger(ledger)
    return ledger


class LeasedLedger(ABC):
    """Spends only what it was granted for the day; nothing before that. A task of its own asks for it.

    Parameters
    ----------
    usd_per_day : float
        A UTC day.
    clock : callable, optional
        Seconds since the epoch; for tests.
    """

    def __init__(self, usd_per_day: float, *, clock: Callable[[], float] = time.time) -> None:
        self.usd_per_day = usd_per_day
        self._clock = clock
        self._lock = threading.Lock()
        self._day = 0
        self._held = 0.0
        self._task: asyncio.Task[None] | None = None

    def left_usd(self) -> float:
        """Return what this process holds of the day's dollars."""
        with self._lock:
            return self._held if self._day == self._today() else 0.0

    def charge(self, usd: float, /) -> None:
        """Take from what this process holds."""
        with self._lock:
            self._held -= usd

    @abstractmethod
    async def renew(self) -> float:
        """Ask for dollars where that is due; return what was granted.

        Raises
        ------
        LLMRouterError
            If nobody answers now.
        """

    def start(self) -> None:
        """Keep dollars in hand."""
        if self._task is None and self.usd_per_day > 0:
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="explore-ledger")

    async def aclose(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _keep(self) -> None:
        while True:
            pause_s = _PAUSE_S
            try:
                await self.renew()
                if self.left_usd() <= 0:
                    pause_s = min(_EXHAUSTED_PAUSE_S, DAY_S - self._clock() % DAY_S + 0.01)
            except LLMRouterError as error:
                logger.debug("no dollars for exploration now: %s", error)
            except Exception:
                logger.exception("the day's dollars for exploration cannot be taken")
            await asyncio.sleep(pause_s)

    def _grant(self, day: int, usd: float) -> None:
        with self._lock:
            if self._day != day:
                self._day, self._held = day, 0.0
            self._held += usd

    def _today(self) -> int:
        return int(self._clock() // DAY_S)


class RedisLedger(LeasedLedger):
    """Takes parts of the day's dollars from Redis: all replicas together never exceed them.

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
        super().__init__(usd_per_day, clock=clock)
        self.part_usd = usd_per_day / _PARTS
        self._link = link

    async def renew(self) -> float:
        """Take another part where less than half of one is held; return what was granted.

        Raises
        ------
        RedisUnavailableError
            If Redis does not answer.
        """
        today = self._today()
        if self.left_usd() > self.part_usd / 2:
            return 0.0
        granted = await self._take(today, self.part_usd)
        self._grant(today, granted)
        return granted

    async def aclose(self) -> None:
        """Give back what was not spent."""
        from service.redis_link import RedisUnavailableError

        await super().aclose()
        held = self.left_usd()
        if held > 0:
            self.charge(held)
            try:
                await self._take(self._today(), -held)
            except RedisUnavailableError as error:
                logger.debug("%.6f USD of the day's exploration were not given back: %s", held, error)

    async def _take(self, day: int, usd: float) -> float:
        key = self._link.key("explore", str(day))
        (reply,) = await self._link.evaluate([(_TAKE, [key], [repr(usd), repr(self.usd_per_day)])])
        if isinstance(reply, Exception):
            raise reply
        granted = float(reply)
        return granted if math.isfinite(granted) else 0.0
