"""The benchmark of tool calls and embeddings: what counts as right, folds without leaks, and a run on a few prompts."""

import json
import random

import numpy as np
import pytest

from benchmarks.moe import embedding_kinds, quality_extras, tool_calls
from benchmarks.moe.pocket import Prompt, prompts
from llmrouter.moe import GenerationResult, ToolCall

SUM = Prompt("2 + 3?", "add", "5")


def said(text="", *calls):
    made = tuple(ToolCall(f"call_{number}", *call) for number, call in enumerate(calls))
    return GenerationResult(text, 1, 1, "stop", None, 1.0, 1.0, tool_calls=made)


@pytest.mark.parametrize(
    ("result", "marks"),
    [
        (said("5"), (False, False, False, True)),
        (said("", ("give_answer", '{"answer": "5."}')), (True, True, True, False)),
        (said("", ("answer_numbers", '{"answer": "6"}')), (True, True, False, False)),
        (said("", ("answer_words", '{"answer": "5"}')), (True, False, True, False)),
        (said("", ("give_answer", '{"answer": "5')), (False, False, False, False)),
        (said("", ("give_answer", '{"answer": 5}')), (True, True, False, False)),
        (said("", *[("give_answer", '{"answer": "5"}')] * 2), (False, False, False, False)),
    ],
)
def test_what_counts_as_a_right_call(result, marks):
    assert tool_calls.marked(result, SUM) == marks


def test_wordings_never_are_neighbours_of_themselves():
    asked = embedding_kinds.questions(seed=3)
    assert asked.answered.shape == (len(asked.texts), 4)
    for wording in np.unique(asked.phrasing):
        mine = asked.phrasing == wording
        assert len(set(asked.fold[mine])) == 1
        assert len(set(asked.tasks[mine])) == 1
    assert all(set(asked.fold[asked.tasks == task]) == set(range(5)) for task in np.unique(asked.tasks))


def questions(tasks, answered, folds):
    count = len(tasks)
    return embedding_kinds.Questions(
        [""] * count, np.array(tasks), np.array(answered, dtype=bool), np.arange(count), np.array(folds)
    )


def test_neighbours_of_other_folds_decide():
    rng = np.random.default_rng(0)
    tasks = rng.integers(3, size=300)
    centres = np.eye(3)[tasks] * 5 + rng.normal(size=(300, 3))
    found = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    answered = np.stack([tasks == 0, np.ones(300, dtype=bool)], axis=1)
    marks = embedding_kinds.known(found, questions(tasks, answered, np.arange(300) % 5))
    assert marks["task"].mean() > 0.95
    assert marks["models"].mean() > 0.95
    noise = rng.normal(size=(300, 3))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert embedding_kinds.known(noise, questions(tasks, answered, np.arange(300) % 5))["task"].mean() < 0.5
    # A task that occurs in one fold only has no neighbour of its own: its prompts are all told wrong.
    alone = questions(tasks, answered, np.where(tasks == 0, 0, 1 + np.arange(300) % 4))
    assert not embedding_kinds.known(found, alone)["task"][tasks == 0].any()


def test_intervals_are_wider_where_groups_agree():
    values = np.repeat([0.0, 1.0], 50)
    low, high = embedding_kinds.interval(values, np.repeat(np.arange(4), 25), seed=0)
    narrow = embedding_kinds.interval(values, np.arange(100), seed=0)
    assert low < narrow[0] < 0.5 < narrow[1] < high


def test_base_rates():
    asked = questions([0, 0, 1, 2], [[1, 0], [1, 0], [1, 1], [0, 0]], [0, 1, 2, 3])
    assert embedding_kinds.base_rates(asked) == {"task": 0.5, "models": 0.75}


def test_a_run_on_a_few_prompts(tmp_path, monkeypatch):
    whole = embedding_kinds.questions(seed=0)
    some = np.arange(0, len(whole.texts), 40)
    few = embedding_kinds.Questions(
        [whole.texts[row] for row in some],
        *(getattr(whole, name)[some] for name in ("tasks", "answered", "phrasing", "fold")),
    )
    monkeypatch.setattr(embedding_kinds, "questions", lambda *, seed: few)
    arguments = ["--out", str(tmp_path), "--models", "pocket-mini", "--prompts", "2"]
    assert quality_extras.main(arguments) == 0
    document = json.loads((tmp_path / "quality-extras.json").read_text())
    assert str(tmp_path) not in json.dumps(document)
    ways = {row["way"]: row for row in document["tools"]}
    assert tuple(ways) == tool_calls.WAYS
    assert ways["forced"]["right_function"] == ways["forced"]["calls"] == 2
    assert ways["text, no tools"]["calls"] == 0
    assert 0.25 <= ways["forced, argument one of four"]["guess"] < 1
    kinds = [(row["source"], row["kind"]) for row in document["embeddings"]["rows"]]
    assert kinds == [
        ("static encoder", ""),
        *(("pocket-mini", kind) for kind in ("concat", "sum", "hidden", "routing")),
    ]
    page = (tmp_path / "quality-extras.md").read_text()
    assert "| pocket-mini | forced | 1.000 | 1.000" in page
    assert "| pocket-mini | routing | 0." in page
    routing = document["embeddings"]["rows"][-1]
    assert set(routing["task"]) == {"mean", "interval", "to_static", "to_hidden"}
    assert set(document["embeddings"]["rows"][0]["task"]) == {"mean", "interval"}


def test_choices_hold_the_right_answer_once():
    others = prompts("train", "pocket-numbers", 300, seed=0)
    for prompt in prompts("test", "pocket-numbers", 40, seed=0):
        choices = tool_calls._choices(prompt, others, random.Random(0))
        assert choices.count(prompt.answer) == 1
        assert len({choice.casefold() for choice in choices}) == len(choices)
        assert 2 <= len(choices) <= 4
