from __future__ import annotations

import asyncio

import pytest
from cache_samples import Clock, answer, body, found, kept, make_cache, plan, recorded, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmrouter.exceptions import ConfigError
from service.cache import Cache, CacheSettings, Entry
from service.cache.memory import MemoryStore
from service.errors import APIError


async def test_the_same_question_gets_the_kept_answer():
    clock = Clock()
    cache = make_cache(clock)
    await kept(cache, whole=answer("kept"))
    clock.now += 12.7
    hit = await found(cache)
    assert hit.entry.payload == answer("kept")
    assert not hit.semantic
    assert hit.headers() == {"age": "12"}
    assert await found(cache, body("another")) is None
    state = cache.state()
    assert (state.hits, state.misses, state.stored, state.entries) == (1, 2, 1, 1)


@pytest.mark.parametrize("scope", ["key", "team"])
async def test_tenants_never_see_each_others_answers(scope):
    cache = make_cache(scope=scope)
    tenants = [("a", "t1"), ("b", "t2"), (None, None), ("t1", None), ("c", "key:a"), ("team:t1", None), ("", None)]
    for i, (key_id, team) in enumerate(tenants[:-1]):
        await kept(cache, whole=answer(f"for {i}"), key_id=key_id, team=team)
    for i, (key_id, team) in enumerate(tenants[:-1]):
        assert (await found(cache, key_id=key_id, team=team)).entry.payload == answer(f"for {i}")
    assert await found(cache, key_id="d", team="t3") is None


async def test_keys_of_a_team_share_where_asked():
    cache = make_cache(scope="team")
    await kept(cache, key_id="a", team="t")
    assert await found(cache, key_id="b", team="t") is not None
    assert await found(cache, key_id="b") is None


async def test_all_share_where_asked_unless_their_models_differ():
    cache = make_cache(scope="global")
    await kept(cache, key_id="a")
    assert await found(cache, key_id="b", team="t") is not None
    assert await found(cache, key_id="b", models=("m2",)) is None


async def test_old_answers_are_gone():
    clock = Clock()
    cache = make_cache(clock, ttl_s=10)
    await kept(cache)
    clock.now += 9.9
    assert await found(cache) is not None
    clock.now += 0.1
    assert await found(cache) is None
    assert (cache.state().expired, cache.state().entries, cache.state().bytes) == (1, 0, 0)


async def test_max_age():
    clock = Clock()
    cache = make_cache(clock)
    await kept(cache)
    clock.now += 5
    assert await found(cache, control="max-age=4") is None
    assert await found(cache, control="max-age=5") is not None


async def test_no_cache_asks_anew_and_keeps_the_new_answer():
    cache = make_cache()
    await kept(cache, whole=answer("old"))
    await kept(cache, whole=answer("new"), control="no-cache")
    assert (await found(cache)).entry.payload == answer("new")
    assert cache.state().misses == 1


async def test_only_if_cached():
    cache = make_cache()
    with pytest.raises(APIError) as caught:
        await found(cache, control="only-if-cached")
    assert caught.value.status == 504
    assert caught.value.headers["x-should-retry"] == "false"
    assert caught.value.body["error"]["code"] == "not_cached"
    await kept(cache)
    assert await found(cache, control="only-if-cached") is not None


@pytest.mark.parametrize("asked", [body(store=True), body(web_search_options={"a": 1})])
async def test_only_if_cached_of_what_is_never_kept(asked):
    cache = make_cache()
    made = plan(cache, asked, control="only-if-cached")
    assert not made.may_store
    cache.store_answer(made, answer(), served_by="m1")
    with pytest.raises(APIError):
        await cache.lookup(made)


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"not json",
        b"[]",
        b'{"error": {"message": "no"}}',
        b'{"choices": []}',
        b'{"choices": [{"finish_reason": "stop"}]}',
        b'{"choices": [{"message": {"content": "x"}, "finish_reason": null}]}',
        answer(finish_reason="content_filter"),
        answer("x" * 2000),
    ],
)
async def test_what_is_no_good_answer_is_not_kept(whole):
    cache = make_cache(max_entry_bytes=1500)
    await kept(cache, whole=whole or b" ")
    assert await found(cache) is None


async def test_fewer_choices_than_asked_for_are_not_kept():
    cache = make_cache()
    await kept(cache, body(n=2))
    assert await found(cache, body(n=2)) is None


async def test_a_stream_without_its_end_is_not_kept():
    cache = make_cache()
    made = plan(cache)
    cache.store_stream(made, recorded(cache.recorder(made), stream("x", done=b"")), served_by="m1")
    assert await cache.lookup(plan(cache)) is None


