"""Noise on training phrasings, so that a model leans on the words that matter and survives ones it never saw."""

# ruff: noqa: SIM905 - word lists read better as text than as a thousand quotation marks

from __future__ import annotations

import re
from random import Random

from training.pocket.lexicon import COMMON_WORDS, invented_word
from training.pocket.wrappers import lowered

FILLERS = frozenset(
    """the a of this these following please word number numbers to in do does is are what which how give write find
    tell name me for with you i can could hello hi question task""".split()
)
"""Words that may go: without them a prompt still asks the same."""
NEUTRAL = tuple(
    """get give me you i if when one here make this the with for now do what is find have tell write help please want
    name quick answer task question there""".split()
)
"""Words that may come: with them a prompt still asks the same, though not in good English."""


def bare(word: str) -> str:
    """Return a word without punctuation, in lower case."""
    return word.strip(".,:?!").lower()


def drop_fillers(template: str, random: Random) -> str:
    """Leave out some fillers."""
    return " ".join(word for word in template.split(" ") if bare(word) not in FILLERS or random.random() > 0.3)


def unknown_word(random: Random, like: str) -> str:
    """Return a word that the tokenizer spells out, with the first letter's case and the end mark of another."""
    word = random.choice(COMMON_WORDS) if random.random() < 0.4 else invented_word(random, 2, 7)
    mark = like[-1] if like[-1] in ".,:?!" else ""
    return (word.capitalize() if like[0].isupper() else word) + mark


def replace_filler(template: str, random: Random) -> str:
    """Put an unknown word in a filler's place."""
    words = template.split(" ")
    places = [place for place, word in enumerate(words) if bare(word) in FILLERS]
    if places:
        place = random.choice(places)
        words[place] = unknown_word(random, words[place])
    return " ".join(words)


def insert_neutral(template: str, random: Random) -> str:
    """Put one to three neutral words somewhere, at the start more often than not."""
    words = template.split(" ")
    place = 0 if random.random() < 0.6 else random.randrange(len(words))
    new = [random.choice(NEUTRAL) for _ in range(random.randint(1, 3))]
    if place == 0:
        new[0] = new[0].capitalize()
        words[0] = lowered(words[0])
    return " ".join([*words[:place], *new, *words[place:]])


def garble_surroundings(template: str, random: Random) -> str:
    """Put unknown words into the sentences around the request; write such a sentence if there is none."""
    sentences = re.split(r"(?<=[.!?:]) ", template)
    changed = False
    for place, sentence in enumerate(sentences):
        words = sentence.split(" ")
        if "{" in sentence or not words[0]:
            continue
        for _ in range(random.randint(1, 2)):
            at = random.randrange(len(words))
            words[at] = unknown_word(random, words[at])
        sentences[place] = " ".join(words)
        changed = True
    if not changed:
        words = [random.choice(NEUTRAL) for _ in range(random.randint(1, 4))]
        words[random.randrange(len(words))] = unknown_word(random, "a")
        extra = " ".join(words).capitalize() + random.choice((".", "!", "."))
        if random.random() < 0.5:
            return f"{extra} {template}"
        return f"{template}{'' if template.endswith(('?', '.', '!', ':')) else '.'} {extra}"
    return " ".join(sentences)


def perturb(template: str, random: Random) -> str:
    """Change a template in one way: words dropped, replaced or put in, or case and punctuation made sloppy."""
    style = random.random()
    if style < 0.22:
        changed = drop_fillers(template, random)
    elif style < 0.35:
        changed = replace_filler(template, random)
    elif style < 0.5:
        changed = insert_neutral(template, random)
    elif style < 0.8:
        changed = garble_surroundings(template, random)
    elif style < 0.88:
        changed = lowered(template)
    elif style < 0.94:
        changed = template.lower()
    else:
        changed = template[:-1] if template.endswith(("?", ".", "!")) else template
    return changed if changed.count("{") == template.count("{") else template
