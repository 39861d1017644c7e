"""Driving the walk: fallbacks, the retry budget, and second attempts beside slow ones."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from llmrouter.exceptions import BackendConnectError, BackendError, BackendStatusError
from llmrouter.pool import FailedAttempt, ScriptedBackend, Timeouts
from llmrouter.types import Decision, RankedModel
from service.dispatch import PoolFailedError, first_answer
from service.resilience.settings import DeploymentSettings, ResilienceSettings
from service.resilience.state import LocalLimitError, Resilience

LONG = 30.0


class Answer:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = 0

    async def aclose(self) -> None:
        self.closed += 1


@dataclass
class FakeCall:
    """What dispatch uses of a call."""

    decision: Decision
    chat: Any = field(default_factory=lambda: SimpleNamespace(stream=True))
    request_id: str = "r1"
    failures: list[FailedAttempt] = field(default_factory=list)
    served_by: str | None = None
    upstream_s: float = 0.0
    hedges: list[str] = field(default_factory=list)
    abandoned: list[tuple[str, float]] = field(default_factory=list)


class Bench:
    """A gateway, a call over its models, and upstreams that do as the test says."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.resilience = Resilience(ResilienceSettings.model_validate(settings), names)
        self.windows: dict[str, int | None] = {}
        self.backends: dict[str, Any] = {}
        self.names = names
        self.plans: dict[str, Callable[[], Awaitable[Answer]]] = {}
        self.tried: list[str] = []
        self.cancelled: list[str] = []
        self.answers: list[Answer] = []

    def call(self) -> FakeCall:
        ranking = tuple(RankedModel(name, math.nan, math.nan, math.nan) for name in self.names)
        return FakeCall(Decision(ranking=ranking))

    def usual(self, model: str, seconds: float = 0.001) -> None:
        """Let `model` be known for answering within `seconds`."""
        assert self.resilience.hedger is not None
        for _ in range(20):
            self.resilience.hedger.request()
            self.resilience.hedger.answered(model, seconds, streamed=True)

    def does(self, model: str, *, after_s: float = 0.0, error: Exception | None = None) -> None:
        async def plan() -> Answer:
            await asyncio.sleep(after_s)
            if error is not None:
                raise error
            self.answers.append(Answer(model))
            return self.answers[-1]

        self.plans[model] = plan

    async def attempt(self, name: str) -> Answer:
        self.tried.append(name)
        try:
            return await self.plans[name]()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    async def run(self, call: FakeCall) -> Answer:
        return await first_answer(self, call, self.attempt)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(10):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


def status(code: int, body: bytes = b"{}", **headers: str) -> BackendStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return BackendStatusError("x", status=code, body=body, headers=names)


def hedging(**changes: Any) -> dict[str, Any]:
    return {"enabled": True, "min_wait_s": 0.01, **changes}


# One after the other


async def test_the_first_answer_is_taken() -> None:
    bench, call = Bench("a", "b"), None
    bench.does("a", error=BackendConnectError("x"))
    bench.does("b")
    call = bench.call()
    assert (await bench.run(call)).name == "b"
    assert (call.served_by, [name for name, _ in call.failures]) == ("b", ["a"])
    assert call.upstream_s > 0
    assert (call.hedges, call.abandoned) == ([], [])


async def test_without_hedging_no_task_is_made() -> None:
    bench = Bench("a")
    task = asyncio.current_task()

    async def attempt(name: str) -> Answer:
        assert asyncio.current_task() is task
        return Answer(name)

    bench.attempt = attempt  # type: ignore[method-assign]
    await bench.run(bench.call())


async def test_all_fail() -> None:
    bench = Bench("a", "b")
    for name in "ab":
        bench.does(name, error=status(500))
    call = bench.call()
    with pytest.raises(PoolFailedError):
        await bench.run(call)
    assert [name for name, _ in call.failures] == ["a", "b"]
    assert call.served_by is None


async def test_a_failure_knows_how_long_it_took() -> None:
    bench = Bench("a", "b", "c")
    bench.does("a", after_s=0.03, error=status(500))
    bench.does("b", error=BackendConnectError("x"))
    bench.does("c")
    call = bench.call()
    await bench.run(call)
    slow, quick = (error.latency_s for _, error in call.failures)
    assert slow is not None
    assert quick is not None
    assert slow >= 0.03 > quick >= 0


async def test_a_used_up_retry_budget_ends_it_at_once() -> None:
    bench = Bench("a", "b", retry_budget={"ratio": 0.5, "min_per_s": 0}, breaker={"after_failures": 100})
    bench.does("a", error=status(500))
    bench.does("b")
    results = []
    for _ in range(8):
        try:
            results.append((await bench.run(bench.call())).name)
        except PoolFailedError:
            results.append("failed")
    assert results == ["failed", "b"] * 4
    assert bench.resilience.state()["retries_refused"] == 4


