"""Metrics of several workers: any of them answers for all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from telemetry_calls import finished, samples, telemetry, value

from service.telemetry import catalogue, tallies
from service.telemetry.tallies import CAPACITY, Counter, Gauge, Histogram, Tallies

_WORKER = """
import sys
from pathlib import Path
from telemetry_calls import finished, telemetry

told = telemetry(folder=Path(sys.argv[1]))
told.watch("in_flight", lambda: 3)
told.watch("log", lambda: {"written": 10, "queued": 2})
told.watch("cooldowns", lambda: {"small": 4.5, "large": 0.0})
told.start()
for _ in range(5):
    told.finished(*finished())
print("ready", flush=True)
if sys.stdin.readline().strip() == "close":
    told.close()
"""


def _worker(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{_WORKER}", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def _end(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    process.wait(timeout=20)


def test_any_worker_answers_for_all(tmp_path: Path) -> None:
    told = telemetry(folder=tmp_path)
    told.watch("in_flight", lambda: 1)
    told.watch("cooldowns", lambda: {"small": 0.0, "large": 0.0})
    told.start()
    told.finished(*finished())
    process = _worker(tmp_path)
    try:
        ordinary = {"endpoint": "chat", "model": "small", "status": "ok", "stream": "false"}
        assert value(told, "requests_total", **ordinary) == 6
        assert value(told, "request_duration_seconds_count", endpoint="chat") == 6
        assert value(told, "request_duration_seconds_sum", endpoint="chat") == pytest.approx(1.5)
        assert value(told, "in_flight") == 4
        assert value(told, "outcome_log_written_total") == 10
        assert value(told, "cooling", model="small") == 1
        assert value(told, "cooling", model="large") == 0
        resident = value(told, "process_resident_memory_bytes")
        assert resident is not None
        _end(process, "close")
        # What was counted stays counted; what was under way is no more.
        assert value(told, "requests_total", **ordinary) == 6
        assert value(told, "outcome_log_written_total") == 10
        assert value(told, "in_flight") == 1
        assert value(told, "cooling", model="small") == 0
        assert (value(told, "process_resident_memory_bytes") or 0) < resident
    finally:
        process.kill()
        process.wait()
        told.close()


def test_a_killed_worker_loses_no_count_and_its_gauges_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _worker(tmp_path)
    process.kill()
    process.wait()
    told = telemetry(folder=tmp_path)
    assert value(told, "requests_total", endpoint="chat", model="small", status="ok", stream="false") == 5
    later = time.time() + 60
    monkeypatch.setattr(tallies.time, "time", lambda: later)
    assert value(told, "in_flight") is None
    assert value(told, "requests_total", endpoint="chat", model="small", status="ok", stream="false") == 5


def test_a_line_that_is_being_written_is_left_for_the_next_time(tmp_path: Path) -> None:
    first, second = Tallies(tmp_path), Tallies(tmp_path)
    Counter(first, catalogue.RELOADS).add(("ok",))
    assert first.path is not None
    with first.path.with_suffix(".series").open("a") as file:
        file.write('[7, "reloads_tot')
    ((_, _, numbers),) = second.others()
    assert numbers == {("config_reloads_total", ("ok",)): (1.0,)}


def test_metrics_of_another_version_are_left_out(tmp_path: Path) -> None:
    first, second = Tallies(tmp_path), Tallies(tmp_path)
    assert first.path is not None
    first.path.with_suffix(".series").write_text('[7, "of_the_future_total", "x"]\n')
    ((_, _, numbers),) = second.others()
    assert numbers == {}


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    told = telemetry()
    told.finished(*finished())
    assert value(telemetry(), "upstream_attempts_total", model="small", result="ok") == 1


def test_too_many_series_spill_and_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    given = Tallies()
    counter, histogram = Counter(given, catalogue.TOKENS), Histogram(given, catalogue.FIRST_TOKEN)
    for i in range(CAPACITY + 10):
        counter.add(("small", str(i)))
    histogram.observe(("small",), 0.5)
    assert len(given.snapshot()) < CAPACITY
    assert set(given.snapshot().values()) == {(1.0,)}
    # Others may log meanwhile: the event loop does, of what a test before this one left behind.
    assert [record.name for record in caplog.records].count("service.telemetry.tallies") == 1


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_what_is_no_amount_is_left_out(wrong: float) -> None:
    given = Tallies()
    counter, histogram = Counter(given, catalogue.RELOADS), Histogram(given, catalogue.OVERHEAD)
    counter.add(("ok",), 2.0)
    counter.add(("ok",), wrong)
    histogram.observe((), wrong)
    assert given.snapshot() == {("config_reloads_total", ("ok",)): (2.0,)}


def test_gauges_that_are_set_no_more_disappear() -> None:
    told = telemetry()
    state = {"small": 1.0, "gone": 2.0}
    told.watch("cooldowns", lambda: state)
    assert value(told, "cooling", model="gone") == 1
    state.pop("gone")
    assert value(told, "cooling", model="gone") is None
    assert value(told, "cooling", model="small") == 1


def test_a_gauge_is_put_back_after_it_disappeared() -> None:
    given = Tallies()
    gauge = Gauge(given, catalogue.COOLING)
    gauge.replace({("small",): 1.0})
    gauge.replace({})
    gauge.replace({("small",): 0.0})
    assert given.snapshot() == {("cooling", ("small",)): (0.0,)}


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    told = telemetry(folder=tmp_path)
    told.start()
    told.close()
    told.close()
    told.finished(*finished())  # a request that outlived the gateway
    assert samples(told)
