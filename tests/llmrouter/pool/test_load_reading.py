"""What is read out of an engine's load report."""

from __future__ import annotations

from typing import Any

import pytest

from llmrouter.exceptions import DataError
from llmrouter.pool import LoadReading, read_load

MACHINE = {"usd_per_hour": 1.2, "busy_watts": 0.0, "idle_watts": 0.0, "usd_per_kwh": 0.0}


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "id": "olmoe",
        "seconds_per_input_token": 1e-5,
        "seconds_per_output_token": 0.02,
        "marginal": {"input": {"usd_per_million": 0.01}, "output": {"usd_per_million": 0.5}, "measured": True},
        "average": {"output": {"usd_per_million": 0.8}},
        "machine": MACHINE,
        **changes,
    }


def report(**changes: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "another"}, entry(**changes)]}


def test_price_and_speed_are_the_marginal_ones_of_the_model() -> None:
    assert read_load(report(), "olmoe") == LoadReading(0.01, 0.5, 1e-5, 0.02)


def test_an_output_token_may_count_its_equal_share() -> None:
    assert read_load(report(), "olmoe", price="average") == LoadReading(0.01, 0.8, 1e-5, 0.02)
    unknown = read_load(report(average={"output": None}), "olmoe", price="average")
    assert (unknown.output_usd_per_million, unknown.seconds_per_output_token) == (None, 0.02)


@pytest.mark.parametrize(
    "marginal", [{"input": None, "output": None}, {"input": None, "output": {"usd_per_million": 0.5}}, None]
)
def test_what_was_not_measured_yet_is_no_price(marginal: Any) -> None:
    reading = read_load(report(marginal=marginal), "olmoe")
    assert (reading.input_usd_per_million, reading.output_usd_per_million) == (None, None)
    assert "not measured" in reading.no_price
    assert reading.seconds_per_output_token == 0.02


def test_a_half_known_speed_is_none() -> None:
    for missing in (None, 0):
        reading = read_load(report(seconds_per_input_token=missing), "olmoe")
        assert (reading.seconds_per_input_token, reading.seconds_per_output_token) == (None, None)
        assert reading.output_usd_per_million == 0.5


FREE = {"input": {"usd_per_million": 0.0}, "output": {"usd_per_million": 0}}


@pytest.mark.parametrize("machine", [{**MACHINE, "usd_per_hour": 0.0}, None, "unknown"])
def test_nothing_is_free_because_nobody_said_what_the_machine_costs(machine: Any) -> None:
    reading = read_load(report(marginal=FREE, machine=machine), "olmoe")
    assert reading.input_usd_per_million is None
    assert "--usd-per-hour" in reading.no_price


def test_a_token_may_be_free_beside_others_on_a_machine_that_is_paid() -> None:
    reading = read_load(report(marginal=FREE), "olmoe")
    assert (reading.input_usd_per_million, reading.output_usd_per_million, reading.no_price) == (0.0, 0.0, "")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"server_load": 3}, "no load report"),  # what vLLM has at /load
        ([], "no load report"),
        ({"data": ["olmoe"]}, "no load report"),
        ({"data": [{"id": "another"}]}, r"lists 'another', not 'olmoe'.*load\.model"),
        ({"data": []}, "lists nothing"),
        (report(seconds_per_output_token="fast"), "seconds_per_output_token.*'fast'"),
        (report(seconds_per_output_token=True), "must be a number"),
        (report(seconds_per_output_token=float("nan")), "must be a number"),
        (report(marginal={"input": {"usd_per_million": -1}, "output": None}), r"marginal\.input.*from 0.*-1"),
        (report(marginal={"input": 3, "output": None}), r"marginal\.input.*must be an object"),
    ],
)
def test_what_cannot_be_is_refused_by_name(document: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_load(document, "olmoe")
