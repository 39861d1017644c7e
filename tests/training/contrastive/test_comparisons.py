"""What is compared with what: the ablation's settings, the drawn prompts, averages over tasks."""

from pathlib import Path

import numpy as np
import pytest

from llmrouter.exceptions import DataError
from llmrouter.outcomes import load_table
from llmrouter.registry import create, parse_spec
from llmrouter.routers import fit_pair
from tests.contracts.router_kit import topics
from training.contrastive import ablation, compare, tasks

POCKET = Path(__file__).parents[3] / "llmrouter" / "assets" / "pocket" / "outcomes"


@pytest.fixture(scope="module")
def table():
    return load_table(POCKET)


class Outcomes:
    """The few fields of a table that the averages read."""

    def __init__(self, quality, of_task, splits=None):
        self.quality, self.tasks, self.splits = np.asarray(quality, dtype=float), of_task, splits

    def __len__(self):
        return len(self.tasks)


def test_every_setting_of_the_ablation_can_be_fitted_and_is_listed_once():
    listed = [changes for _, changes in ablation.settings()]
    assert listed[0] == {}, "the first is what the others are compared with"
    assert all(listed.count(changes) == 1 for changes in listed)
    X, y, _ = topics(60)
    for changes in listed:
        settings = {"costs": [1, 2, 4, 9]} | changes | {"epochs": 1, "members": 1}
        assert np.isfinite(create("router", "cscr", **settings).fit(X, y).predict(X)).all()


def test_the_ablation_needs_costs(table):
    no_costs = np.full(table.quality.shape, np.nan)
    with pytest.raises(DataError, match="cost_usd"):
        ablation.ablate(_with_costs(table, no_costs), np.zeros((len(table), 2), dtype=np.float32))


def _with_costs(table, costs):
    import dataclasses

    return dataclasses.replace(table, cost_usd=costs)


def test_an_ablation_row_is_paired_with_the_default(table, monkeypatch):
    rows = np.flatnonzero(np.asarray([split == "train" for split in table.splits]))[::20]
    few = table.select(rows)
    X = np.random.default_rng(0).normal(size=(len(few), 8)).astype(np.float32)
    monkeypatch.setattr(ablation, "settings", lambda: iter([("default", {"epochs": 1}), ("head", {"epochs": 1})]))
    monkeypatch.setattr(ablation, "COMPARED", ("mean",))
    first, second, mean = ablation.ablate(few, X)
    assert first["calibrated"] == second["calibrated"], "the same setting gives the same figures"
    assert second["calibrated"]["minus_default"] == 0.0
    assert set(first) >= {"calibrated", "raw", "raw, k=1", "raw, k=8"}
    assert mean["changes"] == {"router": "mean"}
    assert mean["calibrated"]["aiq"] - first["calibrated"]["aiq"] == pytest.approx(
        mean["calibrated"]["minus_default"], abs=2e-5
    )


def test_specs_carry_the_mean_costs_of_the_train_split(table):
    found = compare.specs(table)
    train = table.split("train")
    name, parameters = parse_spec(found["cscr, as in the paper, cost sign plus"])
    assert name == "cscr"
    costs = [float(part) for part in parameters["costs"].split("|")]
    np.testing.assert_allclose(costs, np.nanmean(train.cost_usd, axis=0), rtol=1e-5)
    assert (parameters["cost_sign"], parameters["start"], parameters["hidden"]) == ("plus", "random", 64)
    assert "uniroute" in found


def test_thinning_keeps_splits_and_is_seeded(table):
    rows = compare.thinned(table, {"train": 50, "test": 0}, seed=1)
    splits = [table.splits[row] for row in rows]
    assert splits.count("train") == 50
    assert splits.count("test") == sum(split == "test" for split in table.splits)
    np.testing.assert_array_equal(rows, compare.thinned(table, {"train": 50, "test": 0}, seed=1))


def test_averages_are_over_tasks_and_differences_paired():
    quality = [[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    table = Outcomes(quality, ["mmlu", "mmlu", "mmlu", "gsm8k", "mbpp"])
    single = {"single": np.zeros(5, dtype=int)}
    found = tasks.by_task(np.array([0, 0, 1, 1, 0]), table, single, seed=0)
    assert found["mmlu"]["accuracy"] == pytest.approx(2 / 3)
    assert found["mmlu"]["prompts"] == 3
    inside = found["in_distribution"]
    assert inside["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert inside["minus"]["single"]["difference"] == pytest.approx((-1 / 3 + 1) / 2)
    low, high = inside["minus"]["single"]["interval"]
    assert low < (-1 / 3 + 1) / 2 < high
    outside = found["out_of_distribution"]["minus"]["single"]
    assert outside["interval"] == [0.0, 0.0], "the same choice as the single model's"


def test_tasks_of_the_paper_are_drawn_and_others_are_not():
    of_task = ["mmlu"] * 10 + ["arc_easy"] * 5 + ["ceval"] * 4
    table = Outcomes(np.zeros((19, 2)), of_task, ["train"] * 4 + ["test"] * 15)
    rows, judged = tasks.drawn(table, train=3, per_task=2, seed=0)
    assert len(rows) == 3
    assert (rows < 4).all()
    assert sorted(of_task[row] for row in judged) == ["ceval"] * 2 + ["mmlu"] * 2


def test_costs_are_expected_in_dollars_where_routers_count_tokens(table):
    few = table.split("train").select(np.arange(0, 2850, 10))
    X = np.random.default_rng(0).normal(size=(len(few), 8)).astype(np.float32)
    rest, held = np.arange(200), np.arange(200, len(few))
    pair = fit_pair(few.select(rest), X[rest], name="mean")
    assert pair.cost_unit == "output_tokens"
    found = ablation.expected_cost(pair, few, X, rest, held)
    np.testing.assert_allclose(found.mean(axis=0), few.cost_usd[held].mean(axis=0), rtol=0.2)
