"""Several deployments of one model: who is called, what is counted, what happens when one fails."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from contracts.backend_kit import BODY, check_backend, read
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmrouter.exceptions import BackendConnectError, BackendError, BackendStatusError, BackendStreamError
from llmrouter.pool import (
    DEPLOYMENT_HEADER,
    BalancedBackend,
    Cooldowns,
    Deployment,
    ScriptedBackend,
    Timeouts,
    deployments_in_use,
)

TIMEOUTS = Timeouts()
STREAM_BODY = {**BODY, "stream": True}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def status(code: int, body: bytes = b"{}", **headers: str) -> BackendStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return BackendStatusError("x", status=code, body=body, headers=names)


def balanced(*replies: Any, weights: tuple[float, ...] = (), **options: Any) -> BalancedBackend:
    """Return a balanced backend over scripted ones called a, b, c..."""
    deployments = [
        Deployment(name, ScriptedBackend(name, reply=reply), weight=weights[i] if weights else 1.0)
        for i, (name, reply) in enumerate(zip("abcdef", replies))
    ]
    return BalancedBackend("m", deployments, **{"rng": random.Random(1), **options})


def in_flight(backend: BalancedBackend) -> list[int]:
    return [deployment.in_flight for deployment in backend.deployments]


async def served(backend: BalancedBackend) -> str:
    return (await backend.complete(BODY, timeouts=TIMEOUTS)).headers[DEPLOYMENT_HEADER]


async def test_it_keeps_the_contract() -> None:
    await check_backend(balanced("Hello there", "Hello there"))


def test_deployments_are_told_apart() -> None:
    for deployments in ([], [Deployment("a", ScriptedBackend("a")), Deployment("a", ScriptedBackend("a"))]):
        with pytest.raises(ValueError, match="each with a name of its own"):
            BalancedBackend("m", deployments)
    with pytest.raises(ValueError, match="weight"):
        Deployment("a", ScriptedBackend("a"), weight=0)


async def test_the_endpoint_is_passed_on() -> None:
    backend = balanced("Hello")
    answer = await backend.complete({"prompt": "x"}, timeouts=TIMEOUTS, endpoint="completions")
    assert b"text_completion" in answer.body
    stream = await backend.stream({"prompt": "x"}, timeouts=TIMEOUTS, endpoint="completions")
    assert b"text_completion" in (await read(stream))[0].raw


async def test_a_stream_counts_until_it_is_closed() -> None:
    backend = balanced("Hello there")
    stream = await backend.stream(STREAM_BODY, timeouts=TIMEOUTS)
    assert stream.headers[DEPLOYMENT_HEADER] == "a"
    assert in_flight(backend) == [1]
    async for _ in stream:
        assert in_flight(backend) == [1]
    await stream.aclose()
    await stream.aclose()
    assert in_flight(backend) == [0]


async def test_a_call_that_is_cancelled_counts_no_more() -> None:
    backend = BalancedBackend("m", [Deployment("a", ScriptedBackend("a", delay_s=30))])
    for call in (backend.complete, backend.stream):
        task = asyncio.ensure_future(call(BODY, timeouts=TIMEOUTS))
        await asyncio.sleep(0.01)
        assert in_flight(backend) == [1]
        task.cancel()
        await asyncio.wait([task])
        assert in_flight(backend) == [0]


async def test_calls_go_where_fewest_are_under_way() -> None:
    backend = balanced("x", "x", clock=Clock())
    streams = [await backend.stream(STREAM_BODY, timeouts=TIMEOUTS) for _ in range(10)]
    assert in_flight(backend) == [5, 5]
    for stream in streams:
        await stream.aclose()
    assert in_flight(backend) == [0, 0]


async def test_calls_go_to_the_faster() -> None:
    clock = Clock()

    def taking(seconds: float) -> Any:
        def reply(_body: object) -> str:
            clock.now += seconds
            return "x"

        return reply

    backend = balanced(taking(2.0), taking(0.1), clock=clock)
    names = [await served(backend) for _ in range(50)]
    assert names.count("a") <= 1
    assert names.count("b") >= 49
    known = {entry["name"]: entry["answer_s"] for entry in backend.state()}
    assert known["b"] == pytest.approx(0.1)


async def test_weights_share_the_load() -> None:
    backend = balanced("x", "x", weights=(3.0, 1.0), clock=Clock())
    streams = [await backend.stream(STREAM_BODY, timeouts=TIMEOUTS) for _ in range(40)]
    assert in_flight(backend) == [30, 10]
    for stream in streams:
        await stream.aclose()


def test_an_old_measurement_fades_towards_the_best() -> None:
    slow = Deployment("a", ScriptedBackend("a"))
    slow.answered(10.0, 0.0, streamed=False)
    assert slow.load(1.0, 0.0, streamed=False) == 10.0
    assert 1.0 < slow.load(1.0, 300.0, streamed=False) < 1.01
    assert Deployment("b", ScriptedBackend("b")).load(1.0, 0.0, streamed=False) == 1.0, "the unknown is tried"


@pytest.mark.parametrize("error", [BackendConnectError("x"), status(500), status(429), status(401)])
async def test_another_deployment_answers_where_one_fails(error: BackendError) -> None:
    backend = balanced(error, "x")
    assert {await served(backend) for _ in range(8)} == {"b"}
    stream = await backend.stream(STREAM_BODY, timeouts=TIMEOUTS)
    assert stream.headers[DEPLOYMENT_HEADER] == "b"
    await stream.aclose()
    assert in_flight(backend) == [0, 0]


@pytest.mark.parametrize(
    "error",
    [status(400), status(400, b'{"error": {"code": "content_filter"}}'), status(400, b"context_length_exceeded")],
)
async def test_what_lies_in_the_request_is_tried_once(error: BackendError) -> None:
    backend = balanced(error, error)
    with pytest.raises(BackendStatusError):
        await backend.complete(BODY, timeouts=TIMEOUTS)
    assert sum(len(one.backend.bodies) for one in backend.deployments) == 1  # type: ignore[attr-defined]


async def test_when_all_fail_the_most_telling_error_is_the_models() -> None:
    backend = balanced(BackendConnectError("x"), status(429, retry_after="7"), status(401))
    with pytest.raises(BackendStatusError) as caught:
        await backend.complete(BODY, timeouts=TIMEOUTS)
    assert caught.value.headers["retry-after"] == "7"
    assert in_flight(backend) == [0, 0, 0]


async def test_other_deployments_are_retries_and_may_be_refused() -> None:
    asked: list[int] = []

    def refuse() -> bool:
        asked.append(1)
        return False

    backend = balanced(status(500), status(500), may_retry=refuse)
    with pytest.raises(BackendStatusError):
        await backend.complete(BODY, timeouts=TIMEOUTS)
    assert asked == [1]
    assert sum(len(one.backend.bodies) for one in backend.deployments) == 1  # type: ignore[attr-defined]


async def test_a_cooling_deployment_is_left_out_until_all_are() -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock=clock)
    backend = balanced("x", "x", cooldowns=cooldowns, clock=clock)
    cooldowns.failed("m/a", status(429, retry_after="50"))
    assert {await served(backend) for _ in range(8)} == {"b"}
    assert backend.replicas == 1
    cooldowns.failed("m/b", status(429, retry_after="9"))
    assert await served(backend) == "b", "the one that is well soonest"


async def test_a_stream_that_breaks_off_counts_against_its_deployment() -> None:
    class Breaking(ScriptedBackend):
        async def stream(self, body: Any, *, timeouts: Timeouts, endpoint: str = "chat/completions") -> Any:
            stream = await super().stream(body, timeouts=timeouts, endpoint=endpoint)

            class Broken:
                headers = stream.headers
                aclose = stream.aclose

                async def __aiter__(self) -> Any:
                    yield [event async for events in stream for event in events][:1]
                    raise BackendStreamError("broke off")

            return Broken()

    cooldowns = Cooldowns(after_failures=1)
    backend = BalancedBackend("m", [Deployment("a", Breaking("a"))], cooldowns=cooldowns)
    stream = await backend.stream(STREAM_BODY, timeouts=TIMEOUTS)
    with pytest.raises(BackendStreamError):
        await read(stream)
    assert cooldowns.cooling("m/a")
    assert in_flight(backend) == [0]


async def test_two_attempts_of_one_request_do_not_share_a_deployment() -> None:
    backend = balanced("x", "x")
    token = deployments_in_use.set(set())
    try:
        names = {await served(backend), await served(backend)}
        assert names == {"a", "b"}
        assert await served(backend) in names, "where all are taken, any will do"
    finally:
        deployments_in_use.reset(token)


@hypothesis_settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["whole", "stream", "close"]), st.lists(st.booleans(), min_size=3, max_size=3)),
        max_size=30,
    ),
    st.integers(0, 100),
)
def test_in_flight_is_exact(steps: list[tuple[str, list[bool]]], seed: int) -> None:
    fails = [False] * 3

    def reply_of(i: int) -> Any:
        return lambda _body: status(500) if fails[i] else "x"

    async def trial() -> None:
        backend = balanced(*map(reply_of, range(3)), rng=random.Random(seed), cooldowns=Cooldowns(after_failures=2))
        opened: list[Any] = []
        for kind, failing in steps:
            fails[:] = failing
            if kind == "close" and opened:
                await opened.pop().aclose()
            elif kind != "close":
                try:
                    if kind == "stream":
                        opened.append(await backend.stream(STREAM_BODY, timeouts=TIMEOUTS))
                    else:
                        await backend.complete(BODY, timeouts=TIMEOUTS)
                except BackendStatusError:
                    pass
            held = [stream.headers[DEPLOYMENT_HEADER] for stream in opened]
            assert in_flight(backend) == [held.count(name) for name in "abc"]

    asyncio.run(trial())
