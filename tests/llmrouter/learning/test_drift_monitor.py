"""The drift alarm: how often it is false, how soon it is right, and what it looks at."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import DriftMonitor, DriftParameters, calibration_error
from llmrouter.learning._drift import _gains
from llmrouter.outcomes import Event
from llmrouter.types import Outcome

NUMBERS = itertools.count()


def event(expected, observed, *, model="alpha", **fields):
    number = next(NUMBERS)
    values = {"request_id": f"q{number}", "time": float(number), "quality": observed, **fields}
    values.setdefault("candidates", {model: {"quality": expected}})
    return Event(f"{number:020d}", Outcome(model=model, **values))


def stream(rng, n, *, shift=0.0, model="alpha"):
    """Judged answers whose mean quality is the expected one plus a shift: half coins, half shares."""
    expected = rng.uniform(0.1, 0.95, n)
    true = np.clip(expected + shift, 0.0, 1.0)
    coins = (rng.random(n) < true).astype(float)
    shares = rng.beta(np.maximum(2 * true, 1e-3), np.maximum(2 * (1 - true), 1e-3))
    observed = np.where(rng.random(n) < 0.5, coins, shares)
    return [event(q, y, model=model) for q, y in zip(expected.tolist(), observed.tolist(), strict=True)]


def first_alarm(monitor, events):
    """Return after how many events the first alarm came, and which; (None, "") without one."""
    for number, one in enumerate(events, 1):
        raised = monitor.watch([one])
        if raised:
            return number, raised[0][1]
    return None, ""


@given(st.floats(0, 1), st.floats(0, 0.3), st.floats(-1, 1))
def test_no_bet_gains_on_average_while_expectations_are_right(expected, tolerance, off):
    """For a coin, the widest of all distributions, anywhere within the tolerance."""
    true = min(max(expected + off * tolerance, 0.0), 1.0)
    gain = true * _gains(expected, 1.0, tolerance) + (1 - true) * _gains(expected, 0.0, tolerance)
    assert np.isfinite(gain).all()
    assert (gain <= 1.0 + 1e-9).all()
    assert (_gains(expected, 1.0, tolerance) >= 0).all()
    assert (_gains(expected, 0.0, tolerance) >= 0).all()


@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.05])
def test_false_alarms_are_as_rare_as_promised(shift):
    """With a run of 1,000 outcomes at most n in 1,000 streams have had one after n, up to the edge of the tolerance."""
    rng = np.random.default_rng([3, int(100 * (shift + 1))])
    streams, n, run = 60, 200, 1000.0
    alarms = sum(
        first_alarm(DriftMonitor(DriftParameters(false_alarm_run=run)), stream(rng, n, shift=shift))[0] is not None
        for _ in range(streams)
    )
    # 12 are allowed on average: 21 would be 2.9 standard deviations more.
    assert alarms <= 20
    if shift == 0.0:
        assert alarms <= 3  # the bound is for the worst case, at the edge


@pytest.mark.parametrize(("shift", "side", "within"), [(-0.3, "worse", 150), (-0.5, "worse", 60), (0.3, "better", 200)])
def test_a_change_is_found(shift, side, within):
    rng = np.random.default_rng(5)
    delays = []
    for _ in range(15):
        monitor = DriftMonitor()
        assert monitor.watch(stream(rng, 200)) == []
        delay, found = first_alarm(monitor, stream(rng, 600, shift=shift))
        assert found == side
        delays.append(delay)
    assert np.median(delays) <= within


def test_an_alarm_is_on_until_the_model_is_as_expected_again():
    rng = np.random.default_rng(0)
    monitor = DriftMonitor(DriftParameters(window=100))
    monitor.watch(stream(rng, 100, model="beta"))
    assert monitor.watch(stream(rng, 300, shift=-0.5)) == [("alpha", "worse")]
    state = monitor.state()
    assert (state["alpha"].alarm, state["alpha"].alarms, state["beta"].alarm) == ("worse", 1, "")
    assert state["alpha"].since is not None
    assert state["alpha"].gap < -0.3
    assert state["alpha"].calibration_error > 0.3
    for _ in range(10):
        monitor.watch(stream(rng, 100))
    state = monitor.state()["alpha"]
    assert (state.alarm, state.alarms, state.since) == ("", 1, None)
    assert abs(state.gap) < 0.15
    assert monitor.watch(stream(rng, 300, shift=-0.5)) == [("alpha", "worse")]
    assert monitor.state()["alpha"].alarms == 2


def test_what_says_nothing_of_a_model_is_left_out():
    monitor = DriftMonitor()
    twice = event(0.9, 0.0)
    monitor.watch(
        [
            event(0.9, None),
            event(0.9, 0.0, cache="hit"),
            event(0.9, 0.0, quality_weight=0.2),
            event(0.9, 0.0, candidates={}),
            event(float("nan"), 0.0),
            twice,
            Event(f"{next(NUMBERS):020d}", twice.outcome),
        ]
    )
    assert monitor.state()["alpha"].outcomes == 1


def test_a_fallback_is_judged_by_what_was_expected_of_it():
    monitor = DriftMonitor()
    monitor.watch([event(0.9, 0.2, served_by="beta", candidates={"alpha": {"quality": 0.9}, "beta": {"quality": 0.3}})])
    assert set(monitor.state()) == {"beta"}
    assert monitor.state()["beta"].gap == pytest.approx(-0.1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100), st.integers(0, 120))
def test_portions_and_restarts_make_no_difference(seed, cut):
    events = stream(np.random.default_rng(seed), 120, shift=-0.4)
    whole, parts = DriftMonitor(), DriftMonitor()
    raised = whole.watch(events)
    first = parts.watch(events[:cut])
    again = DriftMonitor()
    again.restore(parts.snapshot())
    assert first + again.watch(events[max(cut - 3, 0) :]) == raised
    assert again.state() == whole.state()


def test_what_is_no_snapshot_is_refused():
    monitor = DriftMonitor()
    monitor.watch([event(0.5, 1.0)])
    before = monitor.state()
    for wrong in ({}, {"watches": {"a": {"evidence": [1]}}, "seen": []}, {"watches": [], "seen": []}):
        with pytest.raises(DataError, match="snapshot"):
            monitor.restore(wrong)
    assert monitor.state() == before


def test_calibration_error_by_hand():
    assert calibration_error([]) is None
    assert calibration_error([(0.25, 0.0), (0.25, 1.0), (0.85, 1.0)], bins=2) == pytest.approx((0.5 + 0.15) / 3)
    assert calibration_error([(1.0, 1.0), (0.0, 0.0)]) == 0.0


@pytest.mark.parametrize(("name", "value"), [("tolerance", 1.0), ("false_alarm_run", 1.0), ("window", 5), ("bins", 0)])
def test_parameters_of_drift_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        DriftParameters(**{name: value})
