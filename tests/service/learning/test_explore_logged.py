"""What exploring has cost today is known again after a restart, from the log, where there is no Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from gateway_process import SUMS, GatewayProcess, make_artifact, write_config
from live_gateway import well_behaved

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import MemoryOutcomeStore
from llmrouter.types import Outcome
from service.learning import explore_logged
from service.learning.explore_logged import LoggedLedger, spent_usd

DAY = 86_400.0


def explored(name: str, time: float = DAY + 10, *, extra: float = 0.01, chosen: bool = True) -> Outcome:
    """Return an outcome for which chance chose b, which costs `extra` more than a, in place of a."""
    candidates = {
        "a": {"quality": 0.6, "cost_usd": 0.02, "propensity": 0.9},
        "b": {"quality": 0.5, "cost_usd": 0.02 + extra, "propensity": 0.05},
        "c": {"quality": 0.4, "cost_usd": 5.0, "propensity": 0.05},
    }
    return Outcome(name, time, "b" if chosen else "a", explored=chosen, candidates=candidates)


class Log:
    """An outcome store, as the gateway gives it to jobs."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.store = MemoryOutcomeStore()
        self.store.append(outcomes)
        self.jobs = 0
        self.fails = False

    async def __call__(self, job: Callable[[Any], Any]) -> Any:
        self.jobs += 1
        if self.fails:
            raise StoreError("it is away")
        return job(self.store)


def ledger(log: Log, usd: float = 1.0, *, now: float = DAY + 20, workers: int = 1) -> LoggedLedger:
    return LoggedLedger(log, usd, workers=workers, clock=lambda: now)


@pytest.mark.parametrize(
    ("outcome", "spent"),
    [
        (explored("r"), 0.01),
        (explored("r", chosen=False), 0.0),
        (explored("r", extra=-0.01), 0.0),
        (explored("r", extra=float("nan")), 0.0),
        (Outcome("r", 1.0, "b", explored=True), 0.0),
        (Outcome("r", 1.0, "b", explored=True, candidates={"b": {"cost_usd": 1.0, "propensity": 1.0}}), 0.0),
    ],
)
def test_what_a_request_has_cost_is_what_it_cost_beyond_the_likeliest_other(outcome: Outcome, spent: float) -> None:
    assert spent_usd([outcome]) == pytest.approx(spent)


async def test_what_was_spent_today_is_spent_and_what_was_before_is_not() -> None:
    one = ledger(Log(*(explored(f"r{i}") for i in range(30)), explored("old", DAY - 1)))
    assert one.left_usd() == 0.0, "nothing before the log was read"
    assert await one.renew() == pytest.approx(0.7)
    assert one.left_usd() == pytest.approx(0.7)
    one.charge(0.2)
    assert await one.renew() == 0.0, "it is read once"
    assert one.left_usd() == pytest.approx(0.5)


async def test_a_day_that_was_overspent_leaves_nothing() -> None:
    one = ledger(Log(*(explored(f"r{i}") for i in range(30))), 0.1)
    await one.renew()
    assert one.left_usd() <= 0.0


async def test_workers_take_equal_parts_of_what_is_left() -> None:
    log = Log(*(explored(f"r{i}") for i in range(40)))
    four = [ledger(log, workers=4) for _ in range(4)]
    for one in four:
        await one.renew()
    assert sum(one.left_usd() for one in four) == pytest.approx(0.6)


async def test_a_new_day_is_read_anew() -> None:
    now = [DAY + 20]
    one = LoggedLedger(Log(explored("r"), explored("s", 2 * DAY + 1)), 1.0, clock=lambda: now[0])
    await one.renew()
    now[0] = 2 * DAY + 5
    assert one.left_usd() == 0.0
    assert await one.renew() == pytest.approx(0.99)


async def test_a_long_log_is_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore_logged, "_AT_ONCE", 7)
    log = Log(*(explored(f"r{i}", DAY + i) for i in range(21)))
    assert await ledger(log).renew() == pytest.approx(0.79)
    assert log.jobs == 4


async def test_a_log_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.learning.explore_ledger._PAUSE_S", 0.01)
    log = Log(explored("r"))
    log.fails = True
    one = ledger(log)
    one.start()
    async with asyncio.timeout(10):
        while log.jobs < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert one.left_usd() == 0.0
        log.fails = False
        while one.left_usd() == 0.0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert one.left_usd() == pytest.approx(0.99)
    await one.aclose()


def test_a_restarted_gateway_goes_on_with_what_is_left(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours.update({"alpha": well_behaved, "beta": well_behaved})
    prices = {"alpha": {"input": 1.0, "output": 2.0}, "beta": {"input": 1000.0, "output": 2000.0}}
    pool = [{"name": name, "base_url": upstream.base_url, "price": price} for name, price in prices.items()]
    config = write_config(
        tmp_path,
        upstream.base_url,
        make_artifact(tmp_path / "artifacts"),
        pool=pool,
        policy={"kind": "utility", "cost_weight": 0.0},
        log={"store": f"sqlite:///{tmp_path}/outcomes.db", "flush_interval_s": 0.02},
        learning={"explore": {"share": 0.5, "usd_per_day": 1.0}},
    )

    def left(client: httpx.Client) -> float:
        told: float = client.get("/readyz").json()["learning"]["explore"]["left_usd"]
        return told

    def run(asked: int) -> tuple[float, float]:
        """Return what is left of the day's dollars after the start, and after some requests."""
        with GatewayProcess(config) as gateway, gateway.client() as client:
            ends = time.monotonic() + 30
            while not (first := left(client)):
                assert time.monotonic() < ends, gateway.output
                time.sleep(0.05)
            for _ in range(asked):
                assert gateway.ask(client, SUMS[0]).status_code == 200
            last = left(client)
            assert gateway.stop() == 0, gateway.output
        return first, last

    first, last = run(16)
    assert first == pytest.approx(1.0)
    assert 0 < last < 1.0, "some were explored"
    assert run(0)[0] == pytest.approx(last)
