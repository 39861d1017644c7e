"""Errors, costs and latencies are counted over all replicas that share a Redis, each once, in one order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from contracts.redis_server import RedisServer

from llmrouter.outcomes import MemoryOutcomeStore
from llmrouter.types import Outcome
from service.learning import canary_shared
from service.learning.canary_settings import CanarySettings
from service.learning.canary_shared import SharedOutcomes
from service.learning.canary_state import RedisTrialStore
from service.learning.canary_trial import CanaryTrial
from service.redis_link import RedisLink

NEW, OLD = "knn-new", "knn-old"
GUARDS = [{"metric": metric, "min_outcomes": 50} for metric in ("error_rate", "cost", "latency")]


def trial(link: RedisLink, *, guards: Any = GUARDS) -> CanaryTrial:
    store = MemoryOutcomeStore()

    async def with_log(job: Any) -> Any:
        return job(store)

    return CanaryTrial(
        CanarySettings.model_validate({"artifact": Path("a"), "by": "key", "guards": guards}),
        artifact_id=NEW,
        live_id=lambda: OLD,
        store=RedisTrialStore(link),
        with_log=with_log,
        workers=4,
        shared=SharedOutcomes(link, NEW),
        clock=lambda: 5.0,
    )


def outcome(i: int, lane: str = "", **fields: Any) -> Outcome:
    made = {"time": 10.0, "key_id": f"k{i % 20}", "cost_usd": 0.001 * (1 + i % 3), "latency_s": 1.0 + i % 2, **fields}
    return Outcome(
        f"{lane}{i}",
        model="m",
        lane=lane,
        artifact_id=NEW if lane else OLD,
        candidates={"m": {"quality": 0.5}},
        **made,
    )


def shown(one: CanaryTrial) -> list[Any]:
    return one.state()["guards"]


async def test_all_replicas_count_the_same_and_none_divides_the_doubt(link: RedisLink) -> None:
    several, alone = [trial(link) for _ in range(3)], trial(link)
    for one in (*several, alone):
        await one.step()
    for i in range(90):
        several[i % 3].observe(outcome(i))
        several[i % 3].observe(outcome(i, "canary"))
    for one in (*several, *several):
        await one.step()
    states = [shown(one) for one in several]
    assert states[0] == states[1] == states[2]
    assert all(guard["live"]["outcomes"] == guard["canary"]["outcomes"] == 90 for guard in states[0])
    assert [guard.alpha for guard in several[0]._guards] == pytest.approx([0.05 / 3] * 3)
    await alone.step()
    assert shown(alone) == states[0], "one that has seen nothing itself knows as much"


async def test_failures_that_each_replica_saw_a_few_of_take_the_canary_back_everywhere(link: RedisLink) -> None:
    several = [trial(link) for _ in range(10)]
    for one in several:
        await one.step()
    for i in range(400):
        several[i % 10].observe(outcome(i))
        several[i % 10].observe(outcome(i, "canary", status="error"))
    for one in several:
        await one.step()
    assert several[-1].state()["changed_by"] == "guard"
    assert "error_rate" in several[-1].state()["reason"]
    for one in several:
        await one.step()
    assert {one.status for one in several} == {"rolled_back"}


async def test_units_stay_together_wherever_their_requests_arrive(link: RedisLink) -> None:
    one, two = trial(link), trial(link)
    await one.step()
    await two.step()
    for i in range(60):
        (one, two)[i % 2].observe(outcome(i, key_id="the only one"))
    await one.step()
    await two.step()
    assert [guard.lanes[""].groups for guard in two._guards] == [1, 1, 1]


async def test_a_trial_begun_anew_counts_from_there(link: RedisLink) -> None:
    now = [5.0]
    one, two = trial(link), trial(link)
    one._clock = lambda: now[0]
    await one.step()
    await two.step()
    for i in range(60):
        one.observe(outcome(i))
    await one.step()
    now[0] = 20.0
    await one.end("running", reason="asked for", by="key k")
    two.observe(outcome(100, time=30.0))  # it has not heard of that yet
    for each in (two, one, two):
        await each.step()
    assert [guard["live"]["outcomes"] for guard in shown(one)] == [1, 1, 1]
    assert shown(one) == shown(two)


async def test_while_redis_is_away_each_counts_its_own_and_nothing_twice(link: RedisLink, server: RedisServer) -> None:
    one, two = trial(link), trial(link)
    await one.step()
    await two.step()
    server.kill()
    for i in range(30):
        one.observe(outcome(i))
    await one.step()
    await one.step()
    assert shown(one)[0]["live"]["outcomes"] == 30
    assert one.state()["trouble"]
    one.observe(outcome(30))
    server.restart()
    async with asyncio.timeout(20):
        while one.state()["trouble"] or two.state()["trouble"] or shown(two)[0]["live"]["outcomes"] < 31:
            await asyncio.sleep(0.05)
            await one.step()
            await two.step()
    assert shown(one)[0]["live"]["outcomes"] == 31


async def test_what_says_nothing_is_not_told_and_what_is_told_twice_counts_once(link: RedisLink) -> None:
    one = SharedOutcomes(link, NEW)
    for odd in ({"status": "cancelled"}, {"cache": "hit"}):
        one.note(outcome(1, **odd), "u")
    for _ in range(2):
        one.note(outcome(2), "u")
    taken: list[tuple[Outcome, str]] = []
    await one.exchange(lambda outcome, unit: taken.append((outcome, unit)))
    assert [(told.request_id, unit) for told, unit in taken] == [("2", "u")] * 2
    guarded = trial(link)
    await guarded.step()
    assert shown(guarded)[0]["live"]["outcomes"] == 1


async def test_it_is_read_in_portions_and_lines_of_others_are_passed_over(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_shared, "_AT_ONCE", 4)
    one = SharedOutcomes(link, NEW)
    for i in range(10):
        one.note(outcome(i), "u")
    key = link.key("canary", NEW, "outcomes")
    await link.run(lambda redis: redis.xadd(key, {"o": b"[1, 2]"}))
    taken: list[str] = []
    for _ in range(2):
        await one.exchange(lambda outcome, _: taken.append(outcome.request_id))
    assert taken == [str(i) for i in range(10)]


async def test_without_guards_on_them_nothing_is_told(link: RedisLink) -> None:
    one = trial(link, guards=[{"metric": "quality"}])
    await one.step()
    one.observe(outcome(1))
    await one.step()
    assert await link.run(lambda redis: redis.exists(link.key("canary", NEW, "outcomes"))) == 0
