"""Replicas that share a Redis never spend more than the day's dollars together."""

from __future__ import annotations

import asyncio

import pytest
from contracts.redis_server import RedisServer

from service.learning.explore_ledger import RedisLedger
from service.redis_link import RedisLink, RedisUnavailableError

DAY = 86_400.0


async def test_all_replicas_together_keep_to_the_day(link: RedisLink) -> None:
    ledgers = [RedisLedger(link, 1.0, clock=lambda: DAY) for _ in range(4)]
    spent = 0.0
    for _ in range(200):
        await asyncio.gather(*(ledger.renew() for ledger in ledgers))
        for ledger in ledgers:
            if ledger.left_usd() >= 0.007:
                ledger.charge(0.007)
                spent += 0.007
    held = sum(ledger.left_usd() for ledger in ledgers)
    assert spent + held <= 1.0 + 1e-9
    assert spent > 0.95
    assert await ledgers[0].renew() == 0.0, "nothing is left to take"


async def test_a_new_day_begins_with_nothing_held_of_the_old(link: RedisLink) -> None:
    now = [DAY * 3]
    ledger = RedisLedger(link, 1.0, clock=lambda: now[0])
    assert ledger.left_usd() == 0.0, "nothing before it was granted"
    assert await ledger.renew() == pytest.approx(0.02)
    now[0] += DAY
    assert ledger.left_usd() == 0.0
    await ledger.renew()
    assert ledger.left_usd() == pytest.approx(0.02)


async def test_what_was_not_spent_is_given_back(link: RedisLink) -> None:
    first = RedisLedger(link, 0.02, clock=lambda: DAY)
    first.part_usd = 0.02
    await first.renew()
    first.charge(0.005)
    second = RedisLedger(link, 0.02, clock=lambda: DAY)
    assert await second.renew() == 0.0
    await first.aclose()
    second.part_usd = 0.02
    assert await second.renew() == pytest.approx(0.015)


async def test_it_keeps_a_part_in_hand_and_does_without_redis(link: RedisLink, server: RedisServer) -> None:
    ledger = RedisLedger(link, 10.0)
    ledger.start()
    ledger.start()
    async with asyncio.timeout(10):
        while ledger.left_usd() == 0.0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert ledger.left_usd() == pytest.approx(0.2)
    server.kill()
    try:
        ledger.charge(0.19)
        with pytest.raises(RedisUnavailableError):
            await ledger.renew()
        assert ledger.left_usd() == pytest.approx(0.01), "what was taken can be spent"
        await ledger.aclose()
        await ledger.aclose()
    finally:
        server.restart()


async def test_no_dollars_need_no_redis(link: RedisLink) -> None:
    ledger = RedisLedger(link, 0.0)
    ledger.start()
    assert ledger.left_usd() == 0.0
    assert await ledger.renew() == 0.0
    await ledger.aclose()
