from __future__ import annotations

import asyncio
import sqlite3

import pytest

from llmrouter.exceptions import ConfigError
from service.limits import (
    NOTHING_LIMITED,
    Limits,
    LimitsSettings,
    LocalLimiter,
    RedisSettings,
    ResilientLimiter,
    Subject,
    Subjects,
    build_limiter,
    check_workers,
)
from service.limits.journal import SpendJournal
from service.limits.refusals import LimitExceededError
from service.redis_link import RedisLink

NOON = 1_700_000_000.0


def key(**limits):
    return (Subject("key", "alice", Limits(**limits)),)


def limiter_at(path, clock=lambda: NOON, **options):
    return LocalLimiter(SpendJournal(path), clock=clock, **options)


async def spend(limiter, who, cost):
    grant = await limiter.acquire(who, tokens=0, cost_usd=cost / 10)
    await limiter.settle(grant, tokens=0, cost_usd=cost)


async def test_nothing_limited_is_one_shared_grant(tmp_path):
    limiter = limiter_at(tmp_path / "limits.db")
    assert await limiter.acquire((), tokens=5, cost_usd=1.0) is NOTHING_LIMITED
    await limiter.settle(NOTHING_LIMITED, tokens=5, cost_usd=1.0)
    await limiter.cancel(NOTHING_LIMITED)
    assert NOTHING_LIMITED.headers() == {}
    await limiter.aclose()
    assert not (tmp_path / "limits.db").exists()


async def test_budgets_survive_a_restart(tmp_path):
    path, who = tmp_path / "limits.db", key(budget_usd=1)
    first = limiter_at(path)
    await spend(first, who, 0.7)
    await first.aclose()
    second = limiter_at(path)
    second.start()
    (usage,) = await second.usage(who)
    assert usage["spent_usd"] == 0.7
    with pytest.raises(LimitExceededError, match=r"Limit 1.00 USD per month, Spent 0.70 USD. It is renewed at 2023-12"):
        await second.acquire(who, tokens=0, cost_usd=0.31)
    await second.aclose()


async def test_money_is_on_disk_within_a_second(tmp_path):
    path, who = tmp_path / "limits.db", key(budget_usd=1)
    limiter = limiter_at(path)
    await spend(limiter, who, 0.25)
    await limiter.acquire(who, tokens=0, cost_usd=0.1)
    await asyncio.sleep(0.9)
    # As a killed process would leave it: what is under way counts as spent.
    limiter._writing.cancel()
    limiter._journal.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT usd FROM spend").fetchone()[0] == pytest.approx(0.5)


async def test_a_journal_belongs_to_one_process(tmp_path):
    path = tmp_path / "limits.db"
    first = limiter_at(path, eager=True)
    first.start()
    with pytest.raises(ConfigError, match="limits.state: cannot use .*another gateway uses it"):
        limiter_at(path, eager=True).start()
    await first.aclose()
    again = limiter_at(path, eager=True)
    again.start()
    await again.aclose()


async def test_a_broken_journal_stops_the_start_and_no_request(tmp_path):
    path = tmp_path / "limits.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="limits.state"):
        limiter_at(path, eager=True).start()
    limiter = limiter_at(path)
    await spend(limiter, key(budget_usd=1), 0.2)
    assert "counted in memory" in limiter.state()["trouble"]
    await limiter.aclose()


async def test_what_cannot_be_written_is_written_later(tmp_path, monkeypatch):
    path, who = tmp_path / "limits.db", key(budget_usd=1)
    limiter = limiter_at(path)
    await spend(limiter, who, 0.25)
    real = limiter._journal._connection

    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(limiter._journal, "_connection", Full())
    await limiter.flush()
    assert "disk is full" in limiter.state()["trouble"]
    monkeypatch.setattr(limiter._journal, "_connection", real)
    await limiter.flush()
    assert limiter.state()["trouble"] == ""
    assert real.execute("SELECT usd FROM spend").fetchone()[0] == 0.25
    await limiter.aclose()


