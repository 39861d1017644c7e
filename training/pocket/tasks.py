"""The pocket tasks: which there are, and a seeded generator of examples.

Importing this module loads neither torch nor transformers.

Split rule: a test example has a phrasing *and* a payload that never occur in training. The exception are the
closed lists of facts (`Task.facts`: capitals, opposites, plurals), where only the phrasing is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

from training.pocket import payloads_numbers, payloads_words, phrasings_numbers, phrasings_words
from training.pocket.lexicon import split_of
from training.pocket.perturb import perturb
from training.pocket.types import LEVELS, Example, Payload, Split, Task
from training.pocket.wrappers import wrap

NUMBER_TASKS = (
    "add", "subtract", "multiply", "larger", "smaller", "maximum", "minimum", "sort_numbers", "parity", "next_number",
    "convert_units", "count_items",
)  # fmt: skip
WORD_TASKS = (
    "reverse", "upper_case", "lower_case", "title_case", "spell", "first_letter", "last_letter", "count_letters",
    "sort_letters", "sort_words", "capital", "plural", "opposite",
)  # fmt: skip
FACT_TASKS = frozenset({"capital", "plural", "opposite"})


def _tasks() -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for name in NUMBER_TASKS:
        tasks[name] = Task(name, "numbers", getattr(phrasings_numbers, name.upper()), getattr(payloads_numbers, name))
    for name in WORD_TASKS:
        phrasings, draw = getattr(phrasings_words, name.upper()), getattr(payloads_words, name)
        tasks[name] = Task(name, "words", phrasings, draw, facts=name in FACT_TASKS)
    return tasks


TASKS: dict[str, Task] = _tasks()


def draw_payload(task: Task, level: int, random: Random, *, split: Split) -> Payload:
    """Draw payloads until one belongs to the split."""
    for _ in range(100_000):
        payload = task.draw(random, level)
        if task.facts or all(split_of(key) == split for key in payload.keys):
            return payload
    raise RuntimeError(f"task {task.name} has no payload of level {level} in split {split}")


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Put a payload's slots into a template (not `str.format`: a payload may hold braces)."""
    for name, text in slots.items():
        template = template.replace("{" + name + "}", text)
    return template


def make_example(task: Task, level: int, random: Random, *, split: Split, noise: float = 0.0) -> Example:
    """Draw one example.

    Parameters
    ----------
    noise
        Probability that the phrasing is perturbed (words dropped, case changed): for training only.
    """
    payload = draw_payload(task, level, random, split=split)
    templates = task.phrasings.train if split == "train" else task.phrasings.test
    number = random.randrange(len(templates))
    template, wrapper = wrap(templates[number], random, split=split)
    if noise and random.random() < noise:
        template = perturb(template, random)
    prompt = fill(template, payload.slots)
    return Example(
        prompt=prompt,
        answer=payload.answer,
        task=task.name,
        domain=task.domain,
        level=level,
        phrasing_id=f"{task.name}.{split}{number:02d}.{wrapper}",
        split=split,
    )


def generate(
    seed: int | Random,
    split: Split,
    *,
    weights: Mapping[str, float] | None = None,
    level_weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    noise: float = 0.0,
) -> Iterator[Example]:
    """Yield examples without end, the same ones for the same arguments.

    Parameters
    ----------
    weights
        Relative frequency of each task (default: all tasks alike).
    level_weights
        Relative frequency of levels 1, 2 and 3.
    noise
        See `make_example`.
    """
    random = seed if isinstance(seed, Random) else Random(f"{split} {seed}")
    names = list(weights) if weights else list(TASKS)
    frequencies = [weights[name] for name in names] if weights else [1.0] * len(names)
    while True:
        task = TASKS[random.choices(names, frequencies)[0]]
        level = random.choices(LEVELS, level_weights)[0]
        yield make_example(task, level, random, split=split, noise=noise)


def balanced(seed: int, split: Split, *, each: int) -> list[Example]:
    """Return ``each`` distinct prompts for every task and level where there are so many, in a shuffled order."""
    random = Random(f"balanced {split} {seed}")
    chosen: dict[str, Example] = {}
    for task in TASKS.values():
        for level in LEVELS:
            wanted, attempts = len(chosen) + each, 0
            while len(chosen) < wanted and attempts < 50 * each:
                example = make_example(task, level, random, split=split)
                chosen.setdefault(example.prompt, example)
                attempts += 1
    examples = list(chosen.values())
    random.shuffle(examples)
    return examples
