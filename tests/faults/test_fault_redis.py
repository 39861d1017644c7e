"""Redis frozen, killed, restarted and slow, under load with keys, limits and kept answers in it: requests go on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from contracts.redis_server import RedisServer
from crowd import Answer, Question, echo, is_right, keep_asking, percentile
from fault_gateway import eventually, metric, pool_of, start
from live_gateway import Live
from slow_proxy import SlowProxy
from soak_results import record

from service.keys import KeyManager, open_key_store
from service.keys.settings import AuthSettings
from service.limits import build_limiter
from service.limits.settings import Limits, LimitsSettings, RedisSettings
from service.limits.subjects import Subject
from service.redis_link import RedisLink

CLIENTS = 4
PHASE_S = 1.2
# 50 ms of waiting for Redis, and what clients on a busy machine wait for each other.
MOST_S = 0.5
TIMEOUT_S = 0.05
BUDGET_USD = 1000.0


@dataclass
class Load:
    """Clients that ask all the time, and the phases of the trial.

    Attributes
    ----------
    gateway : Live
        Whom they ask.
    headers : dict of str to str
        With a key.
    phases : dict of str to (float, float)
        When each began and ended, by the clock of `started`.
    started : dict of str to float
        When a question was asked, by its text.
    """

    gateway: Live
    headers: dict[str, str]
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)

    async def phase(self, name: str, seconds: float = PHASE_S) -> None:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        self.phases[name] = (began, time.monotonic())

    def question(self, number: int) -> Question:
        # Every fourth question is one of a few, so that kept answers are used too.
        text = f"often asked {number % 3}" if number % 4 == 0 else f"asked once {number}"
        self.started[f"{text}/{number}"] = time.monotonic()
        return Question(text, stream=number % 2 == 0, headers={**self.headers, "x-llmrouter-session-id": str(number)})

    def by_phase(self, answers: list[Answer]) -> dict[str, list[float]]:
        """Return the seconds of the answers to questions that were asked within each phase."""
        found: dict[str, list[float]] = {name: [] for name in self.phases}
        for answer in answers:
            number = answer.question.headers["x-llmrouter-session-id"]
            asked = self.started[f"{answer.question.text}/{number}"]
            for name, (began, ended) in self.phases.items():
                if began <= asked <= ended:
                    found[name].append(answer.seconds)
        return found


def make_key(redis: RedisServer, store: str = "redis") -> str:
    """Make a key that may do everything."""

    async def make() -> str:
        link = RedisLink(RedisSettings(url=redis.url, timeout_s=5.0))
        keys = KeyManager(open_key_store(AuthSettings(store=store), link=link))
        _, token = await keys.create({"name": "boss", "scopes": ["admin", "inference", "metrics"]})
        await link.aclose()
        return token

    return asyncio.run(make())


def gateway_with(
    stack: ExitStack, folder: Path, upstream: MisbehavingUpstream, url: str, *, keys: str = "redis"
) -> Live:
    upstream.behaviours |= {"alpha": echo, "beta": echo}
    return start(
        stack,
        folder,
        pool_of(upstream.base_url, "alpha", "beta"),
        redis={"url": url, "timeout_s": TIMEOUT_S, "replicas": 1},
        auth={"store": keys, "cache_s": 0.2},
        cache={"store": "redis"},
        limits={
            "state": "memory://",
            "gateway": {"budget_usd": BUDGET_USD, "rpm": 1_000_000, "concurrency": 1000},
            "key_default": {"tpm": 100_000_000},
        },
    )


@asynccontextmanager
async def under_load(gateway: Live, headers: dict[str, str]) -> AsyncIterator[tuple[Load, list[Answer]]]:
    """Let clients ask while the block runs; the list is filled when it ends."""
    # Keys that were never looked up cannot be known, so the first contact comes first.
    assert await asyncio.to_thread(eventually, lambda: gateway.chat("warm up", headers=headers).status_code == 200)
    load = Load(gateway, headers)
    enough = asyncio.Event()
    answers: list[Answer] = []
    asking = asyncio.create_task(keep_asking(gateway.url, load.question, at_once=CLIENTS, until=enough))
    try:
        yield load, answers
    finally:
        enough.set()
        answers += await asking


def check(answers: list[Answer], load: Load, *phases: str) -> dict[str, list[float]]:
    """Check that every question was answered rightly and in time."""
    wrong = [answer for answer in answers if not is_right(answer)]
    assert not wrong, (len(wrong), wrong[0].status, wrong[0].body, wrong[0].trouble, wrong[0].headers)
    seconds = load.by_phase(answers)
    for phase in phases:
        assert len(seconds[phase]) >= CLIENTS, phase
        assert max(seconds[phase]) < MOST_S, (phase, sorted(seconds[phase])[-5:])
    return seconds


def spent_in_redis(gateway: Live) -> float:
    """Return what Redis says of the gateway's budget."""
    limits = gateway.gateway.settings.limits.gateway
    subject = Subject("gateway", "gateway", limits)

    async def ask() -> float:
        link = RedisLink(gateway.gateway.settings.redis.model_copy(update={"timeout_s": 5.0}))
        limiter = build_limiter(gateway.gateway.settings.limits, link=link)
        (usage,) = await limiter.usage([subject])
        await limiter.aclose()
        await link.aclose()
        spent: float = usage["spent_usd"]
        return spent

    return asyncio.run(ask())


