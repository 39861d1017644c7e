"""Protocols: what is trained and tested on in each draw, pairing, seeds, summaries, files."""

import dataclasses
import json
import math

import numpy as np
import pytest

from llmrouter.evaluation import (
    Cell,
    ProtocolResult,
    evaluate,
    format_protocol,
    hide_outcomes,
    learning_curve,
    missing_outcomes,
    out_of_distribution,
    protocol_as_json,
    random_splits,
    run_protocol,
    write_protocol,
)
from llmrouter.evaluation._draws import stratified, task_groups
from llmrouter.exceptions import ConfigError, DataError

KNN = "knn:k=15"


def changed(table, rows, quality):
    """Return the table with other outcomes in some rows."""
    values = table.quality.copy()
    values[rows] = quality
    return dataclasses.replace(table, quality=values)


@pytest.fixture(scope="module")
def data(topics):
    """The two topics with a task label each; every other prompt is a test prompt."""
    table, X = topics
    return dataclasses.replace(table, tasks=tuple("right" if x[0] > x[1] else "left" for x in X)), X


def values(result, router, figure, **condition):
    return result.find(router, figure, **condition).values


def conditions(result, name):
    return [cell.condition[name] for cell in result.cells if (cell.router, cell.figure) == (KNN, "aiq")]


# ---- random splits


def test_splits_are_paired_and_repeatable(data):
    result = random_splits(*data, routers=[KNN], seeds=(4, 7), test_share=0.25)
    for router in (KNN, "best-single", "zero", "oracle"):
        cell = result.find(router, "aiq")
        assert cell.seeds == (4, 7)
        assert cell.condition == {"test_share": 0.25}
        difference = np.array(cell.values) - np.array(values(result, "zero", "aiq"))
        assert values(result, router, "aiq_minus_zero") == pytest.approx(difference)
    assert values(result, "zero", "aiq_minus_zero") == (0, 0)
    assert values(result, "best-single", "quality_minus_best_single") == (0, 0)
    again = random_splits(*data, routers=[KNN], seeds=(4, 7), test_share=0.25)
    assert again.cells == result.cells
    assert values(random_splits(*data, routers=[KNN], seeds=(7,), test_share=0.25), KNN, "aiq")[0] == pytest.approx(
        values(result, KNN, "aiq")[1]
    )


def test_a_split_takes_its_share_of_every_task(data):
    table, _ = data
    train, test = stratified(table, np.arange(len(table)), 0.3, seed=1)
    assert sorted([*train, *test]) == list(range(len(table)))
    tasks = np.array(table.tasks)
    for task in ("left", "right"):
        assert (tasks[test] == task).sum() == round(0.3 * (tasks == task).sum())


def test_a_split_is_the_evaluation_of_that_split(data):
    table, X = data
    _, test = stratified(table, np.arange(len(table)), 0.3, seed=2)
    splits = np.array(["train"] * len(table), dtype=object)
    splits[test] = "test"
    expected = evaluate(dataclasses.replace(table, splits=tuple(splits)), X, routers=[KNN], resamples=0).routers[KNN]
    result = random_splits(table, X, routers=[KNN], seeds=(2,))
    assert values(result, KNN, "aiq") == pytest.approx([expected.aiq])
    assert values(result, KNN, "quality") == pytest.approx([expected.curve.mean_quality[0]])


def test_train_only_never_sees_the_test_split(data):
    table, X = data
    test = np.array([split == "test" for split in table.splits])
    first = random_splits(table, X, routers=[KNN], seeds=(0,), train_only=True)
    second = random_splits(changed(table, test, 0.0), X, routers=[KNN], seeds=(0,), train_only=True)
    assert first.cells == second.cells


def test_standard_error_of_overlapping_splits(data):
    result = random_splits(*data, routers=[KNN], seeds=range(4), test_share=0.5)
    cell = result.find(KNN, "quality")
    spread = np.var(cell.values, ddof=1)
    assert cell.overlap == pytest.approx(1, abs=0.05)
    assert cell.standard_error == pytest.approx(math.sqrt((1 / 4 + cell.overlap) * spread))
    assert cell.mean == pytest.approx(np.mean(cell.values))


