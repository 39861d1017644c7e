"""The two drivers, on flows written out by hand."""

import asyncio

import pytest

from llmrouter.exceptions import BackendConnectError, BackendStatusError
from llmrouter.flows import Answer, Final, Step, drive, drive_async
from llmrouter.pool import FailedAttempt


def two_calls(closed):
    """Ask a, then b; keep b if it answers, else a."""
    try:
        first = yield Step("a", 1.0)
        try:
            second = yield Step("b", 2.0)
        except BackendConnectError as error:
            return Final(first, (first,), (FailedAttempt("b", error),))
        return Final(second, (first, second))
    finally:
        closed.append(True)


def all_failed():
    failures = []
    for name in "ab":
        try:
            yield Step(name, 1.0)
        except BackendStatusError as error:
            failures.append(FailedAttempt(name, error))
    return Final(None, (), tuple(failures))


def refuse(step):
    status = {"a": 401, "b": 429}[step.model]
    raise BackendStatusError(f"status {status}", model=step.model, status=status, body=b"")


def answer_unless(failing):
    def call(step):
        if step.model == failing:
            raise BackendConnectError("down", model=step.model)
        return Answer(step.model, cost_usd=step.expected_cost_usd)

    return call


def as_coroutine(call):
    async def called(step):
        await asyncio.sleep(0)
        return call(step)

    return called


@pytest.mark.parametrize(("failing", "kept", "cost"), [(None, "b", 2.0), ("b", "a", 1.0)])
async def test_both_drivers_give_the_same(failing, kept, cost):
    closed = []
    finals = [
        drive(two_calls(closed), answer_unless(failing)),
        await drive_async(two_calls(closed), as_coroutine(answer_unless(failing))),
    ]
    for final in finals:
        assert final.kept == Answer(kept, cost_usd=cost)
        assert [failed.model for failed in final.failures] == ([failing] if failing else [])
    assert closed == [True, True]


async def test_the_most_telling_failure_is_raised_when_nobody_answers():
    with pytest.raises(BackendStatusError, match="status 429"):
        drive(all_failed(), refuse)
    with pytest.raises(BackendStatusError, match="status 429"):
        await drive_async(all_failed(), as_coroutine(refuse))


def test_a_foreign_error_closes_the_run():
    closed = []
    with pytest.raises(ZeroDivisionError):
        drive(two_calls(closed), lambda step: 1 / 0)
    assert closed == [True]


async def test_a_client_that_hangs_up_cancels_the_call_and_closes_the_run():
    closed, cancelled, called = [], [], asyncio.Event()

    async def hang(step):
        called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(step.model)
            raise

    task = asyncio.create_task(drive_async(two_calls(closed), hang))
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (cancelled, closed) == (["a"], [True])
