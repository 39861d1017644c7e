from __future__ import annotations

import asyncio
import time

import pytest

from service.limits.cooldown_share import RedisCooldownShare
from service.redis_link import RedisLink


class Replica:
    """One of several gateways."""

    def __init__(self, settings):
        self.heard = []
        self.link = RedisLink(settings)
        self.share = RedisCooldownShare(self.link, lambda *pause: self.heard.append(pause), interval_s=0.05)
        self.share.start()

    async def aclose(self):
        await self.share.aclose()
        await self.link.aclose()


@pytest.fixture
async def replicas(shared_settings):
    made = [Replica(shared_settings) for _ in range(2)]
    yield made
    for replica in made:
        await replica.aclose()


async def until(condition, patience_s=10.0):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_pause_is_heard_by_the_others_once(replicas):
    one, two = replicas
    one.share.publish("gpt", 30.0)
    await until(lambda: two.heard)
    ((name, remaining_s),) = two.heard
    assert name == "gpt"
    assert 25 < remaining_s <= 30
    await asyncio.sleep(0.3)
    assert len(two.heard) == 1
    assert one.heard == []


async def test_a_longer_pause_is_news_and_a_shorter_one_is_not(replicas):
    one, two = replicas
    one.share.publish("gpt", 30.0)
    await until(lambda: two.heard)
    one.share.publish("gpt", 1.0)
    await asyncio.sleep(0.3)
    assert len(two.heard) == 1
    one.share.publish("gpt", 60.0)
    await until(lambda: len(two.heard) == 2)
    assert two.heard[1][1] > 50


async def test_pauses_that_are_over_disappear(replicas):
    one, two = replicas
    one.share.publish("gpt", 0.2)
    await until(lambda: two.heard)
    await asyncio.sleep(0.5)
    assert await one.link.run(lambda redis: redis.exists(one.link.key("cooldowns"))) == 0


async def test_publishing_needs_no_redis_and_what_still_holds_is_told_on_its_return(own_settings, own_redis):
    own_redis.kill()
    one, two = Replica(own_settings), Replica(own_settings)
    await asyncio.sleep(0.2)
    one.share.publish("gpt", 60.0)
    one.share.publish("old", 0.01)
    await asyncio.sleep(0.1)
    own_redis.restart()
    await until(lambda: two.heard, patience_s=15)
    assert [name for name, _ in two.heard] == ["gpt"]
    for replica in (one, two):
        await replica.aclose()
