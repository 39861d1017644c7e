"""The guard takes back what is worse, and leaves alone what is not, however often it is asked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llmrouter.types import Outcome
from service.learning.canary_guard import CANARY, LIVE, Guard, Lane, value_of
from service.learning.canary_settings import GuardSettings

CANDIDATES = {"m": {"quality": 0.5}}


def outcome(request_id: str, lane: str, **fields: Any) -> Outcome:
    return Outcome(request_id, 0.0, "m", lane=lane, candidates=CANDIDATES, **fields)


def guard(metric: Any = "quality", *, alpha: float = 0.05, **settings: Any) -> Guard:
    return Guard(GuardSettings(metric=metric, **settings), alpha=alpha)


def fed(watched: Guard, live: Any, canary: Any, *, unit: str = "") -> bool:
    """Feed both lanes outcome by outcome, and return whether the guard ever said worse."""
    for i, (a, b) in enumerate(zip(live, canary, strict=True)):
        watched.take(outcome(f"l{i}", LIVE, quality=float(a)), unit)
        watched.take(outcome(f"c{i}", CANARY, quality=float(b)), unit)
        if watched.verdict().worse:
            return True
    return False


def test_a_canary_that_is_no_worse_is_taken_back_seldom_though_it_is_watched_all_the_time() -> None:
    rng = np.random.default_rng(0)
    taken_back = sum(fed(guard(max_drop=0.0), rng.random(800) < 0.7, rng.random(800) < 0.7) for _ in range(100))
    assert taken_back <= 9, "5 of 100 at most, but for chance"


def test_one_that_is_much_worse_is_taken_back() -> None:
    rng = np.random.default_rng(1)
    assert all(fed(guard(), rng.random(1500) < 0.8, rng.random(1500) < 0.5) for _ in range(10))


@pytest.mark.parametrize(
    ("metric", "live", "canary"),
    [
        ("error_rate", {"status": "ok"}, {"status": "error"}),
        ("cost", {"cost_usd": 1e-5}, {"cost_usd": 3e-5}),
        ("latency", {"latency_s": 1.0}, {"latency_s": 2.0}),
        ("quality", {"quality": 0.9}, {"quality": 0.4}),
    ],
)
def test_every_metric_has_its_direction(metric: str, live: dict[str, Any], canary: dict[str, Any]) -> None:
    watched, swapped = guard(metric), guard(metric)
    for i in range(300):
        watched.take(outcome(f"l{i}", LIVE, **live), "")
        watched.take(outcome(f"c{i}", CANARY, **canary), "")
        swapped.take(outcome(f"l{i}", LIVE, **canary), "")
        swapped.take(outcome(f"c{i}", CANARY, **live), "")
    assert watched.verdict().worse
    assert watched.verdict().difference > 0
    assert not swapped.verdict().worse
    assert swapped.verdict().difference < 0


def test_relative_metrics_allow_a_share_of_what_the_live_lane_has() -> None:
    rng = np.random.default_rng(2)
    allowed, beyond = guard("cost", max_drop=0.5), guard("cost", max_drop=0.1)
    for i in range(2000):
        for watched in (allowed, beyond):
            watched.take(outcome(f"l{i}", LIVE, cost_usd=1e-4 * rng.uniform(0.5, 1.5)), "")
            watched.take(outcome(f"c{i}", CANARY, cost_usd=1.3e-4 * rng.uniform(0.5, 1.5)), "")
    assert not allowed.verdict().worse
    assert beyond.verdict().worse
    assert 0.1 < beyond.verdict().least < beyond.verdict().difference
    assert beyond.verdict().difference == pytest.approx(0.3, abs=0.05)


def test_nothing_is_concluded_from_too_few() -> None:
    watched = guard(min_outcomes=50)
    assert not fed(watched, [1.0] * 49, [0.0] * 49)
    assert watched.verdict().least == -math.inf
    assert watched.state()["needed"] == 1
    assert fed(watched, [1.0] * 51, [0.0] * 51)
    assert not guard().verdict().worse
    assert guard().state()["worse_by"] is None


def test_a_judgement_that_changes_replaces_the_one_before() -> None:
    watched = guard()
    watched.take(outcome("a", CANARY, quality=0.0), "u")
    watched.take(outcome("a", CANARY, quality=1.0), "u")
    watched.take(outcome("b", LIVE, quality=0.5), "u")
    assert watched.lanes[CANARY].count == 1
    assert watched.lanes[CANARY].mean == 1.0
    assert watched.lanes[CANARY].units == {"u": (1, 1.0)}


def test_outcomes_of_one_key_are_not_taken_for_independent() -> None:
    """All of a key's outcomes are alike here: a hundred outcomes say no more than the ten keys."""
    rng = np.random.default_rng(3)
    by_key, by_request = guard(max_drop=0.0), guard(max_drop=0.0)
    for lane in (LIVE, CANARY):
        for key in range(12):
            value = float(rng.random() < 0.5) if lane == LIVE else float(key < 3)
            for i in range(100):
                one = outcome(f"{lane}-{key}-{i}", lane, quality=value)
                by_key.take(one, f"{lane} {key}")
                by_request.take(one, "")
    assert by_request.verdict().least > by_key.verdict().least
    assert not by_key.verdict().worse


