"""What is tried next, what is reported, who cools down: without I/O."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.exceptions import (
    BackendConnectError,
    BackendError,
    BackendStatusError,
    BackendStreamError,
    BackendTimeoutError,
)
from llmrouter.pool import Cooldowns, FailedAttempt, FailureKind, failover, failure_kind, most_telling, retry_after_s

OVERFLOW_BODY = b'{"error": {"code": "context_length_exceeded", "message": "too long"}}'


def status(code: int, body: bytes = b"{}", **headers: str) -> BackendStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return BackendStatusError("x", status=code, body=body, headers=names)


def walk(models: list[str], errors: dict[str, BackendError], **options: object) -> list[str]:
    """Return the models tried; one without an error answers."""
    steps = failover(models, **{"windows": {}, **options})  # type: ignore[arg-type]
    tried = []
    try:
        name = next(steps)
        while True:
            tried.append(name)
            if name not in errors:
                return tried
            name = steps.send(errors[name])
    except StopIteration:
        return tried


@pytest.mark.parametrize("code", [401, 402, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_an_upstreams_own_trouble_goes_to_the_next(code: int) -> None:
    assert failure_kind(status(code)) is FailureKind.NEXT


@pytest.mark.parametrize("code", [400, 405, 413, 415, 422])
def test_a_fault_of_the_request_stops(code: int) -> None:
    assert failure_kind(status(code)) is FailureKind.CLIENT
    assert walk(["a", "b"], {"a": status(code)}) == ["a"]


@pytest.mark.parametrize("error", [BackendConnectError("x"), BackendTimeoutError("x"), BackendStreamError("x")])
def test_broken_connections_go_to_the_next(error: BackendError) -> None:
    assert walk(["a", "b", "c"], {"a": error}) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        OVERFLOW_BODY,
        b'{"error": {"message": "This model\'s maximum context length is 8192 tokens"}}',
        b'{"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}',
        b"Input is too long for requested model.",
    ],
)
def test_a_prompt_too_long_goes_to_a_larger_window(body: bytes) -> None:
    windows = {"small": 8, "same": 8, "unknown": None, "large": 32}
    assert failure_kind(status(400, body)) is FailureKind.LARGER
    tried = walk(["small", "same", "large"], {"small": status(400, body)}, windows=windows)
    assert tried == ["small", "large"]
    assert walk(["small", "unknown"], {"small": status(400, body)}, windows=windows) == ["small", "unknown"]
    assert walk(["large", "small"], {"large": status(400, body)}, windows=windows) == ["large"]


def test_cooling_models_come_last_but_are_tried() -> None:
    down = BackendConnectError("x")
    assert walk(["a", "b", "c"], {}, cooling=lambda name: name == "a") == ["b"]
    assert walk(["a", "b"], {"b": down}, cooling=lambda name: name == "a") == ["b", "a"]
    assert walk(["a", "b"], {"a": down}, cooling=lambda _: True) == ["a", "b"]


def test_attempts_are_limited() -> None:
    names = [str(i) for i in range(9)]
    assert walk(names, dict.fromkeys(names, BackendConnectError("x")), max_attempts=3) == ["0", "1", "2"]


@given(
    st.lists(st.sampled_from("abcdef"), unique=True, min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([status(500), status(400), status(400, OVERFLOW_BODY)])),
    st.sets(st.sampled_from("abcdef")),
)
def test_no_model_is_tried_twice(models: list[str], errors: dict[str, BackendError], cold: set[str]) -> None:
    tried = walk(models, errors, windows=dict(zip("abcdef", range(1, 7), strict=True)), cooling=cold.__contains__)
    assert len(tried) == len(set(tried)) >= 1
    assert set(tried) <= set(models)


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([status(429), BackendConnectError("x")], 0),
        ([BackendConnectError("x"), status(503)], 1),
        ([status(500), status(503)], 1),
        ([status(401), BackendTimeoutError("x")], 1),
        ([BackendTimeoutError("x"), BackendConnectError("x")], 0),
        ([status(400, OVERFLOW_BODY), status(429)], 1),
        ([status(500), status(422)], 1),
        ([status(400, OVERFLOW_BODY)], 0),
        ([BackendStreamError("x"), BackendConnectError("x")], 1),
    ],
)
def test_the_most_telling_failure(errors: list[BackendError], told: int) -> None:
    failures = [FailedAttempt(str(i), error) for i, error in enumerate(errors)]
    assert most_telling(failures) is failures[told]


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


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": email.utils.formatdate(1030, usegmt=True)}, 30),
        ({"retry_after": email.utils.formatdate(900, usegmt=True)}, 0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(status(429, **headers), now=1000.0) == seconds