async def test_a_stream_that_goes_on_elsewhere_is_a_retry() -> None:
    bench = Bench("b", retry_budget={"ratio": 0, "min_per_s": 0})
    bench.does("b")
    call = bench.call()
    call.failures.append(FailedAttempt("a", BackendConnectError("x")))
    with pytest.raises(PoolFailedError):
        await bench.run(call)
    assert bench.tried == []


async def test_a_limit_of_ours_costs_no_retry_and_cools_nothing() -> None:
    bench = Bench("a", "b", retry_budget={"ratio": 0, "min_per_s": 0})
    bench.does("a", error=LocalLimitError("x", model="a", status=429, body=b"{}"))
    bench.does("b")
    call = bench.call()
    assert (await bench.run(call)).name == "b"
    assert not bench.resilience.cooldowns.cooling("a")
    assert bench.resilience.cooldowns.state("a") == "closed"


@pytest.mark.parametrize(
    ("error", "cools"),
    [(status(429), True), (status(401), True), (status(400, b'{"error": {"code": "content_filter"}}'), False)],
)
async def test_who_cools_down(error: BackendError, cools: bool) -> None:
    bench = Bench("a", "b")
    bench.does("a", error=error)
    bench.does("b")
    assert (await bench.run(bench.call())).name == "b"
    assert bench.resilience.cooldowns.cooling("a") is cools


async def test_a_trial_whose_client_leaves_is_no_result() -> None:
    bench = Bench("a", breaker={"after_failures": 1, "cool_s": 0.001})
    bench.resilience.cooldowns.failed("a", BackendConnectError("x"))
    await asyncio.sleep(0.002)
    bench.does("a", after_s=LONG)
    task = asyncio.ensure_future(bench.run(bench.call()))
    await asyncio.sleep(0.01)
    assert bench.resilience.cooldowns.cooling("a"), "on trial"
    task.cancel()
    await asyncio.wait([task])
    assert not bench.resilience.cooldowns.cooling("a")
    assert bench.resilience.cooldowns.state("a") == "half_open"


# Beside each other


async def test_a_slow_first_is_overtaken_and_cancelled() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    bench.does("a", after_s=LONG)
    bench.does("b")
    call = bench.call()
    assert (await bench.run(call)).name == "b"
    await asyncio.sleep(0)
    assert bench.cancelled == ["a"]
    assert (call.served_by, call.hedges, call.failures) == ("b", ["b"], [])
    ((abandoned, seconds),) = call.abandoned
    assert abandoned == "a"
    assert 0 < seconds < LONG
    assert bench.resilience.state()["hedges_won"] == 1
    assert not bench.resilience.cooldowns.cooling("a"), "slow is not failed"


async def test_the_first_may_still_win() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    bench.does("a", after_s=0.05)
    bench.does("b", after_s=LONG)
    call = bench.call()
    assert (await bench.run(call)).name == "a"
    await asyncio.sleep(0)
    assert bench.cancelled == ["b"]
    assert (call.served_by, call.hedges, [name for name, _ in call.abandoned]) == ("a", ["b"], ["b"])
    assert bench.resilience.state() == {
        "retries": 0, "retries_refused": 0, "hedges": 1, "hedges_won": 0, "hedges_refused": 0,
    }  # fmt: skip


async def test_a_first_in_time_is_not_hedged() -> None:
    bench = Bench("a", "b", hedge=hedging(min_wait_s=5.0))
    bench.usual("a")
    bench.does("a")
    call = bench.call()
    assert (await bench.run(call)).name == "a"
    assert (bench.tried, call.hedges, call.abandoned) == (["a"], [], [])


async def test_too_little_known_is_not_hedged() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.does("a", after_s=0.05)
    assert (await bench.run(bench.call())).name == "a"
    assert bench.tried == ["a"]


async def test_a_first_that_fails_leaves_it_to_the_second() -> None:
    bench = Bench("a", "b", "c", hedge=hedging(), retry_budget={"ratio": 0, "min_per_s": 0})
    bench.usual("a")
    bench.does("a", after_s=0.05, error=status(503))
    bench.does("b", after_s=0.1)
    call = bench.call()
    assert (await bench.run(call)).name == "b"
    assert ([name for name, _ in call.failures], call.abandoned) == (["a"], [])
    assert (call.failures[0].error.latency_s or 0) >= 0.05


async def test_when_both_fail_the_walk_goes_on() -> None:
    bench = Bench("a", "b", "c", hedge=hedging())
    bench.usual("a")
    bench.does("a", after_s=0.05, error=status(503))
    bench.does("b", error=BackendConnectError("x"))
    bench.does("c")
    call = bench.call()
    assert (await bench.run(call)).name == "c"
    assert [name for name, _ in call.failures] == ["b", "a"]
    assert bench.resilience.state()["retries"] == 1
    bench.does("c", error=status(500))
    with pytest.raises(PoolFailedError):
        await bench.run(bench.call())