# ---- out of distribution


def test_held_out_tasks_are_not_trained_on(data):
    table, X = data
    tasks, splits = np.array(table.tasks), np.array(table.splits)
    result = out_of_distribution(table, X, routers=[KNN])
    inside = (tasks == "left") & (splits == "train")
    other = out_of_distribution(changed(table, inside, 0.5), X, routers=[KNN])
    for figure in ("aiq", "quality"):
        assert values(other, KNN, figure, held_out="left") == values(result, KNN, figure, held_out="left")
    assert values(other, KNN, "quality", held_out="right") != values(result, KNN, "quality", held_out="right")


def test_what_is_lost_out_of_distribution(data):
    table, X = data
    result = out_of_distribution(table, X, routers=[KNN], held_out_tasks=["left"])
    keep = [split == "train" or task == "left" for split, task in zip(table.splits, table.tasks, strict=True)]
    seen = evaluate(table.select(np.array(keep)), X[keep], routers=[KNN], resamples=0).routers[KNN]
    lost = values(result, KNN, "quality_lost")[0]
    assert lost == pytest.approx(seen.curve.mean_quality[0] - values(result, KNN, "quality")[0])
    # A router that only knows the other topic takes the model that is bad at this one.
    assert lost > 0.2
    assert {cell.condition["held_out"] for cell in result.cells} == {"left"}


def test_every_group_is_summed_up(data):
    result = out_of_distribution(*data, routers=[KNN])
    cell = result.find(KNN, "quality", held_out="every group")
    assert cell.values == tuple(values(result, KNN, "quality", held_out=group)[0] for group in ("left", "right"))
    assert result.cells[-1].condition == {"held_out": "every group"}


def test_a_task_without_train_prompts_has_nothing_to_lose(data):
    table, X = data
    keep = [split == "test" or task == "right" for split, task in zip(table.splits, table.tasks, strict=True)]
    result = out_of_distribution(table.select(np.array(keep)), X[keep], routers=[KNN], held_out_tasks=["left"])
    assert math.isnan(values(result, KNN, "aiq_lost")[0])
    assert math.isfinite(values(result, KNN, "aiq")[0])


def test_many_tasks_make_five_groups_of_about_equal_size():
    tasks = np.repeat([f"t{i}" for i in range(12)], [50, 40, 30, 30, 20, 20, 10, 10, 10, 10, 5, 5])
    groups = task_groups(tasks, np.arange(len(tasks)), None)
    assert sorted(task for group in groups for task in group) == sorted(set(tasks.tolist()))
    sizes = [sum((tasks == task).sum() for task in group) for group in groups]
    assert len(groups) == 5
    assert max(sizes) <= 55


def test_held_out_tasks_that_cannot_be(data, topics):
    with pytest.raises(ConfigError, match=r"unknown task\(s\) middle.*left, right"):
        out_of_distribution(*data, routers=[KNN], held_out_tasks=["middle"])
    with pytest.raises(DataError, match="leaves 0 train"):
        out_of_distribution(*data, routers=[KNN], held_out_tasks=[["left", "right"]])
    with pytest.raises(DataError, match="two tasks"):
        out_of_distribution(*topics, routers=[KNN])


# ---- learning curve


def test_learning_curve_ends_in_the_whole_train_split(data):
    table, X = data
    result = learning_curve(table, X, routers=[KNN], sizes=(10, 40, 1000), draws=3, seed=5)
    assert conditions(result, "train_prompts") == [10, 40, 100]
    assert result.find(KNN, "aiq", train_prompts=10).seeds == (5, 6, 7)
    everything = evaluate(table, X, routers=[KNN], resamples=0).routers[KNN]
    assert values(result, KNN, "aiq", train_prompts=100) == pytest.approx([everything.aiq])
    # with 10 prompts, 15 neighbours are everything: nothing but the models' means is left
    few, many = result.find(KNN, "aiq", train_prompts=10), result.find(KNN, "aiq", train_prompts=40)
    assert few.mean < many.mean


