"""Exact limits while Redis answers, a careful share of them while it does not.

A share is the limit divided by the number of replicas; of a budget, what was left when Redis was last heard, divided
likewise. When Redis returns it is told what was spent meanwhile, once, and takes over the requests under way.

What the shares do not know: without any word from Redis since the start, what was spent before; and requests and tokens
of the minute before the failure and after it are counted apart, so that each failure may let a share more through.
Limits of less than one a replica are rounded up to one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.limits.clock import steady_time
from service.limits.grant import NOTHING_LIMITED, Grant, as_usage, known_cost, open_verdict
from service.limits.ledger import Ledger, Refusal, Verdict
from service.limits.periods import period_id
from service.limits.redis_limiter import RedisLimiter
from service.limits.settings import Limits
from service.limits.subjects import Subject
from service.redis_link import RedisUnavailableError

logger = logging.getLogger(__name__)

_NOTE = "Limits are reduced while the gateway cannot reach the store that it shares with others."
_RETRY_S = 5.0


class _Unpushed:
    """What was spent of one subject in one period, and Redis does not know."""

    __slots__ = ("largest_usd", "subject", "usd")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.usd = 0.0
        self.largest_usd = 0.0


class ResilientLimiter:
    """Limits counted in Redis, and here while it is gone.

    Parameters
    ----------
    redis : RedisLimiter
        Counts while Redis answers.
    clock : callable
        Seconds since the epoch, for the time without Redis.
    """

    def __init__(self, redis: RedisLimiter, *, clock: Callable[[], float] = steady_time) -> None:
        self._redis = redis
        self._ledger = Ledger()
        self._clock = clock
        # Requests that were let through here, with the subjects as they are in full.
        self._live: dict[str, tuple[Grant, tuple[Subject, ...]]] = {}
        self._unpushed: dict[tuple[str, str], _Unpushed] = {}
        self._fallbacks = self._refused = 0
        redis.link.on_return(self._reconcile)

    def start(self) -> None:
        """Start what runs in the background; Redis need not be there."""
        self._redis.link.start()
        self._redis.start()

    async def acquire(
        self, subjects: tuple[Subject, ...], *, tokens: int, cost_usd: float | None, request_id: str = ""
    ) -> Grant:
        """See `service.limits.Limiter`."""
        if not subjects:
            return NOTHING_LIMITED
        try:
            return await self._redis.acquire(subjects, tokens=tokens, cost_usd=cost_usd, request_id=request_id)
        except RedisUnavailableError:
            return self._acquire_here(subjects, tokens=tokens, cost_usd=cost_usd, request_id=request_id)

    async def settle(self, grant: Grant, *, tokens: int | None, cost_usd: float | None) -> None:
        """See `service.limits.Limiter`."""
        if grant.home == "redis":
            await self._redis.settle(grant, tokens=tokens, cost_usd=cost_usd)
        elif grant.open:
            grant.open = False
            _, subjects = self._live.pop(grant.id, (grant, grant.subjects))
            cost = known_cost(cost_usd)
            self._ledger.settle(
                grant.id, grant.subjects, tokens_taken=grant.tokens, tokens=tokens, cost_usd=cost, now=self._clock()
            )
            self._spent(grant, subjects, cost)

    async def cancel(self, grant: Grant) -> None:
        """See `service.limits.Limiter`."""
        if grant.home == "redis":
            await self._redis.cancel(grant)
        elif grant.open:
            grant.open = False
            self._live.pop(grant.id, None)
            self._ledger.cancel(grant.id, grant.subjects, tokens_taken=grant.tokens, now=self._clock())

    async def usage(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """See `service.limits.Limiter`; what this replica knows while Redis is gone."""
        try:
            return await self._redis.usage(subjects)
        except RedisUnavailableError:
            verdict = self._ledger.look(subjects, now=self._clock())
        found = []
        for subject, view in zip(subjects, verdict.views, strict=True):
            spent, reserved = self._known(subject, verdict.now)
            whole = view._replace(spent=view.spent + spent, reserved=view.reserved + reserved)
            found.append(as_usage(subject, whole, verdict.now))
        return found

    def state(self) -> Mapping[str, Any]:
        """See `service.limits.Limiter`."""
        link = self._redis.link.state()
        state = dict(self._redis.state())
        return {
            **state,
            "mode": "redis" if link.status == "ok" else "local",
            "refused": state["refused"] + self._refused,
            "fallbacks": self._fallbacks,
            "unpushed_usd": sum(item.usd for item in self._unpushed.values()),
            "trouble": link.trouble,
        }

    async def flush(self) -> None:
        """Return when Redis has confirmed everything, or does not answer."""
        await self._redis.flush()

    async def aclose(self) -> None:
        """Tell Redis what has not been told, as far as it answers."""
        await self._redis.aclose()
        lost = sum(item.usd for item in self._unpushed.values())
        if lost:
            logger.error("%.6f USD spent while Redis was gone are not counted in any budget", lost)

    # Without Redis

    def _acquire_here(
        self, subjects: tuple[Subject, ...], *, tokens: int, cost_usd: float | None, request_id: str
    ) -> Grant:
        self._fallbacks += 1
        now = self._clock()
        shares = tuple(self._share(subject, now) for subject in subjects)
        grant = self._redis.new_id()
        verdict = self._ledger.take(grant, shares, tokens=tokens, cost_usd=known_cost(cost_usd), now=now, lenient=True)
        if verdict.refusal is not None:
            self._refused += 1
            verdict = self._softened(verdict, subjects)
        opened = open_verdict(
            verdict, shares, grant=grant, home="local", request_id=request_id, tokens=tokens, note=_NOTE
        )
        self._live[grant] = (opened, subjects)
        return opened

    def _share(self, subject: Subject, now: float) -> Subject:
        """Return the subject with what this replica may let through alone."""
        replicas, limits = self._redis.replicas, subject.limits
        share: dict[str, Any] = {"rpm": None, "tpm": None, "concurrency": None, "budget_usd": None}
        if limits.rpm is not None:
            share["rpm"] = max(limits.rpm // replicas, 1)
        if limits.tpm is not None:
            share["tpm"] = max(limits.tpm // replicas, 1)
        if limits.concurrency is not None:
            # What Redis let through here before it failed is still under way.
            share["concurrency"] = max(limits.concurrency // replicas, 1) - self._redis.in_flight[subject.name]
        if limits.budget_usd is not None:
            spent, reserved = self._known(subject, now)
            share["budget_usd"] = max(limits.budget_usd - spent - reserved, 0.0) / replicas
        # Not checked again: there may be no room left for a single request.
        return Subject(subject.kind, subject.id, Limits.model_construct(budget_period=limits.budget_period, **share))

    def _softened(self, verdict: Verdict, subjects: Sequence[Subject]) -> Verdict:
        """Return a refusal that tells the client to come back where only the share of a budget is used up."""
        if verdict.refusal is None or verdict.refusal.dimension != "budget":
            return verdict
        subject = subjects[verdict.refusal.place]
        spent, _ = self._known(subject, verdict.now)
        if spent >= (subject.limits.budget_usd or 0.0):
            return verdict
        return verdict._replace(refusal=Refusal(verdict.refusal.place, "reserved", _RETRY_S))

    def _known(self, subject: Subject, now: float) -> tuple[float, float]:
        """Return what Redis last said to be spent and reserved in the present period."""
        known = self._redis.known.get(subject.name)
        if known is None or known.period != period_id(subject.limits.budget_period, now):
            return 0.0, 0.0
        return known.spent, known.reserved

    # When Redis returns

    def _spent(self, grant: Grant, subjects: Sequence[Subject], cost: float | None) -> None:
        """Remember what Redis has to be told of a request that has ended here."""
        for subject, held in zip(subjects, grant.held, strict=True):
            usd = held if cost is None else cost
            if subject.limits.budget_usd is None or not usd:
                continue
            key = subject.name, period_id(subject.limits.budget_period, self._clock())
            item = self._unpushed.setdefault(key, _Unpushed(subject))
            item.usd += usd
            item.largest_usd = max(item.largest_usd, cost or 0.0)
        # Redis may be well: a request that had waited for it long enough was counted here.
        if self._unpushed and self._redis.link.state().status == "ok":
            self._push_all()

    def _push_all(self) -> None:
        for (name, period), item in self._unpushed.items():
            self._push(name, period, item)
        self._unpushed.clear()

    def _reconcile(self) -> None:
        self._push_all()
        for grant, subjects in self._live.values():
            for subject in grant.subjects:
                account = self._ledger.accounts.get(subject.name)
                if account is not None:
                    account.release(grant.id)
            # Requests and tokens were counted here, so that Redis has none to give back.
            self._redis.adopt(grant, tuple(_without_rates(subject) for subject in subjects))
        self._live.clear()

    def _push(self, name: str, period: str, item: _Unpushed) -> None:
        def confirmed() -> None:
            account = self._ledger.accounts.get(name)
            if account is not None and account.period == period:
                account.spent = max(account.spent - item.usd, 0.0)

        self._redis.charge(item.subject, period, item.usd, largest_usd=item.largest_usd, confirmed=confirmed)


def _without_rates(subject: Subject) -> Subject:
    return Subject(subject.kind, subject.id, subject.limits.model_copy(update={"rpm": None, "tpm": None}))
