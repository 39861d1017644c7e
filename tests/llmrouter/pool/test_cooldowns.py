"""Who cools down, for how long, and how a model comes back: with a clock that is set by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.exceptions import BackendConnectError, BackendStatusError
from llmrouter.pool import Cooldowns

DOWN = BackendConnectError("x")


def status(code: int, **headers: str) -> BackendStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return BackendStatusError("x", status=code, body=b"{}", headers=names)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_model_cools_down_after_failures_in_a_row(clock: Clock) -> None:
    cooldowns = Cooldowns(after_failures=3, cool_s=10, clock=clock)
    for _ in range(2):
        cooldowns.failed("a", status(500))
    assert not cooldowns.cooling("a")
    cooldowns.succeeded("a")
    for _ in range(3):
        cooldowns.failed("a", BackendConnectError("x"))
    assert cooldowns.cooling("a")
    assert not cooldowns.cooling("b")
    clock.now += 10
    assert not cooldowns.cooling("a")


def test_too_many_requests_cools_for_as_long_as_asked(clock: Clock) -> None:
    cooldowns = Cooldowns(rate_limited_s=5, longest_s=60, clock=clock)
    cooldowns.failed("a", status(429, retry_after="20"))
    cooldowns.failed("b", status(429))
    cooldowns.failed("c", status(429, retry_after="86400"))
    assert [cooldowns.remaining_s(name) for name in "abc"] == [20, 5, 60]


def test_a_shorter_pause_does_not_end_a_longer_one(clock: Clock) -> None:
    cooldowns = Cooldowns(clock=clock)
    cooldowns.failed("a", status(429, retry_after="50"))
    cooldowns.failed("a", status(429, retry_after="1"))
    assert cooldowns.remaining_s("a") == 50


def test_a_wrong_key_cools_at_once(clock: Clock) -> None:
    cooldowns = Cooldowns(clock=clock)
    cooldowns.failed("a", status(401))
    assert cooldowns.cooling("a")


# The share of failures


def test_a_model_that_fails_half_the_time_cools_down(clock: Clock) -> None:
    cooldowns = Cooldowns(failure_share=0.5, min_calls=20, window_s=30, clock=clock)
    for _ in range(9):
        cooldowns.succeeded("a")
        cooldowns.failed("a", status(500))
    cooldowns.succeeded("a")
    assert not cooldowns.cooling("a"), "19 calls are too few to tell"
    cooldowns.failed("a", status(500))
    assert cooldowns.cooling("a")


def test_failures_of_long_ago_do_not_count(clock: Clock) -> None:
    cooldowns = Cooldowns(failure_share=0.5, min_calls=20, window_s=30, clock=clock)
    for _ in range(10):
        cooldowns.failed("a", status(500))
        cooldowns.succeeded("a")
    clock.now += 31
    for _ in range(19):
        cooldowns.succeeded("a")
    cooldowns.failed("a", status(500))
    assert not cooldowns.cooling("a")


# The way back


def open_circuit(cooldowns: Cooldowns) -> None:
    for _ in range(3):
        cooldowns.failed("a", DOWN)
    assert cooldowns.state("a") == "open"


def test_one_call_tries_a_model_that_failed(clock: Clock) -> None:
    cooldowns = Cooldowns(cool_s=10, clock=clock)
    open_circuit(cooldowns)
    clock.now += 10
    assert cooldowns.state("a") == "half_open"
    assert not cooldowns.cooling("a")
    trial = cooldowns.began("a")
    assert cooldowns.cooling("a"), "the others wait for what becomes of it"
    assert cooldowns.remaining_s("a") == 0
    clock.now += 1
    cooldowns.succeeded("a", began=trial)
    assert cooldowns.state("a") == "closed"
    assert not cooldowns.cooling("a")


def test_a_failed_trial_begins_the_pause_anew(clock: Clock) -> None:
    cooldowns = Cooldowns(cool_s=10, clock=clock)
    open_circuit(cooldowns)
    clock.now += 10
    cooldowns.failed("a", DOWN, began=cooldowns.began("a"))
    assert cooldowns.remaining_s("a") == 10
    clock.now += 10
    assert not cooldowns.cooling("a"), "and then the next one may try"


@pytest.mark.parametrize("ended", ["released", "lost"])
def test_a_trial_without_a_result_holds_nobody_up(ended: str, clock: Clock) -> None:
    cooldowns = Cooldowns(cool_s=10, probe_s=30, clock=clock)
    open_circuit(cooldowns)
    clock.now += 10
    trial = cooldowns.began("a")
    clock.now += 1
    other = cooldowns.began("a")
    cooldowns.released("a", began=other)
    assert cooldowns.cooling("a"), "another call is no trial"
    if ended == "released":
        cooldowns.released("a", began=trial)
    else:
        clock.now += 30
    assert not cooldowns.cooling("a")


def test_after_a_trial_the_past_is_past(clock: Clock) -> None:
    cooldowns = Cooldowns(failure_share=0.5, min_calls=4, after_failures=100, window_s=60, cool_s=10, clock=clock)
    for _ in range(4):
        cooldowns.failed("a", DOWN)
    clock.now += 10
    cooldowns.succeeded("a", began=cooldowns.began("a"))
    clock.now += 1
    cooldowns.failed("a", DOWN)
    assert not cooldowns.cooling("a")


def test_a_rate_limit_simply_ends(clock: Clock) -> None:
    cooldowns = Cooldowns(rate_limited_s=5, clock=clock)
    cooldowns.failed("a", status(429))
    clock.now += 5
    cooldowns.began("a")
    assert not cooldowns.cooling("a"), "all may call it again, not one alone"
    assert cooldowns.state("a") == "closed"


def test_an_answer_to_an_older_call_does_not_end_a_pause(clock: Clock) -> None:
    cooldowns = Cooldowns(clock=clock)
    older = cooldowns.began("a")
    clock.now += 1
    cooldowns.failed("a", status(429, retry_after="30"))
    clock.now += 1
    cooldowns.succeeded("a", began=older)
    assert cooldowns.remaining_s("a") == 29
    cooldowns.succeeded("a", began=cooldowns.began("a"))
    assert not cooldowns.cooling("a")


# Replicas


class Share:
    def __init__(self) -> None:
        self.published: list[tuple[str, float]] = []

    def publish(self, name: str, remaining_s: float) -> None:
        self.published.append((name, remaining_s))


def test_pauses_are_published_and_those_of_others_are_not(clock: Clock) -> None:
    share = Share()
    cooldowns = Cooldowns(clock=clock, share=share)
    cooldowns.failed("a", status(429, retry_after="20"))
    cooldowns.failed("a", status(429, retry_after="3"))
    cooldowns.failed("b", status(500))
    cooldowns.apply("c", 15)
    assert share.published == [("a", 20)]
    assert cooldowns.remaining_s("c") == 15


def test_a_reported_pause_is_taken_over_once(clock: Clock) -> None:
    cooldowns = Cooldowns(clock=clock)
    cooldowns.apply("a", 20)
    clock.now += 0.5
    cooldowns.apply("a", 5)
    assert cooldowns.remaining_s("a") == 19.5, "a shorter pause never ends a longer one"
    cooldowns.succeeded("a", began=cooldowns.began("a"))
    cooldowns.apply("a", 19.4)
    assert not cooldowns.cooling("a"), "the poll reports the same pause again; here the model is well"
    clock.now += 5
    cooldowns.apply("a", 30)
    assert cooldowns.remaining_s("a") == 30, "a new one"
    cooldowns.apply("a", 1e9)
    assert cooldowns.remaining_s("a") == cooldowns.longest_s


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.floats(0, 20)),
            st.tuples(st.just("call"), st.sampled_from(["ok", "fail", "limit", "gone"])),
            st.tuples(st.just("report"), st.floats(0, 50)),
        ),
        max_size=60,
    )
)
def test_whatever_happens_a_model_comes_back(steps: list[tuple[str, object]]) -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock=clock)
    for kind, value in steps:
        if kind == "wait":
            clock.now += value  # type: ignore[operator]
        elif kind == "report":
            cooldowns.apply("a", value)  # type: ignore[arg-type]
        else:
            began = cooldowns.began("a")
            clock.now += 0.1
            if value == "ok":
                cooldowns.succeeded("a", began=began)
                assert not cooldowns.cooling("a")
            elif value == "gone":
                cooldowns.released("a", began=began)
            else:
                cooldowns.failed("a", status(429 if value == "limit" else 500), began=began)
    assert (cooldowns.state("a") == "open") is (cooldowns.remaining_s("a") > 0)
    clock.now += cooldowns.longest_s + cooldowns.probe_s
    assert not cooldowns.cooling("a")