def test_a_learning_curve_draw_is_the_evaluation_of_that_draw(data):
    table, X = data
    train = np.flatnonzero([split == "train" for split in table.splits])
    test = np.flatnonzero([split == "test" for split in table.splits])
    rows = np.sort([*np.random.default_rng(6).permutation(train)[:30], *test])
    expected = evaluate(table.select(rows), X[rows], routers=[KNN], resamples=0).routers[KNN]
    result = learning_curve(table, X, routers=[KNN], sizes=(30,), draws=1, seed=6)
    assert values(result, KNN, "aiq", train_prompts=30) == pytest.approx([expected.aiq])


# ---- missing outcomes


def test_hidden_outcomes_leave_one_model_a_train_prompt(data):
    table, _ = data
    hidden = hide_outcomes(table, 1, seed=3)
    train = np.array([split == "train" for split in table.splits])
    assert (hidden.observed[train].sum(axis=1) == 1).all()
    assert (np.isfinite(hidden.cost_usd) == hidden.observed).all()
    assert (hidden.quality[~train] == table.quality[~train]).all()
    assert hidden.propensity[train][hidden.observed[train]] == pytest.approx(1 / 3)
    assert np.isnan(hidden.propensity[train][~hidden.observed[train]]).all()
    assert hidden.propensity[~train] == pytest.approx(1)
    kept = hidden.observed[train]
    assert (hidden.quality[train][kept] == table.quality[train][kept]).all()


def test_models_are_hidden_uniformly_among_those_observed(table_of):
    quality = np.full((3000, 3), 0.5)
    quality[:1000, 0] = np.nan
    hidden = hide_outcomes(table_of(quality, [1.0, 2.0, 3.0], splits=["train"] * 3000), 1, seed=0)
    assert hidden.observed[:1000].mean(axis=0) == pytest.approx([0, 0.5, 0.5], abs=0.05)
    assert hidden.observed[1000:].mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.04)
    assert hidden.propensity[:1000][hidden.observed[:1000]] == pytest.approx(0.5)
    assert hide_outcomes(hidden, 3, seed=1).propensity[hidden.observed] == pytest.approx(
        hidden.propensity[hidden.observed]
    )


def test_missing_outcomes_from_one_model_to_all(data):
    table, X = data
    result = missing_outcomes(table, X, routers=[KNN], shares=(0.67,), draws=2)
    assert conditions(result, "models_per_prompt") == [1, 2, 3]
    expected = evaluate(hide_outcomes(table, 1, seed=1), X, routers=[KNN], resamples=0).routers[KNN].aiq
    assert values(result, KNN, "aiq", models_per_prompt=1)[1] == pytest.approx(expected)
    assert values(result, KNN, "aiq", models_per_prompt=3) == pytest.approx(
        [evaluate(table, X, routers=[KNN], resamples=0).routers[KNN].aiq]
    )


# ---- results


@pytest.fixture(scope="module")
def small(data):
    return learning_curve(*data, routers={"ours": KNN}, sizes=(20,), draws=2)


def test_json_holds_every_draw(small, tmp_path):
    path = write_protocol(small, tmp_path / "new")
    assert path.name == "protocol-learning-curve.json"
    document = json.loads(path.read_text())
    assert document == json.loads(json.dumps(protocol_as_json(small), allow_nan=False))
    cell = next(c for c in document["cells"] if c["router"] == "ours" and c["figure"] == "aiq")
    assert cell["condition"] == {"train_prompts": 20}
    assert cell["seeds"] == [0, 1]
    assert cell["mean"] == pytest.approx(np.mean(cell["values"]))
    assert document["settings"]["routers"] == {"ours": KNN}
    assert len(document["data"]["sha256"]) == 64
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_protocol(small, tmp_path / "file")


