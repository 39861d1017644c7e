from __future__ import annotations

import asyncio

import pytest

from service.limits.redis_limiter import RedisLimiter
from service.limits.refusals import LimitExceededError
from service.limits.settings import Limits
from service.limits.subjects import Subject
from service.redis_link import RedisLink

NOON = 1_700_000_000.0


class Replica:
    """One of several gateways on a simulated clock."""

    def __init__(self, settings, clock):
        self.link = RedisLink(settings)
        self.limiter = RedisLimiter(self.link, clock=lambda: clock[0])

    async def aclose(self):
        await self.limiter.aclose()
        await self.link.aclose()


@pytest.fixture
async def replicas(shared_settings):
    clock = [NOON]
    made = [Replica(shared_settings, clock) for _ in range(2)]
    yield made[0].limiter, made[1].limiter, clock
    for replica in made:
        await replica.aclose()


def key(**limits):
    return (Subject("key", "alice", Limits(**limits)),)


async def spent(limiter, subjects):
    await limiter.flush()
    (usage,) = await limiter.usage(subjects)
    return usage


async def test_replicas_share_what_is_left(replicas):
    one, two, clock = replicas
    who = key(rpm=2, tpm=100)
    grant = await one.acquire(who, tokens=30, cost_usd=0)
    assert grant.headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "70",
        "x-ratelimit-reset-tokens": "18s",
    }
    await two.acquire(who, tokens=30, cost_usd=0)
    with pytest.raises(LimitExceededError, match="key 'alice' on requests per min") as caught:
        await one.acquire(who, tokens=30, cost_usd=0)
    assert caught.value.headers["retry-after-ms"] == "30000"
    clock[0] += 30.001
    await one.acquire(who, tokens=30, cost_usd=0)


async def test_settling_twice_counts_once(replicas):
    one, two, _ = replicas
    who = key(budget_usd=1)
    grant = await one.acquire(who, tokens=0, cost_usd=0.05)
    await one.settle(grant, tokens=None, cost_usd=0.02)
    await one.settle(grant, tokens=None, cost_usd=0.02)
    await one.cancel(grant)
    assert await spent(one, who) == await spent(two, who)
    usage = await spent(one, who)
    assert (usage["spent_usd"], usage["reserved_usd"], usage["in_flight"]) == (0.02, 0.0, 0)
    assert usage["period_ends"] == "2023-12-01T00:00:00Z"


async def test_a_request_that_died_with_its_replica_is_charged_and_frees_its_place(replicas):
    one, two, clock = replicas
    who = key(concurrency=1, budget_usd=1)
    grant = await one.acquire(who, tokens=0, cost_usd=0.01)
    with pytest.raises(LimitExceededError, match="at the same time"):
        await two.acquire(who, tokens=0, cost_usd=0.01)
    clock[0] += 61
    await two.acquire(who, tokens=0, cost_usd=0.01)
    assert (await spent(two, who))["spent_usd"] == pytest.approx(0.1)
    # It was only slow to answer after all: what it really cost replaces what was charged.
    await one.settle(grant, tokens=None, cost_usd=0.3)
    assert (await spent(one, who))["spent_usd"] == pytest.approx(0.3)


async def test_a_live_replica_keeps_its_requests(replicas, monkeypatch):
    one, two, clock = replicas
    monkeypatch.setattr("service.limits.redis_limiter._RENEW_AFTER_S", -1)
    who = key(concurrency=1)
    await one.acquire(who, tokens=0, cost_usd=0)
    for _ in range(3):
        clock[0] += 40
        await one._beat()
    with pytest.raises(LimitExceededError):
        await two.acquire(who, tokens=0, cost_usd=0)


async def test_replicas_are_counted_while_they_beat(replicas):
    one, two, clock = replicas
    await one._beat()
    assert one.replicas == 1
    await two._beat()
    await one._beat()
    assert (one.replicas, two.replicas) == (2, 2)
    clock[0] += 20
    await one._beat()
    assert one.replicas == 1


async def test_requests_that_come_together_travel_together(replicas):
    one, _, _ = replicas
    calls = []
    evaluate = one.link.evaluate

    async def counted(batch):
        calls.append(len(batch))
        return await evaluate(batch)

    one.link.evaluate = counted
    who = key(rpm=100, concurrency=100)
    grants = await asyncio.gather(*(one.acquire(who, tokens=0, cost_usd=0) for _ in range(50)))
    assert len({grant.id for grant in grants}) == 50
    assert calls == [50]


async def test_a_client_that_hangs_up_while_redis_is_asked_leaves_nothing_behind(replicas):
    one, _, _ = replicas
    who = key(rpm=10, concurrency=10)
    await one.link.run(lambda redis: redis.ping())
    for rounds in range(6):
        task = asyncio.ensure_future(one.acquire(who, tokens=0, cost_usd=0))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():  # the reply was faster
            await one.cancel(task.result())
    await asyncio.sleep(0)
    usage = await spent(one, who)
    assert (usage["in_flight"], usage["requests_remaining"]) == (0, 10)
    assert one.in_flight == {}


async def test_nothing_limited_asks_nobody(shared_settings):
    link = RedisLink(shared_settings.model_copy(update={"prefix": "nobody"}))
    grant = await RedisLimiter(link).acquire((), tokens=10, cost_usd=1.0)
    assert grant.headers() == {}
    await RedisLimiter(link).settle(grant, tokens=1, cost_usd=1.0)
    assert link.state().trouble == "not asked yet"
    await link.aclose()


async def test_scripts_are_loaded_again_where_redis_forgot_them(replicas, shared_redis):
    one, _, _ = replicas
    who = key(rpm=10)
    await one.acquire(who, tokens=0, cost_usd=0)
    shared_redis.command("SCRIPT", "FLUSH")
    grants = await asyncio.gather(*(one.acquire(who, tokens=0, cost_usd=0) for _ in range(3)))
    assert grants[-1].headers()["x-ratelimit-remaining-requests"] == "6"


async def test_redis_own_clock_is_used_by_default(shared_settings):
    link = RedisLink(shared_settings)
    limiter = RedisLimiter(link)
    who = key(rpm=600, budget_usd=1, budget_period="total")
    grant = await limiter.acquire(who, tokens=0, cost_usd=0.01)
    await asyncio.sleep(0.3)
    (usage,) = await limiter.usage(who)
    assert usage["requests_remaining"] == 600
    assert usage["period_ends"] is None
    await limiter.settle(grant, tokens=0, cost_usd=0)
    await limiter.aclose()
    await link.aclose()
