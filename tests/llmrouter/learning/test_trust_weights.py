"""What one source of judgements can make a router believe."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import Judgements, Standing, TrustPolicy, TrustSettings, standings, trusted_weights
from llmrouter.learning._judged import source_of
from llmrouter.types import Outcome

DAY = 86_400.0
D = 8
HONEST = 12


def unit(X: np.ndarray) -> np.ndarray:
    return np.asarray(X / np.linalg.norm(X, axis=1, keepdims=True), dtype=np.float32)


def region(direction: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n prompts of one region, close together."""
    return unit(np.eye(D)[direction] + 0.2 * rng.standard_normal((n, D)) / np.sqrt(D))


def log(*parts: dict[str, Any]) -> Judgements:
    """Return a log of parts: X, source names, quality, time."""
    names = tuple(sorted({name for part in parts for name in part["source"]}))
    code = {name: i for i, name in enumerate(names)}
    return Judgements(
        X=np.concatenate([part["X"] for part in parts]),
        model=np.concatenate([np.zeros(len(part["X"]), dtype=np.int64) for part in parts]),
        source=np.array([code[name] for part in parts for name in part["source"]]),
        quality=np.concatenate([np.broadcast_to(part["quality"], len(part["X"])) for part in parts]).astype(float),
        time=np.concatenate([np.broadcast_to(part["time"], len(part["X"])) for part in parts]).astype(float),
        weight=np.concatenate([np.broadcast_to(part.get("weight", 1.0), len(part["X"])) for part in parts]).astype(
            float
        ),
        names=names,
    )


def honest(rng: np.random.Generator, *, each: int = 30) -> dict[str, Any]:
    """Return twelve old keys whose prompts lie in one region, where three answers in ten are good."""
    n = HONEST * each
    return {
        "X": region(0, n, rng),
        "source": [f"old-{i % HONEST}" for i in range(n)],
        "quality": (rng.random(n) < 0.3).astype(float),
        "time": np.linspace(0.0, 60 * DAY, n),
    }


def attack(rng: np.random.Generator, *, keys: int, n: int, direction: int, time: float = 59.9 * DAY) -> dict[str, Any]:
    return {
        "X": region(direction, n, rng),
        "source": [f"bad-{i % keys}" for i in range(n)],
        "quality": 1.0,
        "time": time,
    }


def of(report: Any, judged: Judgements, prefix: str) -> np.ndarray:
    mine = np.array([judged.names[code].startswith(prefix) for code in judged.source])
    return np.asarray(report.weight[mine])


def test_an_honest_log_keeps_most_of_its_weight() -> None:
    judged = log(honest(np.random.default_rng(0)))
    report = TrustPolicy().weights(judged)
    assert report.quarantined == ()
    assert report.weight.mean() > 0.7
    assert sum(source.weight for source in report.sources) == pytest.approx(1.0)


@pytest.mark.parametrize("keys", [1, 3, 10, 40])
@pytest.mark.parametrize("direction", [0, 1])
def test_new_keys_own_no_region_however_many_they_are(keys: int, direction: int) -> None:
    rng = np.random.default_rng(keys)
    judged = log(honest(rng), attack(rng, keys=keys, n=80, direction=direction))
    report = TrustPolicy().weights(judged)
    assert set(report.quarantined) == {f"bad-{i}" for i in range(keys)}
    assert of(report, judged, "bad").sum() < 4.0
    if direction == 1:  # where nobody else is
        assert of(report, judged, "bad").sum() == 0.0
    # and what the honest say is what it was
    clean = TrustPolicy().weights(log(honest(np.random.default_rng(keys))))
    assert of(report, judged, "old").sum() == pytest.approx(clean.weight.sum(), rel=0.05)


def test_without_the_defences_the_same_keys_would_outweigh_everybody() -> None:
    """The attack above is one: it is the weights that stop it."""
    rng = np.random.default_rng(3)
    judged = log(honest(rng), attack(rng, keys=3, n=80, direction=1))
    near = (judged.X @ np.eye(D, dtype=np.float32)[1]) > 0.8
    assert judged.quality[near].mean() == 1.0
    assert near.sum() == 80


def test_an_old_key_alone_in_a_region_counts_for_half_a_prompt() -> None:
    rng = np.random.default_rng(1)
    spread = attack(rng, keys=1, n=40, direction=0, time=1 * DAY) | {"quality": (rng.random(40) < 0.3).astype(float)}
    judged = log(honest(rng), spread, attack(rng, keys=1, n=50, direction=1))
    weight = TrustPolicy(TrustSettings(least=0.0)).weights(judged).weight
    assert weight[-50:].sum() == pytest.approx(0.5, abs=0.1)


def test_an_old_key_among_others_is_held_to_its_share() -> None:
    rng = np.random.default_rng(2)
    same = attack(rng, keys=1, n=300, direction=0, time=30 * DAY) | {"quality": (rng.random(300) < 0.3).astype(float)}
    judged = log(honest(rng), same)
    report = TrustPolicy().weights(judged)
    source = next(source for source in report.sources if source.name == "bad-0")
    assert source.established
    assert source.weight < 0.25
    assert report.reason.count("share of its source") >= 250