def test_text_has_a_row_for_each_condition_and_router(small):
    lines = format_protocol(small).splitlines()
    assert "learning-curve" in lines[0]
    assert sum("ours" in line for line in lines) == 2
    assert sum("+-" in line for line in lines[1:]) == 4
    assert "nan" not in "".join(lines)


def test_cells_leave_undefined_draws_out():
    cell = Cell("a", "aiq", {}, (0.5, math.nan, 0.7), (0, 1, 2))
    assert cell.mean == pytest.approx(0.6)
    assert cell.standard_error == pytest.approx(0.1)
    nothing = Cell("a", "aiq", {}, (math.nan,), (0,))
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.standard_error)


def test_find_wants_exactly_one(small):
    with pytest.raises(DataError, match="2 figures"):
        small.find("ours", "aiq")
    with pytest.raises(DataError, match="0 figures"):
        ProtocolResult("ood", {}, (), {}).find("ours", "aiq")


def test_one_look_is_logged_for_all_draws(data, tmp_path):
    log = tmp_path / "looks.jsonl"
    missing_outcomes(*data, routers=[KNN], draws=2, look_log=log)
    random_splits(*data, routers=[KNN], seeds=(0,), train_only=True, look_log=log)
    looks = [json.loads(line) for line in log.read_text().splitlines()]
    assert [look["protocol"] for look in looks] == ["missing"]
    assert looks[0]["routers"] == [KNN]


def test_undefined_aiqs_are_null_not_errors(table_of):
    table = dataclasses.replace(table_of([[0.9, 0.5]] * 20, [1.0, 2.0]), tasks=("a",) * 10 + ("b",) * 10)
    for protocol in ("splits", "ood", "learning-curve", "missing"):
        result = run_protocol(protocol, table, X=np.eye(20), routers=["knn:k=3"], draws=2)
        assert all(math.isnan(cell.mean) for cell in result.cells if cell.figure == "aiq")
        assert "nan" not in format_protocol(result)


# ---- bad input


@pytest.mark.parametrize(
    ("protocol", "options", "match"),
    [
        (random_splits, {"seeds": ()}, "seeds must be distinct"),
        (random_splits, {"seeds": (1, 1)}, "seeds must be distinct"),
        (random_splits, {"test_share": 1.0}, "test_share"),
        (learning_curve, {"draws": 0}, "draws"),
        (learning_curve, {"sizes": (0,)}, "sizes"),
        (missing_outcomes, {"shares": (1.0,)}, "shares"),
        (missing_outcomes, {"draws": 0}, "draws"),
    ],
)
def test_bad_settings(data, protocol, options, match):
    with pytest.raises(ConfigError, match=match):
        protocol(*data, routers=[KNN], **options)


@pytest.mark.parametrize("protocol", [random_splits, out_of_distribution, learning_curve, missing_outcomes])
def test_embeddings_must_fit(data, protocol):
    table, X = data
    with pytest.raises(DataError, match="X must have 200 rows"):
        protocol(table, X[:-1], routers=[KNN])


def test_run_protocol_refuses_what_it_does_not_know(data):
    table, X = data
    with pytest.raises(ConfigError, match="one of splits, new-models"):
        run_protocol("split", table, X=X, routers=[KNN])
    with pytest.raises(ConfigError, match="needs a router"):
        run_protocol("splits", table, X=X, routers=[])
    with pytest.raises(ConfigError, match="draws"):
        run_protocol("splits", table, X=X, routers=[KNN], draws=0)


def test_run_protocol_merges_the_routers_of_new_models(data):
    table, X = data
    result = run_protocol("new-models", table, X=X, routers=[KNN, "mean"], hidden=["org/model-2"], draws=1)
    assert {cell.router for cell in result.cells} == {KNN, "mean"}
    assert result.settings["routers"] == [KNN, "mean"]
