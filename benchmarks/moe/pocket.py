"""The pocket models' prompts with right answers, and how well a loaded model answers them."""

from __future__ import annotations

import importlib.resources
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrouter.moe import Engine, GenerationRequest

POCKET = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket"
ANSWER_TOKENS = 40
NUMBER_TASKS = frozenset({
    "add", "subtract", "multiply", "larger", "smaller", "maximum", "minimum", "sort_numbers", "parity", "next_number",
    "convert_units", "count_items",
})  # fmt: skip
_CASE_TASKS = frozenset({"upper_case", "lower_case", "title_case"})
_LIST_TASKS = frozenset({"sort_numbers", "sort_words"})
_DOMAINS = {"pocket-numbers": True, "pocket-words": False}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of the outcome log, with its task and the right answer."""

    text: str
    task: str
    answer: str


def prompts(split: str, model: str, count: int, *, seed: int) -> list[Prompt]:
    """Return `count` prompts of a split, of the domain that a specialist is for, of all tasks for the others."""
    import pyarrow.parquet as pq

    rows = pq.read_table(POCKET / "outcomes" / "prompts.parquet", filters=[("split", "=", split)]).to_pylist()
    random.Random(seed).shuffle(rows)
    wanted = _DOMAINS.get(model)
    chosen = [row for row in rows if wanted is None or (row["task"] in NUMBER_TASKS) is wanted]
    return [Prompt(row["prompt"], row["task"], row["expected"]) for row in chosen[:count]]


def right(answer: str, expected: str, *, task: str) -> bool:
    """Whether an answer is right; the rules are those of the pocket models' own scoring."""
    return _normal(answer, task) == _normal(expected, task)


def _normal(text: str, task: str) -> str:
    words = (text.replace(",", " ") if task in _LIST_TASKS else text).split()
    joined = " ".join(words).removesuffix(".").rstrip()
    return joined if task in _CASE_TASKS else joined.casefold()


def answers(engine: Engine, asked: Sequence[Prompt]) -> list[str]:
    """Return the greedy answers."""
    requests = [
        GenerationRequest(
            messages=[{"role": "user", "content": prompt.text}], max_tokens=ANSWER_TOKENS, temperature=0.0
        )
        for prompt in asked
    ]
    return [result.text for result in engine.run(requests)]


def marks(said: Sequence[str], asked: Sequence[Prompt]) -> list[bool]:
    """Return which answers are right."""
    return [right(text, prompt.answer, task=prompt.task) for text, prompt in zip(said, asked, strict=True)]
