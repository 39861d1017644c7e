"""Attempts beside each other: one answer is handed out, every other is cancelled or closed, and no task is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llmrouter.exceptions import BackendConnectError, BackendError
from llmrouter.pool import Race


class Answer:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = 0

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


class Upstream:
    """Attempts that end when the test says so."""

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Future[Answer]] = {}
        self.cancelled: list[str] = []

    async def __call__(self, name: str) -> Answer:
        self.gates[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.gates[name]
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def answer(self, name: str) -> Answer:
        answer = Answer(name)
        self.gates[name].set_result(answer)
        return answer

    def fail(self, name: str, error: Exception | None = None) -> None:
        self.gates[name].set_exception(error or BackendConnectError(name))


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    before = asyncio.all_tasks()
    yield Upstream()
    await settle()
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}, "a task is left"


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def begun(upstream: Upstream, *names: str) -> Race[Answer]:
    race: Race[Answer] = Race(upstream)
    for name in names:
        race.start(name)
    await settle()
    return race


async def test_the_loser_is_cancelled(upstream: Upstream) -> None:
    race = await begun(upstream, "a", "b")
    winner = upstream.answer("b")
    ended = await race.next()
    assert (ended.number, ended.name, ended.error, ended.answer) == (1, "b", None, winner)
    assert [(gone.number, gone.name) for gone in race.close()] == [(0, "a")]
    await settle()
    assert upstream.cancelled == ["a"]
    assert winner.closed == 0


async def test_of_two_answers_at_once_the_first_is_taken_and_the_other_closed(upstream: Upstream) -> None:
    race = await begun(upstream, "a", "b")
    second, first = upstream.answer("b"), upstream.answer("a")
    assert (await race.next()).answer is first
    race.close()
    await settle()
    assert (first.closed, second.closed) == (0, 1)


async def test_an_answer_comes_before_a_failure(upstream: Upstream) -> None:
    race = await begun(upstream, "a", "b")
    upstream.fail("a")
    upstream.answer("b")
    assert (await race.next()).name == "b"
    race.close()


async def test_failures_are_handed_out_one_by_one(upstream: Upstream) -> None:
    race = await begun(upstream, "a", "b")
    upstream.fail("b")
    assert isinstance((await race.next()).error, BackendError)
    assert race.running
    upstream.fail("a")
    assert (await race.next()).name == "a"
    assert not race.running
    assert race.close() == []


async def test_an_answer_that_comes_in_spite_of_the_cancellation_is_closed(upstream: Upstream) -> None:
    late: list[Answer] = []

    async def stubborn(name: str) -> Answer:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            late.append(Answer(name))
        return late[0]

    race: Race[Answer] = Race(stubborn)
    race.start("a")
    await settle()
    race.close()
    await settle()
    assert [answer.closed for answer in late] == [1]


async def test_a_fault_in_an_attempt_is_raised_and_the_others_can_be_closed(upstream: Upstream) -> None:
    race = await begun(upstream, "a", "b")
    upstream.fail("a", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await race.next()
    race.close()
    await settle()
    assert upstream.cancelled == ["b"]


async def test_waiting_has_a_limit(upstream: Upstream) -> None:
    race = await begun(upstream, "a")
    assert not await race.wait(0.001)
    upstream.fail("a")
    assert await race.wait(30)
    await race.next()
