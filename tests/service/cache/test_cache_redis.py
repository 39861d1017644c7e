from __future__ import annotations

import itertools

import numpy as np
import pytest
from cache_samples import answer, body, found, kept, plan, recorded, stream
from contracts.redis_server import RedisServer

from service.cache import Cache, CacheSettings, replay
from service.limits.settings import RedisSettings
from service.redis_link import RedisLink, RedisUnavailableError

_PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def server():
    with RedisServer() as running:
        yield running


@pytest.fixture
async def link(server):
    link = RedisLink(RedisSettings(url=server.url, prefix=f"cache{next(_PREFIXES)}", timeout_s=2.0))
    yield link
    await link.aclose()


def cache_over(link, **settings):
    return Cache.from_settings(CacheSettings(store="redis", **settings), link=link)


@pytest.fixture
async def cache(link):
    return cache_over(link)


async def written(cache):
    """Wait for the writes."""
    await cache.aclose()


async def names(link):
    return await link.run(lambda redis: redis.keys(link.key("*")))


async def test_replicas_share_answers(link, cache):
    await kept(cache, whole=answer("shared"))
    await written(cache)
    other = cache_over(link)
    hit = await found(other)
    assert (hit.entry.payload, hit.entry.served_by) == (answer("shared"), "m1")
    assert (cache.state().stored, other.state().hits, other.state().entries) == (1, 1, 0)


async def test_streams_too(link, cache):
    made = plan(cache)
    cache.store_stream(made, recorded(cache.recorder(made), stream("one ", "two")), served_by="m1", usage={"a": 1})
    await written(cache)
    assert replay(await found(cache_over(link)), stream=True, usage_asked=True) == stream("one ", "two")


async def test_tenants_never_see_each_others_answers(cache):
    await kept(cache, key_id="a")
    await written(cache)
    assert await found(cache, key_id="b") is None


async def test_no_name_of_a_key_or_text_of_a_question_is_in_the_keys(link, cache):
    await kept(cache, body("secret question"), key_id="visible")
    await written(cache)
    (name,) = await names(link)
    assert b"visible" not in name
    assert b"secret" not in name


async def test_redis_removes_what_is_too_old(link):
    cache = cache_over(link, ttl_s=77)
    await kept(cache)
    await written(cache)
    (name,) = await names(link)
    assert 0 < await link.run(lambda redis: redis.pttl(name)) <= 77_000


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "list", "swapped"])
async def test_a_damaged_value_is_a_miss(link, cache, damage):
    await kept(cache)
    await written(cache)
    (name,) = await names(link)
    value = await link.run(lambda redis: redis.get(name))
    await link.run(lambda redis: redis.delete(name))
    if damage == "swapped":
        await kept(cache, body("other"))
        await written(cache)
        (other,) = await names(link)
        value = await link.run(lambda redis: redis.get(other))
    if damage == "list":
        await link.run(lambda redis: redis.lpush(name, b"x"))
    else:
        wrong = {"cut": value[:-1], "changed": value[:-1] + b"\x00", "foreign": b"hello"}.get(damage, value)
        await link.run(lambda redis: redis.set(name, wrong))
    assert await found(cache) is None
    assert cache.state().failures == 1
    # And is replaced.
    await link.run(lambda redis: redis.delete(name))
    await kept(cache, whole=answer("again"))
    await written(cache)
    assert (await found(cache)).entry.payload == answer("again")


async def test_clear_removes_a_scope_or_all_and_nothing_else(link, cache):
    for key_id in ("a", "a2", "b"):
        await kept(cache, key_id=key_id)
    await written(cache)
    beside = link.key("limits", "x")
    foreign = f"X{link.settings.prefix}:cache:x:y"
    for name in (beside, foreign):
        await link.run(lambda redis, name=name: redis.set(name, b"1"))
    assert await cache.clear("key:a") == 1
    assert await found(cache, key_id="a") is None
    assert await found(cache, key_id="a2") is not None
    assert await cache.clear() == 2
    for name in (beside, foreign):
        assert await link.run(lambda redis, name=name: redis.get(name)) == b"1"


async def test_similar_questions_find_answers_in_redis(link):
    cache = cache_over(link, semantic={"enabled": True})
    vector = np.ones(3, dtype=np.float32)
    made = plan(cache, body("how are you"))
    await cache.lookup(made, text="how are you", embedding=vector)
    cache.store_answer(made, answer("well"), served_by="m1")
    await written(cache)
    hit = await cache.lookup(plan(cache, body("so how are you")), text="so how are you", embedding=vector)
    assert hit.semantic
    assert hit.entry.payload == answer("well")


async def test_without_redis_everything_is_a_miss():
    with RedisServer() as server:
        link = RedisLink(RedisSettings(url=server.url, timeout_s=0.2))
        cache = cache_over(link)
        await kept(cache)
        await written(cache)
        server.kill()
        assert await found(cache) is None
        await kept(cache, body("another"))
        await written(cache)
        assert cache.state().failures >= 3
        with pytest.raises(RedisUnavailableError):
            await cache.clear()
        await link.aclose()


async def test_writes_that_wait_are_bounded(link, cache):
    for i in range(100):
        made = plan(cache, body(f"question {i}"))
        cache.store_answer(made, answer(), served_by="m1")
    await written(cache)
    assert cache.state().stored == 64
    assert cache.state().failures == 36
