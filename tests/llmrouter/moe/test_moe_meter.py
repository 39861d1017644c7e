"""Cost of one more token: the fit on known times, what load and price do to it, and what engines count."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, QueueFullError
from llmrouter.moe import GenerationRequest, LoadMeter, MachinePrice, imbalance, load_engine

HOUR = MachinePrice(usd_per_hour=3.6, busy_watts=300, idle_watts=100, usd_per_kwh=0.36)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def metered(sizes, seconds):
    meter = LoadMeter(Clock())
    for rows in sizes:
        step(meter, rows, seconds(rows))
    return meter


def step(meter, rows, seconds):
    meter.present(rows)
    meter._clock.now += seconds
    meter.decoded(rows, seconds, [seconds] * rows)


def settled(meter, running):
    """The same load for a minute, without steps that would move the fit."""
    meter.present(running)
    meter._clock.now += 60
    return report(meter, running)


def report(meter, running, waiting=0, max_batch=32, price=HOUR):
    return meter.report(price, running=running, waiting=waiting, max_batch=max_batch)


def test_a_token_costs_its_own_seconds_and_its_share_of_the_fixed_part():
    meter = metered([1, 2, 4, 8] * 50, lambda rows: 0.010 + 0.002 * rows)
    assert report(meter, 4).measured
    assert report(meter, 4).step.fixed_s == pytest.approx(0.010)
    assert report(meter, 4).step.row_s == pytest.approx(0.002)
    assert report(meter, 4).seconds_per_output_token == pytest.approx(0.020)
    assert report(meter, 4).average_output.machine_s == pytest.approx(0.018 / 4)
    assert report(meter, 8, waiting=3, max_batch=8).seconds_per_output_token == pytest.approx(0.026)
    idle, alone, *others = (settled(meter, running).output.machine_s for running in (0, 1, 2, 4, 8, 32))
    assert [idle, alone] == pytest.approx([0.012, 0.012], rel=0.005)
    assert others == pytest.approx([0.002 + 0.010 / rows for rows in (2, 4, 8, 32)], rel=0.01)


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0, 0.1),
    st.floats(0, 0.01),
    st.lists(st.tuples(st.integers(0, 16), st.floats(0.01, 5)), min_size=1, max_size=20),
)
def test_the_price_is_never_nothing_and_does_not_jump(fixed, slope, loads):
    meter = metered([1, 3, 9, 16] * 30, lambda rows: 1e-5 + fixed + slope * rows)
    before, company = report(meter, 0).output.machine_s, report(meter, 0).company
    for running, seconds in loads:
        meter.present(running)
        assert report(meter, running).output.machine_s == pytest.approx(before)  # nothing at the moment of a change
        meter._clock.now += seconds
        seen = report(meter, running)
        assert 0 < seen.output.machine_s <= (1e-5 + fixed + slope) * 1.001
        moved = 16 * (1 - math.exp(-seconds / 10))
        assert abs(seen.company - company) <= moved + 1e-9
        before, company = seen.output.machine_s, seen.company


@pytest.mark.parametrize(("arrivals", "max_batch"), [(0.005, 16), (0.02, 16), (0.1, 16), (0.1, 4)])
def test_what_the_tokens_of_random_requests_cost_is_about_the_time_computed(arrivals, max_batch):
    draw, meter = random.Random(5), LoadMeter(Clock())
    requests, waiting, busy, billed = [], 0, 0.0, 0.0
    for number in range(20_000):
        waiting += draw.random() < arrivals
        while waiting and len(requests) < max_batch:
            waiting -= 1
            price = report(meter, len(requests), max_batch=max_batch).output
            requests.append([draw.randrange(20, 121), price and price.machine_s])  # tokens to come, price when it came
        if not requests:
            meter.present(0)
            meter._clock.now += 0.01
            continue
        seconds = (0.010 + 0.002 * len(requests)) * draw.uniform(0.8, 1.2)
        step(meter, len(requests), seconds)
        if number > 2000:  # after the first prices
            busy += seconds
            billed += sum(price for _, price in requests)
        requests = [[tokens - 1, price] for tokens, price in requests if tokens > 1]
        meter.present(len(requests))
    assert busy > 10
    assert billed == pytest.approx(busy, rel=0.13)


def test_one_client_after_another_pays_for_the_whole_machine():
    meter = metered([1, 4] * 50, lambda rows: 0.010 + 0.002 * rows)
    settled(meter, 1)
    billed = busy = 0.0
    for _ in range(500):
        billed += report(meter, 1).output.machine_s
        busy += 0.012
        step(meter, 1, 0.012)
    assert billed == pytest.approx(busy, rel=1e-3)


def test_a_steady_load_does_not_forget_the_parts_of_a_step():
    meter = metered([1, 2, 4, 8] * 50, lambda rows: 0.010 + 0.002 * rows)
    prices = []
    for _ in range(2000):
        step(meter, 4, 0.018)
        prices.append(report(meter, 4).output.machine_s)
    seen = report(meter, 4)
    assert seen.measured
    assert (seen.step.fixed_s, seen.step.row_s) == (pytest.approx(0.010, rel=1e-3), pytest.approx(0.002, rel=1e-3))
    assert max(abs(after / before - 1) for before, after in itertools.pairwise(prices)) < 0.01
    for _ in range(1000):
        step(meter, 4, 0.036)  # the machine became half as fast: both parts follow
    assert report(meter, 4).step.fixed_s == pytest.approx(0.020, rel=0.01)


def test_money_and_energy_follow_the_machines_time():
    cost = HOUR.cost(2.0)
    assert cost.joules == 400
    assert cost.usd == pytest.approx(2 * 3.6 / 3600 + 400 / 3.6e6 * 0.36)
    assert MachinePrice().cost(2.0).usd == 0


def test_without_a_spread_of_batch_sizes_the_step_is_put_on_its_rows():
    seen = report(metered([4] * 20, lambda _: 0.02), 4)
    assert not seen.measured
    assert seen.output.machine_s == seen.average_output.machine_s == pytest.approx(0.005)


def test_the_newest_steps_count_most_and_noise_gives_no_negative_part():
    meter = metered([1, 3] * 300, lambda rows: 0.1 * rows)
    for rows in [1, 3] * 400:
        meter.decoded(rows, 0.01 * rows, [])
    assert report(meter, 2).output.machine_s == pytest.approx(0.01, rel=0.05)
    falling = report(metered([1, 4] * 20, lambda rows: 0.05 - 0.01 * rows), 2)
    assert falling.step.row_s == 0
    assert falling.output.machine_s > 0


def test_other_models_of_the_process_slow_a_token_down_but_do_not_make_it_dearer():
    meter = LoadMeter()
    for rows in [1, 2] * 500:
        meter.decoded(rows, 0.01 * rows, [0.01 * rows + 0.03] * rows)
    seen = report(meter, 1)
    assert seen.seconds_per_output_token == pytest.approx(0.02 + 0.03, rel=0.01)
    assert seen.output.machine_s == pytest.approx(0.01, rel=1e-3)


def test_before_anything_was_measured_there_is_no_cost():
    empty = report(LoadMeter(), 0)
    assert (empty.input, empty.output, empty.seconds_per_output_token, empty.step) == (None, None, None, None)
    assert empty.company == 1


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"usd_per_hour": -1}, "usd_per_hour is -1"),
        ({"busy_watts": float("nan")}, "busy_watts is nan"),
        ({"idle_watts": 50}, "idle_watts is 50, above busy_watts"),
    ],
)
def test_bad_prices(values, match):
    with pytest.raises(ConfigError, match=match):
        MachinePrice(**values)


def test_an_engine_counts_what_it_does(checkpoints, chat):
    engine = load_engine(checkpoints["olmoe"], max_batch=4, price=HOUR)
    requests = [chat("hello " * size, max_tokens=4 + size) for size in range(1, 7)]
    results = engine.run(requests)
    meter = engine.meter
    assert meter.input_tokens == sum(result.input_tokens for result in results)
    assert meter.output_tokens == sum(result.output_tokens for result in results)
    assert meter.finished["length"] + meter.finished["stop"] == 6
    first, between, rows = meter.histograms()
    assert sum(first.counts) == 6
    assert sum(between.counts) == meter.output_tokens - 6 == rows.total
    seen = engine.load_report()
    assert (seen.running, seen.waiting) == (0, 0)
    assert seen.output.machine_s > 0
    assert seen.output.usd == pytest.approx(HOUR.cost(seen.output.machine_s).usd)
    # Two experts a token in each layer, for every token that was decoded (the first ones come from the prompts).
    loads = engine.expert_load()
    assert len(loads) == 2
    assert all(len(load.tokens) == 8 and sum(load.tokens) == 2 * rows.total for load in loads.values())
    assert all(load.routed == rows.total and load.experts_a_token == 2 for load in loads.values())


def test_refused_and_cancelled_requests_are_counted(mixtral, chat):
    mixtral.start()
    with mixtral._step_lock:  # nothing is admitted
        handles = [mixtral.submit(chat("x", max_tokens=50)) for _ in range(3)]
        with pytest.raises(QueueFullError):
            mixtral.submit(chat("x"))
        for handle in handles:
            handle.cancel()
    for handle in handles:
        with pytest.raises(Exception, match="cancelled"):
            handle.wait(30)
    assert (mixtral.meter.finished["refused"], mixtral.meter.finished["cancelled"]) == (1, 3)


def test_a_failed_request_is_counted_once(mixtral, monkeypatch):
    monkeypatch.setattr(mixtral._batch, "decode", lambda _: torch.full((1, 320), torch.nan))
    with pytest.raises(Exception, match="not finite"):
        mixtral.run([GenerationRequest(prompt="hello", max_tokens=5)])
    assert mixtral.meter.finished["failed"] == 1


def test_imbalance_is_maxvio():
    assert imbalance([2, 2, 2, 2]) == 0
    assert imbalance([5, 1, 1, 1]) == pytest.approx(1.5)
    assert imbalance([0, 0]) == 0