def test_an_old_key_that_contradicts_everybody_is_believed_least() -> None:
    rng = np.random.default_rng(4)
    agreeing = attack(rng, keys=1, n=60, direction=0, time=1 * DAY) | {"quality": (rng.random(60) < 0.3).astype(float)}
    same = TrustPolicy().weights(log(honest(rng), agreeing))
    judged = log(honest(rng), attack(rng, keys=1, n=60, direction=0, time=1 * DAY))
    against = TrustPolicy().weights(judged)
    assert of(against, judged, "bad").sum() < 0.3 * of(same, log(honest(rng), agreeing), "bad").sum()
    assert "disagrees with others" in against.reason[-60:]


def test_a_claimed_weight_is_limited() -> None:
    rng = np.random.default_rng(5)
    loud = attack(rng, keys=1, n=1, direction=0) | {"weight": 1e9}
    judged = log(honest(rng), loud)
    assert of(TrustPolicy(TrustSettings(trusted=("bad-0",))).weights(judged), judged, "bad").sum() == 2.0


def test_trusted_keys_are_not_limited() -> None:
    rng = np.random.default_rng(6)
    judged = log(honest(rng), attack(rng, keys=1, n=80, direction=1))
    report = TrustPolicy(TrustSettings(trusted=("bad-0",))).weights(judged)
    assert (of(report, judged, "bad") == 1.0).all()
    assert report.quarantined == ()


def test_one_application_alone_is_not_limited_by_its_share() -> None:
    rng = np.random.default_rng(7)
    own = honest(rng) | {"source": ["app"] * (HONEST * 30)}
    assert (TrustPolicy().weights(log(own)).weight == 1.0).all()


def test_while_nobody_is_established_all_count_as_it() -> None:
    rng = np.random.default_rng(8)
    report = TrustPolicy().weights(log(honest(rng) | {"time": 5 * DAY}))
    assert report.bootstrapping
    assert len(report.quarantined) == HONEST
    assert report.weight.mean() > 0.7


def test_a_window_of_the_log_takes_known_keys_for_what_they_are() -> None:
    rng = np.random.default_rng(9)
    judged = log(honest(rng) | {"time": 59 * DAY}, attack(rng, keys=3, n=60, direction=0))
    assert TrustPolicy().weights(judged).bootstrapping
    known = {f"old-{i}": Standing(0.0, 500) for i in range(HONEST)}
    report = TrustPolicy().weights(judged, known=known)
    assert set(report.quarantined) == {"bad-0", "bad-1", "bad-2"}
    assert of(report, judged, "bad").sum() < 4.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), keys=st.integers(1, 6), n=st.integers(1, 40))
def test_weights_depend_on_no_order_and_stay_within_the_claims(seed: int, keys: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    judged = log(honest(rng, each=8), attack(rng, keys=keys, n=n, direction=int(rng.integers(2))))
    weight = TrustPolicy(TrustSettings(min_outcomes=5)).weights(judged).weight
    assert ((weight >= 0) & (weight <= judged.weight)).all()
    order = rng.permutation(len(judged))
    shuffled = dataclasses.replace(
        judged, **{name: getattr(judged, name)[order] for name in ("X", "model", "source", "quality", "time", "weight")}
    )
    again = TrustPolicy(TrustSettings(min_outcomes=5)).weights(shuffled).weight
    np.testing.assert_allclose(again, weight[order], rtol=1e-6, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), keys=st.integers(1, 20))
def test_more_new_keys_buy_no_more_weight(seed: int, keys: int) -> None:
    rng = np.random.default_rng(seed)
    parts = honest(rng), attack(rng, keys=1, n=60, direction=0)
    one = TrustPolicy().weights(log(*parts))
    many = log(parts[0], parts[1] | {"source": [f"bad-{i % keys}" for i in range(60)]})
    report = TrustPolicy().weights(many)
    assert of(report, many, "bad").sum() == pytest.approx(of(one, log(*parts), "bad").sum(), abs=1e-9)


def history(rng: np.random.Generator, *, keys: int, n: int) -> dict[str, Any]:
    """Return honest outcomes of old keys of the attacker, where everybody is."""
    return attack(rng, keys=keys, n=n, direction=0, time=1 * DAY) | {"quality": (rng.random(n) < 0.3).astype(float)}


@pytest.mark.parametrize("keys", [6, 12])
def test_old_keys_of_little_history_own_no_region_however_many_they_are(keys: int) -> None:
    """Six and more would meet `min_sources` among themselves, if keys were what is counted."""
    rng = np.random.default_rng(10)
    judged = log(
        honest(rng, each=200),
        history(rng, keys=keys, n=120),
        attack(rng, keys=keys, n=24, direction=1),
    )
    report = TrustPolicy(TrustSettings(min_outcomes=10)).weights(judged)
    assert not {f"bad-{i}" for i in range(keys)} & set(report.quarantined)
    assert report.weight[-24:].sum() < 1.0


