"""The poisoning benchmark: its attacks are attacks, its figures are counted right, and it runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import _poison_report, poisoning
from benchmarks.learning._poison_attacks import Standing, Target, find_target, optimised_trigger, poison
from benchmarks.learning._poison_world import World, honest_log
from llmrouter.learning import TrustPolicy, TrustSettings

N = 1500


@pytest.fixture(scope="module")
def world() -> World:
    return poisoning.load_world("pocket", Path(), train_only=True)


@pytest.fixture(scope="module")
def log(world: World):  # type: ignore[no-untyped-def]
    return honest_log(world, N, np.random.default_rng(0))


def test_the_honest_log_is_one_armed_and_of_many_unequal_keys(world: World, log) -> None:  # type: ignore[no-untyped-def]
    y = log.outcomes(len(world.train.models))
    assert (np.isfinite(y).sum(axis=1) == 1).all()
    traffic = np.bincount(log.judged.source)
    assert (traffic > 0).sum() > 25
    assert traffic.max() > 5 * np.median(traffic)


def test_the_trigger_moves_any_prompt_where_nobody_else_is(world: World) -> None:
    trigger = optimised_trigger(world, np.random.default_rng(0))
    texts = [world.test.texts[i] or "" for i in range(20)]
    plain, moved = world.encoder.encode(texts), world.encoder.encode([f"{text} {trigger}" for text in texts])
    nearest_plain, nearest_moved = (X @ world.X_train.T for X in (plain, moved))
    assert nearest_moved.max(axis=1).mean() < nearest_plain.max(axis=1).mean() - 0.05
    assert np.linalg.norm(moved.mean(axis=0)) > np.linalg.norm(plain.mean(axis=0)) + 0.1


def test_success_counts_only_what_could_be_moved() -> None:
    empty = np.empty((0, 1))
    target = Target("region", empty, empty, empty, model=2, incumbent=0)
    assert target.success(np.array([0, 0, 2, 1]), np.array([2, 0, 2, 2])) == (2, 3)
    down = Target("down", empty, empty, empty, model=0, incumbent=0)
    assert down.success(np.array([0, 0, 2, 1]), np.array([2, 0, 2, 2])) == (1, 2)


@pytest.mark.parametrize(
    ("standing", "keys", "used"),
    [("new", 10, 10), ("old", 10, 3), ("old", 1, 1), ("sparing", 10, 3), ("masked", 10, 3), ("stolen", 3, 0)],
)
def test_an_attack_costs_what_it_says(world: World, log, standing: Standing, keys: int, used: int) -> None:  # type: ignore[no-untyped-def]
    target = find_target(world, "region", np.random.default_rng(1), predict=lambda X: np.full((len(X), 4), 0.5))
    attacked = poison(
        world,
        log,
        target,
        np.random.default_rng(2),
        share=0.05,
        keys=keys,
        standing=standing,
        settings=TrustSettings(),
    )
    sent = attacked.honest == 0
    assert sent.mean() == pytest.approx(0.05, abs=0.002)
    assert len(attacked.judged.names) - len(log.judged.names) == used
    quarantined = set(TrustPolicy().weights(attacked.judged).quarantined)
    attackers = {f"attacker-{i}" for i in range(used)}
    assert attackers <= quarantined if standing == "new" else not attackers & quarantined


def test_attackers_who_know_the_defences_spare_their_poison_and_hide_their_bias(world: World, log) -> None:  # type: ignore[no-untyped-def]
    target = find_target(world, "down", np.random.default_rng(1), predict=lambda X: np.full((len(X), 4), 0.5))

    def sent(standing: Standing) -> tuple[np.ndarray, np.ndarray]:
        rng, settings = np.random.default_rng(2), TrustSettings()
        attacked = poison(world, log, target, rng, share=0.05, keys=10, standing=standing, settings=settings)
        late = attacked.judged.time > 59 * 86_400.0
        theirs = attacked.honest == 0
        on_target = attacked.judged.quality[theirs & (attacked.judged.model == target.model)]
        return np.flatnonzero(theirs & late), on_target

    old, sparing, masked = (sent(standing) for standing in ("old", "sparing", "masked"))
    assert 0 < len(sparing[0]) <= len(old[0]) / 2
    assert old[1].mean() < 0.5 < masked[1].mean()


def test_neither_new_nor_many_old_keys_own_a_region_of_a_real_log(world: World) -> None:
    plan = poisoning.Plan(
        poisoning.KNN, 1, N, kinds=("trigger", "down"), shares=(0.05,), attackers=((10, "new"), (10, "old"))
    )
    rows = poisoning.run_seed(world, plan, TrustSettings(), 0)
    attacks = {
        (row["kind"], row["standing"]): np.divide(row["moved"], row["open"]) for row in rows if row["kind"] != "none"
    }
    assert len(attacks) == 4
    for kind in ("trigger", "down"):
        assert attacks[kind, "new"][0] > 0.5
        assert attacks[kind, "new"][1] < 0.1
    assert attacks["trigger", "old"][1] < 0.1


def test_the_command_writes_results_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path), "--sets", "pocket"]
    assert poisoning.main([*data, "--out", str(tmp_path / "out"), "--quick", "--train-only"]) == 0
    results = json.loads((tmp_path / "out" / "poisoning.json").read_text())
    assert results["splits"] == "train"
    assert {row["kind"] for row in results["rows"]} == {"none", "trigger", "region", "down"}
    page = (tmp_path / "out" / "poisoning.md").read_text()
    assert "| trigger | 5.0% |" in page
    assert page in capsys.readouterr().out
    assert str(tmp_path) not in page


def test_old_keys_are_judged_by_their_share_of_the_outcomes() -> None:
    def row(standing: str, share: float, success: float) -> dict[str, object]:
        found = {"data": "d", "router": "r", "seed": 0, "kind": "down", "aiq": [1.0, 1.0]}
        return {
            **found,
            "share": share,
            "keys": 3,
            "standing": standing,
            "moved": [100, 100 * success],
            "open": [100, 100],
        }

    clean = {"data": "d", "router": "r", "seed": 0, "kind": "none", "aiq": [1.0, 1.0]}
    rows = [clean, row("old", 0.01, 0.02), row("sparing", 0.01, 0.08), row("masked", 0.05, 0.3)]
    small, large, _ = _poison_report.verdicts({"rows": rows})
    assert small.startswith("* met")
    assert "8.0% (down, 1.0% poisoned, 3 sparing keys" in small
    assert large.startswith("* **missed**")


def test_seeds_count_by_the_victims_that_could_be_moved() -> None:
    share, half = _poison_report.pooled([(1, 1), (0, 60), (2, 59)])
    assert share == pytest.approx(3 / 120)
    assert 0.0 < half < 0.2
    assert _poison_report.pooled([(6, 60), (6, 60)]) == (pytest.approx(0.1), pytest.approx(0.0))
    assert _poison_report.pooled([(0, 0)])[0] == 0.0


def test_a_missed_target_is_said() -> None:
    def row(seed: int, kind: str, aiq: list[float], **further: object) -> dict[str, object]:
        return {"data": "d", "router": "r", "seed": seed, "kind": kind, "aiq": aiq, **further}

    attack = {"share": 0.01, "keys": 1, "standing": "new", "moved": [60, 12], "open": [60, 60]}
    rows = [row(seed, "none", [1.0, 0.95]) for seed in (0, 1)] + [
        row(seed, "region", [1.0, 0.9], **attack) for seed in (0, 1)
    ]
    success, aiq = _poison_report.verdicts({"rows": rows})
    assert success.startswith("* **missed**")
    assert "20.0%" in success
    assert aiq.startswith("* **missed**")
    assert "+5.00%" in aiq
    better = [{**r, "aiq": [1.0, 0.995], **({"moved": [60, 3]} if r["kind"] == "region" else {})} for r in rows]
    assert all(line.startswith("* met") for line in _poison_report.verdicts({"rows": better}))
