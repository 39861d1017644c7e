"""Whatever is lost on the way to Redis and back, and whatever comes twice or too late: money is counted once."""

from __future__ import annotations

import random

import pytest

from service.limits import scripts
from service.limits.redis_limiter import RedisLimiter
from service.limits.resilient import ResilientLimiter
from service.limits.settings import Limits
from service.limits.subjects import Subject
from service.redis_link import RedisLink, RedisUnavailableError

WHO = (
    Subject("key", "alice", Limits(budget_usd=1000, budget_period="total", concurrency=500)),
    Subject("gateway", "gateway", Limits(rpm=100_000, tpm=1_000_000)),
)


class LossyLink(RedisLink):
    """Loses scripts or their replies, and keeps some scripts to run them later, as a connection that froze does."""

    def __init__(self, settings, chance):
        super().__init__(settings)
        self.chance = chance
        self.share = 0.4
        self.late = []

    async def evaluate(self, calls):
        if self.late and self.chance.random() < self.share:
            await super().evaluate(self.late.pop(self.chance.randrange(len(self.late))))
        if self.chance.random() >= self.share:
            return await super().evaluate(calls)
        fate = self.chance.choice(["never ran", "ran", "runs later"])
        if fate == "runs later":
            self.late.append(list(calls))
        elif fate == "ran":
            await super().evaluate(calls)
        raise RedisUnavailableError(fate)

    def come_back(self):
        for callback in self._on_return:
            callback()


@pytest.fixture
async def lossy(shared_settings):
    made = []

    def make(seed):
        settings = shared_settings.model_copy(update={"prefix": f"{shared_settings.prefix}-{seed}", "replicas": 1})
        made.append(LossyLink(settings, random.Random(seed)))
        return made[-1]

    yield make
    for link in made:
        await link.aclose()


@pytest.mark.parametrize("seed", range(40))
async def test_money_is_counted_once(lossy, seed):
    link = lossy(seed)
    limiter, chance = ResilientLimiter(RedisLimiter(link)), random.Random(seed)
    under_way, spent = [], 0.0
    for _ in range(80):
        what = chance.random()
        if what < 0.5 or not under_way:
            under_way.append(await limiter.acquire(WHO, tokens=10, cost_usd=0.01))
        elif what < 0.9:
            grant = under_way.pop(chance.randrange(len(under_way)))
            cost = chance.choice([0.02, 0.05])
            await limiter.settle(grant, tokens=5, cost_usd=cost)
            spent += cost
        else:
            await limiter.cancel(under_way.pop(chance.randrange(len(under_way))))
        if chance.random() < 0.3:
            await limiter.flush()
            link.come_back()
    for grant in under_way:
        await limiter.settle(grant, tokens=5, cost_usd=0.03)
        spent += 0.03
    for share in (0.4, 0.4, 0.0):
        link.share = share
        link.come_back()
        await limiter.flush()
    for calls in link.late:
        await link.evaluate(calls)
    (usage, _) = await limiter.usage(WHO)
    assert usage["spent_usd"] == pytest.approx(spent)
    assert (usage["reserved_usd"], usage["in_flight"]) == (0.0, 0)
    assert limiter.state()["unpushed_usd"] == 0


async def test_a_request_that_was_given_up_is_not_let_through_later(lossy):
    link = lossy(0)
    link.share = 0.0
    limiter = RedisLimiter(link)
    await link.evaluate([limiter._end_call("cancel", limiter._replica + "-1", WHO, tokens=10, mark=True)])
    with pytest.raises(RedisUnavailableError, match="given up"):
        await limiter.acquire(WHO, tokens=10, cost_usd=0.01)
    usage = await limiter.usage(WHO)
    assert [each["in_flight"] for each in usage] == [0, 0]
    assert usage[1]["requests_remaining"] == 100_000


async def test_settling_after_redis_lost_its_data_is_repeatable(lossy):
    link = lossy(0)
    link.share = 0.0
    limiter = RedisLimiter(link)
    grant = await limiter.acquire(WHO, tokens=10, cost_usd=0.01)
    await link.run(lambda redis: redis.delete(*limiter._keys(grant.id, WHO)))
    settle = limiter._end_call("settle", grant.id, WHO, tokens=10, used=10, cost_usd=0.25, epoch=grant.epoch)
    for _ in range(3):
        await link.evaluate([settle])
    assert (await limiter.usage(WHO))[0]["spent_usd"] == 0.25


async def test_an_error_of_a_script_is_no_refusal(lossy, monkeypatch):
    link = lossy(0)
    link.share = 0.0
    limiter = ResilientLimiter(RedisLimiter(link))
    monkeypatch.setattr(scripts, "TAKE", scripts.Script("return redis.error_reply('broken')"))
    grant = await limiter.acquire(WHO, tokens=10, cost_usd=0.01)
    assert grant.home == "local"
    assert link.state().status == "ok"
