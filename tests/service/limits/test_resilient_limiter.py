from __future__ import annotations

import asyncio
import time

import pytest

from service.limits.redis_limiter import RedisLimiter
from service.limits.refusals import LimitExceededError
from service.limits.resilient import ResilientLimiter
from service.limits.settings import Limits
from service.limits.subjects import Subject
from service.redis_link import RedisLink

SOON_S = 1.0


def key(**limits):
    return (Subject("key", "alice", Limits(budget_period="total", **limits)),)


class Replica:
    """A limiter with its connection."""

    def __init__(self, settings):
        self.link = RedisLink(settings)
        self.limiter = ResilientLimiter(RedisLimiter(self.link))
        self.limiter.start()

    async def until_well(self):
        deadline = time.monotonic() + 15
        while self.link.state().status != "ok":
            assert time.monotonic() < deadline, self.link.state()
            await asyncio.sleep(0.02)
        await self.limiter.flush()

    async def spent(self, who):
        await self.limiter.flush()
        (usage,) = await self.limiter.usage(who)
        return usage

    async def aclose(self):
        await self.limiter.aclose()
        await self.link.aclose()


@pytest.fixture
async def replicas(own_settings):
    made = [Replica(own_settings) for _ in range(2)]
    for replica in made:
        await replica.until_well()
    yield made
    for replica in made:
        await replica.aclose()


async def test_a_frozen_redis_holds_nobody_up_and_leaves_each_replica_its_share(replicas, own_redis):
    one, two = replicas
    who = key(rpm=10, concurrency=8)
    await one.limiter.acquire(who, tokens=0, cost_usd=0)
    own_redis.freeze()
    for replica, passed in ((one, 3), (two, 4)):
        began = time.perf_counter()
        grants = [await replica.limiter.acquire(who, tokens=0, cost_usd=0) for _ in range(passed)]
        assert time.perf_counter() - began < SOON_S
        assert all(grant.home == "local" for grant in grants)
        # Of 8 at the same time each may have 4; the first has one that Redis let through before.
        with pytest.raises(LimitExceededError, match="Limits are reduced") as caught:
            await replica.limiter.acquire(who, tokens=0, cost_usd=0)
        assert caught.value.dimension == "concurrency"
        assert replica.limiter.state()["mode"] == "local"
    own_redis.thaw()


async def test_what_was_spent_meanwhile_is_counted_once(replicas, own_redis):
    one, two = replicas
    who = key(budget_usd=10)
    before = await one.limiter.acquire(who, tokens=0, cost_usd=0.1)
    own_redis.freeze()
    meanwhile = [await one.limiter.acquire(who, tokens=0, cost_usd=0.1) for _ in range(3)]
    await one.limiter.settle(before, tokens=None, cost_usd=0.5)
    await one.limiter.settle(meanwhile[0], tokens=None, cost_usd=0.25)
    await one.limiter.cancel(meanwhile[1])
    own_redis.thaw()
    for replica in replicas:
        await replica.limiter.acquire((Subject("key", "other", Limits(rpm=9)),), tokens=0, cost_usd=0)
        await replica.until_well()
    usage = await two.spent(who)
    assert usage["spent_usd"] == pytest.approx(0.75)
    # What is still under way is known to Redis now.
    assert usage["in_flight"] == 1
    await one.limiter.settle(meanwhile[2], tokens=None, cost_usd=0.125)
    await one.limiter.flush()
    usage = await two.spent(who)
    assert (usage["spent_usd"], usage["reserved_usd"], usage["in_flight"]) == (pytest.approx(0.875), 0.0, 0)
    assert one.limiter.state()["unpushed_usd"] == 0


async def test_again_and_again(replicas, own_redis):
    one, _ = replicas
    who = key(budget_usd=100)
    spent = 0.0
    for turn in range(4):
        grants = [await one.limiter.acquire(who, tokens=0, cost_usd=0.01) for _ in range(3)]
        own_redis.freeze()
        grants += [await one.limiter.acquire(who, tokens=0, cost_usd=0.01) for _ in range(3)]
        for grant in grants[:4]:
            await one.limiter.settle(grant, tokens=None, cost_usd=0.03)
        own_redis.thaw()
        await one.until_well()
        for grant in grants[4:]:
            await one.limiter.settle(grant, tokens=None, cost_usd=0.03)
        spent += 6 * 0.03
        await one.limiter.flush()
        usage = await one.spent(who)
        assert usage["spent_usd"] == pytest.approx(spent), turn
        assert (usage["reserved_usd"], usage["in_flight"]) == (0.0, 0)


