"""The quality floor: what is certified, what is refused, and how often the promise is broken."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llmrouter.exceptions import ConfigError, QualityFloorError
from llmrouter.policy import Calibration, FloorCalibrator, QualityFloorPolicy, TrainingFacts
from llmrouter.policy._learn_then_test import FLOOR_STEP, WEIGHTS
from llmrouter.types import Preference, RoutingRequest
from tests.contracts.policy_kit import FACTS, candidates_of, estimates_of

COST = np.array([1e-4, 5e-4, 2e-3])
NAMES = ("small", "middle", "large")


def draw(rng, n, *, noise=0.08):
    """Quality and noisy estimates of three models on n prompts of varied difficulty."""
    ease = rng.random(n)
    truth = np.stack([0.35 + 0.5 * ease, 0.6 + 0.3 * ease, 0.8 + 0.12 * ease], axis=1)
    quality = (rng.random((n, 3)) < truth).astype(float)
    return quality, np.clip(truth + noise * rng.normal(size=(n, 3)), 0, 1)


def facts_of(quality, expected, *, best=None):
    n = len(quality)
    means = np.nan_to_num(quality).mean(axis=0)
    costs = np.tile(COST, (n, 1))
    calibration = Calibration(
        NAMES, np.zeros((n, 2)), expected, np.full((n, 3), 0.05), costs, quality, costs, (None,) * n
    )
    return TrainingFacts(
        NAMES,
        float(COST.max()),
        best or NAMES[int(means.argmax())],
        dict(zip(NAMES, means)),
        dict(zip(NAMES, COST)),
        calibration,
    )


def choices(expected, weight):
    return np.round(expected - weight * COST / COST.max(), 12).argmax(axis=1)


@pytest.fixture(scope="module")
def population():
    """Quality and expectation (100,000, 3), the true quality of each weight, and that of each model."""
    quality, expected = draw(np.random.default_rng(0), 100_000)
    reached = np.array([quality[np.arange(len(quality)), choices(expected, weight)].mean() for weight in WEIGHTS])
    return quality, expected, reached, dict(zip(NAMES, quality.mean(axis=0)))


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "confidence", "n"), [(0.97, 0.95, 1000), (0.9, 0.9, 500), (0.9, 0.8, 1000)])
def test_the_promise_is_broken_no_more_often_than_stated(floor, confidence, n, population):
    """Over 300 draws of a calibration the true quality of the certified weight is short at most that often."""
    quality, expected, reached, single = population
    rng = np.random.default_rng(0)
    broken = dict.fromkeys(("betting", "normal"), 0)
    for _ in range(300):
        rows = rng.integers(len(quality), size=n)
        calibrator = FloorCalibrator(facts_of(quality[rows], expected[rows]))
        for bound in broken:
            try:
                found = calibrator.certificate(floor, confidence=confidence, bound=bound)
            except QualityFloorError:
                continue
            true = reached[np.searchsorted(WEIGHTS, found.cost_weight)]
            broken[bound] += true < floor * single[found.best_single]
    assert max(broken.values()) <= stats.binom.ppf(0.999, 300, 1 - confidence), broken


def test_the_certificate_describes_the_calibration():
    quality, expected = draw(np.random.default_rng(1), 2000)
    policy = QualityFloorPolicy(0.9, confidence=0.9).bind(facts_of(quality, expected))
    found = policy.certificate()
    chosen = choices(expected, found.cost_weight)
    reached = quality[np.arange(2000), chosen].mean()
    assert found.n == 2000
    assert found.best_single == "large"
    assert found.method == "betting"
    assert found.cost_weight > 0
    assert found.quality_share == pytest.approx(reached / quality[:, 2].mean())
    assert found.mean_cost_usd == pytest.approx(COST[chosen].mean())
    assert found.cost_share == pytest.approx(COST[chosen].mean() / COST[2])
    assert found.quality_share > 0.9
    shortfall = 0.9 * quality[:, 2].mean() - reached
    assert shortfall < found.upper_bound < 0
    assert policy.name == "quality_floor(0.9)"
    assert policy.current_cost_weight() == found.cost_weight


def test_lower_floors_and_lower_confidence_are_cheaper():
    quality, expected = draw(np.random.default_rng(2), 3000)
    calibrator = FloorCalibrator(facts_of(quality, expected))
    costs = [calibrator.certificate(floor).mean_cost_usd for floor in (0.95, 0.9, 0.8, 0.5)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(COST[0])
    sure, unsure = (calibrator.certificate(0.9, confidence=c).cost_weight for c in (0.99, 0.6))
    assert sure < unsure


def test_rows_may_be_sorted_by_quality():
    quality, expected = draw(np.random.default_rng(3), 2000)
    order = np.argsort(quality.sum(axis=1), kind="stable")
    shuffled = FloorCalibrator(facts_of(quality, expected)).certificate(0.9)
    arranged = FloorCalibrator(facts_of(quality[order], expected[order])).certificate(0.9)
    assert arranged.quality_share > 0.9
    assert arranged.upper_bound == pytest.approx(shuffled.upper_bound, abs=0.01)


def test_too_few_prompts_are_refused_with_how_many_more_would_do():
    quality, expected = draw(np.random.default_rng(4), 25)
    with pytest.raises(QualityFloorError, match=r"25 held-out prompts are too few; about \d+ more outcomes") as error:
        QualityFloorPolicy(0.9).bind(facts_of(quality, expected))
    more = error.value.more_outcomes
    quality, expected = draw(np.random.default_rng(5), 25 + 6 * more)
    assert QualityFloorPolicy(0.9).bind(facts_of(quality, expected)).certificate().quality_share > 0.9


def test_a_router_that_falls_short_is_refused_without_a_number():
    quality, expected = draw(np.random.default_rng(6), 2000)
    with pytest.raises(QualityFloorError, match="falls short of it by .* lower the floor") as error:
        QualityFloorPolicy(1.0).bind(facts_of(quality, 1 - expected))
    assert error.value.more_outcomes is None
    assert isinstance(error.value, ConfigError)


def test_missing_outcomes_are_left_out():
    quality, expected = draw(np.random.default_rng(7), 3000)
    quality[::2, 2] = np.nan
    found = FloorCalibrator(facts_of(quality, expected, best="large")).certificate(0.8)
    assert found.n == 1500
    single = np.full_like(quality, np.nan)
    rows = np.arange(3000)
    single[rows, rows % 2] = quality[rows, rows % 2]  # the best single was never run
    with pytest.raises(QualityFloorError, match="no calibration prompt was answered by both"):
        FloorCalibrator(facts_of(single, expected, best="large")).certificate(0.8)


def test_without_a_calibration_it_refuses():
    with pytest.raises(QualityFloorError, match="train it again"):
        QualityFloorPolicy().bind(replace(FACTS, calibration=None))
    with pytest.raises(QualityFloorError, match="'gone' is no column"):
        QualityFloorPolicy().bind(replace(FACTS, best_single="gone"))
    with pytest.raises(ConfigError, match="bound to none"):
        QualityFloorPolicy().choose(RoutingRequest("x"), candidates_of(), estimates_of([0.5] * 4))
    with pytest.raises(ConfigError, match="bound to none"):
        QualityFloorPolicy().certificate()


def test_requests_may_ask_for_another_floor_or_weight():
    policy = QualityFloorPolicy(0.97).bind(FACTS)
    arguments = candidates_of(), estimates_of([0.8, 0.85, 0.9, 0.5])

    def chosen(**preference):
        decision = policy.choose(RoutingRequest("x", preference=Preference(**preference)), *arguments)
        return decision.model, decision.policy

    assert chosen()[1] == "quality_floor(0.97)"
    assert chosen(quality_floor=0.97)[1] == "quality_floor(0.97)"
    assert chosen(quality_floor=0.5) == ("small", "quality_floor(floor=0.5,calibrated)")
    assert chosen(cost_weight=0.0) == ("large", "utility(0)")


def test_floors_are_rounded_up_and_remembered():
    calibrator = FloorCalibrator(FACTS)
    first = calibrator.certificate(0.90001)
    assert first is calibrator.certificate(0.9009)
    assert first.floor == pytest.approx(0.901)
    assert calibrator.certificate(0.9).floor == pytest.approx(0.9)


@pytest.mark.parametrize(
    "arguments", [{"floor": 0}, {"floor": 1.2}, {"confidence": 1.0}, {"confidence": 0}, {"bound": "bootstrap"}]
)
def test_bad_settings(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        QualityFloorPolicy(**arguments)


@pytest.mark.parametrize("floor", [5e-324, 1e-9, FLOOR_STEP])
def test_a_tiny_floor_is_the_smallest_step(floor):
    quality, expected = draw(np.random.default_rng(3), 200)
    assert FloorCalibrator(facts_of(quality, expected)).certificate(floor).floor == FLOOR_STEP
