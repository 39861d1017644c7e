"""Drivers: do the calling that a flow decides on, in a thread or on an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from llmrouter.exceptions import BackendError
from llmrouter.flows._base import Answer, Final, FlowRun, Step


def drive(run: FlowRun, call: Callable[[Step], Answer]) -> Final:
    """Run a flow to its end with a function that calls one model.

    Parameters
    ----------
    run : generator
        From `Flow.start`.
    call : callable
        Takes the step, returns the answer; a `BackendError` it raises moves the flow on to the next model.

    Raises
    ------
    BackendError
        If every model failed: the failure that tells most.
    """
    move: Callable[[], Step] = run.__next__
    try:
        while True:
            try:
                step = move()
            except StopIteration as stop:
                return _answered(stop.value)
            move = _move(run, step, call)
    finally:
        run.close()


async def drive_async(run: FlowRun, call: Callable[[Step], Awaitable[Answer]]) -> Final:
    """Run a flow to its end with a coroutine function that calls one model; otherwise as `drive`.

    Cancelling it (a client that hangs up) cancels the call under way and closes the flow.
    """
    move: Callable[[], Step] = run.__next__
    try:
        while True:
            try:
                step = move()
            except StopIteration as stop:
                return _answered(stop.value)
            move = await _move_async(run, step, call)
    finally:
        run.close()


def _move(run: FlowRun, step: Step, call: Callable[[Step], Answer]) -> Callable[[], Step]:
    """Call the model and return how the run goes on."""
    try:
        answer = call(step)
    except BackendError as error:
        failed = error
        return lambda: run.throw(failed)
    return lambda: run.send(answer)


async def _move_async(run: FlowRun, step: Step, call: Callable[[Step], Awaitable[Answer]]) -> Callable[[], Step]:
    try:
        answer = await call(step)
    except BackendError as error:
        failed = error
        return lambda: run.throw(failed)
    return lambda: run.send(answer)


def _answered(final: Final) -> Final:
    """Return a final that has an answer; raise the most telling failure of one that has none."""
    if final.kept is None:
        # The pool brings its HTTP client along, which replay does not need.
        from llmrouter.pool import most_telling

        raise most_telling(final.failures).error
    return final