def spent_by_log(gateway: Live) -> float:
    return sum(outcome.cost_usd or 0.0 for outcome in gateway.outcomes())


def is_reconciled(gateway: Live) -> bool:
    state = gateway.gateway.limiter.state()
    return state["mode"] == "redis" and not state["unpushed_usd"]


@pytest.mark.parametrize("trouble", ["frozen", "killed"])
async def test_requests_go_on_without_redis(
    trouble: str, stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, redis: RedisServer
) -> None:
    # A Redis that comes again without its data has lost the keys in it.
    keys = "redis" if trouble == "frozen" else f"sqlite:///{tmp_path}/keys.db"
    headers = {"authorization": f"Bearer {await asyncio.to_thread(make_key, redis, keys)}"}
    gateway = await asyncio.to_thread(gateway_with, stack, tmp_path, upstream, redis.url, keys=keys)
    begin, end = (redis.freeze, redis.thaw) if trouble == "frozen" else (redis.kill, redis.restart)
    async with under_load(gateway, headers) as (load, answers):
        await load.phase("well")
        assert await asyncio.to_thread(eventually, lambda: metric(gateway.client, "redis_up", headers) == 1)
        await asyncio.to_thread(begin)
        await load.phase(trouble)
        assert await asyncio.to_thread(metric, gateway.client, "redis_up", headers) == 0
        assert await asyncio.to_thread(metric, gateway.client, "limits_degraded", headers) == 1
        ready = (await asyncio.to_thread(gateway.client.get, "/readyz")).json()
        assert (ready["status"], ready["redis"]["status"]) == ("ready", "failing")
        await asyncio.to_thread(end)
        if trouble == "frozen":
            assert await asyncio.to_thread(eventually, lambda: gateway.gateway.link.state().status == "ok")
        await load.phase("back", 0.5)
    check(answers, load, "well", trouble)
    assert load.by_phase(answers)["back"]

    assert await asyncio.to_thread(eventually, lambda: gateway.gateway.link.state().status == "ok")
    assert await asyncio.to_thread(eventually, lambda: is_reconciled(gateway))
    assert await asyncio.to_thread(eventually, lambda: metric(gateway.client, "redis_up", headers) == 1)
    assert await asyncio.to_thread(metric, gateway.client, "limits_fallbacks_total", headers) > 0
    outcomes = await asyncio.to_thread(gateway.outcomes)
    recorded = [outcome.request_id for outcome in outcomes if outcome.prompt != "warm up"]
    assert sorted(recorded) == sorted(answer.request_id for answer in answers)
    if trouble == "frozen":
        expected = await asyncio.to_thread(spent_by_log, gateway)
        assert expected > 0
        assert await asyncio.to_thread(
            eventually, lambda: spent_in_redis(gateway) == pytest.approx(expected, rel=1e-6)
        ), (await asyncio.to_thread(spent_in_redis, gateway), expected)


async def test_again_and_again(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, redis: RedisServer
) -> None:
    """Redis that comes and goes, in the middle of requests: every dollar is counted once."""
    headers = {"authorization": f"Bearer {await asyncio.to_thread(make_key, redis)}"}
    gateway = await asyncio.to_thread(gateway_with, stack, tmp_path, upstream, redis.url)
    async with under_load(gateway, headers) as (load, answers):
        await load.phase("well", 0.5)
        for _ in range(3):
            await asyncio.to_thread(redis.freeze)
            await load.phase("frozen", 0.3)
            await asyncio.to_thread(redis.thaw)
            assert await asyncio.to_thread(eventually, lambda: gateway.gateway.link.state().status == "ok")
            await load.phase("thawed", 0.3)
    check(answers, load)
    assert await asyncio.to_thread(eventually, lambda: is_reconciled(gateway))
    expected = await asyncio.to_thread(spent_by_log, gateway)
    assert await asyncio.to_thread(eventually, lambda: spent_in_redis(gateway) == pytest.approx(expected, rel=1e-6)), (
        await asyncio.to_thread(spent_in_redis, gateway),
        expected,
    )


