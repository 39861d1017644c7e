"""Scripts on their way to Redis: in order, those that come together in one round trip, kept until confirmed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from service.redis_link import RedisLink, RedisUnavailableError, Script

logger = logging.getLogger(__name__)

Call = tuple[Script, Sequence[str], Sequence[Any]]

_TOGETHER = 100
_LAST_WORDS_S = 2.0


class _Item:
    """A call; either somebody waits for its reply, or it is kept until there is one."""

    __slots__ = ("answer", "confirmed", "make", "sent", "undo")

    def __init__(
        self,
        make: Callable[[], Call],
        *,
        answer: asyncio.Future[Any] | None = None,
        undo: Callable[[], Call] | None = None,
        confirmed: Callable[[Any], None] | None = None,
    ) -> None:
        self.make = make
        self.answer = answer
        self.undo = undo
        self.confirmed = confirmed
        self.sent = False


class Outbox:
    """Send scripts.

    Parameters
    ----------
    link : RedisLink
        The connection. When Redis returns, everything unconfirmed is sent again.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._queue: deque[_Item] = deque()
        self._sending: asyncio.Task[None] | None = None
        link.on_return(self._wake)

    def __len__(self) -> int:
        return len(self._queue)

    async def ask(self, call: Call, *, undo: Callable[[], Call] | None = None) -> Any:
        """Return the reply to a call that is not sent again.

        Parameters
        ----------
        call : tuple
            Script, keys, arguments.
        undo : callable, optional
            Makes the call that takes it back: sent where it may have run and nobody has the reply.

        Raises
        ------
        RedisUnavailableError
            If there is none in time.
        """
        self._link.check()
        limit_s = self._link.left_s()
        if limit_s <= 0:
            raise RedisUnavailableError("this request has waited for Redis long enough")
        item = _Item(lambda: call, answer=asyncio.get_running_loop().create_future(), undo=undo)
        began = time.perf_counter()
        self._queue.append(item)
        self._wake()
        assert item.answer is not None  # noqa: S101 - for the type checker
        try:
            async with asyncio.timeout(limit_s):
                return await item.answer
        except TimeoutError as error:
            self._give_up(item)
            raise RedisUnavailableError(f"Redis did not answer within {limit_s:g} s") from error
        except asyncio.CancelledError:
            self._give_up(item)
            raise
        finally:
            self._link.waited(time.perf_counter() - began)

    def send(self, make: Callable[[], Call], confirmed: Callable[[Any], None] | None = None) -> None:
        """Send a call that may be repeated, until there is a reply.

        Parameters
        ----------
        make : callable
            Makes the call when its turn comes.
        confirmed : callable, optional
            Gets the reply.
        """
        self._queue.append(_Item(make, confirmed=confirmed))
        self._wake()

    async def flush(self) -> None:
        """Return when everything is confirmed, or Redis does not answer."""
        while self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])

    async def aclose(self) -> None:
        """Send what is left, as far as Redis answers."""
        self._wake()
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_LAST_WORDS_S)
            self._sending.cancel()
        if self._queue:
            logger.warning("%d messages about limits were not delivered to Redis", len(self._queue))

    def _give_up(self, item: _Item) -> None:
        if item.answer is not None:
            item.answer.cancel()
        if item.sent and item.undo is not None:
            self.send(item.undo)
            item.undo = None

    def _wake(self) -> None:
        if self._queue and (self._sending is None or self._sending.done()):
            self._sending = asyncio.get_running_loop().create_task(self._send_all(), name="limits-outbox")

    async def _send_all(self) -> None:
        while batch := self._next():
            try:
                replies = await self._link.evaluate([item.make() for item in batch])
            except RedisUnavailableError as error:
                self._keep(batch, error)
                return
            for item, reply in zip(batch, replies, strict=True):
                self._deliver(item, reply)

    def _next(self) -> list[_Item]:
        batch: list[_Item] = []
        while self._queue and len(batch) < _TOGETHER:
            item = self._queue.popleft()
            if item.answer is None or not item.answer.done():
                item.sent = True
                batch.append(item)
        return batch

    def _deliver(self, item: _Item, reply: Any) -> None:
        failed = isinstance(reply, Exception)
        if item.answer is not None:
            if item.answer.done():
                return  # given up meanwhile, and undone
            if failed:
                item.answer.set_exception(RedisUnavailableError(f"Redis refused a script: {reply}"))
            else:
                item.answer.set_result(reply)
        elif failed:
            logger.error("Redis refused a script, which is given up: %s", reply)
        elif item.confirmed is not None:
            try:
                item.confirmed(reply)
            except Exception:
                logger.exception("a reply of Redis was not understood")

    def _keep(self, batch: Sequence[_Item], error: RedisUnavailableError) -> None:
        """Tell those that wait; keep the rest in order, and take back what may have run."""
        kept: deque[_Item] = deque()
        for item in (*batch, *self._queue):
            if item.answer is None:
                kept.append(item)
                continue
            if not item.answer.done():
                item.answer.set_exception(RedisUnavailableError(str(error)))
            if item.sent and item.undo is not None:
                kept.append(_Item(item.undo))
                item.undo = None
        self._queue = kept
