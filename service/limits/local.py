"""Limits of a gateway that is alone: counted in memory, money kept on disk."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmrouter.exceptions import ConfigError, StoreError
from service.limits.clock import steady_time
from service.limits.grant import NOTHING_LIMITED, Grant, as_usage, known_cost, open_verdict
from service.limits.journal import SpendJournal, dirty_rows, restore
from service.limits.ledger import Ledger
from service.limits.subjects import Subject

logger = logging.getLogger(__name__)

_WRITE_EVERY_S = 0.5


class LocalLimiter:
    """Limits within one process.

    Parameters
    ----------
    journal : SpendJournal, optional
        Where money is kept, at most a second behind; without one it is forgotten on restart.
    eager : bool
        Open the journal at the start instead of when the first budget is used.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(
        self,
        journal: SpendJournal | None = None,
        *,
        eager: bool = False,
        clock: Callable[[], float] = steady_time,
    ) -> None:
        self.ledger = Ledger()
        self._journal = journal
        self._eager = eager
        self._clock = clock
        self._ids = itertools.count(1)
        self._opening: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._refused = 0
        self._trouble = ""

    def start(self) -> None:
        """Open the journal if budgets are configured or it exists.

        Raises
        ------
        ConfigError
            If another process has it, or it cannot be used.
        """
        if self._journal is not None and (self._eager or self._journal.path.exists()):
            restore(self.ledger, self._journal.open())
            self._writing = asyncio.get_running_loop().create_task(self._write_always(), name="limits-journal")

    async def acquire(
        self, subjects: tuple[Subject, ...], *, tokens: int, cost_usd: float | None, request_id: str = ""
    ) -> Grant:
        """See `service.limits.Limiter`."""
        if not subjects:
            return NOTHING_LIMITED
        if self._writing is None and self._journal is not None and _budgeted(subjects):
            await self._open()
        grant = f"local-{next(self._ids)}"
        verdict = self.ledger.take(grant, subjects, tokens=tokens, cost_usd=known_cost(cost_usd), now=self._clock())
        self._refused += verdict.refusal is not None
        return open_verdict(verdict, subjects, grant=grant, home="local", request_id=request_id, tokens=tokens)

    async def settle(self, grant: Grant, *, tokens: int | None, cost_usd: float | None) -> None:
        """See `service.limits.Limiter`."""
        if not grant.open:
            return
        grant.open = False
        self.ledger.settle(
            grant.id,
            grant.subjects,
            tokens_taken=grant.tokens,
            tokens=tokens,
            cost_usd=known_cost(cost_usd),
            now=self._clock(),
        )

    async def cancel(self, grant: Grant) -> None:
        """See `service.limits.Limiter`."""
        if not grant.open:
            return
        grant.open = False
        self.ledger.cancel(grant.id, grant.subjects, tokens_taken=grant.tokens, now=self._clock())

    async def usage(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """See `service.limits.Limiter`."""
        if self._writing is None and self._journal is not None and self._journal.path.exists():
            await self._open()
        verdict = self.ledger.look(subjects, now=self._clock())
        return [as_usage(subject, view, verdict.now) for subject, view in zip(subjects, verdict.views, strict=True)]

    def state(self) -> Mapping[str, Any]:
        """See `service.limits.Limiter`."""
        return {"mode": "local", "refused": self._refused, "fallbacks": 0, "trouble": self._trouble}

    async def flush(self) -> None:
        """Write what has changed; where that fails it is tried again later."""
        if self._journal is None or not self._journal.is_open or not self.ledger.dirty:
            return
        rows = dirty_rows(self.ledger)
        try:
            await asyncio.to_thread(self._journal.write, rows)
        except StoreError as error:
            self.ledger.dirty.update(row[0] for row in rows)
            self._in_trouble(str(error))
        else:
            self._trouble = ""

    async def aclose(self) -> None:
        """Write what has changed and close the journal."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
            self._writing = None
        await self.flush()
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)

    async def _open(self) -> None:
        """Open the journal, once for all that ask at the same time."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open_once())
        await asyncio.shield(self._opening)

    async def _open_once(self) -> None:
        assert self._journal is not None  # noqa: S101 - asked by the callers
        try:
            rows = await asyncio.to_thread(self._journal.open)
        except ConfigError as error:
            # The request is not to blame; a file that is known from the start to be needed fails the start instead.
            self._in_trouble(f"{error}; budgets are counted in memory")
        else:
            restore(self.ledger, rows)
        self._writing = asyncio.get_running_loop().create_task(self._write_always(), name="limits-journal")

    async def _write_always(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            await self.flush()

    def _in_trouble(self, trouble: str) -> None:
        if not self._trouble:
            logger.error("limits: %s", trouble)
        self._trouble = trouble


def _budgeted(subjects: Sequence[Subject]) -> bool:
    return any(subject.limits.budget_usd is not None for subject in subjects)
