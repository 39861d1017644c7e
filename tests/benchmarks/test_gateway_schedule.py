"""The open loop keeps to its schedule, whatever the server does (no coordinated omission)."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gateway.schedule import OpenSchedule


@given(
    st.floats(min_value=0.5, max_value=2000),
    st.floats(min_value=0.01, max_value=3),
    st.lists(st.floats(min_value=0, max_value=0.5), max_size=50),
)
def test_every_request_is_due_once_at_its_time(rate, seconds, steps):
    schedule = OpenSchedule(rate, seconds, start=100.0)
    now = 99.9
    given_times = []
    for step in [*steps, 10_000.0]:
        now += step
        times = schedule.due(now)
        assert all(time <= now + 1e-6 for time in times)
        given_times += times
    assert given_times == [100.0 + i / rate for i in range(schedule.total)]
    assert schedule.total == max(round(rate * seconds), 1)
    assert schedule.next_time() is None
    assert schedule.due(1e9) == []


def test_next_time_is_the_first_not_yet_due():
    schedule = OpenSchedule(10.0, 1.0, start=0.0)
    assert schedule.next_time() == 0.0
    assert schedule.due(-1.0) == []
    assert schedule.due(0.25) == [0.0, 0.1, 0.2]
    assert schedule.next_time() == pytest.approx(0.3)


class StallingServer:
    """Answers one request after the other in a millisecond, and not at all for a while."""

    def __init__(self, stall: tuple[float, float]) -> None:
        self.free_at = 0.0
        self.stall = stall

    def answer_at(self, sent: float) -> float:
        begin = max(sent, self.free_at)
        if self.stall[0] <= begin < self.stall[1]:
            begin = self.stall[1]
        self.free_at = begin + 0.001
        return self.free_at


def test_a_stall_is_felt_by_every_request_that_was_due_in_it():
    rate, stall = 100.0, (1.0, 1.5)
    server, schedule = StallingServer(stall), OpenSchedule(rate, 3.0, start=0.0)
    # One connection only: what is due while it waits is sent late, but counted from when it was due.
    events: list[float] = [0.0]
    backlog: list[float] = []
    latencies = []
    busy_until = 0.0
    while events:
        now = heapq.heappop(events)
        backlog += schedule.due(now)
        if backlog and now >= busy_until:
            due = backlog.pop(0)
            busy_until = server.answer_at(now)
            latencies.append(busy_until - due)
            heapq.heappush(events, busy_until)
        following = schedule.next_time()
        if following is not None and following > now and following not in events:
            heapq.heappush(events, following)
    assert len(latencies) == 300
    felt = [latency for latency in latencies if latency > 0.01]
    assert len(felt) >= rate * (stall[1] - stall[0])
    assert max(latencies) == pytest.approx(0.501, abs=0.002)
    # A closed loop would have met the stall with a single request.
    server, now, closed = StallingServer(stall), 0.0, []
    while now < 3.0:
        answered = server.answer_at(now)
        closed.append(answered - now)
        now = max(answered, now + 1 / rate)
    assert sum(latency > 0.01 for latency in closed) == 1
