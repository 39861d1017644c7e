"""How requests ended in both lanes, shared through Redis: one ordered list, which every replica counts alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from llmrouter.types import Outcome
from service.learning.canary_guard import value_of

if TYPE_CHECKING:
    from service.redis_link import RedisLink

Take = Callable[[Outcome, str], None]
"""Counts an outcome of a unit (a key, a session)."""

_MOST = 100_000
_WAITING = 20_000
_AT_ONCE = 500
_MOST_PAGES = 40
_KEPT_S = 30 * 86_400
_BEGINNING = "-"
_FIELD = "o"


class SharedOutcomes:
    """One Redis stream a trial. Each replica adds what it has seen and counts what all have, in the stream's order.

    What comes twice, because an answer of Redis was lost, is counted once: by its request id. A replica that starts
    later, or again, reads the stream from its beginning, of which Redis keeps the newest hundred thousand. Nothing of
    prompts and answers is in it.

    Parameters
    ----------
    link : RedisLink
        The connection.
    artifact_id : str
        What is on trial.
    """

    def __init__(self, link: RedisLink, artifact_id: str) -> None:
        self._link = link
        self._key = link.key("canary", artifact_id, "outcomes")
        self._cursor = _BEGINNING
        self._waiting: deque[tuple[Outcome, str]] = deque(maxlen=_WAITING)
        self._late: deque[tuple[Outcome, str]] = deque(maxlen=_WAITING)  # counted here while Redis was away

    def begin(self) -> None:
        """Count from the beginning again: the trial was begun anew."""
        self._cursor = _BEGINNING

    def note(self, outcome: Outcome, unit: str) -> None:
        """Take in an outcome of this replica, to be told with the next exchange."""
        if value_of("error_rate", outcome) is not None:
            self._waiting.append((outcome, unit))

    async def exchange(self, take: Take) -> None:
        """Tell what is new here, and count what is new anywhere.

        Raises
        ------
        RedisUnavailableError
            If Redis does not answer. What was to be told is counted here meanwhile, and told later.
        """
        from service.redis_link import RedisUnavailableError

        try:
            for queue in (self._late, self._waiting):
                while queue:
                    batch = [queue.popleft() for _ in range(min(len(queue), _AT_ONCE))]
                    try:
                        await self._tell(batch)
                    except BaseException:
                        queue.extendleft(reversed(batch))
                        raise
            await self._read(take)
        except RedisUnavailableError:
            while self._waiting:
                self._late.append(self._waiting.popleft())
                take(*self._late[-1])
            raise

    async def _tell(self, batch: Sequence[tuple[Outcome, str]]) -> None:
        lines = [_packed(outcome, unit) for outcome, unit in batch]

        async def job(redis: Any) -> None:
            pipeline = redis.pipeline(transaction=False)
            for line in lines:
                pipeline.xadd(self._key, {_FIELD: line}, maxlen=_MOST, approximate=True)
            pipeline.expire(self._key, _KEPT_S)
            await pipeline.execute()

        await self._link.run(job)

    async def _read(self, take: Take) -> None:
        for _ in range(_MOST_PAGES):
            first = self._cursor if self._cursor == _BEGINNING else f"({self._cursor}"

            async def job(redis: Any, first: str = first) -> Sequence[tuple[bytes, dict[bytes, bytes]]]:
                found: Sequence[tuple[bytes, dict[bytes, bytes]]] = await redis.xrange(
                    self._key, min=first, count=_AT_ONCE
                )
                return found

            entries = await self._link.run(job)
            for cursor, fields in entries:
                self._cursor = _text(cursor)
                for line in fields.values():
                    if (found := _unpacked(line)) is not None:
                        take(*found)
            if len(entries) < _AT_ONCE:
                return


def _packed(outcome: Outcome, unit: str) -> bytes:
    return orjson.dumps(
        [
            outcome.request_id,
            outcome.time,
            outcome.lane,
            outcome.artifact_id,
            unit,
            outcome.status,
            outcome.cost_usd,
            outcome.latency_s,
        ]
    )


def _unpacked(line: bytes | str) -> tuple[Outcome, str] | None:
    """Return an outcome as far as the guards look at it; None for a line of another version."""
    try:
        request_id, time, lane, artifact_id, unit, status, cost, latency = orjson.loads(line)
    except (ValueError, TypeError):
        return None
    outcome = Outcome(
        request_id,
        time,
        "",
        lane=lane,
        artifact_id=artifact_id,
        status=status,
        cost_usd=cost,
        latency_s=latency,
        candidates={"": {}},  # it was decided, not named by the client
    )
    return outcome, unit


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