async def test_clear():
    cache = make_cache()
    for key_id in ("a", "b"):
        await kept(cache, key_id=key_id)
    assert await cache.clear("key:a") == 1
    assert await found(cache, key_id="a") is None
    assert await found(cache, key_id="b") is not None
    assert await cache.clear() == 1
    assert (cache.state().entries, cache.state().bytes) == (0, 0)


# One asks, the others wait


async def test_the_same_requests_wait_for_the_first():
    cache = make_cache(coalesce=True)
    first = plan(cache)
    assert await cache.lookup(first) is None
    waiting = [asyncio.create_task(found(cache)) for _ in range(3)]
    other = await found(cache, body("another"))
    await asyncio.sleep(0)
    assert other is None
    assert not any(task.done() for task in waiting)
    cache.store_answer(first, answer("once"), served_by="m1")
    cache.release(first)
    assert [hit.entry.payload for hit in await asyncio.gather(*waiting)] == [answer("once")] * 3
    assert cache.state().coalesced_hits == 3
    assert (await found(cache)).entry.payload == answer("once")


async def test_one_that_hangs_up_disturbs_nobody():
    cache = make_cache(coalesce=True)
    first = plan(cache)
    await cache.lookup(first)
    gone, stays = asyncio.create_task(found(cache)), asyncio.create_task(found(cache))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    cache.store_answer(first, answer(), served_by="m1")
    assert (await stays).entry.payload == answer()


@pytest.mark.parametrize("end", ["released", "unfit"])
async def test_all_ask_for_themselves_where_the_first_fails(end):
    cache = make_cache(coalesce=True)
    first = plan(cache)
    await cache.lookup(first)
    waiting = asyncio.create_task(found(cache))
    await asyncio.sleep(0)
    if end == "unfit":
        cache.store_answer(first, b"nonsense", served_by="m1")
    cache.release(first)
    cache.release(first)
    assert await waiting is None
    # Whoever comes next leads.
    following = plan(cache)
    assert await cache.lookup(following) is None
    assert following.leads


async def test_nobody_waits_for_ever():
    cache = make_cache(coalesce=True, coalesce_wait_s=0.01)
    first = plan(cache)
    await cache.lookup(first)
    assert await found(cache) is None


async def test_tenants_do_not_wait_for_each_other():
    cache = make_cache(coalesce=True)
    await cache.lookup(plan(cache, key_id="a"))
    assert await asyncio.wait_for(found(cache, key_id="b"), 5) is None


# The memory


def entry(size, *, stored=0.0):
    return Entry(payload=b"x" * size, streamed=False, served_by="m1", stored=stored, scope="s")


async def test_what_was_used_longest_ago_is_pushed_out():
    store = MemoryStore(max_entries=2, max_bytes=10**6, ttl_s=10, clock=lambda: 0.0)
    store.put(b"a", entry(1))
    store.put(b"b", entry(1))
    assert await store.get("s", b"a") is not None
    store.put(b"c", entry(1))
    assert [await store.get("s", key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert store.counts.evictions == 1


async def test_an_entry_of_another_scope_is_not_given():
    store = MemoryStore(max_entries=2, max_bytes=10**6, ttl_s=10, clock=lambda: 0.0)
    store.put(b"a", entry(1))
    assert await store.get("other", b"a") is None


STEPS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3000), st.booleans()), max_size=60)


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_the_bounds_hold_and_the_last_used_stay(steps):
    async def run():
        store = MemoryStore(max_entries=4, max_bytes=6000, ttl_s=10, clock=lambda: 0.0)
        model = {}
        for number, size, reads in steps:
            key = bytes([number])
            if reads:
                got = await store.get("s", key)
                assert (got is None) == (key not in model)
                if got is not None:
                    model[key] = model.pop(key)
                    assert got.size == model[key]
                continue
            made = entry(size)
            store.put(key, made)
            model.pop(key, None)
            model[key] = made.size
            while len(model) > 4 or sum(model.values()) > 6000:
                del model[next(iter(model))]
            assert list(store._entries) == list(model)
            assert store.counts.bytes == sum(model.values()) <= 6000
            assert store.counts.entries == len(model) <= 4

    asyncio.run(run())


# Settings


def test_redis_needs_its_section():
    with pytest.raises(ConfigError, match=r"cache\.store"):
        Cache.from_settings(CacheSettings(store="redis"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_s": 0},
        {"scope": "tenant"},
        {"store": "disk"},
        {"max_entry_bytes": 2000, "max_bytes": 1000},
        {"semantic": {"similarity": 1.1}},
        {"semantic": {"similarity": 0.5}},
        {"unknown": 1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        CacheSettings(**wrong)