@pytest.mark.parametrize("fields", [{"lane": "other"}, {"cache": "hit"}, {"candidates": {}}, {"status": "cancelled"}])
def test_what_says_nothing_about_the_routers_is_left_out(fields: dict[str, Any]) -> None:
    given: dict[str, Any] = {"lane": CANARY, "candidates": CANDIDATES, "quality": 0.5, **fields}
    assert value_of("quality", Outcome("r", 0.0, "m", **given)) is None
    assert value_of("cost", outcome("r", CANARY, status="error", cost_usd=1.0)) is None
    assert value_of("error_rate", outcome("r", CANARY, status="partial")) == 1.0


def test_the_spread_between_units_is_what_it_would_be_if_all_were_kept() -> None:
    rng = np.random.default_rng(4)
    lane = Lane()
    kept: list[tuple[str, float]] = []
    for i in range(500):
        kept.append((f"u{rng.integers(30)}", float(rng.random())))
        lane.add(*kept[-1])
        if i % 5 == 0:
            lane.add(*kept.pop(int(rng.integers(len(kept)))), -1)
    units = sorted({unit for unit, _ in kept})
    values = [[value for unit, value in kept if unit == one] for one in units]
    everything = [value for _, value in kept]
    mean = float(np.mean(everything))
    assert lane.mean == pytest.approx(mean)
    assert lane.groups == len(units)
    spread = sum((sum(each) - mean * len(each)) ** 2 for each in values) * len(units) / (len(units) - 1)
    assert lane.variance_of_mean(presumed=0.0, clustered=True) == pytest.approx(spread / len(kept) ** 2)
    assert lane.variance_of_mean(presumed=0.0, clustered=False) == pytest.approx(np.var(everything) / len(kept))


@pytest.mark.parametrize(("drop", "least_found", "median"), [(0.2, 1.0, (900, 1500)), (0.1, 0.35, (1500, 3500))])
def test_how_soon_a_drop_is_found_at_a_tenth_of_the_traffic(
    drop: float, least_found: float, median: tuple[int, int]
) -> None:
    """docs/learn.md says so: mean quality 0.7, four thousand requests, looked at after every twentieth."""
    rng = np.random.default_rng(5)
    trials, found = 40, []
    for _ in range(trials):
        watched = guard()
        for i in range(4000):
            in_canary = rng.random() < 0.1
            good = rng.random() < (0.7 - drop if in_canary else 0.7)
            watched.lanes[CANARY if in_canary else LIVE].add("", float(good))
            if i % 20 == 0 and watched.verdict().worse:
                found.append(i)
                break
    assert len(found) >= least_found * trials
    assert median[0] < np.median(found) < median[1]
