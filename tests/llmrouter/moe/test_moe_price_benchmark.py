"""The benchmark of the price: what is billed, what the replaced rule was, and a run of moments."""

import argparse

import pytest
from pocket_prompts import POCKET

from benchmarks.moe import price
from llmrouter.moe import LoadReport, MachinePrice, StepTime, load_engine


def report(running):
    step, cost = StepTime(0.010, 0.002, measured=True), MachinePrice().cost
    costs = {"input": cost(0.001), "output": cost(0.012), "average_output": cost(0.012)}
    times = {"seconds_per_input_token": 0.001, "seconds_per_output_token": 0.012}
    return LoadReport(running=running, waiting=0, measured=True, company=1.0, step=step, **times, **costs)


@pytest.mark.parametrize(("running", "seconds"), [(0, 0.012), (1, 0.002), (15, 0.002), (16, 0.042 / 16)])
def test_the_replaced_rule(running, seconds):
    assert price.strict_margin(report(running)) == pytest.approx(seconds)


def test_changes_are_factors():
    assert price._ratio(2.0, 1.0) == price._ratio(1.0, 2.0) == 2
    assert price._ratio(0.0, 1.0) == 1e9
    assert price._ratio(0.0, 0.0) == 1


def test_a_run_of_moments(monkeypatch):
    for name, value in {"LEAD_S": 0.05, "_WARM_UP": 6, "_READ_EVERY_S": 0.01, "ANSWER_TOKENS": (3, 6)}.items():
        monkeypatch.setattr(price, name, value)
    engine = load_engine(POCKET / "pocket-mini", max_batch=price.MAX_BATCH)
    engine.start()
    try:
        bills = price.Till(engine, ["Spell the word cat."], seed=0)
        wait = bills.send()
        seen = engine.meter.output_tokens
        wait()
        assert bills.billed_s == 0  # nothing was measured when it came
        rows = list(price.measured(engine, ["Spell the word cat."], argparse.Namespace(seconds=0.05, seed=0)))
    finally:
        engine.stop()
    assert seen <= 6
    assert [row["load"] for row in rows] == [
        "one client",
        "six clients",
        "random arrivals",
        "ten at once, now and then",
    ]
    for row in rows:
        assert row["requests"] > 0
        assert row["busy_s"] > 0
        assert row["billed_s"] > 0
        assert row["price_us"][0] > 0
        assert 1 <= row["price_largest_change"] < 1e9
    assert "| ten at once, now and then |" in price.page({"rows": rows})
