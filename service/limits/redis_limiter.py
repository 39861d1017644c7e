"""Limits that replicas share, exact: every decision is one script in Redis.

Scripts of requests that come together travel together. What ends a request is sent without anybody waiting for it, and
kept and sent again where Redis does not confirm it; the scripts allow for that.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from service.limits import scripts
from service.limits.grant import NOTHING_LIMITED, Grant, as_usage, known_cost, open_verdict
from service.limits.ledger import Refusal, Verdict, View
from service.limits.outbox import Call, Outbox
from service.limits.periods import period_id
from service.limits.subjects import Subject
from service.redis_link import RedisLink, RedisUnavailableError

logger = logging.getLogger(__name__)

LEASE_S = 60.0
"""A request counts as lost when its replica has not renewed it for that many seconds."""

_BEAT_S = 5.0
# Shorter requests end before anybody could take them for lost.
_RENEW_AFTER_S = 15.0
_GONE_AFTER_S = 16.0
_RENEWED_TOGETHER = 500
_VALUES = 6


class Known(NamedTuple):
    """What Redis last said of a subject's money: period, US dollars spent and reserved, and the epoch of its data."""

    period: str
    spent: float
    reserved: float
    epoch: str


class RedisLimiter:
    """Limits counted in Redis.

    Parameters
    ----------
    link : RedisLink
        The connection.
    clock : callable, optional
        Seconds since the epoch, for tests and replays; by default Redis's own.
    """

    def __init__(self, link: RedisLink, *, clock: Callable[[], float] | None = None) -> None:
        self.link = link
        self.outbox = Outbox(link)
        self.known: dict[str, Known] = {}
        self.in_flight: Counter[str] = Counter()
        self._clock = clock
        self._replica = secrets.token_hex(6)
        self._ids = itertools.count(1)
        self._live: dict[str, tuple[Grant, float]] = {}
        self._adopted: set[str] = set()
        self._beating: asyncio.Task[None] | None = None
        self._seen = 1
        self._epoch = ""
        self._refused = 0

    @property
    def replicas(self) -> int:
        """Among how many gateways limits are divided while Redis is gone."""
        return self.link.settings.replicas or self._seen

    def new_id(self) -> str:
        """Return a name for a grant that no other replica gives."""
        return f"{self._replica}-{next(self._ids)}"

    def start(self) -> None:
        """Begin to tell the others that this replica lives."""
        if self._beating is None:
            self._beating = asyncio.get_running_loop().create_task(self._beat_always(), name="limits-beat")

    async def acquire(
        self, subjects: tuple[Subject, ...], *, tokens: int, cost_usd: float | None, request_id: str = ""
    ) -> Grant:
        """See `service.limits.Limiter`.

        Raises
        ------
        RedisUnavailableError
            If Redis does not answer in time; then nothing is counted.
        """
        if not subjects:
            return NOTHING_LIMITED
        grant = self.new_id()
        keys = self._keys(grant, subjects)
        arguments: list[Any] = [grant, self._now(), LEASE_S, tokens, _number(known_cost(cost_usd))]
        for subject in subjects:
            limits = subject.limits
            arguments += (_number(limits.rpm), _number(limits.tpm), _number(limits.concurrency))
            arguments += (_number(limits.budget_usd), limits.budget_period, *self._knowledge(subject))

        def undo() -> Call:
            return self._end_call("cancel", grant, subjects, tokens=tokens, mark=True)

        reply = await self.outbox.ask((scripts.TAKE, keys, arguments), undo=undo)
        verdict, epoch = _verdict(reply), reply[2].decode()
        self._learn(subjects, verdict, epoch)
        self._refused += verdict.refusal is not None
        opened = open_verdict(
            verdict, subjects, grant=grant, home="redis", request_id=request_id, tokens=tokens, epoch=epoch
        )
        self._enter(opened)
        return opened

    async def settle(self, grant: Grant, *, tokens: int | None, cost_usd: float | None) -> None:
        """See `service.limits.Limiter`; Redis is told later."""
        if grant.open:
            self._end(grant, "settle", used=tokens, cost_usd=known_cost(cost_usd))

    async def cancel(self, grant: Grant) -> None:
        """See `service.limits.Limiter`; Redis is told later."""
        if grant.open:
            self._end(grant, "cancel")

    async def usage(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """See `service.limits.Limiter`.

        Raises
        ------
        RedisUnavailableError
            If Redis does not answer in time.
        """
        arguments = [self._now(), *(_budget_period(subject) for subject in subjects)]
        reply = await self.outbox.ask((scripts.LOOK, self._keys("", subjects), arguments))
        now, views = float(reply[0]), _views(reply, 2)
        return [as_usage(subject, view, now) for subject, view in zip(subjects, views, strict=True)]

    def adopt(self, grant: Grant, subjects: tuple[Subject, ...]) -> None:
        """Take over a request that was let through while Redis was gone; it may count for less from now on."""
        grant.subjects, grant.home = subjects, "redis"
        self._enter(grant)
        self._adopt(grant)

    def _adopt(self, grant: Grant) -> None:
        self._adopted.add(grant.id)
        subjects = grant.subjects
        keys = self._keys(grant.id, subjects)
        arguments: list[Any] = [grant.id, self._now(), LEASE_S]
        for subject, held in zip(subjects, grant.held, strict=True):
            arguments += (_budget_period(subject), held)

        def adopted(reply: Any) -> None:
            grant.epoch = reply.decode()

        self.outbox.send(lambda: (scripts.ADOPT, keys, arguments), adopted)

    def charge(
        self, subject: Subject, period: str, usd: float, *, largest_usd: float, confirmed: Callable[[], None]
    ) -> None:
        """Add what was spent while Redis was gone, once; `confirmed` is called when it is counted there."""
        account, leases = self._account(subject)
        keys = [account, leases, self.link.key("limits", "charged", self.new_id()), self.link.key("limits", "epoch")]
        given = [self._now(), _budget_period(subject), period, usd, largest_usd]

        def counted(_reply: Any) -> None:
            known = self.known.get(subject.name)
            if known is not None and known.period == period:
                self.known[subject.name] = known._replace(spent=known.spent + usd)
            confirmed()

        self.outbox.send(lambda: (scripts.CHARGE, keys, [*given, *self._knowledge(subject)]), counted)

    async def flush(self) -> None:
        """Return when Redis has confirmed everything, or does not answer."""
        await self.outbox.flush()

    def state(self) -> Mapping[str, Any]:
        """See `service.limits.Limiter`."""
        return {"mode": "redis", "refused": self._refused, "unconfirmed": len(self.outbox), "replicas": self.replicas}

    async def aclose(self) -> None:
        """Tell Redis what has not been told, as far as it answers."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        await self.outbox.aclose()

    # Requests under way

    def _enter(self, grant: Grant) -> None:
        self._live[grant.id] = (grant, time.monotonic())
        for subject in grant.subjects:
            self.in_flight[subject.name] += 1

    def _end(self, grant: Grant, what: str, *, used: int | None = None, cost_usd: float | None = None) -> None:
        adopted = self._adopted
        grant.open = False
        self._live.pop(grant.id, None)
        for subject in grant.subjects:
            self.in_flight[subject.name] -= 1
            if self.in_flight[subject.name] <= 0:
                del self.in_flight[subject.name]

        def ended(reply: Any) -> None:
            adopted.discard(grant.id)
            self._learn(grant.subjects, Verdict(None, float(reply[0]), _views(reply, 2)), reply[1].decode())

        self.outbox.send(
            lambda: self._end_call(
                what,
                grant.id,
                grant.subjects,
                tokens=grant.tokens,
                used=used,
                cost_usd=cost_usd,
                epoch=grant.epoch,
                mark=grant.id in adopted,
            ),
            ended,
        )

    def _end_call(
        self,
        what: str,
        grant: str,
        subjects: Sequence[Subject],
        *,
        tokens: int,
        used: int | None = None,
        cost_usd: float | None = None,
        epoch: str = "",
        mark: bool = False,
    ) -> Call:
        arguments: list[Any] = [grant, self._now(), what, tokens, _number(used), _number(cost_usd), epoch, int(mark)]
        for subject in subjects:
            limits = subject.limits
            arguments += (_number(limits.rpm), _number(limits.tpm), _number(limits.budget_usd), limits.budget_period)
            arguments += self._knowledge(subject)
        return scripts.END, self._keys(grant, subjects), arguments

    async def _beat_always(self) -> None:
        while True:
            try:
                await self._beat()
            except RedisUnavailableError as error:
                logger.debug("no beat: %s", error)
            await asyncio.sleep(_BEAT_S)

    async def _beat(self) -> None:
        """Tell that this replica and its requests live, and count the replicas."""
        now = time.monotonic()
        leases = [
            (self._account(subject)[1], grant.id)
            for grant, began in list(self._live.values())
            if now - began > _RENEW_AFTER_S
            for subject in grant.subjects
        ]
        for i in range(0, max(len(leases), 1), _RENEWED_TOGETHER):
            part = leases[i : i + _RENEWED_TOGETHER]
            keys = [self.link.key("replicas"), *(key for key, _ in part)]
            arguments = [self._now(), self._replica, _GONE_AFTER_S, LEASE_S, *(grant for _, grant in part)]
            (count,) = await self.link.evaluate([(scripts.BEAT, keys, arguments)])
            if isinstance(count, int):
                self._seen = max(count, 1)

    # Keys and replies

    def _account(self, subject: Subject) -> tuple[str, str]:
        account = self.link.key("limits", subject.name)
        return account, f"{account}:leases"

    def _keys(self, grant: str, subjects: Sequence[Subject]) -> list[str]:
        keys = [self.link.key("limits", "epoch"), self.link.key("limits", "void", grant)]
        for subject in subjects:
            keys += self._account(subject)
        return keys

    def _now(self) -> float | str:
        return "" if self._clock is None else self._clock()

    def _knowledge(self, subject: Subject) -> tuple[float | str, str, str]:
        known = self.known.get(subject.name)
        return ("", "", "") if known is None else (known.spent, known.period, known.epoch)

    def _learn(self, subjects: Sequence[Subject], verdict: Verdict, epoch: str) -> None:
        for subject, view in zip(subjects, verdict.views, strict=True):
            if subject.limits.budget_usd is not None:
                period = period_id(subject.limits.budget_period, verdict.now)
                self.known[subject.name] = Known(period, view.spent, view.reserved, epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            # Redis has lost its data, and with them the requests under way.
            for grant, _ in list(self._live.values()):
                if grant.epoch != epoch:
                    self._adopt(grant)


def _number(value: float | None) -> float | str:
    return "" if value is None else value


def _budget_period(subject: Subject) -> str:
    return "" if subject.limits.budget_usd is None else subject.limits.budget_period


def _views(reply: Sequence[Any], start: int) -> list[View]:
    return [
        View(
            requests_full=float(reply[i]),
            tokens_full=float(reply[i + 1]),
            in_flight=int(reply[i + 2]),
            spent=float(reply[i + 3]),
            reserved=float(reply[i + 4]),
            held=float(reply[i + 5]),
        )
        for i in range(start, len(reply), _VALUES)
    ]


def _verdict(reply: Sequence[Any]) -> Verdict:
    passed, now, _, index, dimension, wait_s = reply[:6]
    if not passed and dimension == b"void":
        raise RedisUnavailableError("this request was given up before Redis counted it")
    refusal = None if passed else Refusal(int(index), dimension.decode(), float(wait_s))
    return Verdict(refusal, float(now), _views(reply, 6))