async def test_what_was_counted_here_although_redis_is_well(redis: RedisServer) -> None:
    """A request that has waited for Redis long enough is counted here; Redis learns of it all the same."""
    subjects = (Subject("gateway", "gateway", Limits(budget_usd=1.0)),)
    link = RedisLink(RedisSettings(url=redis.url, replicas=1))
    limiter = build_limiter(LimitsSettings(), link=link)
    limiter.start()
    assert await settled(lambda: link.state().status == "ok")
    link.begin_request()
    link.waited(1.0)
    grant = await limiter.acquire(subjects, tokens=1, cost_usd=0.1)
    await limiter.settle(grant, tokens=1, cost_usd=0.1)
    assert grant.home == "local"
    found = await settled(lambda: limiter.state()["unpushed_usd"] == 0, within_s=2.0)
    await limiter.aclose()
    await link.aclose()
    assert found


async def settled(test: Callable[[], bool], within_s: float = 5.0) -> bool:
    """Return whether something becomes true in time, in this event loop."""
    ends = time.monotonic() + within_s
    while not test() and time.monotonic() < ends:  # noqa: ASYNC110 - there is nothing to wait on
        await asyncio.sleep(0.02)
    return test()


async def test_redis_that_is_slow(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, redis: RedisServer
) -> None:
    headers = {"authorization": f"Bearer {await asyncio.to_thread(make_key, redis)}"}
    async with SlowProxy(redis.port) as proxy:
        gateway = await asyncio.to_thread(gateway_with, stack, tmp_path, upstream, f"redis://127.0.0.1:{proxy.port}/0")
        async with under_load(gateway, headers) as (load, answers):
            await load.phase("well")
            proxy.delay_s = 0.01
            await load.phase("a little late")
            proxy.delay_s = 1.0
            await load.phase("far too late")
            proxy.delay_s = 0.0
            await load.phase("well again", 0.5)
        check(answers, load, "well", "a little late", "far too late")
        assert await asyncio.to_thread(eventually, lambda: gateway.gateway.link.state().status == "ok")
        await asyncio.to_thread(stack.close)


async def test_start_without_redis(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, redis: RedisServer
) -> None:
    """Keys are in Redis, so nobody is let in before it answers once; nothing hangs, and no restart is needed."""
    headers = {"authorization": f"Bearer {await asyncio.to_thread(make_key, redis)}"}
    await asyncio.to_thread(redis.freeze)
    gateway = await asyncio.to_thread(gateway_with, stack, tmp_path, upstream, redis.url)
    began = time.monotonic()
    refused = await asyncio.to_thread(lambda: gateway.chat(headers=headers))
    assert time.monotonic() - began < 5.0, "nothing hangs"
    assert refused.status_code == 503
    await asyncio.to_thread(redis.thaw)
    assert await asyncio.to_thread(eventually, lambda: gateway.chat(headers=headers).status_code == 200), (
        "the key is there again"
    )


@pytest.mark.soak
async def test_distribution_of_waits(
    stack: ExitStack, tmp_path: Path, upstream: MisbehavingUpstream, redis: RedisServer
) -> None:
    """Measure how long requests take while Redis is well, frozen and thawed, many times over."""
    rounds = int(os.environ.get("LLMROUTER_SOAK_ROUNDS", "20"))
    headers = {"authorization": f"Bearer {await asyncio.to_thread(make_key, redis)}"}
    gateway = await asyncio.to_thread(gateway_with, stack, tmp_path, upstream, redis.url)
    seconds: dict[str, list[float]] = {"well": [], "freezing": [], "frozen": [], "thawing": []}
    for _ in range(rounds):
        async with under_load(gateway, headers) as (load, answers):
            await load.phase("well", 1.0)
            await asyncio.to_thread(redis.freeze)
            await load.phase("freezing", 0.3)
            await load.phase("frozen", 1.5)
            await asyncio.to_thread(redis.thaw)
            await load.phase("thawing", 1.5)
        for phase, found in check(answers, load).items():
            seconds[phase] += found
    expected = await asyncio.to_thread(spent_by_log, gateway)
    assert await asyncio.to_thread(eventually, lambda: spent_in_redis(gateway) == pytest.approx(expected, rel=1e-6))
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    table = {
        phase: {"requests": len(found), **{name: round(percentile(found, share), 4) for name, share in shares.items()}}
        for phase, found in seconds.items()
    }
    record("redis frozen under load", {"clients": CLIENTS, "timeout_s": TIMEOUT_S, "rounds": rounds, "seconds": table})
