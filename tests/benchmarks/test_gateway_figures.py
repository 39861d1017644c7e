"""Percentiles, slopes, and what is made of counters read before and after."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gateway.figures import median, percentile, slope, summary
from benchmarks.gateway.measure import cpu_figures, parse_stages, stage_means
from benchmarks.gateway.memory import growth

VALUES = st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=200)


@given(VALUES, st.floats(min_value=0, max_value=1))
def test_percentile_is_numpys(values, share):
    assert percentile(sorted(values), share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-6)


def test_percentile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_summary_of_a_known_series():
    found = summary(float(value) for value in range(100, -1, -1))
    assert found == {"count": 101, "mean": 50.0, "p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert summary([]) == {"count": 0}
    assert median([3.0, 1.0, 2.0, 10.0]) == 2.5


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_slope_of_a_line(gradient, offset):
    assert slope([(x, gradient * x + offset) for x in (0.0, 1.0, 3.0, 7.0)]) == pytest.approx(gradient, abs=1e-6)


def test_growth_leaves_the_warm_up_out():
    warming = [{"requests": 0, "rss_bytes": 100}, {"requests": 20_000, "rss_bytes": 90_000}]
    flat = [{"requests": n, "rss_bytes": 100_000} for n in range(50_000, 200_001, 50_000)]
    leaking = [{"requests": n, "rss_bytes": 100_000 + 3 * n} for n in range(50_000, 200_001, 50_000)]
    assert growth([*warming, *flat]) == pytest.approx(0.0, abs=1e-6)
    assert growth([*warming, *leaking]) == pytest.approx(300_000)
    assert growth([{"requests": 0, "rss_bytes": 1}]) is None


def test_cpu_time_by_request():
    assert cpu_figures(2.0, 1000) == {"cpu_s": 2.0, "cpu_ms_per_request": 2.0, "rps_per_core": 500.0}
    assert cpu_figures(2.0, 0)["cpu_ms_per_request"] is None
    assert cpu_figures(0.0, 10)["rps_per_core"] is None


EXPOSITION = """\
# TYPE llmrouter_stage_seconds histogram
llmrouter_stage_seconds_bucket{stage="route",le="0.001"} 7.0
llmrouter_stage_seconds_sum{stage="route"} 0.5
llmrouter_stage_seconds_count{stage="route"} 100.0
llmrouter_stage_seconds_sum{endpoint="chat",stage="parse"} 0.1
llmrouter_stage_seconds_sum{endpoint="messages",stage="parse"} 0.3
llmrouter_stage_seconds_count{endpoint="chat",stage="parse"} 10.0
llmrouter_stage_seconds_count{endpoint="messages",stage="parse"} 10.0
llmrouter_other_seconds_sum{stage="route"} 9.0
"""


def test_stages_are_read_from_an_exposition():
    assert parse_stages(EXPOSITION) == {"route": (0.5, 100.0), "parse": (pytest.approx(0.4), 20.0)}
    assert parse_stages("") == {}


def test_stages_are_means_between_two_readings():
    before = {"route": (0.5, 100.0), "idle": (1.0, 5.0)}
    after = {"route": (0.9, 300.0), "idle": (1.0, 5.0), "new": (0.2, 10.0)}
    assert stage_means(before, after) == {"route": pytest.approx(2.0), "new": pytest.approx(20.0)}
