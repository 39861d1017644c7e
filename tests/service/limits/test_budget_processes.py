"""Four gateways, 64 requests at a time each, one budget: no more is overspent than one request costs each."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.limits.redis_limiter import RedisLimiter
from service.limits.refusals import LimitExceededError
from service.limits.settings import Limits, RedisSettings
from service.limits.subjects import Subject
from service.redis_link import RedisLink

ROOT = Path(__file__).parents[3]
PROCESSES, AT_ONCE, REQUESTS = 4, 64, 3
COST_USD = 0.01


def subject(budget_usd):
    return (Subject("key", "shared", Limits(budget_usd=budget_usd, budget_period="total")),)


async def replica(url, prefix, budget_usd, estimate):
    """Send requests as a gateway would, and print how much was spent."""
    link = RedisLink(RedisSettings(url=url, prefix=prefix, timeout_s=10.0))
    limiter = RedisLimiter(link)
    who, spent, refused = subject(budget_usd), 0.0, 0

    async def client():
        nonlocal spent, refused
        for _ in range(REQUESTS):
            try:
                grant = await limiter.acquire(who, tokens=0, cost_usd=estimate)
            except LimitExceededError:
                refused += 1
            else:
                await asyncio.sleep(random.uniform(0, 0.02))
                spent += COST_USD
                await limiter.settle(grant, tokens=0, cost_usd=COST_USD)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await limiter.aclose()
    await link.aclose()
    print(json.dumps({"spent": spent, "refused": refused}))


async def what_redis_says(url, prefix, budget_usd):
    link = RedisLink(RedisSettings(url=url, prefix=prefix, timeout_s=5.0))
    (usage,) = await RedisLimiter(link).usage(subject(budget_usd))
    await link.aclose()
    return usage


@pytest.mark.parametrize("estimate", [None, 0.002, COST_USD])
@pytest.mark.parametrize("budget_usd", [0.05, 2.0])
def test_four_replicas_overspend_by_one_request_each_at_most(shared_redis, budget_usd, estimate):
    prefix = f"budget{time.monotonic_ns()}"
    words = [sys.executable, __file__, shared_redis.url, prefix, str(budget_usd), json.dumps(estimate)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd=ROOT) for _ in range(PROCESSES)]
    results = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    spent = sum(result["spent"] for result in results)
    assert spent <= budget_usd + PROCESSES * COST_USD + 1e-9
    assert sum(result["refused"] for result in results) > 0

    usage = asyncio.run(what_redis_says(shared_redis.url, prefix, budget_usd))
    assert usage["spent_usd"] == pytest.approx(spent)
    assert (usage["reserved_usd"], usage["in_flight"]) == (0.0, 0)


if __name__ == "__main__":
    asyncio.run(replica(sys.argv[1], sys.argv[2], float(sys.argv[3]), json.loads(sys.argv[4])))
