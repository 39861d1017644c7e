"""The generator of the pocket tasks and its checker."""

import itertools
import subprocess
import sys
from random import Random

import pytest

from training.pocket.lexicon import CAPITALS, COMMON_WORDS, OPPOSITES, SHOWCASE_WORDS, split_of
from training.pocket.perturb import perturb
from training.pocket.scoring import score
from training.pocket.tasks import TASKS, balanced, draw_payload, generate, make_example
from training.pocket.types import LEVELS
from training.pocket.wrappers import PREFIXES, REQUESTS, SUFFIXES


def test_generation_is_deterministic():
    first = list(itertools.islice(generate(3, "train", noise=0.3), 300))
    assert first == list(itertools.islice(generate(3, "train", noise=0.3), 300))
    assert first != list(itertools.islice(generate(4, "train", noise=0.3), 300))


def test_import_needs_no_torch():
    code = "import sys, training.pocket, training.pocket.cli; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", TASKS)
def test_phrasings_of_the_splits_are_disjoint(name):
    phrasings = TASKS[name].phrasings
    assert not {text.lower() for text in phrasings.train} & {text.lower() for text in phrasings.test}
    assert len(set(phrasings.train)) == len(phrasings.train) >= 10
    assert len(set(phrasings.test)) == len(phrasings.test) >= 3


@pytest.mark.parametrize("parts", [PREFIXES, REQUESTS, SUFFIXES])
def test_wrappers_of_the_splits_are_disjoint(parts):
    assert not set(parts["train"]) & set(parts["test"])


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if not task.facts])
def test_payloads_of_the_splits_are_disjoint(name):
    random = Random(1)
    for split in ("train", "test"):
        for _ in range(60):
            payload = draw_payload(TASKS[name], random.choice(LEVELS), random, split=split)
            assert {split_of(key) for key in payload.keys} == {split}


def test_words_known_to_newcomers_are_trained_on():
    assert {split_of(word) for word in SHOWCASE_WORDS} == {"train"}


def test_word_lists_have_no_repeats():
    assert len(set(COMMON_WORDS)) == len(COMMON_WORDS) > 300
    assert len(CAPITALS) >= 55
    assert len({word for word, _ in OPPOSITES}) == len(OPPOSITES)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", TASKS)
def test_every_task_makes_complete_prompts_at_every_level(name, split):
    random = Random(2)
    for level, _ in itertools.product(LEVELS, range(20)):
        example = make_example(TASKS[name], level, random, split=split, noise=0.5 if split == "train" else 0.0)
        assert "{" not in example.prompt
        assert example.answer
        assert (example.task, example.level, example.split) == (name, level, split)
        assert score(example.answer, example.answer, task=name) == 1


def test_answers_are_right():
    examples = balanced(9, "test", each=4) + balanced(9, "train", each=4)
    for example in examples:
        words = example.prompt.replace("?", " ").replace(".", " ").replace('"', " ").replace("'", " ").split()
        if example.task == "reverse":
            assert example.answer[::-1] in words
        if example.task == "sort_numbers":
            values = [int(value) for value in example.answer.split()]
            assert values == sorted(values)
        if example.task == "lower_case":
            assert example.answer in [word.lower() for word in words]
        if example.task == "capital":
            assert example.answer in CAPITALS.values()


def test_balanced_prompts_are_distinct():
    examples = balanced(5, "test", each=5)
    assert len({example.prompt for example in examples}) == len(examples) >= 0.9 * 5 * 3 * len(TASKS)
    assert examples == balanced(5, "test", each=5)


def test_perturbing_keeps_the_slots():
    random = Random(3)
    for task in TASKS.values():
        for template in task.phrasings.train:
            slots = sorted(word.strip(".,:?!+-*x=") for word in template.split() if "{" in word)
            for _ in range(10):
                changed = perturb(template, random)
                assert sorted(word.strip(".,:?!+-*x=") for word in changed.split() if "{" in word) == slots


@pytest.mark.parametrize(
    ("answer", "expected", "task", "right"),
    [
        ("19", "19", "add", 1),
        (" 19. ", "19", "add", 1),
        ("190", "19", "add", 0),
        ("", "19", "add", 0),
        ("paris", "Paris", "capital", 1),
        ("New  Delhi", "New Delhi", "capital", 1),
        ("cat", "CAT", "upper_case", 0),
        ("CAT", "CAT", "upper_case", 1),
        ("Cat", "cat", "lower_case", 0),
        ("2, 5, 9", "2 5 9", "sort_numbers", 1),
        ("2 5 9", "2 9 5", "sort_numbers", 0),
        ("ant,bee", "ant bee", "sort_words", 1),
        ("D-O-G", "d-o-g", "spell", 1),
        ("dog", "d-o-g", "spell", 0),
        ("even odd", "even", "parity", 0),
    ],
)
def test_checker(answer, expected, task, right):
    assert score(answer, expected, task=task) == right
