"""Prompts of the load: arithmetic and word tasks made here, so that routing has something to tell apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import orjson

_WORD_LIST = (
    "apple basket candle dragon engine forest garden hammer island jacket kettle ladder market needle orange pencil "
    "quartz rocket saddle temple umbrella violin window yellow zebra bridge copper desert flower guitar"
)
_WORDS = _WORD_LIST.split()
# Long enough that a request has the size of an ordinary chat, about 0.9 KB.
_SYSTEM = (
    "You are a careful assistant. Answer in as few words as the question allows. Where a number is asked for, give the "
    "number alone. Where a list is asked for, separate its entries with commas. Do not explain the answer unless the "
    "question asks for an explanation. If a question cannot be answered, say so in one sentence and name what is "
    "missing. Keep to the language of the question. Never repeat the question, and never add a greeting. Numbers are "
    "written without separators of thousands; fractions are written as decimals with at most four digits. Words are "
    "written in lower case unless they are names."
)


def _sum(rng: random.Random) -> str:
    return f"What is {rng.randint(2, 99)} + {rng.randint(2, 9999)}?"


def _product(rng: random.Random) -> str:
    return f"Multiply {rng.randint(11, 99)} by {rng.randint(11, 99)} and subtract {rng.randint(100, 999)}."


def _shares(rng: random.Random) -> str:
    people, each = rng.randint(3, 12), rng.randint(4, 40)
    return f"{people} people share {people * each} coins and lose {rng.randint(1, each)} each. How many has each now?"


def _reverse(rng: random.Random) -> str:
    return f"Write the word {rng.choice(_WORDS)} backwards, then the word {rng.choice(_WORDS)}."


def _sort(rng: random.Random) -> str:
    return f"Sort these words by the alphabet: {', '.join(rng.sample(_WORDS, rng.randint(3, 8)))}."


def _count(rng: random.Random) -> str:
    return f"How many times does the letter {rng.choice('aeno')} occur in: {' '.join(rng.sample(_WORDS, 6))}?"


def _story(rng: random.Random) -> str:
    first, second = rng.sample(_WORDS, 2)
    return f"Explain in {rng.randint(2, 5)} sentences how a {first} could be used to repair a {second}."


_TASKS: tuple[Callable[[random.Random], str], ...] = (_sum, _product, _shares, _reverse, _sort, _count, _story)


def prompt(rng: random.Random) -> str:
    """Return a task."""
    return rng.choice(_TASKS)(rng)


class BodyMaker:
    """Make request bodies; each holds the number that it is given in ``seed``.

    Parameters
    ----------
    model : str
        What is asked for.
    stream : bool
        Whether answers are streamed.
    seed : int
        Of the prompts.
    extra : mapping, optional
        More keys of the body.
    """

    def __init__(self, model: str, *, stream: bool, seed: int, extra: Mapping[str, Any] | None = None) -> None:
        self._rng = random.Random(seed)
        body = {
            "model": model,
            "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "PROMPT-SLOT"}],
            "temperature": 0.2,
            "max_tokens": 120,
            **({"stream": True} if stream else {}),
            **(extra or {}),
            "seed": "MARK-SLOT",
        }
        before, _, rest = orjson.dumps(body).partition(b"PROMPT-SLOT")
        between, _, after = rest.partition(b'"MARK-SLOT"')
        self._parts = (before, between, after)

    def body(self, mark: bytes) -> bytes:
        """Return the next body."""
        before, between, after = self._parts
        # The prompts hold nothing that JSON would escape.
        return b"".join((before, prompt(self._rng).encode(), between, mark, after))