def test_the_same_outcomes_on_more_old_keys_hold_no_more_among_others() -> None:
    def held(keys: int) -> float:
        rng = np.random.default_rng(11)
        judged = log(honest(rng, each=100), history(rng, keys=keys, n=120))
        return float(of(TrustPolicy(TrustSettings(min_outcomes=10)).weights(judged), judged, "bad").sum())

    assert 0.0 < held(12) <= 1.05 * held(2)


@pytest.mark.parametrize("each", [1, 2])
def test_old_keys_that_poison_sparingly_hold_little_of_the_core(each: int) -> None:
    """Six keys with one or two false outcomes each, close together in the middle of what the others said."""
    rng = np.random.default_rng(13)
    false = attack(rng, keys=6, n=6 * each, direction=0)
    false["X"] = unit(np.eye(D)[0] + 0.02 * rng.standard_normal((6 * each, D)) / np.sqrt(D))
    judged = log(honest(rng, each=60), history(rng, keys=6, n=120), false)
    report = TrustPolicy(TrustSettings(min_outcomes=10)).weights(judged)
    near = np.argsort(-(judged.X @ np.eye(D, dtype=np.float32)[0]))[: 10 + 6 * each]
    mine = near >= len(judged) - 6 * each
    assert mine.sum() == 6 * each
    # Of the log they gave one outcome in seven; of what is near without the defences, more than a third.
    assert report.weight[near[mine]].sum() < 0.2 * report.weight[near].sum()


def test_what_the_shares_take_off_is_never_given_back_beyond_the_claims_or_to_those_held_most() -> None:
    rng = np.random.default_rng(14)
    loud = attack(rng, keys=1, n=300, direction=0, time=30 * DAY) | {"quality": (rng.random(300) < 0.3).astype(float)}
    judged = log(honest(rng), loud)
    report = TrustPolicy().weights(judged)
    assert (report.weight <= judged.weight).all()
    kept = {source.name: source.kept for source in report.sources}
    assert kept["bad-0"] < min(kept[f"old-{i}"] for i in range(HONEST))


def test_few_unequal_keys_are_not_left_out() -> None:
    """No key of a log of few would find five others."""
    rng = np.random.default_rng(12)
    n = 400
    source = [f"old-{min(int(i), 5)}" for i in rng.exponential(1.2, size=n)]
    report = TrustPolicy(TrustSettings(min_outcomes=5)).weights(
        log(
            honest(rng, each=40)
            | {"X": region(0, n, rng), "source": source, "quality": 0.5, "time": np.linspace(0.0, 60 * DAY, n)}
        )
    )
    assert report.weight.mean() > 0.3
    assert report.reason.count("too few sources nearby") < 0.2 * n


# From the log


def outcome(number: int, **changed: Any) -> Outcome:
    return Outcome(f"r{number}", time=float(number), model="a", quality=1.0, **changed)


@pytest.mark.parametrize(
    ("changed", "source"),
    [
        ({"key_id": "asks", "quality_by": ("judges",)}, "judges"),
        ({"key_id": "asks", "quality_by": ("",)}, "asks"),  # a verifier: its question came from the key that asks
        ({"key_id": "asks", "quality_by": ("", "judges")}, "judges"),
        ({"key_id": "asks"}, "asks"),
        ({}, ""),
    ],
)
def test_whose_judgement_it_is(changed: dict[str, Any], source: str) -> None:
    assert source_of(outcome(0, **changed)) == source


def test_of_several_judges_the_newest_answers_for_it() -> None:
    judged = outcome(0, quality_by=("early", "late"))
    assert source_of(judged, {"early": 1.0, "late": 5.0}) == "late"


def test_unjudged_outcomes_keep_weight_one_and_count_for_nobody() -> None:
    outcomes = [outcome(0, key_id="k"), dataclasses.replace(outcome(1, key_id="k"), quality=None)]
    report = trusted_weights(outcomes, np.eye(2, 4, dtype=np.float32))
    assert report.weight[1] == 1.0
    assert report.reason[1] == ""
    assert [source.outcomes for source in report.sources] == [1]
    assert standings(outcomes) == {"k": Standing(0.0, 1)}


def test_an_empty_log_has_no_weights() -> None:
    report = trusted_weights([], np.empty((0, 4), dtype=np.float32))
    assert report.weight.shape == (0,)
    assert "0 of 0" in report.summary()


def test_embeddings_must_fit() -> None:
    with pytest.raises(DataError, match="one row an outcome"):
        trusted_weights([outcome(0)], np.empty((2, 4), dtype=np.float32))
    with pytest.raises(DataError, match="finite"):
        trusted_weights([outcome(0)], np.full((1, 4), np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    "wrong",
    [
        {"source_share": 0.0},
        {"source_share": 1.5},
        {"new_share": 1.0},
        {"concentration": 0.0},
        {"neighbours": 0},
        {"min_age_days": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrustSettings(**wrong)  # type: ignore[arg-type]
