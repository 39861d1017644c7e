"""The benchmark of a fifth model that joins the pocket pool: its figures, and one short run for real."""

import json
import sys

import pytest

from benchmarks.learning.__main__ import main
from benchmarks.learning._pocket_gateway import POCKET, exercises
from benchmarks.learning._pocket_traffic import Asked
from benchmarks.learning.new_model import NAME, Plan, plot, settled_after, summary, table

EVENTS = {"asked": 20.0, "added": 30.0, "raising": 70.0, "raised": 72.0, "removing": 80.0, "removed": 82.0}


def asked(at, model, quality=1.0, error=""):
    return Asked(at, model, "artifact", quality, 1e-5, 0.1, error)


def history(share_after):
    """One request every 0.1 s; the fifth model gets what `share_after(seconds since it was added)` says of ten."""
    found = []
    for tick in range(900):
        at = tick / 10
        fifth = EVENTS["added"] <= at < EVENTS["raised"] and tick % 10 < 10 * share_after(at - EVENTS["added"])
        found.append(asked(at, NAME if fifth else POCKET[tick % 4], quality=float(fifth or tick % 2)))
    return found


JOBS = {"add": {"result": {"spent_usd": 0.1, "placement": {"after": {"share": {NAME: 0.6}}}}}}


def test_the_phases_hold_what_happened_in_them():
    results = summary(history(lambda _: 0.6), EVENTS, JOBS, Plan(window_s=5), end_s=90.0)
    phases = results["phases"]
    assert phases["before"]["share"][NAME] == 0
    assert phases["after"]["share"][NAME] == pytest.approx(0.6)
    assert phases["gone"]["share"][NAME] == 0
    assert phases["before"]["quality"] == pytest.approx(0.5)
    assert phases["after"]["quality"] == pytest.approx(0.6 + 0.4 * 0.5, abs=0.05)
    assert results["predicted_share"] == 0.6
    assert results["observed_share"] == pytest.approx(0.6)
    assert results["failed"] == 0
    assert len(results["windows"]) == 18
    assert "spent_usd" in results["add"]
    assert "placement" not in results["add"]
    json.dumps(results, allow_nan=False)


def test_failures_are_counted_where_they_happened():
    broken = [*history(lambda _: 0.6), asked(25.0, "", None, "502: no"), asked(40.0, POCKET[0], 1.0, "feedback 500")]
    results = summary(broken, EVENTS, JOBS, Plan(), end_s=90.0)
    assert results["failed"] == 2
    assert results["phases"]["joining"]["failed"] == 1
    assert results["phases"]["after"]["failed"] == 1
    assert results["failures"] == ["502: no", "feedback 500"]


def test_a_share_that_climbs_settles_late_and_one_that_never_rests_does_not():
    at_once = settled_after(history(lambda _: 0.6), 30, 70, window_s=5)
    late = settled_after(history(lambda s: 0.0 if s < 15 else 0.6), 30, 70, window_s=5)
    never = settled_after(history(lambda s: 0.0 if s < 35 else 1.0), 30, 70, window_s=5)
    assert at_once == 0
    assert late == 15
    assert never is None
    assert settled_after([], 30, 40, window_s=5) is None


def test_a_run_without_a_raise_or_a_removal_has_no_such_phase():
    events = {"asked": 20.0, "added": 30.0}
    results = summary(history(lambda _: 0.5), events, JOBS, Plan(), end_s=90.0)
    assert list(results["phases"]) == ["before", "joining", "after"]
    assert results["phases"]["after"]["seconds"] == 60


def test_table_and_plot(tmp_path):
    results = summary(history(lambda _: 0.6), EVENTS, JOBS, Plan(window_s=5), end_s=90.0)
    lines = table(results).splitlines()
    assert len(lines) == 2 + len(results["phases"])
    assert len({line.count("|") for line in lines}) == 1
    first = plot(results, tmp_path / "a.svg").read_bytes()
    assert first.startswith(b"<?xml")
    assert plot(results, tmp_path / "b.svg").read_bytes() == first


def test_the_exercises_have_answers_and_are_those_of_the_split():
    test, train = exercises(), exercises("train")
    assert len(test) > 1000
    assert not {one.prompt for one in test} & {one.prompt for one in train}
    assert all(one.reference["answer"] for one in test)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are stopped the Linux way")
def test_a_short_run_loses_no_request_and_the_model_gets_about_the_share_that_was_predicted(tmp_path):
    """Twelve prompts are too few: shrinkage then mostly predicts no share at all."""
    short = ["--before-s", "6", "--after-s", "6", "--dearer-s", "0", "--gone-s", "3", "--rate", "8", "--window-s", "2"]
    assert main(["new-model", "--out", str(tmp_path), "--prompts", "24", *short]) == 0
    results = json.loads((tmp_path / "new_model.json").read_text())
    assert results["failed"] == 0
    assert results["requests"] > 100
    assert results["add"]["scored"] == 24
    assert results["observed_share"] > 0
    assert results["observed_share"] == pytest.approx(results["predicted_share"], abs=0.35)
    assert results["phases"]["before"]["share"][NAME] == results["phases"]["gone"]["share"][NAME] == 0
    assert len(results["artifacts"]) == 3
    assert (tmp_path / "new_model.svg").is_file()
