"""Decisions in batches, in the event loop while they are cheap and in a thread else; each as it would be alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmrouter.exceptions import LLMRouterError, NoEligibleModelError
from llmrouter.types import Decision, RankedModel, RoutingRequest
from service import batcher
from service.batcher import Routing


class SlowEngine:
    """An engine that decides when it is let, and says of whom."""

    def __init__(self, *, free: bool = True) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.busy = threading.Event()
        if free:
            self.go.set()

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        self.busy.set()
        assert self.go.wait(10)
        self.threads.add(threading.current_thread().name)
        self.batches.append([request.text for request in requests])
        if any(request.text == "broken" for request in requests):
            raise RuntimeError("a fault of the engine")
        return [
            NoEligibleModelError({"m": "small"})
            if request.text == "refused"
            else Decision((RankedModel(f"{request.text}/{neighbours}", 1.0, 0.0, 0.0),))
            for request in requests
        ]


@pytest.fixture
def routing() -> Iterator[Routing]:
    thread = Routing(max_batch=4, longest_turn_s=0)
    yield thread
    thread.close()


async def test_an_idle_thread_decides_at_once_and_alone(routing: Routing) -> None:
    engine = SlowEngine()
    for text in ("a", "b"):
        assert (await routing.route(engine, RoutingRequest(text))).model == f"{text}/0"
    assert engine.batches == [["a"], ["b"]]
    assert engine.threads == {"routing"}


async def test_what_gathers_meanwhile_is_the_next_batch(routing: Routing) -> None:
    engine = SlowEngine(free=False)
    first = asyncio.create_task(routing.route(engine, RoutingRequest("first")))
    await asyncio.to_thread(engine.busy.wait, 10)
    others = [asyncio.create_task(routing.route(engine, RoutingRequest(str(i)))) for i in range(6)]
    await asyncio.sleep(0)
    engine.go.set()
    assert (await first).model == "first/0"
    assert [(await other).model for other in others] == [f"{i}/0" for i in range(6)]
    assert engine.batches == [["first"], ["0", "1", "2", "3"], ["4", "5"]]
    assert (routing.batches, routing.decided) == (3, 7)


async def test_an_error_is_that_of_its_own_request(routing: Routing) -> None:
    engine = SlowEngine(free=False)
    results = asyncio.gather(
        *(routing.route(engine, RoutingRequest(text)) for text in ("a", "refused", "b")), return_exceptions=True
    )
    await asyncio.sleep(0)
    engine.go.set()
    good, refused, also_good = await results
    assert isinstance(refused, NoEligibleModelError)
    assert (good.model, also_good.model) == ("a/0", "b/0")  # type: ignore[union-attr]


async def test_a_fault_that_one_request_causes_reaches_no_other(routing: Routing) -> None:
    engine = SlowEngine(free=False)
    first = asyncio.create_task(routing.route(engine, RoutingRequest("first")))
    await asyncio.to_thread(engine.busy.wait, 10)
    results = asyncio.gather(
        *(routing.route(engine, RoutingRequest(text)) for text in ("a", "broken", "b")), return_exceptions=True
    )
    await asyncio.sleep(0)
    engine.go.set()
    await first
    good, broken, also_good = await results
    assert isinstance(broken, RuntimeError)
    assert (good.model, also_good.model) == ("a/0", "b/0")  # type: ignore[union-attr]
    assert engine.batches == [["first"], ["a", "broken", "b"], ["a"], ["broken"], ["b"]]
    assert (routing.batches, routing.decided) == (2, 4)


async def test_a_fault_of_the_engine_ends_nothing(routing: Routing) -> None:
    engine = SlowEngine()
    with pytest.raises(RuntimeError, match="a fault of the engine"):
        await routing.route(engine, RoutingRequest("broken"))
    assert (await routing.route(engine, RoutingRequest("a"))).model == "a/0"


async def test_who_has_gone_is_not_decided_for(routing: Routing) -> None:
    engine = SlowEngine(free=False)
    first = asyncio.create_task(routing.route(engine, RoutingRequest("first")))
    await asyncio.to_thread(engine.busy.wait, 10)
    gone = asyncio.create_task(routing.route(engine, RoutingRequest("gone")))
    stays = asyncio.create_task(routing.route(engine, RoutingRequest("stays")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    engine.go.set()
    await first
    assert (await stays).model == "stays/0"
    assert engine.batches == [["first"], ["stays"]]


async def test_two_engines_are_not_mixed(routing: Routing) -> None:
    old, new = SlowEngine(free=False), SlowEngine()
    first = asyncio.create_task(routing.route(old, RoutingRequest("first")))
    await asyncio.to_thread(old.busy.wait, 10)
    tasks = [
        asyncio.create_task(routing.route(engine, RoutingRequest(text)))
        for engine, text in ((old, "a"), (new, "b"), (old, "c"))
    ]
    await asyncio.sleep(0)
    old.go.set()
    await asyncio.gather(first, *tasks)
    assert old.batches == [["first"], ["a", "c"]]
    assert new.batches == [["b"]]


class InstantEngine(SlowEngine):
    """An engine whose decisions cost nothing."""


async def test_cheap_decisions_are_made_in_the_loop_together() -> None:
    routing, engine = Routing(), InstantEngine()
    texts = [str(i) for i in range(5)]
    decisions = await asyncio.gather(*(routing.route(engine, RoutingRequest(text)) for text in texts))
    assert [decision.model for decision in decisions] == [f"{text}/0" for text in texts]
    assert engine.threads == {threading.current_thread().name}
    assert len(engine.batches) < 5
    assert [text for batch in engine.batches for text in batch] == texts


async def test_a_turn_of_the_loop_takes_no_more_than_fit_into_it() -> None:
    routing, engine = Routing(), InstantEngine()
    routing.fitting = 2.5
    await asyncio.gather(*(routing.route(engine, RoutingRequest(str(i))) for i in range(3)))
    assert engine.batches[0] == ["0", "1"]


@pytest.mark.parametrize(("fixed_s", "each_s", "fits"), [(0.003, 0.001, 5), (0.0, 0.0001, 32), (0.02, 0.001, 1)])
async def test_as_many_fit_into_a_turn_as_full_turns_had_time_for(
    monkeypatch: pytest.MonkeyPatch, fixed_s: float, each_s: float, fits: int
) -> None:
    class Clock:
        now = 0.0

        @classmethod
        def perf_counter(cls) -> float:
            return cls.now

    class Engine(InstantEngine):
        def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Any]:
            Clock.now += fixed_s + each_s * len(requests)
            return super().route_many(requests, neighbours=neighbours)

    monkeypatch.setattr("service.batcher.time", Clock)
    routing, engine = Routing(max_batch=32, longest_turn_s=0.008, longest_wait_s=1.0), Engine()
    await asyncio.gather(*(routing.route(engine, RoutingRequest(str(i))) for i in range(2000)))
    assert abs(len(engine.batches[-2]) - fits) <= fits // 5


async def test_dear_decisions_and_long_prompts_go_to_the_thread() -> None:
    routing, engine = Routing(), InstantEngine()
    await routing.route(engine, RoutingRequest("x" * 100_000))
    assert engine.threads == {"routing"}
    engine.threads.clear()
    routing.cost_s = 1.0
    await routing.route(engine, RoutingRequest("short"))
    assert engine.threads == {"routing"}
    # They have become cheap: after a while the loop makes them again.
    for _ in range(200):
        await routing.route(engine, RoutingRequest("short"))
    assert routing.cost_s < routing.longest_turn_s
    assert threading.current_thread().name in engine.threads
    routing.close()


async def test_what_waits_for_a_device_stays_in_the_thread_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device(InstantEngine):
        def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Any]:
            time.sleep(0.005)  # no processor time
            return super().route_many(requests, neighbours=neighbours)

    monkeypatch.setattr(batcher, "_FIRST_AWAY_S", 0.2)
    routing, engine = Routing(), Device()
    loop_s = []
    for _ in range(2):
        while not engine.threads or "routing" not in engine.threads:
            await routing.route(engine, RoutingRequest("x"))
        left = asyncio.get_running_loop().time()
        engine.threads.clear()
        routing.cost_s = 0.001  # as it comes to look there
        while engine.threads <= {"routing"}:
            await routing.route(engine, RoutingRequest("x"))
        loop_s.append(asyncio.get_running_loop().time() - left)
        engine.threads.clear()
    routing.close()
    assert loop_s[0] > 0.15
    assert loop_s[1] > 0.35


async def test_work_that_is_dear_only_by_waiting_for_the_interpreter_comes_back_to_the_loop() -> None:
    routing, engine = Routing(), InstantEngine()
    routing.cost_s = 1.0
    ending = threading.Event()

    def hold_the_interpreter() -> None:
        while not ending.is_set():
            sum(range(1000))

    rival = threading.Thread(target=hold_the_interpreter)
    rival.start()
    try:
        for _ in range(200):
            await routing.route(engine, RoutingRequest("short"))
    finally:
        ending.set()
        rival.join()
    assert routing.cost_s < routing.longest_turn_s
    routing.close()


def test_a_thread_that_was_never_used_closes() -> None:
    Routing().close()


@pytest.mark.parametrize("longest_turn_s", [0, 0.004])
async def test_who_comes_after_the_end_is_told(longest_turn_s: float) -> None:
    closed = Routing(longest_turn_s=longest_turn_s)
    await closed.route(SlowEngine(), RoutingRequest("a"))
    closed.close()
    with pytest.raises(RuntimeError, match="routing was closed"):
        await asyncio.wait_for(closed.route(SlowEngine(), RoutingRequest("b")), 5)