async def test_a_fault_of_the_request_ends_both() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    bench.does("a", after_s=0.05, error=status(400))
    bench.does("b", after_s=LONG)
    call = bench.call()
    with pytest.raises(PoolFailedError):
        await bench.run(call)
    await asyncio.sleep(0)
    assert bench.cancelled == ["b"]
    assert [name for name, _ in call.abandoned] == ["b"]


async def test_a_client_that_leaves_cancels_both() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    bench.does("a", after_s=LONG)
    bench.does("b", after_s=LONG)
    task = asyncio.ensure_future(bench.run(bench.call()))
    await asyncio.sleep(0.05)
    assert bench.tried == ["a", "b"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert sorted(bench.cancelled) == ["a", "b"]


async def test_an_answer_that_nobody_takes_is_closed() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    release = asyncio.Event()

    def at_once(name: str) -> Callable[[], Awaitable[Answer]]:
        async def plan() -> Answer:
            await release.wait()
            bench.answers.append(Answer(name))
            return bench.answers[-1]

        return plan

    bench.plans = {"a": at_once("a"), "b": at_once("b")}
    task = asyncio.ensure_future(bench.run(bench.call()))
    await asyncio.sleep(0.05)
    release.set()
    taken = await task
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.answers) == 2
    assert [answer.closed for answer in bench.answers] == [int(answer is not taken) for answer in bench.answers]


async def test_an_answer_in_the_moment_the_client_leaves_is_closed() -> None:
    bench = Bench("a", "b", hedge=hedging(min_wait_s=LONG))
    bench.usual("a")
    release = asyncio.Event()

    async def plan() -> Answer:
        await release.wait()
        bench.answers.append(Answer("a"))
        return bench.answers[-1]

    bench.plans["a"] = plan
    task = asyncio.ensure_future(bench.run(bench.call()))
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    for _ in range(5):
        await asyncio.sleep(0)
    assert [answer.closed for answer in bench.answers] in ([], [1]), "none was made, or it was closed"
    assert task.cancelled()


async def test_hedges_keep_to_their_budget() -> None:
    bench = Bench("a", "b", hedge=hedging(max_share=0.1, min_wait_s=0.0, after="p50"))
    for _ in range(200):
        bench.resilience.hedger.answered("a", 0.0, streamed=True)  # type: ignore[union-attr]
    bench.does("a", after_s=0.005)
    bench.does("b", after_s=LONG)
    for _ in range(30):
        await bench.run(bench.call())
    assert bench.tried.count("b") == bench.resilience.state()["hedges"] == 3
    assert bench.resilience.state()["hedges_refused"] > 0


async def test_nobody_to_ask_costs_no_budget() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    bench.resilience.cooldowns.failed("b", status(429, retry_after="60"))
    bench.does("a", after_s=0.05)
    call = bench.call()
    assert (await bench.run(call)).name == "a"
    assert (bench.tried, call.hedges) == (["a"], [])
    assert bench.resilience.state()["hedges"] == 0


async def test_another_deployment_is_asked_beside_the_first() -> None:
    bench = Bench("a", "b", hedge=hedging(models="replica"))
    bench.usual("a")
    slow_or_fast = [0.0, 0.0]

    def reply(place: int) -> Callable[[Any], str]:
        def count(_body: Any) -> str:
            slow_or_fast[place] += 1
            return "x"

        return count

    backend = bench.resilience.balanced(
        "a",
        [(DeploymentSettings(name=name), ScriptedBackend("a", reply=reply(i))) for i, name in enumerate("xy")],
    )
    bench.backends["a"] = backend
    first = True

    async def attempt(_name: str) -> Any:
        nonlocal first
        waits, first = first, False
        stream = await backend.stream({"messages": []}, timeouts=Timeouts())
        if waits:
            try:
                await asyncio.sleep(LONG)
            finally:
                await stream.aclose()
        return stream

    bench.attempt = attempt  # type: ignore[method-assign]
    call = bench.call()
    answer: Any = await bench.run(call)
    await answer.aclose()
    for _ in range(5):
        await asyncio.sleep(0)
    assert slow_or_fast == [1, 1], "each deployment was asked once"
    assert (call.served_by, call.hedges, [name for name, _ in call.abandoned]) == ("a", ["a"], ["a"])
    assert [one.in_flight for one in backend.deployments] == [0, 0]


async def test_without_replicas_there_is_no_replica_to_ask() -> None:
    bench = Bench("a", "b", hedge=hedging(models="replica"))
    bench.usual("a")
    bench.backends["a"] = ScriptedBackend("a")
    bench.does("a", after_s=0.05)
    assert (await bench.run(bench.call())).name == "a"
    assert bench.tried == ["a"]


async def test_a_fault_of_ours_is_raised_and_the_other_cancelled() -> None:
    bench = Bench("a", "b", hedge=hedging())
    bench.usual("a")
    bench.does("a", after_s=LONG)
    bench.does("b", error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await bench.run(bench.call())
    await asyncio.sleep(0)
    assert bench.cancelled == ["a"]
