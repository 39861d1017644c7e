"""Retry budget, latency window and hedging decisions: without I/O, with a clock that is set by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.pool import Hedger, LatencyWindow, RetryBudget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_retries_are_a_share_of_requests() -> None:
    budget = RetryBudget(ratio=0.2, min_per_s=0, window_s=10, clock=Clock())
    assert not budget.take()
    for _ in range(10):
        budget.request()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert (budget.taken, budget.refused) == (2, 2)


def test_a_few_retries_a_second_are_always_allowed() -> None:
    clock = Clock()
    budget = RetryBudget(ratio=0, min_per_s=0.5, window_s=10, clock=clock)
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
    clock.now += 10
    assert budget.take()


def test_requests_of_long_ago_allow_nothing() -> None:
    clock = Clock()
    budget = RetryBudget(ratio=1, min_per_s=0, window_s=10, clock=clock)
    budget.request()
    clock.now += 11
    assert not budget.take()


@given(st.lists(st.one_of(st.floats(0, 3), st.sampled_from(["request", "retry"])), max_size=200))
def test_no_window_has_more_retries_than_allowed(steps: list[float | str]) -> None:
    clock = Clock()
    budget = RetryBudget(ratio=0.5, min_per_s=0.2, window_s=10, clock=clock)
    requests, retries = [], []
    for step in steps:
        if step == "request":
            budget.request()
            requests.append(clock.now)
        elif step == "retry":
            if budget.take():
                retries.append(clock.now)
        else:
            clock.now += step  # type: ignore[operator]
        # The window moves on in tenths: nine of them are certainly in it, and nothing older than ten is.
        recent = sum(moment > clock.now - 9 for moment in retries)
        assert recent <= 2 + 0.5 * sum(moment > clock.now - 20 for moment in requests)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_a_quantile_is_one_of_the_last_times(times: list[float], q: float) -> None:
    window = LatencyWindow(size=20, enough=1)
    for seconds in times:
        window.add(seconds)
    recent = sorted(times[-20:])
    found = window.quantile(q)
    assert len(window) == len(recent)
    assert found == recent[max(math.ceil(q * len(recent)) - 1, 0)]
    assert sum(seconds <= found for seconds in recent) >= q * len(recent) - 1e-9


def test_too_few_times_have_no_quantile() -> None:
    window = LatencyWindow(enough=20)
    for _ in range(19):
        window.add(1.0)
    assert window.quantile(0.95) is None
    window.add(2.0)
    assert window.quantile(0.95) == 1.0
    assert window.quantile(1.0) == 2.0


def test_the_wait_is_the_models_own_and_never_too_short() -> None:
    hedger = Hedger(quantile=0.95, min_wait_s=0.05)
    for _ in range(20):
        hedger.answered("slow", 2.0, streamed=True)
        hedger.answered("fast", 0.001, streamed=True)
    assert hedger.wait_s("slow", streamed=True) == 2.0
    assert hedger.wait_s("fast", streamed=True) == 0.05
    assert hedger.wait_s("slow", streamed=False) is None, "whole answers take longer than first events"
    assert hedger.wait_s("new", streamed=True) is None


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_hedges_are_a_share_of_requests(share: float) -> None:
    hedger = Hedger(max_share=share)
    assert not hedger.take()
    taken = 0
    for i in range(1, 1001):
        hedger.request()
        taken += hedger.take()
        assert taken <= share * i + 1e-6
    assert taken == pytest.approx(1000 * share, abs=1)


def test_quiet_times_save_only_so_many() -> None:
    hedger = Hedger(max_share=0.5)
    for _ in range(1000):
        hedger.request()
    assert sum(hedger.take() for _ in range(100)) == 10
    hedger.give_back()
    assert hedger.started == 9
    assert hedger.take()
