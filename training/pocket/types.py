"""Values shared by the task generator: phrasings, payloads, tasks and examples (no torch here)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["train", "test"]
Domain = Literal["numbers", "words"]
LEVELS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Prompt templates of one task; the two groups never share an entry."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Payload:
    """What one prompt is about.

    Attributes
    ----------
    slots
        Text for each slot of the task's templates.
    answer
        The one right answer.
    keys
        What decides the split: a payload belongs to a split only if all its keys do.
    """

    slots: Mapping[str, str]
    answer: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question.

    Attributes
    ----------
    draw
        Draws a payload of a level. It need not care about splits: the generator draws again until the split fits.
    facts
        True for closed lists of facts (capitals, opposites): a fact that was never shown cannot be known, so only the
        phrasings are held out there.
    """

    name: str
    domain: Domain
    phrasings: Phrasings
    draw: Callable[[Random, int], Payload]
    facts: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its checkable answer."""

    prompt: str
    answer: str
    task: str
    domain: Domain
    level: int
    phrasing_id: str
    split: Split
