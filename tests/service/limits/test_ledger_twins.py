"""The ledger in Redis decides as the one in memory does, step by step, under a simulated clock."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.limits.ledger import Ledger
from service.limits.periods import period_id
from service.limits.redis_limiter import RedisLimiter, Verdict, _views
from service.limits.refusals import LimitExceededError
from service.limits.settings import Limits, RedisSettings
from service.limits.subjects import Subject
from service.redis_link import RedisLink

START = 1_709_250_000.0  # 29 February 2024, some minutes before midnight (UTC)
RUNS = itertools.count()

maybe = st.one_of
limits = st.builds(
    Limits,
    rpm=maybe(st.none(), st.integers(1, 5)),
    tpm=maybe(st.none(), st.integers(10, 100)),
    concurrency=maybe(st.none(), st.integers(1, 4)),
    budget_usd=st.sampled_from([None, 0.0, 0.5, 1.0, 1.0]),
    budget_period=st.sampled_from(["day", "week", "month", "total"]),
)
step = st.tuples(
    st.sampled_from(["take", "take", "settle", "cancel"]),
    st.sampled_from([0.0, 0.3, 7.0, 40.0, 20_000.0]),
    st.integers(0, 60),
    maybe(st.none(), st.sampled_from([0.0, 0.01, 0.07, 0.4])),
    maybe(st.none(), st.integers(0, 90)),
    st.integers(0, 100),
)


class Twins:
    """Both ledgers, given the same."""

    def __init__(self, link, subjects):
        self.now = START
        self.subjects = subjects
        self.ledger = Ledger()
        self.redis = RedisLimiter(link, clock=lambda: self.now)
        self.grants = []
        self.names = itertools.count()

    async def take(self, tokens, cost):
        name = f"twin-{next(self.names)}"
        verdict = self.ledger.take(name, self.subjects, tokens=tokens, cost_usd=cost, now=self.now)
        try:
            grant = await self.redis.acquire(self.subjects, tokens=tokens, cost_usd=cost)
        except LimitExceededError as error:
            self._same_refusal(verdict.refusal, error)
            return
        assert verdict.refusal is None
        self._same(verdict.views, grant.views)
        self.grants.append((name, grant))

    async def end(self, which, what, used, cost):
        if not self.grants:
            return
        name, grant = self.grants.pop(which % len(self.grants))
        if what == "settle":
            self.ledger.settle(name, self.subjects, tokens_taken=grant.tokens, tokens=used, cost_usd=cost, now=self.now)
            await self.redis.settle(grant, tokens=used, cost_usd=cost)
        else:
            self.ledger.cancel(name, self.subjects, tokens_taken=grant.tokens, now=self.now)
            await self.redis.cancel(grant)
        await self.redis.flush()
        assert not len(self.redis.outbox)
        await self.look()

    async def look(self):
        from service.limits import scripts

        arguments = [self.now, *("" if s.limits.budget_usd is None else s.limits.budget_period for s in self.subjects)]
        keys = self.redis._keys("", self.subjects)
        (reply,) = await self.redis.link.evaluate([(scripts.LOOK, keys, arguments)])
        verdict = Verdict(None, float(reply[0]), _views(reply, 2))
        self._same(self.ledger.look(self.subjects, now=self.now).views, verdict.views)

    def _same_refusal(self, refusal, error):
        assert refusal is not None, error
        assert (error.kind, error.dimension) == (self.subjects[refusal.place].kind, refusal.dimension)
        if error.retry_after_s is not None:
            assert error.retry_after_s == pytest.approx(refusal.wait_s, abs=1e-6)

    def _same(self, ours, theirs):
        for mine, other in zip(ours, theirs, strict=True):
            assert tuple(other) == pytest.approx(tuple(mine), abs=1e-6)


@given(st.lists(limits, min_size=1, max_size=3), st.lists(step, min_size=5, max_size=40))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_both_ledgers_agree(shared_redis, given_limits, steps):
    # A lease of the limiter is shorter than some pauses here: in the scripts' eyes nothing is lost.
    link = RedisLink(RedisSettings(url=shared_redis.url, prefix=f"twins{next(RUNS)}", timeout_s=5.0))
    kinds = ("key", "team", "gateway")
    subjects = tuple(Subject(kind, "x", each) for kind, each in zip(kinds, given_limits) if each.limited)
    twins = Twins(link, subjects)
    try:
        for what, pause, tokens, cost, used, which in steps if subjects else ():
            twins.now += pause
            if what == "take":
                await twins.take(tokens, cost)
            else:
                await twins.end(which, what, used, cost)
    finally:
        await link.aclose()


@pytest.fixture(autouse=True)
def _long_leases(monkeypatch):
    monkeypatch.setattr("service.limits.redis_limiter.LEASE_S", 1e9)


async def test_both_know_the_calendar(shared_redis):
    link = RedisLink(RedisSettings(url=shared_redis.url, prefix=f"twins{next(RUNS)}", timeout_s=5.0))
    clock = [0.0]
    redis = RedisLimiter(link, clock=lambda: clock[0])
    for kind in ("day", "week", "month", "total"):
        who = (Subject("key", kind, Limits(budget_usd=1, budget_period=kind)),)
        for days in range(0, 40_000, 613):
            clock[0] = days * 86_400.0 + 86_399.5
            await redis.cancel(await redis.acquire(who, tokens=0, cost_usd=0.01))
            account, _ = redis._account(who[0])
            period = await link.run(lambda client, account=account: client.hget(account, "period"))
            assert period.decode() == period_id(kind, clock[0])
    await link.aclose()
