"""State of the gateway that is read when metrics are asked for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from telemetry_calls import telemetry, value

from service.limits import Admission, AdmissionSettings
from service.outcome_writer import WriterState
from service.resilience.settings import ResilienceSettings
from service.resilience.state import Resilience
from service.telemetry.watched import WATCHABLE


def test_the_state_of_the_log() -> None:
    told = telemetry()
    told.watch("log", lambda: WriterState(queued=4, written=100, spooled=3, rejected=2, lost=1, trouble="disk full"))
    assert value(told, "outcome_log_queued") == 4
    assert value(told, "outcome_log_written_total") == 100
    assert value(told, "outcome_log_spooled_total") == 3
    assert value(told, "outcome_log_rejected_total") == 2
    assert value(told, "outcome_log_lost_total") == 1
    assert value(told, "outcome_log_failing") == 1


@pytest.mark.parametrize(("status", "up"), [("ok", 1), ("failing", 0)])
def test_redis_is_up_or_not(status: str, up: int) -> None:
    class State(NamedTuple):
        status: str
        failures: int

    told = telemetry()
    told.watch("redis", lambda: State(status, 7))
    assert value(told, "redis_up") == up
    assert value(told, "redis_failures_total") == 7
    assert value(told, "limits_degraded") == 1 - up


def test_retries_and_hedges_are_those_of_the_resilience_state() -> None:
    told = telemetry()
    told.watch("resilience", Resilience(ResilienceSettings(), ["small"]).state)
    assert value(told, "retries_refused_total") == 0
    told.watch("resilience", lambda: {"retries": 5, "retries_refused": 4, "hedges": 3, "hedges_won": 2})
    counted = ("retries_total", "retries_refused_total", "hedges_total", "hedges_won_total", "hedges_refused_total")
    assert [value(told, name) for name in counted] == [5, 4, 3, 2, 0]


def test_the_states_of_the_gateways_parts_have_the_fields_that_are_read() -> None:
    told = telemetry()
    told.watch("admission", Admission(AdmissionSettings()).state)
    assert value(told, "admission_queued") == 0
    assert value(told, "admission_timed_out_total") == 0


def test_breakers_are_numbers() -> None:
    class Circuit(enum.Enum):
        OPEN = "open"

    told = telemetry()
    told.watch("breakers", lambda: {"small": "closed", "middle": "half_open", "large": Circuit.OPEN})
    assert [value(told, "breaker_state", model=name) for name in ("small", "middle", "large")] == [0, 1, 2]


def test_fields_that_are_not_exported_are_left_out() -> None:
    @dataclass
    class State:
        in_flight: int = 5
        secret: str = "x"

    told = telemetry()
    told.watch("admission", State)
    assert value(told, "admission_in_flight") == 5
    assert value(told, "admission_queued") is None
    assert "secret" not in told.exposition().body.decode()


def test_a_state_that_cannot_be_read_spoils_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    told = telemetry()

    def broken() -> Any:
        raise RuntimeError("gone")

    told.watch("cache", broken)
    told.watch("in_flight", lambda: 2)
    assert value(told, "in_flight") == 2
    told.exposition()
    assert len(caplog.records) == 1


def test_only_what_is_exported_can_be_watched() -> None:
    with pytest.raises(ValueError, match="allowed: log, admission"):
        telemetry().watch("prompts", dict)
    assert len(set(WATCHABLE)) == len(WATCHABLE)
