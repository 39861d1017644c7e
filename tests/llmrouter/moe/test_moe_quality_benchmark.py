"""The benchmark of quality: its scoring is that of the training, and it measures on no prompt it calibrates on."""

import argparse

import pytest

from benchmarks.moe import quality
from benchmarks.moe.pocket import NUMBER_TASKS, answers, prompts, right
from training.pocket.scoring import score
from training.pocket.tasks import NUMBER_TASKS as TRAINED


@pytest.mark.parametrize("task", ["add", "upper_case", "title_case", "sort_numbers", "sort_words", "capital", "spell"])
def test_the_scoring_is_the_trainings(task):
    said = ["Paris", "paris", " Paris. ", "PARIS", "2, 5 9", "2 5 9", "2,5,9.", "d-o-g", "dog", "", "new  york"]
    for answer in said:
        for expected in said:
            assert right(answer, expected, task=task) == bool(score(answer, expected, task=task))


def test_prompts_are_of_the_models_domain_and_splits_are_apart():
    assert set(TRAINED) == NUMBER_TASKS
    train, test = (prompts(split, "pocket-numbers", 400, seed=0) for split in ("train", "test"))
    assert {prompt.task for prompt in [*train, *test]} == NUMBER_TASKS
    assert not {prompt.text for prompt in train} & {prompt.text for prompt in test}
    assert prompts("train", "pocket-numbers", 20, seed=0) == train[:20]


def test_a_run_on_a_few_prompts():
    options = argparse.Namespace(prompts=12, calibration=8, split="train", seed=0, parts=["quantize", "contrast"])
    rows = list(quality.measured("pocket-mini", options))
    assert rows[0]["setting"] == "as it is"
    assert rows[0]["same"] == 1
    [int8] = [row for row in rows if row["setting"] == "int8"]
    assert int8["expert_bytes"] < 0.3 * rows[0]["expert_bytes"]
    assert all("refused" in row for row in rows if row["part"] == "contrast")
    page = quality.page({"rows": rows, "settings": {"split": "train", "calibration": 8}})
    assert "| int8 |" in page
    assert "refused: self-contrast takes the expert of rank 2" in page


def test_the_first_prompts_are_left_to_calibration(monkeypatch):
    asked = []
    monkeypatch.setattr(quality, "answers", lambda engine, given: asked.append(given) or answers(engine, given[:1]) * 5)
    options = argparse.Namespace(prompts=5, calibration=3, split="train", seed=1, parts=[])
    list(quality.measured("pocket-mini", options))
    assert asked[0] == prompts("train", "pocket-mini", 8, seed=1)[3:]
