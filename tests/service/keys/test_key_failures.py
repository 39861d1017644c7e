"""Failures by client address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_stores import Clock

from service.keys.failures import ClientAddress, FailureCounter


def test_memory_is_bounded_whoever_comes() -> None:
    counter = FailureCounter(5, clock=Clock(), most_clients=100)
    for i in range(1000):
        counter.failed(f"client {i}")
    assert len(counter) == 100


def test_a_client_that_goes_on_is_not_forgotten_before_its_window_ends() -> None:
    clock = Clock()
    counter = FailureCounter(2, clock=clock)
    counter.failed("a")
    counter.failed("a")
    clock.now += 59
    assert counter.wait_s("a") == pytest.approx(1)
    clock.now += 1
    assert counter.wait_s("a") == 0
    counter.failed("a")
    assert counter.wait_s("a") == 0


def test_no_limit() -> None:
    counter = FailureCounter(0, clock=Clock())
    for _ in range(100):
        counter.failed("a")
    assert counter.wait_s("a") == 0
    assert len(counter) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 40)), max_size=60), st.integers(1, 5))
def test_no_minute_long_window_counts_more_than_the_limit_before_it_closes(
    steps: list[tuple[str, float]], limit: int
) -> None:
    clock = Clock()
    counter = FailureCounter(limit, clock=clock)
    admitted: dict[str, list[float]] = {}
    for client, pause in steps:
        clock.now += pause
        if not counter.wait_s(client):
            counter.failed(client)
            admitted.setdefault(client, []).append(clock.now)
    for moments in admitted.values():
        for first in moments:
            # A fixed window lets through at most twice the limit in any minute, once at each side of its border.
            assert sum(first <= moment < first + 60 for moment in moments) <= 2 * limit


def scope(peer: str | None, forwarded: str | None = None) -> dict[str, object]:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    return {"client": None if peer is None else (peer, 1234), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("1.2.3.4", None, "1.2.3.4"),
        ("1.2.3.4", "9.9.9.9", "1.2.3.4"),  # nobody whom we trust
        ("10.0.0.9", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.9", "8.8.8.8, 9.9.9.9", "9.9.9.9"),  # the first may be made up
        ("10.0.0.9", "9.9.9.9, 10.0.0.2", "9.9.9.9"),
        ("10.0.0.9", None, "10.0.0.9"),
        ("10.0.0.9", "rubbish", "unknown"),
        ("2001:db8::1", None, "2001:db8::/64"),
        ("2001:db8::ffff", None, "2001:db8::/64"),
        ("::ffff:1.2.3.4", None, "1.2.3.4"),
        (None, None, "unknown"),
    ],
)
def test_client_addresses(peer: str | None, forwarded: str | None, client: str) -> None:
    assert ClientAddress(["10.0.0.0/8"]).of(scope(peer, forwarded)) == client


def test_without_trusted_proxies_the_header_means_nothing() -> None:
    assert ClientAddress().of(scope("10.0.0.9", "9.9.9.9")) == "10.0.0.9"