async def test_many_first_requests_open_the_journal_once(tmp_path):
    path, who = tmp_path / "limits.db", key(budget_usd=1)
    first = limiter_at(path)
    await spend(first, who, 0.5)
    await first.aclose()
    second = limiter_at(path)
    results = await asyncio.gather(
        *(second.acquire(who, tokens=0, cost_usd=0.2) for _ in range(10)), return_exceptions=True
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    await second.aclose()


async def test_memory_needs_no_file():
    limiter = build_limiter(LimitsSettings(state="memory://"))
    limiter.start()
    await spend(limiter, key(budget_usd=1), 0.2)
    assert (await limiter.usage(key(budget_usd=1)))[0]["spent_usd"] == 0.2
    await limiter.aclose()


async def test_usage_says_what_is_left(tmp_path):
    limiter = LocalLimiter(clock=lambda: NOON)
    who = key(rpm=10, tpm=100, concurrency=3)
    await limiter.acquire(who, tokens=40, cost_usd=None)
    assert await limiter.usage(who) == [
        {
            "kind": "key",
            "id": "alice",
            "spent_usd": None,
            "reserved_usd": None,
            "budget_usd": None,
            "budget_period": None,
            "period_ends": None,
            "requests_limit": 10,
            "requests_remaining": 9,
            "tokens_limit": 100,
            "tokens_remaining": 60,
            "concurrency": 3,
            "in_flight": 1,
        }
    ]


async def test_redis_is_used_where_it_is_configured():
    link = RedisLink(RedisSettings(url="redis://127.0.0.1:1"))
    assert isinstance(build_limiter(LimitsSettings(), link=link), ResilientLimiter)
    await link.aclose()


class TestSubjects:
    settings = LimitsSettings(
        gateway=Limits(rpm=1000),
        key_default=Limits(rpm=10, budget_usd=5, budget_period="day"),
        teams={"blue": Limits(tpm=500), "free": Limits()},
        models={"large": Limits(concurrency=2)},
    )

    def test_a_key_has_its_own_limits_over_the_default_ones(self):
        subjects = Subjects(self.settings)
        found = subjects.of_request("k1", team="blue", limits=Limits(rpm=3))
        assert [subject.name for subject in found] == ["key:k1", "team:blue", "gateway:gateway"]
        assert found[0].limits == Limits(rpm=3, budget_usd=5, budget_period="day")

    def test_a_budget_of_its_own_comes_with_its_own_period(self):
        found = Subjects(self.settings).of_request("k1", limits=Limits(budget_usd=1, budget_period="total"))
        assert (found[0].limits.budget_usd, found[0].limits.budget_period) == (1, "total")

    def test_changed_limits_take_effect(self):
        subjects = Subjects(self.settings)
        first = subjects.of_request("k1", limits=None)
        assert subjects.of_request("k1", limits=None) is first
        assert subjects.of_request("k1", limits=Limits(rpm=3))[0].limits.rpm == 3

    def test_who_is_not_limited_does_not_appear(self):
        assert Subjects(LimitsSettings()).of_request("k1", team="blue") == ()
        subjects = Subjects(self.settings)
        assert [subject.name for subject in subjects.of_request(None, team="free")] == ["gateway:gateway"]
        assert [subject.name for subject in subjects.of_model("large")] == ["model:large"]
        assert subjects.of_model("small") == ()
        assert {subject.name for subject in subjects.configured()} == {"team:blue", "model:large", "gateway:gateway"}


def test_several_workers_need_redis_for_limits():
    limited = LimitsSettings(models={"large": Limits(rpm=1)})
    check_workers(limited, workers=1, redis=False, keys=True)
    check_workers(limited, workers=4, redis=True, keys=True)
    check_workers(LimitsSettings(), workers=4, redis=False, keys=False)
    with pytest.raises(ConfigError, match=r"server.workers: 4 workers .* configure redis"):
        check_workers(limited, workers=4, redis=False, keys=False)
    with pytest.raises(ConfigError):
        check_workers(LimitsSettings(), workers=2, redis=False, keys=True)