async def test_the_share_of_a_budget_is_what_was_left_divided(replicas, own_redis):
    one, _ = replicas
    who = key(budget_usd=1.0)
    grant = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    await one.limiter.settle(grant, tokens=None, cost_usd=0.2)
    await one.limiter.flush()
    own_redis.kill()
    for _ in range(4):  # (1 - 0.2) / 2 in all
        grant = await one.limiter.acquire(who, tokens=0, cost_usd=0.1)
        await one.limiter.settle(grant, tokens=None, cost_usd=0.1)
    with pytest.raises(LimitExceededError) as caught:
        await one.limiter.acquire(who, tokens=0, cost_usd=0.1)
    # Not the budget is used up, but what may be spent of it now: the client is to come back.
    assert (caught.value.body["error"]["code"], caught.value.headers["retry-after"]) == ("rate_limit_exceeded", "5")


async def test_a_budget_that_was_used_up_stays_so(replicas, own_redis):
    one, _ = replicas
    who = key(budget_usd=1.0)
    grant = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    await one.limiter.settle(grant, tokens=None, cost_usd=1.0)
    await one.limiter.flush()
    own_redis.kill()
    with pytest.raises(LimitExceededError) as caught:
        await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    assert caught.value.body["error"]["code"] == "insufficient_quota"


async def test_redis_that_has_lost_its_data_learns_again_what_was_spent(replicas, own_redis):
    one, _ = replicas
    who = key(budget_usd=10.0, concurrency=8)
    grant = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    await one.limiter.settle(grant, tokens=None, cost_usd=0.4)
    under_way = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    ended = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    await one.limiter.flush()
    own_redis.restart()
    meanwhile = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    assert meanwhile.home == "local"
    await one.limiter.settle(meanwhile, tokens=None, cost_usd=0.05)
    await one.limiter.settle(ended, tokens=None, cost_usd=0.1)
    await one.until_well()
    last = await one.limiter.acquire(who, tokens=0, cost_usd=0.01)
    await one.limiter.flush()
    usage = await one.spent(who)
    assert usage["spent_usd"] == pytest.approx(0.55)
    assert usage["in_flight"] == 2
    for grant in (under_way, last):
        await one.limiter.settle(grant, tokens=None, cost_usd=0.1)
    await one.limiter.flush()
    usage = await one.spent(who)
    assert (usage["spent_usd"], usage["reserved_usd"], usage["in_flight"]) == (pytest.approx(0.75), 0.0, 0)


async def test_starts_without_redis(own_settings, own_redis):
    own_redis.kill()
    replica = Replica(own_settings)
    who = key(rpm=4, budget_usd=1)
    grant = await replica.limiter.acquire(who, tokens=0, cost_usd=0.01)
    assert (grant.home, grant.headers()["x-ratelimit-limit-requests"]) == ("local", "2")
    (usage,) = await replica.limiter.usage(who)
    assert usage["in_flight"] == 1
    own_redis.restart()
    await replica.until_well()
    await replica.limiter.settle(grant, tokens=None, cost_usd=0.01)
    assert (await replica.spent(who))["spent_usd"] == pytest.approx(0.01)
    await replica.aclose()


async def test_a_reply_that_came_too_late_counts_for_nobody(replicas, own_redis):
    """What Redis still reads from the connection after it thaws is taken back, in whatever order that comes."""
    one, _ = replicas
    who = key(rpm=10, budget_usd=1, concurrency=10)
    await one.limiter.acquire((Subject("key", "other", Limits(rpm=9)),), tokens=0, cost_usd=0)
    own_redis.freeze()
    grants = await asyncio.gather(*(one.limiter.acquire(who, tokens=0, cost_usd=0.001) for _ in range(3)))
    for grant in grants:
        await one.limiter.settle(grant, tokens=None, cost_usd=0.001)
    await one.limiter.flush()
    assert one.link.state().status == "failing"
    own_redis.thaw()
    await one.until_well()
    usage = await one.spent(who)
    assert (usage["requests_remaining"], usage["in_flight"], usage["reserved_usd"]) == (10, 0, 0.0)
    assert usage["spent_usd"] == pytest.approx(0.003)
