"""Cost of one more token: the fit on known times, what load and price do to it, and what engines count."""

import pytest
import torch

from llmrouter.exceptions import ConfigError, QueueFullError
from llmrouter.moe import GenerationRequest, LoadMeter, MachinePrice, imbalance, load_engine

HOUR = MachinePrice(usd_per_hour=3.6, busy_watts=300, idle_watts=100, usd_per_kwh=0.36)


def metered(sizes, seconds):
    meter = LoadMeter()
    for rows in sizes:
        meter.decoded(rows, seconds(rows), [seconds(rows)] * rows)
    return meter


def report(meter, running, waiting=0, max_batch=32, price=HOUR):
    return meter.report(price, running=running, waiting=waiting, max_batch=max_batch)


def test_one_more_request_costs_the_slope_beside_others_and_the_step_alone():
    meter = metered([1, 2, 4, 8] * 50, lambda rows: 0.010 + 0.002 * rows)
    assert report(meter, 4).measured
    assert report(meter, 4).output.machine_s == pytest.approx(0.002)
    assert report(meter, 4).seconds_per_output_token == pytest.approx(0.020)
    assert report(meter, 4).average_output.machine_s == pytest.approx(0.018 / 4)
    assert report(meter, 0).output.machine_s == pytest.approx(0.012)
    full = report(meter, 8, waiting=3, max_batch=8)
    assert full.output.machine_s == pytest.approx(0.026 / 8)
    assert full.seconds_per_output_token == pytest.approx(0.026)


def test_money_and_energy_follow_the_machines_time():
    cost = HOUR.cost(2.0)
    assert cost.joules == 400
    assert cost.usd == pytest.approx(2 * 3.6 / 3600 + 400 / 3.6e6 * 0.36)
    assert MachinePrice().cost(2.0).usd == 0


def test_without_a_spread_of_batch_sizes_the_margin_is_bounded_by_the_average():
    seen = report(metered([4] * 20, lambda _: 0.02), 4)
    assert not seen.measured
    assert seen.output.machine_s == seen.average_output.machine_s == pytest.approx(0.005)


def test_the_newest_steps_count_most_and_noise_gives_no_negative_cost():
    meter = metered([1, 3] * 300, lambda rows: 0.1 * rows)
    for rows in [1, 3] * 400:
        meter.decoded(rows, 0.01 * rows, [])
    assert report(meter, 2).output.machine_s == pytest.approx(0.01, rel=0.05)
    assert report(metered([1, 4] * 20, lambda rows: 0.05 - 0.01 * rows), 2).output.machine_s == 0


def test_other_models_of_the_process_slow_a_token_down_but_do_not_make_it_dearer():
    meter = LoadMeter()
    for rows in [1, 2] * 500:
        meter.decoded(rows, 0.01 * rows, [0.01 * rows + 0.03] * rows)
    seen = report(meter, 1)
    assert seen.seconds_per_output_token == pytest.approx(0.02 + 0.03, rel=0.01)
    assert seen.output.machine_s == pytest.approx(0.01)


def test_before_anything_was_measured_there_is_no_cost():
    empty = report(LoadMeter(), 0)
    assert (empty.input, empty.output, empty.seconds_per_output_token) == (None, None, None)


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
    assert all(len(counts) == 8 and sum(counts) == 2 * rows.total for counts in loads.values())


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
